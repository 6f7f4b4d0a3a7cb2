//! Responses: values with their true age, and problem documents that a person can act on (RFC 9457).

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};

use crate::ipc::wire::{BootInstant, Forward, Lease, RequestId, Verdict};
use crate::outcome::Class;

pub(super) type Answer = Response<Full<Bytes>>;

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const SERVER: HeaderValue = HeaderValue::from_static("keyhatch");

/// Written before anything is read, to a peer that has too many connections.
pub(super) const TOO_MANY_CONNECTIONS: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nServer: keyhatch\r\n\
Content-Type: application/problem+json\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: 90\r\n\r\n\
{\"title\":\"Service Unavailable\",\"status\":503,\"detail\":\"too many connections\",\"code\":\"busy\"}";

/// A header of text that we made: it has no byte that is illegal there.
fn text(value: &str) -> HeaderValue {
    HeaderValue::from_str(value).unwrap_or(HeaderValue::from_static("?"))
}

/// `Cache-Status` (RFC 9211); `ttl` is in seconds, negative when stale.
pub(super) fn cache_status(verdict: &Verdict, ttl: Option<i64>) -> HeaderValue {
    use std::fmt::Write;
    let mut line = String::from("keyhatch");
    line.push_str(match verdict.forward {
        Forward::Hit => "; hit",
        Forward::UriMiss => "; fwd=uri-miss",
        Forward::Stale => "; fwd=stale",
        Forward::Request => "; fwd=request",
    });
    // Writing to a String does not fail.
    if let Some(status) = verdict.fwd_status {
        let _ = write!(line, "; fwd-status={status}");
    }
    line.push_str(if verdict.stored { "; stored" } else { "" });
    line.push_str(if verdict.collapsed { "; collapsed" } else { "" });
    if let Some(ttl) = ttl {
        let _ = write!(line, "; ttl={ttl}");
    }
    if let Some(detail) = verdict.detail {
        let _ = write!(line, "; detail={}", detail.token());
    }
    text(&line)
}

/// Whole seconds since the value had age 0.
pub(super) fn age(lease: &Lease, now: BootInstant) -> i64 {
    (now.0.saturating_sub(lease.born.0) / 1_000_000_000).max(0)
}

pub(super) fn ttl(lease: &Lease, now: BootInstant) -> i64 {
    lease.fresh_until.0.saturating_sub(now.0).div_euclid(1_000_000_000)
}

/// 200 or 304 with what every answer that has a value carries.
pub(super) fn value(
    status: StatusCode,
    media_type: &'static str,
    body: Bytes,
    tag: &str,
    verdict: &Verdict,
    lease: &Lease,
    now: BootInstant,
) -> Answer {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    if status == StatusCode::OK {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    }
    headers.insert(header::VARY, HeaderValue::from_static("Accept"));
    headers.insert(CACHE_STATUS, cache_status(verdict, Some(ttl(lease, now))));
    headers.insert(header::AGE, HeaderValue::from(age(lease, now)));
    headers.insert(header::ETAG, text(&format!("\"{tag}\"")));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
    headers.insert(header::SERVER, SERVER);
    response
}

/// The JSON of keyhatch's own resources.
pub(super) fn own(json: &serde_json::Value) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(json.to_string())));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
    headers.insert(header::SERVER, SERVER);
    response
}

/// What went wrong, for the peer: nothing here names a token, an upstream or a key that it may not read.
pub(super) struct Problem {
    pub(super) status: StatusCode,
    pub(super) code: &'static str,
    pub(super) detail: String,
    pub(super) retry_after: Option<Duration>,
    pub(super) verdict: Option<Verdict>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, code: &'static str, detail: &str) -> Self {
        Self { status, code, detail: detail.to_owned(), retry_after: None, verdict: None }
    }

    /// For a failure with nothing legal to serve.
    pub(super) fn upstream(class: Class, reason: &dyn std::fmt::Display) -> Self {
        let status =
            if class == Class::Unavailable { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::BAD_GATEWAY };
        let detail = match class {
            Class::Unavailable => "the upstream is unavailable and there is no earlier value that may be served",
            Class::TokenRefused => "the upstream refuses keyhatch's token and there is no value that may be served",
            Class::Refused => "the upstream refuses this value",
            Class::Gone => "the upstream has no such value",
            Class::Misconfigured => "the upstream's answer does not fit the configuration of this key",
        };
        Self::new(status, class.code(), &format!("{detail} ({reason})"))
    }

    pub(super) fn answer(self, request: RequestId) -> Answer {
        let body = serde_json::json!({
            "title": self.status.canonical_reason().unwrap_or("Error"),
            "status": self.status.as_u16(),
            "detail": self.detail,
            "code": self.code,
            "request-id": request.to_string(),
        });
        let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
        headers.insert(header::SERVER, SERVER);
        headers.insert(X_REQUEST_ID, text(&request.to_string()));
        if let Some(wait) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));
        }
        if let Some(verdict) = &self.verdict {
            headers.insert(CACHE_STATUS, cache_status(verdict, None));
        }
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        if self.status == StatusCode::PAYLOAD_TOO_LARGE {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refusal_without_reading_is_well_formed() {
        let text = std::str::from_utf8(TOO_MANY_CONNECTIONS).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}", body.len())), "the body has {} bytes", body.len());
        serde_json::from_str::<serde_json::Value>(body).unwrap();
    }
}
