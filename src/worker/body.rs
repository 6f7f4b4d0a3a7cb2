//! The body of an answer: bytes that are wiped by their owner, and the news that hyper has taken them.

use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use super::stream::{Conversation, Phase};

pub(super) struct AnswerBody {
    bytes: Bytes,
    conversation: Rc<Conversation>,
}

impl AnswerBody {
    pub(super) fn new(bytes: Bytes, conversation: Rc<Conversation>) -> Self {
        Self { bytes, conversation }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let bytes = std::mem::take(&mut self.bytes);
        Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.len() as u64)
    }
}

/// hyper drops a body when it has taken all of it, or needs none of it.
impl Drop for AnswerBody {
    fn drop(&mut self) {
        self.conversation.follow(Phase::Answered);
    }
}
