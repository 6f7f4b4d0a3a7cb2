//! What the head of an answer says: its class, how long to wait, what tells it from a later one. Pure.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::StatusCode;
use hyper::header::{self, HeaderMap};

use crate::config::RateLimit;
use crate::outcome::{Class, Failure, Reason};
use crate::parent::cache::Validators;

/// The longest that an upstream may silence us.
const LONGEST_SILENCE: Duration = Duration::from_secs(3600);
/// The shortest, where it says that a quota is spent and not when it is renewed.
const SHORTEST_SILENCE: Duration = Duration::from_secs(1);
/// The longest validator that is worth keeping.
const MAX_VALIDATOR: usize = 1024;

/// What a status means, other than a redirect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    Good,
    NotModified,
}

/// The class of an answer that is no redirect to follow; `quota`: how long one is spent, if it is.
pub(super) fn meaning(
    status: StatusCode,
    headers: &HeaderMap,
    conditional: bool,
    quota: Option<Duration>,
    now: SystemTime,
) -> Result<Meaning, Failure> {
    let class = match status {
        StatusCode::OK | StatusCode::NON_AUTHORITATIVE_INFORMATION if is_plain(headers) => return Ok(Meaning::Good),
        StatusCode::NOT_MODIFIED if conditional => return Ok(Meaning::NotModified),
        // Nobody asked whether it was modified.
        StatusCode::NOT_MODIFIED => Class::Unavailable,
        StatusCode::NO_CONTENT => return Err(Failure::unavailable(Reason::EmptyBody)),
        _ if status.is_success() => return Err(Failure::unavailable(Reason::InvalidBody)),
        StatusCode::UNAUTHORIZED => Class::TokenRefused,
        // Some say so when a quota is spent: that is no refusal of the value.
        StatusCode::FORBIDDEN if quota.is_some() => Class::Unavailable,
        StatusCode::FORBIDDEN => Class::Refused,
        StatusCode::NOT_FOUND | StatusCode::GONE => Class::Gone,
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => Class::Unavailable,
        _ if status.is_server_error() => Class::Unavailable,
        _ => Class::Misconfigured,
    };
    let retry_after = retry_after(headers, now).or(quota);
    Err(Failure { class, reason: Reason::Status(status.as_u16()), retry_after })
}

/// Whether the body is as it was written: nothing here decompresses, and we asked for that (RFC 9110 section 12.5.3).
pub(super) fn is_plain(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(header::CONTENT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    codings.all(|coding| coding.trim().is_empty() || coding.trim().eq_ignore_ascii_case("identity"))
}

/// `Retry-After` in seconds or as a date (RFC 9110 section 10.2.3); nothing where it is past.
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        // Between two dates of the same clock, where there are two.
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(date(headers).unwrap_or(now)).ok()?,
    };
    Some(wait.min(LONGEST_SILENCE))
}

fn date(headers: &HeaderMap) -> Option<SystemTime> {
    httpdate::parse_http_date(headers.get(header::DATE)?.to_str().ok()?).ok()
}

/// How long a quota is spent: `RateLimit-Remaining: 0`, until `RateLimit-Reset`. Also with the older `X-` names, where
/// a reset can be an instant instead of a number of seconds.
/// `own`: the names that the source says, which come first.
pub(super) fn quota_spent(headers: &HeaderMap, own: Option<&RateLimit>, now: SystemTime) -> Option<Duration> {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<u64>().ok();
    let own = own.map(|own| (own.remaining.as_str(), own.reset.as_deref().unwrap_or_default()));
    let usual = [("ratelimit-remaining", "ratelimit-reset"), ("x-ratelimit-remaining", "x-ratelimit-reset")];
    let (_, reset) = own.into_iter().chain(usual).find(|(remaining, _)| number(remaining) == Some(0))?;
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let reset = match number(reset).map(Duration::from_secs).unwrap_or_default() {
        instant if instant.as_secs() > 1_000_000_000 => instant.saturating_sub(now),
        wait => wait,
    };
    Some(reset.clamp(SHORTEST_SILENCE, LONGEST_SILENCE))
}

/// What the next request may show. A date counts only where the document cannot have changed again within the second
/// that it names (RFC 9110 section 8.8.2.2).
pub(super) fn validators(headers: &HeaderMap) -> Validators {
    let text = |name| {
        let value = headers.get(name)?.to_str().ok()?;
        (!value.is_empty() && value.len() <= MAX_VALIDATOR).then(|| value.to_owned())
    };
    let modified = text(header::LAST_MODIFIED).filter(|modified| {
        let modified = httpdate::parse_http_date(modified);
        modified.is_ok_and(|modified| date(headers).is_some_and(|date| modified < date))
    });
    Validators { etag: text(header::ETAG), last_modified: modified }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(of: &[(&'static str, &str)]) -> HeaderMap {
        of.iter().map(|(name, value)| (header::HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn classify(status: u16, of: &[(&'static str, &str)]) -> Result<Meaning, Failure> {
        let headers = headers(of);
        meaning(StatusCode::from_u16(status).unwrap(), &headers, false, quota_spent(&headers, None, at(0)), at(0))
    }

    #[test]
    fn every_status_has_its_class() {
        let class = |status| classify(status, &[]).map_err(|failure| failure.class);
        assert_eq!([200, 203].map(class), [Ok(Meaning::Good); 2]);
        assert_eq!(class(401), Err(Class::TokenRefused));
        assert_eq!(class(403), Err(Class::Refused));
        assert_eq!([404, 410].map(class), [Err(Class::Gone); 2]);
        for status in [201, 204, 206, 304, 408, 425, 429, 500, 502, 503, 504, 599] {
            assert_eq!(class(status), Err(Class::Unavailable), "{status}");
        }
        for status in [300, 302, 305, 400, 402, 405, 406, 407, 409, 412, 414, 422, 426, 451] {
            assert_eq!(class(status), Err(Class::Misconfigured), "{status}");
        }
        let conditional = meaning(StatusCode::NOT_MODIFIED, &HeaderMap::new(), true, None, at(0));
        assert_eq!(conditional, Ok(Meaning::NotModified));
    }

    #[test]
    fn a_compressed_body_is_no_body() {
        for coding in ["gzip", "br", "identity, gzip", "unheard-of"] {
            assert_eq!(
                classify(200, &[("content-encoding", coding)]).unwrap_err().reason,
                Reason::InvalidBody,
                "{coding}"
            );
        }
        assert_eq!(classify(200, &[("content-encoding", "Identity")]), Ok(Meaning::Good));
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_and_never_more_than_an_hour() {
        let wait = |of: &[(&'static str, &str)]| classify(503, of).unwrap_err().retry_after;
        assert_eq!(wait(&[]), None);
        assert_eq!(wait(&[("retry-after", "7")]), Some(Duration::from_secs(7)));
        assert_eq!(wait(&[("retry-after", "99999999999")]), Some(LONGEST_SILENCE));
        assert_eq!(wait(&[("retry-after", "Thu, 01 Jan 1970 00:00:09 GMT")]), Some(Duration::from_secs(9)));
        let by_its_clock =
            [("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT"), ("date", "Sun, 06 Nov 1994 08:49:30 GMT")];
        assert_eq!(wait(&by_its_clock), Some(Duration::from_secs(7)));
        for nothing in ["", "-1", "1.5", "soon", "Sun, 99 Nov 1994 08:49:37 GMT"] {
            assert_eq!(wait(&[("retry-after", nothing)]), None, "{nothing}");
        }
        let past = [("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT"), ("date", "Sun, 06 Nov 1994 08:49:38 GMT")];
        assert_eq!(wait(&past), None);
    }

    #[test]
    fn a_spent_quota_says_when_it_is_renewed() {
        let spent =
            |of: &[(&'static str, &str)]| quota_spent(&headers(of), None, at(1_700_000_000)).map(|wait| wait.as_secs());
        assert_eq!(spent(&[("ratelimit-remaining", "0")]), Some(1));
        assert_eq!(spent(&[("ratelimit-remaining", "0"), ("ratelimit-reset", "40")]), Some(40));
        assert_eq!(spent(&[("ratelimit-remaining", "0"), ("ratelimit-reset", "86400")]), Some(3600));
        assert_eq!(spent(&[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1700000090")]), Some(90));
        assert_eq!(spent(&[("ratelimit-remaining", "1"), ("ratelimit-reset", "40")]), None);
        assert_eq!(spent(&[("ratelimit-remaining", "-0")]), None);
        let own = RateLimit { remaining: "x-left".into(), reset: Some("x-more-in".into()) };
        let named = headers(&[("x-left", "0"), ("x-more-in", "40"), ("ratelimit-remaining", "7")]);
        assert_eq!(quota_spent(&named, Some(&own), at(0)), Some(Duration::from_secs(40)));
        assert_eq!(quota_spent(&named, None, at(0)), None);
        let refused = classify(403, &[("x-ratelimit-remaining", "0")]).unwrap_err();
        assert_eq!((refused.class, refused.retry_after), (Class::Unavailable, Some(SHORTEST_SILENCE)));
        assert_eq!(classify(401, &[("ratelimit-remaining", "0")]).unwrap_err().class, Class::TokenRefused);
    }

    #[test]
    fn a_date_within_the_second_of_the_answer_tells_nothing() {
        let of = |modified, date| validators(&headers(&[("last-modified", modified), ("date", date)])).last_modified;
        let (earlier, later) = ("Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:38 GMT");
        assert_eq!(of(earlier, later).as_deref(), Some(earlier));
        assert_eq!(of(earlier, earlier), None);
        assert_eq!(of("yesterday", later), None);
        assert!(validators(&headers(&[("last-modified", earlier)])).is_empty(), "no date to compare with");
        let long = format!("\"{}\"", "x".repeat(MAX_VALIDATOR));
        assert!(validators(&headers(&[("etag", &long)])).is_empty());
        assert_eq!(validators(&headers(&[("etag", "W/\"x\"")])).etag.as_deref(), Some("W/\"x\""));
    }
}
