//! Responses: values with their true age, and problem documents that a person can act on (RFC 9457).

use std::cell::RefCell;
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};

use crate::ipc::wire::{BootInstant, Forward, Lease, RequestId, Tag, Verdict};
use crate::outcome::Class;
use crate::secret::WireBytes;

pub(super) type Answer = Response<Bytes>;

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const SERVER: HeaderValue = HeaderValue::from_static("keyhatch");

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

/// How many different ages and times to live are kept ready: values that were fetched together share them.
const SHARED: usize = 256;

/// Header values by a number that many keys have in common; the last that came for its place.
struct Memo(RefCell<Vec<(i64, HeaderValue)>>);

impl Memo {
    const fn new() -> Self {
        Self(RefCell::new(Vec::new()))
    }

    fn get(&self, number: i64, make: impl FnOnce() -> HeaderValue) -> HeaderValue {
        let mut places = self.0.borrow_mut();
        if places.is_empty() {
            places.resize(SHARED, (i64::MIN, HeaderValue::from_static("")));
        }
        let index = usize::try_from(number.rem_euclid(256)).unwrap_or(0);
        let Some(place) = places.get_mut(index) else { return make() };
        if place.0 != number {
            *place = (number, make());
        }
        place.1.clone()
    }
}

thread_local! {
    static AGES: Memo = const { Memo::new() };
    static FRESH: Memo = const { Memo::new() };
}

pub(super) fn age_of_hit(lease: &Lease, now: BootInstant) -> HeaderValue {
    let age = age(lease, now);
    AGES.with(|memo| memo.get(age, || HeaderValue::from(age)))
}

/// Of an answer from memory; that of a fresh one depends on its time to live alone.
pub(super) fn cache_status_of_hit(verdict: &Verdict, ttl: i64) -> HeaderValue {
    match verdict.detail {
        None => FRESH.with(|memo| memo.get(ttl, || cache_status(verdict, Some(ttl)))),
        Some(_) => cache_status(verdict, Some(ttl)),
    }
}

/// Whole seconds since the value had age 0.
pub(super) fn age(lease: &Lease, now: BootInstant) -> i64 {
    (now.0.saturating_sub(lease.born.0) / 1_000_000_000).max(0)
}

/// Whole seconds of freshness left, negative when it is over.
pub(super) fn ttl(lease: &Lease, now: BootInstant) -> i64 {
    lease.fresh_until.0.saturating_sub(now.0) / 1_000_000_000
}

/// The next instant at which `Age`, `ttl` or the freshness of the value is another one.
pub(super) fn changes_at(lease: &Lease, now: BootInstant) -> BootInstant {
    const SECOND: i64 = 1_000_000_000;
    let of_age = lease.born.0.saturating_add((age(lease, now) + 1).saturating_mul(SECOND));
    // `ttl` is rounded towards zero: while positive it changes just after a whole second of it, then at the next one.
    let of_ttl = match ttl(lease, now) {
        left @ 1.. => lease.fresh_until.0.saturating_sub(left.saturating_mul(SECOND)).saturating_add(1),
        over => lease.fresh_until.0.saturating_add((1 - over).saturating_mul(SECOND)),
    };
    BootInstant(of_age.min(of_ttl).min(if now < lease.fresh_until { lease.fresh_until.0 } else { i64::MAX }))
}

/// An entity tag as its header has it.
pub(super) fn etag(tag: &Tag) -> HeaderValue {
    text(&format!("\"{tag}\""))
}

thread_local! {
    /// An answer with a value, its own fields still empty: to clone it and replace those is quicker than to put it
    /// together, and a clone has no room to grow.
    static TEMPLATE: HeaderMap = {
        let mut headers = HeaderMap::with_capacity(8);
        for name in [header::CONTENT_TYPE, CACHE_STATUS, header::AGE, header::ETAG] {
            headers.insert(name, HeaderValue::from_static(""));
        }
        headers.insert(header::VARY, HeaderValue::from_static("Accept"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
        headers.insert(header::SERVER, SERVER);
        headers
    };
}

/// What every answer that has a value carries.
pub(super) fn value_headers(
    media_type: &'static str,
    etag: HeaderValue,
    age: HeaderValue,
    cache_status: HeaderValue,
) -> HeaderMap {
    let mut headers = TEMPLATE.with(HeaderMap::clone);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(CACHE_STATUS, cache_status);
    headers.insert(header::AGE, age);
    headers.insert(header::ETAG, etag);
    headers
}

/// 200, or 304 without a body.
pub(super) fn value(status: StatusCode, headers: HeaderMap, body: Bytes) -> Answer {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    if status == StatusCode::NOT_MODIFIED {
        response.headers_mut().remove(header::CONTENT_TYPE);
    }
    response
}

/// The id that stands in the log, too.
pub(super) fn identify(answer: &mut Answer, request: RequestId) {
    answer.headers_mut().insert(X_REQUEST_ID, text(&request.to_string()));
}

/// The JSON of keyhatch's own resources.
pub(super) fn own(json: &serde_json::Value) -> Answer {
    let mut response = Response::new(Bytes::from(json.to_string()));
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
    /// What a service raised, as JSON.
    pub(super) exception: Option<WireBytes>,
    /// POST is served there, too.
    pub(super) takes_arguments: bool,
}

impl Problem {
    pub(super) fn new(status: StatusCode, code: &'static str, detail: &str) -> Self {
        let detail = detail.to_owned();
        Self { status, code, detail, retry_after: None, verdict: None, exception: None, takes_arguments: false }
    }

    /// For what a service raised: the peer gets it as it is.
    pub(super) fn raised(exception: WireBytes, verdict: Verdict) -> Self {
        let problem = Self::new(StatusCode::BAD_GATEWAY, "exception", "the service raised an exception");
        Self { exception: Some(exception), verdict: Some(verdict), ..problem }
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

    pub(super) fn too_many_connections() -> Self {
        let problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "too many connections");
        Self { retry_after: Some(Duration::from_secs(1)), ..problem }
    }

    /// For bytes that are no request.
    pub(super) fn unparsed(status: StatusCode) -> Self {
        let detail = match status {
            StatusCode::REQUEST_TIMEOUT => "the request did not come whole in time",
            StatusCode::URI_TOO_LONG => "the request line is longer than this broker reads",
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => "the header is longer than this broker reads",
            _ => "this is no HTTP/1.1 request",
        };
        Self::new(status, "malformed", detail)
    }

    /// The whole answer in bytes, for a connection that ends with it.
    pub(super) fn last_words(self, request: RequestId) -> Vec<u8> {
        let (status, title) = (self.status.as_u16(), self.title());
        let body = self.body(request);
        let retry = self.retry_after.map(|wait| format!("retry-after: {}\r\n", wait.as_secs().max(1)));
        let mut answer = format!(
            "HTTP/1.1 {status} {title}\r\ncontent-type: application/problem+json\r\ncache-control: private, no-store\r\n\
             server: keyhatch\r\nx-request-id: {request}\r\n{}connection: close\r\ncontent-length: {}\r\n\r\n",
            retry.unwrap_or_default(),
            body.len()
        );
        answer.push_str(&body);
        answer.into_bytes()
    }

    /// For one that is said so often that the number should be all that is made of it.
    pub(super) fn form(self) -> Form {
        let blank = RequestId(u64::MAX);
        let text = self.last_words(blank);
        let blank = blank.to_string();
        let at = text.windows(blank.len()).enumerate().filter(|(_, part)| *part == blank.as_bytes()).map(|(at, _)| at);
        Form { blanks: at.map(|at| at..at + blank.len()).collect(), text }
    }

    fn title(&self) -> &'static str {
        self.status.canonical_reason().unwrap_or("Error")
    }

    fn body(&self, request: RequestId) -> String {
        let mut body = serde_json::json!({
            "title": self.title(),
            "status": self.status.as_u16(),
            "detail": self.detail,
            "code": self.code,
            "request-id": request.to_string(),
        });
        if let Some(exception) = &self.exception {
            body["exception"] = serde_json::from_slice(&exception.0).unwrap_or_default();
        }
        body.to_string()
    }

    pub(super) fn answer(self, request: RequestId) -> Answer {
        let mut response = Response::new(Bytes::from(self.body(request)));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
        headers.insert(header::SERVER, SERVER);
        headers.insert(X_REQUEST_ID, text(&request.to_string()));
        if matches!(self.status, StatusCode::URI_TOO_LONG | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE) {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some(wait) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));
        }
        if let Some(verdict) = &self.verdict {
            headers.insert(CACHE_STATUS, cache_status(verdict, None));
        }
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            let allowed = if self.takes_arguments { "GET, HEAD, POST" } else { "GET, HEAD" };
            headers.insert(header::ALLOW, HeaderValue::from_static(allowed));
        }
        if self.status == StatusCode::PAYLOAD_TOO_LARGE {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// The last words of a problem, with blanks where the number of the request stands.
pub(super) struct Form {
    text: Vec<u8>,
    blanks: Vec<Range<usize>>,
}

impl Form {
    pub(super) fn fill_in(&mut self, request: RequestId) -> &[u8] {
        let number = request.to_string();
        self.blanks.iter().for_each(|blank| self.text[blank.clone()].copy_from_slice(number.as_bytes()));
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::wire::Detail;

    fn lease(born: i64, fresh_until: i64) -> Lease {
        let usable_until = BootInstant(fresh_until + 60_000_000_000);
        Lease {
            born: BootInstant(born),
            fresh_until: BootInstant(fresh_until),
            usable_until,
            stale_detail: Detail::BreakerOpen,
        }
    }

    #[test]
    fn last_words_are_a_well_formed_answer() {
        let words = Problem::unparsed(StatusCode::REQUEST_TIMEOUT).last_words(RequestId(1));
        let (head, body) = std::str::from_utf8(&words).unwrap().split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{head}");
        assert!(head.ends_with(&format!("content-length: {}", body.len())), "{head}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(body).unwrap()["code"], "malformed");
    }

    #[test]
    fn a_form_says_the_same_with_every_number() {
        let mut form = Problem::too_many_connections().form();
        for request in [RequestId(1), RequestId(u64::MAX), RequestId(0xab_cdef)] {
            assert_eq!(form.fill_in(request), Problem::too_many_connections().last_words(request));
        }
    }

    proptest::proptest! {
        #[test]
        fn between_two_changes_age_and_ttl_stand(born in -9_000_000_000i64..9_000_000_000, fresh in 0i64..9_000_000_000, now in 0i64..20_000_000_000) {
            let lease = lease(born, fresh);
            let at = |nanos: i64| (age(&lease, BootInstant(nanos)), ttl(&lease, BootInstant(nanos)), nanos < fresh);
            let next = changes_at(&lease, BootInstant(now)).0;
            proptest::prop_assert!(next > now);
            proptest::prop_assert_eq!(at(next - 1), at(now));
            proptest::prop_assert_ne!(at(next), at(now));
        }
    }
}
