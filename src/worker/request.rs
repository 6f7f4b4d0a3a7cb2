//! What a request asks for. Pure: bytes and headers in, a judgement out.

use std::time::Duration;

use hyper::header::{ACCEPT, CACHE_CONTROL, HeaderName, IF_NONE_MATCH};
use hyper::{HeaderMap, Request, StatusCode};

use crate::secret::{KeyPath, is_segment_byte};

const PREFER: HeaderName = HeaderName::from_static("prefer");

/// The one of our own resources that tells of the unit.
pub(super) const WHOAMI: &str = "/-/whoami";

/// A request target that is well-formed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target {
    Key(KeyPath),
    Health,
    Whoami,
    Keys,
}

/// The status if line and header are longer than `most` bytes. hyper's own limit is on what it reads at a time: a header up
/// to twice as long can pass that.
pub(super) fn too_long<B>(request: &Request<B>, most: u64) -> Option<StatusCode> {
    let line = request.uri().path().len() + request.uri().query().map_or(0, str::len);
    // With a colon, a space and the end of the line.
    let fields: usize = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if line as u64 > most {
        Some(StatusCode::URI_TOO_LONG)
    } else {
        ((line + fields) as u64 > most).then_some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)
    }
}

/// The query, if it is not empty. Only calls have one.
pub(super) fn query(uri: &hyper::Uri) -> Option<&str> {
    uri.query().filter(|query| !query.is_empty())
}

/// Decodes the path of a target once. `None` is 400: an absolute form, an encoded slash, NUL, bad UTF-8, `//`, dot segments,
/// a trailing slash, or what is no key path then.
pub(super) fn target(uri: &hyper::Uri) -> Option<Target> {
    if uri.scheme().is_some() || uri.authority().is_some() {
        return None;
    }
    let mut path = String::with_capacity(uri.path().len());
    let mut bytes = uri.path().bytes();
    while let Some(byte) = bytes.next() {
        let decoded = match byte {
            b'%' => {
                let high = char::from(bytes.next()?).to_digit(16)?;
                let low = char::from(bytes.next()?).to_digit(16)?;
                // Of what may be encoded, only what could stand there unencoded is legal: never a slash.
                u8::try_from(high * 16 + low).ok().filter(|byte| is_segment_byte(*byte))?
            }
            plain => plain,
        };
        path.push(char::from(decoded));
    }
    match path.as_str() {
        "/-/health" => Some(Target::Health),
        WHOAMI => Some(Target::Whoami),
        "/-/keys" => Some(Target::Keys),
        other => KeyPath::parse(other).ok().map(Target::Key),
    }
}

/// What the peer accepts (RFC 9110 section 12.5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Accepts {
    /// JSON, and text as a second choice or not at all.
    Json,
    /// Text; `or_json` if the value is none.
    Text {
        or_json: bool,
    },
    Neither,
}

pub(super) fn accepts(headers: &HeaderMap) -> Accepts {
    if !headers.contains_key(ACCEPT) {
        return Accepts::Json;
    }
    let json = quality(headers, "application", "json");
    let text = quality(headers, "text", "plain");
    match (json > 0, text > 0) {
        (false, false) => Accepts::Neither,
        (true, _) if json >= text => Accepts::Json,
        (or_json, _) => Accepts::Text { or_json },
    }
}

/// In thousandths; the most specific range decides.
fn quality(headers: &HeaderMap, kind: &str, subtype: &str) -> u16 {
    let mut best = (0, 0);
    for line in headers.get_all(ACCEPT) {
        for range in line.to_str().unwrap_or_default().split(',') {
            let mut parts = range.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default().to_ascii_lowercase();
            let specific = match name.split_once('/') {
                Some(("*", "*")) => 1,
                Some((k, "*")) if k == kind => 2,
                Some((k, s)) if k == kind && s == subtype => 3,
                _ => continue,
            };
            let weight = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
            let weight = weight.map_or(Some(1.0), |q| q.parse::<f32>().ok()).unwrap_or(0.0).clamp(0.0, 1.0);
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 1000 after the clamp")]
            let thousandths = (weight * 1000.0) as u16;
            if specific > best.0 || (specific == best.0 && thousandths > best.1) {
                best = (specific, thousandths);
            }
        }
    }
    best.1
}

/// `Cache-Control: no-cache` (RFC 9111 section 5.2.1.4).
pub(super) fn revalidates(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(CACHE_CONTROL).iter().filter_map(|line| line.to_str().ok());
    lines.any(|line| line.split(',').any(|directive| directive.trim().eq_ignore_ascii_case("no-cache")))
}

/// The longest that an answer waits for a change.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// `Prefer: wait=N` (RFC 7240 section 4.3) beside an `If-None-Match`: alone there is nothing to wait for.
pub(super) fn waits(headers: &HeaderMap) -> Option<Duration> {
    if !headers.contains_key(IF_NONE_MATCH) {
        return None;
    }
    let lines = headers.get_all(PREFER).iter().filter_map(|line| line.to_str().ok());
    let preferences = lines.flat_map(|line| line.split(',')).filter_map(|one| one.split(';').next()?.split_once('='));
    let mut waits = preferences.filter(|(name, _)| name.trim().eq_ignore_ascii_case("wait"));
    // The first of equal preferences counts (section 2).
    let seconds: u64 = waits.next()?.1.trim().trim_matches('"').parse().ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST_WAIT)).filter(|wait| !wait.is_zero())
}

/// Whether `If-None-Match` names this tag, by weak comparison (RFC 9110 section 13.1.2). `tag` has its quotes.
pub(super) fn has_tag(headers: &HeaderMap, tag: &[u8]) -> bool {
    let mut lines = headers.get_all(IF_NONE_MATCH).iter().filter_map(|line| line.to_str().ok());
    lines.any(|line| {
        line.split(',').map(str::trim).any(|one| one == "*" || one.strip_prefix("W/").unwrap_or(one).as_bytes() == tag)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Option<Target> {
        let uri = text.parse().ok()?;
        target(&uri).filter(|_| query(&uri).is_none())
    }

    #[test]
    fn what_is_no_key_is_refused_whatever_its_disguise() {
        for bad in [
            "/",
            "//x",
            "/x//y",
            "/x/",
            "/../x",
            "/x/..",
            "/./x",
            "/%2e%2e/x",
            "/a%2fb",
            "/a%2Fb",
            "/a%00b",
            "/a%ffb",
            "/a%zz",
            "/a%4",
            "/a%20b",
            "/a?b=c",
            "http://h/x",
            "*",
            "/-/other",
            "/-",
            "/a,b",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_needs_no_encoding_may_be_encoded() {
        assert_eq!(parse("/%61/b%2Dc"), parse("/a/b-c"));
        assert!(matches!(parse("/a/b-c"), Some(Target::Key(key)) if key.as_str() == "/a/b-c"));
        assert!(parse("/a?").is_some(), "an empty query is none");
        assert_eq!(parse("/-/health"), Some(Target::Health));
    }

    fn accept(value: &str) -> Accepts {
        accepts(&HeaderMap::from_iter([(ACCEPT, value.parse().unwrap())]))
    }

    #[test]
    fn the_best_representation_is_chosen() {
        assert_eq!(accepts(&HeaderMap::new()), Accepts::Json);
        assert_eq!(accept("*/*"), Accepts::Json);
        assert_eq!(accept("text/plain"), Accepts::Text { or_json: false });
        assert_eq!(accept("text/*, */*;q=0.1"), Accepts::Text { or_json: true });
        assert_eq!(accept("text/plain;q=0.5, application/json"), Accepts::Json);
        assert_eq!(accept("image/png"), Accepts::Neither);
        assert_eq!(accept("application/json;q=0"), Accepts::Neither);
        assert_eq!(accept("*/*, application/json;q=0"), Accepts::Text { or_json: false });
    }

    #[test]
    fn a_wait_is_bounded_and_needs_a_tag() {
        let with = |prefer: &str| {
            let tag = (IF_NONE_MATCH, "\"a\"".parse().unwrap());
            waits(&HeaderMap::from_iter([tag, (PREFER, prefer.parse().unwrap())])).map(|wait| wait.as_secs())
        };
        assert_eq!(with("wait=10"), Some(10));
        assert_eq!(with("respond-async, WAIT = \"20\"; x=1, wait=5"), Some(20));
        assert_eq!(with("wait=86400"), Some(300));
        for none in ["wait=0", "wait", "wait=-1", "wait=x", "waits=10", ""] {
            assert_eq!(with(none), None, "{none}");
        }
        assert_eq!(waits(&HeaderMap::from_iter([(PREFER, "wait=10".parse().unwrap())])), None);
    }

    #[test]
    fn tags_are_compared_weakly() {
        let with = |value: &str| HeaderMap::from_iter([(IF_NONE_MATCH, value.parse().unwrap())]);
        assert!(has_tag(&with("\"a\", W/\"b\""), b"\"b\""));
        assert!(has_tag(&with("*"), b"\"b\""));
        assert!(!has_tag(&with("\"ab\", b"), b"\"b\""));
    }
}
