//! Answers, whole and broken.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::Response;
use hyper::body::{Body, Bytes, Frame};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE};
use tokio::sync::mpsc;

pub(crate) type Answer = Response<Parts>;

/// A body in parts, each when it comes; an error ends the connection.
pub(crate) struct Parts(mpsc::Receiver<io::Result<Bytes>>);

impl Body for Parts {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(context).map(|part| part.map(|part| part.map(Frame::data)))
    }
}

pub(crate) type Sender = mpsc::Sender<io::Result<Bytes>>;

/// A body that `send` gives in its own time.
pub(crate) fn streamed(send: impl AsyncFnOnce(Sender) + 'static) -> Answer {
    let (sender, receiver) = mpsc::channel(1);
    tokio::task::spawn_local(async move { send(sender).await });
    Response::new(Parts(receiver))
}

pub(crate) fn whole(status: u16, content_type: &str, body: impl Into<Bytes>) -> Answer {
    let body = body.into();
    let length = body.len();
    let mut answer = streamed(async move |sender| {
        // A client that has gone is no failure of the upstream.
        let _ = sender.send(Ok(body)).await;
    });
    *answer.status_mut() = status.try_into().unwrap();
    set(&mut answer, CONTENT_TYPE.as_str(), content_type);
    if status != 204 && status != 304 {
        set(&mut answer, CONTENT_LENGTH.as_str(), &length.to_string());
    }
    answer
}

pub(crate) fn json(value: &serde_json::Value) -> Answer {
    whole(200, "application/json", value.to_string())
}

pub(crate) fn status(code: u16) -> Answer {
    whole(code, "application/json", format!("{{\"id\":\"status-{code}\"}}"))
}

pub(crate) fn set(answer: &mut Answer, name: &str, value: &str) {
    let name = hyper::header::HeaderName::try_from(name).unwrap();
    answer.headers_mut().insert(name, value.try_into().unwrap());
}

/// Marks an answer that is none: the connection ends.
#[derive(Clone)]
pub(crate) struct NoAnswer;

pub(crate) fn no_answer() -> Answer {
    let mut answer = status(500);
    answer.extensions_mut().insert(NoAnswer);
    answer
}
