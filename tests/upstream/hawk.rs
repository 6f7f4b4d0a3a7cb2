//! The server's half of Hawk, written from its specification and not from keyhatch's half.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::SystemTime;

use aws_lc_rs::{digest, hmac};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_body_util::BodyExt;
use hyper::Request;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};

use crate::answer::{Answer, json, set, status};
use crate::state::State;

/// Answers as `query` says: `reply` = signed (default), unsigned, forged, other-body; `stale` = trusted, forged, bare;
/// `algorithm` = sha1.
pub(crate) async fn answer(
    state: &Rc<State>,
    query: &HashMap<&str, &str>,
    request: Request<Incoming>,
    good: &serde_json::Value,
) -> Answer {
    let sha1 = query.get("algorithm") == Some(&"sha1");
    let key = if sha1 { hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY } else { hmac::HMAC_SHA256 };
    let key = hmac::Key::new(key, state.token.as_bytes());
    let sign = |text: &str| STANDARD.encode(hmac::sign(&key, text.as_bytes()));
    let hash = |content_type: &str, body: &[u8]| {
        let algorithm = if sha1 { &digest::SHA1_FOR_LEGACY_USE_ONLY } else { &digest::SHA256 };
        let content_type = content_type.split(';').next().unwrap().trim().to_lowercase();
        let text = [format!("hawk.1.payload\n{content_type}\n").as_bytes(), body, b"\n"].concat();
        STANDARD.encode(digest::digest(algorithm, &text))
    };

    let header = |name| request.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    let shown = attributes(&header(AUTHORIZATION).unwrap_or_default());
    let (method, target) = (request.method().to_string(), request.uri().path_and_query().unwrap().to_string());
    let (host, content_type) = (header(HOST).unwrap(), header(CONTENT_TYPE).unwrap_or_default());
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let (host, port) = host.split_once(':').unwrap_or((&host, "80"));
    let shows = |name: &str| shown.get(name).map_or("", String::as_str);
    let text = |kind: &str, hash: &str, ext: &str| {
        let (ts, nonce) = (shows("ts"), shows("nonce"));
        format!("hawk.1.{kind}\n{ts}\n{nonce}\n{method}\n{target}\n{host}\n{port}\n{hash}\n{ext}\n")
    };

    let known = shows("id") == "acme" && shows("mac") == sign(&text("header", shows("hash"), shows("ext")));
    if !known || shows("hash") != hash(&content_type, &body) {
        let mut answer = status(401);
        set(&mut answer, "www-authenticate", "Hawk error=\"Bad mac\"");
        return answer;
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let now = now.checked_add_signed(state.ahead.get()).unwrap();
    if shows("ts").parse::<u64>().unwrap().abs_diff(now) > 60 {
        let tsm = sign(&format!("hawk.1.ts\n{now}\n"));
        let told = match query.get("stale") {
            Some(&"forged") => format!("Hawk ts=\"{}\", tsm=\"{tsm}\", error=\"Stale timestamp\"", now + 1),
            Some(&"bare") => "Hawk error=\"Stale timestamp\"".to_owned(),
            _ => format!("Hawk ts=\"{now}\", tsm=\"{tsm}\", error=\"Stale timestamp\""),
        };
        let mut answer = status(401);
        set(&mut answer, "www-authenticate", &told);
        return answer;
    }
    let fresh = !state.nonces.borrow().iter().any(|nonce| nonce == shows("nonce"));
    assert!(fresh, "a nonce was used twice");
    state.nonces.borrow_mut().push(shows("nonce").to_owned());

    let mut answer = json(good);
    let signed = match query.get("reply") {
        Some(&"other-body") => hash("application/json", b"{\"value\": \"another\"}"),
        _ => hash("application/json", good.to_string().as_bytes()),
    };
    let mac = match query.get("reply") {
        Some(&"unsigned") => return answer,
        Some(&"forged") => sign("something else"),
        _ => sign(&text("response", &signed, "e")),
    };
    set(&mut answer, "server-authorization", &format!("Hawk mac=\"{mac}\", hash=\"{signed}\", ext=\"e\""));
    answer
}

fn attributes(header: &str) -> HashMap<String, String> {
    let list = header.strip_prefix("Hawk ").unwrap_or_default().split("\", ");
    let pairs = list.filter_map(|pair| pair.split_once("=\""));
    pairs.map(|(name, value)| (name.trim().to_owned(), value.trim_end_matches('"').to_owned())).collect()
}
