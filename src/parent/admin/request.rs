//! A request on the operator's socket, with its whole body: bounded, and JSON where there is any.

use std::rc::Rc;

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::StatusCode;
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::answer::Problem;
use super::{COMING, Desk, Operator};

/// The longest body, in bytes.
const LONGEST: usize = 64 << 10;

pub(super) struct Call {
    pub(super) desk: Rc<Desk>,
    pub(super) operator: Operator,
    body: Bytes,
}

pub(super) async fn read(desk: Rc<Desk>, operator: Operator, body: Incoming) -> Result<Call, Problem> {
    let collected = timeout(COMING, Limited::new(body, LONGEST).collect()).await;
    let collected = collected
        .map_err(|_| Problem::new(StatusCode::REQUEST_TIMEOUT, "malformed", "the body did not come whole in time"))?;
    let body = collected.map_err(|error| {
        if error.is::<LengthLimitError>() {
            let detail = format!("a body has at most {LONGEST} bytes here");
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "malformed", detail)
        } else {
            Problem::malformed("the body broke off")
        }
    })?;
    Ok(Call { desk, operator, body: body.to_bytes() })
}

impl Call {
    /// # Errors
    /// The body is another thing than `T`; the message says what, with its place.
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        serde_json::from_slice(&self.body).map_err(|error| Problem::malformed(format!("the body: {error}")))
    }
}
