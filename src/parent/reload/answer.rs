//! The request that a reload begins with, on the operator's socket.

use std::rc::Rc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use super::Reloader;
use super::wire::UPGRADE;

/// Hands the connection over to the reloader, if the peer may change anything and asks for that.
pub(in crate::parent) fn answer(
    mut request: Request<Incoming>,
    may_change: bool,
    reloader: Rc<Reloader>,
) -> Response<Full<Bytes>> {
    if !may_change {
        return refusal(StatusCode::FORBIDDEN, "only root may change anything here");
    }
    if request.method() != Method::POST {
        return refusal(StatusCode::METHOD_NOT_ALLOWED, "only POST is served here");
    }
    if request.headers().get(header::UPGRADE).is_none_or(|protocol| protocol != UPGRADE) {
        return refusal(StatusCode::UPGRADE_REQUIRED, "`keyhatch reload` speaks here");
    }
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::task::spawn_local(async move {
        let Ok(upgraded) = upgraded.await else { return };
        let Ok(parts) = upgraded.downcast::<TokioIo<UnixStream>>() else { return };
        // Descriptors beside bytes that were read too early are lost: nothing comes before the greeting.
        if parts.read_buf.is_empty() {
            reloader.converse(parts.io.into_inner()).await;
        }
    });
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static(UPGRADE));
    response
}

fn refusal(status: StatusCode, detail: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(serde_json::json!({ "detail": detail }).to_string())));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
