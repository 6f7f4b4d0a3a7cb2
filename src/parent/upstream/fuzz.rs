//! What upstreams send: documents, heads, redirects and Hawk's proofs.

use std::sync::LazyLock;
use std::time::{Duration, UNIX_EPOCH};

use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{StatusCode, Uri};
use regex::Regex;
use serde_json::Value;
use zeroize::Zeroizing;

use super::hawk::{Artifacts, Challenge, Credentials};
use super::redirect::{Redirect, resolve};
use super::response::{meaning, quota_spent, validators};
use super::{DocumentBody, formats};
use crate::config::{Format, HawkAlgorithm, Projection, Url};
use crate::fuzz::{self, Start};
use crate::outcome::{Failure, Reason};
use crate::secret::SecretValue;

fn body(bytes: &[u8], format: Format) -> Result<DocumentBody, Failure> {
    DocumentBody::parse(Zeroizing::new(bytes.to_vec()), format)
}

/// Beside others, which change nothing.
fn project(body: &DocumentBody, projection: &Projection, limit: u64) -> Result<SecretValue, Failure> {
    let beside = [Projection::Whole, projection.clone(), Projection::Pointer(vec!["a".into()]), projection.clone()];
    let mut values = super::project::project(body, &beside, limit);
    let (last, alone) = (values.pop().unwrap(), super::project::project(body, &beside[1..2], limit).pop().unwrap());
    assert_eq!(last.as_ref().ok().map(SecretValue::json), alone.as_ref().ok().map(SecretValue::json));
    last
}

/// Input: a JSON pointer, or names behind a `,`; a size; then the document.
#[test]
fn projection() {
    let words = &[
        "\"a\":", "\"b\"", "{", "}", "[", "]", ",", "null", "1.50", "-0", "1E+2", "\\u0061", "\\ud800", "/a", "/0",
        "/-", "~1", ",a,b",
    ];
    fuzz::run("projection", Start { words, ..Start::default() }, |input| {
        let mut lines = input.splitn(3, |byte| *byte == b'\n');
        let mut line = || String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
        let (spec, limit, document) = (line(), line().parse::<u64>().unwrap_or(16), lines.next().unwrap_or_default());
        let parts = |of: &str, by| of.split(by).map(str::to_owned).collect::<Vec<_>>();
        let projection = match (spec.strip_prefix('/'), spec.strip_prefix(',')) {
            (Some(tokens), _) => Projection::Pointer(parts(tokens, '/')),
            (_, Some(names)) => Projection::Fields(parts(names, ',')),
            _ => Projection::Whole,
        };
        let parsed = body(document, Format::Json);
        let full = serde_json::from_slice::<Value>(document).ok();
        assert!(parsed.is_ok() || full.is_none(), "legal JSON is refused");
        let Ok(parsed) = parsed else { return vec![0] };
        let found = project(&parsed, &projection, u64::MAX);
        let limited = project(&parsed, &projection, limit);
        match (&found, limited) {
            (Ok(found), Ok(limited)) => assert_eq!(found.json(), limited.json()),
            (Ok(found), Err(why)) => assert!(found.len() as u64 > limit && why.reason == Reason::ValueTooLarge),
            (Err(why), limited) => assert_eq!(limited.err(), Some(*why)),
        }
        if let Ok(found) = &found {
            assert!(limit >= found.len() as u64 || project(&parsed, &projection, limit).is_err());
            let whole = document.windows(found.len().max(1)).any(|part| part == found.json());
            assert!(matches!(projection, Projection::Fields(_)) || whole, "not the upstream's own bytes");
            text(found);
        }
        // The parser of the comparison has a name of its own for raw values.
        if let Some(full) = full.filter(|_| !document.windows(11).any(|part| part == b"$serde_json")) {
            let got = found.as_ref().ok().map(|found| serde_json::from_slice::<Value>(found.json()).unwrap());
            assert_eq!(got, selected(&full, &projection), "{projection:?} of {full}");
        }
        vec![1 + u8::from(found.is_ok()), 3 + found.map_or(9, |found| found.json()[0])]
    });
}

/// The same by a full parse.
fn selected(document: &Value, projection: &Projection) -> Option<Value> {
    let there = |value: &Value| if value.is_null() { None } else { Some(value.clone()) };
    match projection {
        Projection::Whole => there(document),
        Projection::Returned => Some(document.clone()),
        Projection::Pointer(tokens) => {
            let escaped = tokens.iter().map(|token| format!("/{}", token.replace('~', "~0")));
            document.pointer(&escaped.collect::<String>()).and_then(there)
        }
        Projection::Fields(names) => {
            let pairs = names.iter().map(|name| Some((name.clone(), there(document.as_object()?.get(name)?)?)));
            Some(Value::Object(pairs.collect::<Option<_>>()?))
        }
        // They have a target of their own.
        Projection::Steps(_) => None,
    }
}

/// The text form says the same as a full parse.
fn text(value: &SecretValue) {
    let Ok(full) = serde_json::from_slice::<Value>(value.json()) else { return };
    let only = full.as_object().filter(|object| object.len() == 1).and_then(|object| object.values().next());
    let expected = only.unwrap_or(&full);
    let got = value.text();
    match (expected, got.as_deref()) {
        (Value::String(expected), Some(got)) => assert_eq!(got, expected),
        (Value::Number(_) | Value::Bool(_), Some(got)) => {
            assert_eq!(&serde_json::from_str::<Value>(got).unwrap(), expected)
        }
        // Equal names twice are one member after a full parse, and no text.
        (_, None) => assert!(only.is_some() || !(full.is_string() || full.is_number() || full.is_boolean())),
        (_, Some(got)) => panic!("{full} became {got}"),
    }
}

#[test]
fn formats() {
    let words = &[
        "=",
        "\"",
        "'",
        "\\",
        "\n",
        "#",
        ";",
        "A=",
        "[a]\n",
        "{",
        "}",
        "[",
        "]",
        "nan",
        "inf",
        "1979-05-27",
        "'''",
        "\"\"\"",
        "$",
        "`",
    ];
    fuzz::run("formats", Start { words, ..Start::default() }, |input| {
        let written = String::from_utf8_lossy(input);
        let object = |json: &Zeroizing<Vec<u8>>| match serde_json::from_slice(json) {
            Ok(Value::Object(object)) => object,
            other => panic!("{} is no JSON object: {other:?}", json.escape_ascii()),
        };
        let toml = formats::toml(&written).map(|json| object(&json));
        if let Some(toml) = &toml {
            let again: toml::Table = written.parse().unwrap();
            assert!(again.keys().eq(toml.keys()), "{toml:?}");
        }
        let env = formats::env(&written).map(|json| object(&json));
        if let Some(env) = &env {
            // Written in one way it means the same.
            let mut text = String::new();
            for (name, value) in env {
                let value = value.as_str().unwrap();
                assert!(!value.contains('\n') && written.contains(name.as_str()));
                let escape = |c: char| if "\"\\`$".contains(c) { format!("\\{c}") } else { c.to_string() };
                text.push_str(&format!("{name}=\"{}\"\n", value.chars().map(escape).collect::<String>()));
            }
            assert_eq!(formats::env(&text).map(|json| object(&json)).as_ref(), Some(env), "{text}");
        }
        [(toml.map(|toml| toml.len().min(5)), env.map(|env| env.len().min(5)))]
    });
}

#[test]
fn hawk() {
    let credentials = Credentials { id: "id", key: b"a key that nobody has", algorithm: HawkAlgorithm::Sha256 };
    let request =
        Artifacts { ts: 1_700_000_000, nonce: "n".into(), method: "GET", target: "/a".into(), ..Artifacts::default() };
    // Signed by hand, as a server does.
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, credentials.key);
    let sign = |text: String| {
        use base64::Engine;
        base64::engine::general_purpose::STANDARD.encode(aws_lc_rs::hmac::sign(&key, text.as_bytes()))
    };
    let reply = |hash: &str, ext: &str| sign(format!("hawk.1.response\n1700000000\nn\nGET\n/a\n\n0\n{hash}\n{ext}\n"));
    // Each proof with what it proves.
    let replies = [("", ""), ("aGFzaA==", ""), ("aGFzaA==", "ext")].map(|(hash, ext)| (reply(hash, ext), hash, ext));
    let times = [5, 1_700_000_009].map(|ts: u64| (sign(format!("hawk.1.ts\n{ts}\n")), ts));
    let mut seeds: Vec<Vec<u8>> = replies
        .iter()
        .map(|(mac, hash, ext)| format!("Hawk mac=\"{mac}\", hash=\"{hash}\", ext=\"{ext}\"").into_bytes())
        .collect();
    seeds.push(format!("hawk mac=\"{}\"", replies[0].0).into_bytes());
    seeds.extend(
        times
            .iter()
            .map(|(mac, ts)| format!("Hawk ts=\"{ts}\", tsm=\"{mac}\", error=\"Stale timestamp\"").into_bytes()),
    );
    let legal = seeds.clone();
    let words = &[
        "Hawk ",
        "mac=\"",
        "hash=\"",
        "ext=\"",
        "ts=\"5\"",
        "tsm=\"",
        "\", ",
        "\"",
        "error=\"Stale timestamp\"",
        "\\",
        "==",
        "+",
    ];
    fuzz::run("hawk", Start { seeds, words }, |input| {
        let header = String::from_utf8_lossy(input);
        let reply = credentials.verify_reply(&request, &header);
        if let Ok(hash) = &reply {
            let proven = |(mac, of, ext): &(String, &str, &str)| {
                let has_ext = ext.is_empty() || header.contains(&format!("ext=\"{ext}\""));
                header.contains(&format!("mac=\"{mac}\"")) && hash.as_deref().unwrap_or_default() == *of && has_ext
            };
            assert!(replies.iter().any(proven), "{hash:?} without a proof: {header}");
        }
        let challenge = credentials.challenge(&header);
        if let Challenge::Time(told) = challenge {
            let proven = times.iter().any(|(mac, ts)| *ts == told && header.contains(mac.as_str()));
            assert!(proven, "{told} without a proof: {header}");
        }
        let is_legal = legal.iter().any(|legal| legal == input);
        assert!(!is_legal || reply.is_ok() || matches!(challenge, Challenge::Time(_)), "a proof is refused: {header}");
        [(reply.is_ok(), format!("{challenge:?}"))]
    });
}

/// Input: lines; the number of an origin, the target that was asked for, and the `Location`.
#[test]
fn redirect() {
    let origin = |https, host: &str, port| Url { https, host: host.into(), port, target: String::new() };
    let origins = [
        origin(true, "api.example.com", 443),
        origin(false, "api.example.com", 8080),
        origin(true, "[::1]", 8443),
        origin(false, "127.0.0.1", 80),
    ];
    let words = &[
        "http://",
        "https://",
        "//",
        "api.example.com",
        "evil.example",
        ":443",
        ":8080",
        ":",
        "@",
        "[::1]",
        "\\",
        "/",
        "..",
        "?",
        "#",
        "./",
    ];
    fuzz::run("redirect", Start { words, ..Start::default() }, |input| {
        let text = String::from_utf8_lossy(input);
        let mut lines = text.splitn(3, '\n');
        let mut line = || lines.next().unwrap_or_default();
        let origin = &origins[line().parse().unwrap_or(0) % origins.len()];
        let (target, location) = (line(), line());
        let asked = target.starts_with('/')
            && target.bytes().all(|byte| (b'!'..=b'~').contains(&byte) && !b"#\\".contains(&byte));
        let target = if asked { target } else { "/v1/a?b" };
        let led = resolve(origin, target, location);
        if let Redirect::Within(within) = &led {
            assert!(within.starts_with('/') && !within.contains(['#', '\\', ' ']), "{within}");
            if let Ok(uri) = format!("{}{within}", origin.origin()).parse::<Uri>() {
                let at = (uri.scheme_str(), uri.host(), uri.port_u16());
                let scheme = if origin.https { "https" } else { "http" };
                assert_eq!(at, (Some(scheme), Some(origin.host.as_str()), Some(origin.port)), "{location}");
            }
            let path = within.split('?').next().unwrap_or_default();
            let unchanged = target.starts_with(path);
            assert!(unchanged || !path.split('/').any(|segment| segment == ".." || segment == "."), "{within}");
            assert!(leads(location).is_none_or(|elsewhere| is_here(origin, &elsewhere)), "{location} left the origin");
        }
        [(origin.port, std::mem::discriminant(&led), leads(location).is_some(), location.contains('?'))]
    });
}

/// Scheme, if there is one, and authority of a reference that has one, by the expression of RFC 3986 (appendix B).
fn leads(location: &str) -> Option<(Option<String>, String)> {
    static EXPRESSION: LazyLock<Regex> =
        LazyLock::new(|| Regex::new("^(?:([A-Za-z][A-Za-z0-9+.-]*):)?//([^/?#]*)").unwrap());
    let found = EXPRESSION.captures(location)?;
    Some((found.get(1).map(|scheme| scheme.as_str().to_ascii_lowercase()), found[2].to_ascii_lowercase()))
}

fn is_here(origin: &Url, (scheme, authority): &(Option<String>, String)) -> bool {
    let default = if origin.https { 443 } else { 80 };
    let host = authority.trim_end_matches(|c: char| c.is_ascii_digit() || c == '+').trim_end_matches(':');
    let port = authority.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    let host = if authority.ends_with(']') { authority } else { host };
    let numeric = origin.host == *authority;
    let same_address =
        |text: &str| text.trim_matches(['[', ']']).parse::<std::net::Ipv6Addr>() == Ok(std::net::Ipv6Addr::LOCALHOST);
    let same = numeric || host == origin.host || (origin.host == "[::1]" && same_address(host));
    let scheme_fits = scheme.as_deref().is_none_or(|scheme| scheme == if origin.https { "https" } else { "http" });
    scheme_fits && same && if numeric { origin.port == default } else { port.unwrap_or(default) == origin.port }
}

/// Input: a status, then lines of header fields.
#[test]
fn head() {
    let words = &[
        "retry-after: ",
        "date: ",
        "ratelimit-remaining: 0\n",
        "ratelimit-reset: ",
        "x-ratelimit-remaining: 0\n",
        "x-ratelimit-reset: ",
        "etag: \"x\"\n",
        "last-modified: ",
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:38 GMT",
        "content-encoding: gzip\n",
        "200\n",
        "403\n",
        "304\n",
        "503\n",
    ];
    fuzz::run("head", Start { words, ..Start::default() }, |input| {
        let text = String::from_utf8_lossy(input);
        let mut lines = text.lines();
        let status = lines.next().and_then(|line| line.parse().ok()).and_then(|code| StatusCode::from_u16(code).ok());
        let status = status?;
        let mut headers = HeaderMap::new();
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value.trim())) {
                headers.append(name, value);
            }
        }
        let (hour, now) = (Duration::from_secs(3600), UNIX_EPOCH + Duration::from_secs(1_700_000_000));
        let quota = quota_spent(&headers, None, now);
        assert!(quota.is_none_or(|quota| (Duration::from_secs(1)..=hour).contains(&quota)));
        let known = validators(&headers);
        let texts = [&known.etag, &known.last_modified];
        assert!(texts.into_iter().flatten().all(|text| text.len() <= 1024 && HeaderValue::from_str(text).is_ok()));
        let meant = [false, true].map(|conditional| meaning(status, &headers, conditional, quota, now));
        for meant in &meant {
            match meant {
                Ok(_) => assert!([200, 203, 304].contains(&status.as_u16())),
                Err(failure) => assert!(failure.retry_after.is_none_or(|wait| wait <= hour), "{failure:?}"),
            }
        }
        let class = meant[0].map_err(|failure| (failure.class, failure.retry_after.is_some()));
        Some((format!("{class:?}"), quota.is_some(), texts.map(Option::is_some)))
    });
}
