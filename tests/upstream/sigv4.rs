//! The server's half of Signature Version 4, written from its documentation and not from keyhatch's half.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::{digest, hmac};
use http_body_util::BodyExt;
use hyper::Request;
use hyper::body::Incoming;
use hyper::http::request::Parts;
use serde_json::json;

use crate::answer::{Answer, json, whole};
use crate::session::dated;
use crate::state::State;

fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn refused(state: &State, kind: &str) -> Answer {
    dated(state, whole(400, "application/x-amz-json-1.1", json!({ "__type": kind, "message": "no" }).to_string()))
}

pub(crate) async fn answer(state: &Rc<State>, query: &HashMap<&str, &str>, request: Request<Incoming>) -> Answer {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    match check(state, query, ("eu-west-1", "secretsmanager"), &head, &body) {
        Ok(()) => dated(state, json(&json!({ "value": *state.value.borrow(), "Name": "x" }))),
        Err(refused) => *refused,
    }
}

/// Of `query`, `id` and `session` are what is expected beside the secret, which is the token.
pub(crate) fn check(
    state: &State,
    query: &HashMap<&str, &str>,
    of: (&str, &str),
    head: &Parts,
    body: &[u8],
) -> Result<(), Box<Answer>> {
    let refused = |kind: &str| Err(Box::new(refused(state, kind)));
    let header = |name: &str| {
        let values = head.headers.get_all(name).iter();
        let values: Vec<String> =
            values.map(|value| value.to_str().unwrap().split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        values.join(",")
    };
    let Some(shown) = head.headers.get("authorization").map(|value| value.to_str().unwrap()) else {
        return refused("MissingAuthenticationTokenException");
    };
    let fields: HashMap<&str, &str> = shown
        .strip_prefix("AWS4-HMAC-SHA256 ")
        .unwrap()
        .split(", ")
        .map(|pair| pair.split_once('=').unwrap())
        .collect();
    let credential: Vec<&str> = fields["Credential"].split('/').collect();
    let [id, day, region, service, "aws4_request"] = credential[..] else { panic!("{shown}") };
    let date = header("x-amz-date");

    // What it must not leave out.
    let names: Vec<&str> = fields["SignedHeaders"].split(';').collect();
    let needed = head.headers.keys().map(hyper::header::HeaderName::as_str);
    let needed = needed.filter(|name| *name == "host" || *name == "content-type" || name.starts_with("x-amz-"));
    for name in needed {
        assert!(names.contains(&name), "{name} is not signed: {shown}");
    }
    assert!(names.is_sorted(), "{shown}");

    // Each segment as it came, encoded once more; the pairs of the query by their encoded names.
    let unreserved = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(byte);
    let path = head.uri.path().bytes();
    let path: String =
        path.map(|b| if unreserved(&b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect();
    let mut pairs: Vec<&str> =
        head.uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()).collect();
    pairs.sort_unstable();
    let pairs: Vec<String> =
        pairs.iter().map(|pair| if pair.contains('=') { (*pair).to_owned() } else { format!("{pair}=") }).collect();
    let lines: String = names.iter().map(|name| format!("{name}:{}\n", header(name))).collect();
    let canonical = [
        head.method.as_str(),
        &path,
        &pairs.join("&"),
        &lines,
        fields["SignedHeaders"],
        &hex(digest::digest(&digest::SHA256, body)),
    ]
    .join("\n");
    let scope = format!("{day}/{region}/{service}/aws4_request");
    let text =
        ["AWS4-HMAC-SHA256", &date, &scope, &hex(digest::digest(&digest::SHA256, canonical.as_bytes()))].join("\n");
    let chain = [day, region, service, "aws4_request"];
    let key = chain.iter().fold(format!("AWS4{}", state.token).into_bytes(), |key, part| {
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), part.as_bytes()).as_ref().to_vec()
    });
    let signature = hex(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), text.as_bytes()));

    let session = header("x-amz-security-token");
    let sessions = state.sessions.borrow();
    let known = match query.get("id") {
        // One that this upstream has given.
        Some(&"given") => {
            if !sessions.good.contains(&session) {
                drop(sessions);
                return refused("ExpiredTokenException");
            }
            true
        }
        Some(expected) => id == *expected && session == query.get("session").copied().unwrap_or_default(),
        None => false,
    };
    let ahead = sessions.ahead;
    drop(sessions);
    if !known {
        return refused("UnrecognizedClientException");
    }
    let now = SystemTime::now().checked_add(Duration::from_secs(86_400)).unwrap();
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs().checked_add_signed(ahead).unwrap() - 86_400;
    let parsed =
        format!("{}-{}-{}T{}:{}:{}Z", &date[..4], &date[4..6], &date[6..8], &date[9..11], &date[11..13], &date[13..15]);
    let signed = humantime::parse_rfc3339(&parsed).unwrap().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    if signed.abs_diff(now) > 300 || day != &date[..8] {
        return refused("RequestTimeTooSkewed");
    }
    if (region, service) != of || signature != fields["Signature"] {
        return refused("SignatureDoesNotMatch");
    }
    Ok(())
}
