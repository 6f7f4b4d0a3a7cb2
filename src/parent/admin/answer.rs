//! Answers on the operator's socket: JSON, text, a drill's two lines, and problems that a person can act on (RFC 9457).

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};

use super::drill::Lines;

pub(super) type Answer = Response<AnswerBody>;

pub(super) enum AnswerBody {
    Whole(Full<Bytes>),
    Drill(Lines),
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(whole) => Pin::new(whole).poll_frame(context),
            Self::Drill(lines) => lines.poll_line(context).map(|line| line.map(|line| Ok(Frame::data(line)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(whole) if whole.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(whole) => whole.size_hint(),
            Self::Drill(_) => SizeHint::default(),
        }
    }
}

pub(super) fn answer(body: AnswerBody, media_type: &'static str) -> Answer {
    let mut answer = Response::new(body);
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    answer
}

pub(super) fn text(text: String, media_type: &'static str) -> Answer {
    answer(AnswerBody::Whole(Full::from(text)), media_type)
}

pub(super) fn json(json: &serde_json::Value) -> Answer {
    text(json.to_string(), "application/json")
}

/// What is wrong with a request, or was with its work.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
}

impl Problem {
    pub(super) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into() }
    }

    /// 400.
    pub(super) fn malformed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "malformed", detail)
    }

    /// For whoever may do nothing here.
    pub(super) fn stranger() -> Self {
        Self::new(StatusCode::FORBIDDEN, "denied", "only root and members of `admin-group` may ask here")
    }

    pub(super) fn denied() -> Self {
        let detail = "only root may change anything here; members of admin-group may look at status and metrics";
        Self::new(StatusCode::FORBIDDEN, "denied", detail)
    }
}

impl From<Problem> for Answer {
    fn from(problem: Problem) -> Self {
        let body = serde_json::json!({
            "title": problem.status.canonical_reason(),
            "status": problem.status.as_u16(),
            "code": problem.code,
            "detail": problem.detail,
        });
        let mut answer = text(body.to_string(), "application/problem+json");
        *answer.status_mut() = problem.status;
        answer
    }
}
