//! A request on the operator's socket, with its whole body: bounded, and JSON where there is any.

use std::rc::Rc;

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::upgrade::OnUpgrade;
use hyper::{Request, StatusCode};
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
    /// What it would have the connection become.
    protocol: Option<HeaderValue>,
    upgrade: OnUpgrade,
}

pub(super) async fn read(desk: Rc<Desk>, operator: Operator, mut request: Request<Incoming>) -> Result<Call, Problem> {
    let upgrade = hyper::upgrade::on(&mut request);
    let protocol = request.headers().get(header::UPGRADE).cloned();
    let collected = timeout(COMING, Limited::new(request.into_body(), LONGEST).collect()).await;
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
    Ok(Call { desk, operator, body: body.to_bytes(), protocol, upgrade })
}

impl Call {
    /// The connection itself, once 101 is written.
    ///
    /// # Errors
    /// It is not asked to become this.
    pub(super) fn upgrade(self, protocol: &str) -> Result<OnUpgrade, Problem> {
        if self.protocol.is_none_or(|asked| asked != protocol) {
            let detail = format!("this takes an upgrade to {protocol}");
            return Err(Problem::new(StatusCode::UPGRADE_REQUIRED, "malformed", detail));
        }
        Ok(self.upgrade)
    }

    /// # Errors
    /// The body is another thing than `T`; the message says what, with its place.
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        serde_json::from_slice(&self.body).map_err(|error| Problem::malformed(format!("the body: {error}")))
    }
}
