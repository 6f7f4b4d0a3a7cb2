//! What each path does.

use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_body_util::BodyExt;
use hyper::Request;
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, IF_MODIFIED_SINCE, IF_NONE_MATCH};
use serde_json::json;

use crate::answer::{Answer, json, no_answer, set, status, streamed, whole};
use crate::state::{Connection, State};
use crate::{hawk, proxy, session, sigv4, stores};

/// `{"value":"gzip"}`, compressed.
const GZIP: &[u8] = &[
    31, 139, 8, 0, 0, 0, 0, 0, 2, 255, 171, 86, 42, 75, 204, 41, 77, 85, 178, 82, 74, 175, 202, 44, 80, 170, 5, 0, 11,
    38, 12, 192, 16, 0, 0, 0,
];

const LAST_MODIFIED: &str = "Tue, 03 Mar 2026 10:00:00 GMT";

pub(crate) async fn answer(state: &Rc<State>, connection: &Rc<Connection>, request: Request<Incoming>) -> Answer {
    if connection.listener == "proxy" && request.method() == hyper::Method::CONNECT {
        state.take(connection, &request);
        return proxy::tunnel(request);
    }
    if let Some(what) = request.uri().path().strip_prefix("/-/").map(str::to_owned) {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        return json(&state.control(&what, String::from_utf8(body.to_vec()).unwrap()));
    }
    let wanted = state.take(connection, &request);
    if let Some(target) = wanted.strip_prefix("/stores/") {
        return stores::answer(state, target, request).await;
    }
    let (path, query) = wanted.split_once('?').unwrap_or((&wanted, ""));
    let query: HashMap<&str, &str> = query.split('&').filter_map(|pair| pair.split_once('=')).collect();
    let mut answer = behave(state, connection, path, &query, request).await;
    if let Some(seconds) = query.get("retry-after") {
        set(&mut answer, "retry-after", seconds);
    }
    if let Some(seconds) = query.get("retry-date") {
        let date = SystemTime::now() + Duration::from_secs(seconds.parse().unwrap());
        set(&mut answer, "retry-after", &httpdate::fmt_http_date(date));
    }
    if query.contains_key("close") {
        set(&mut answer, "connection", "close");
    }
    for (key, header) in [("remaining", "ratelimit-remaining"), ("reset", "ratelimit-reset")] {
        if let Some(value) = query.get(key) {
            set(&mut answer, header, value);
        }
    }
    answer
}

async fn behave(
    state: &Rc<State>,
    connection: &Rc<Connection>,
    path: &str,
    query: &HashMap<&str, &str>,
    request: Request<Incoming>,
) -> Answer {
    let value = state.value.borrow().clone();
    let good = json!({ "value": value, "other": 1 });
    match path {
        "/good" => json(&good),
        "/gate" => {
            state.gate.subscribe().wait_for(|open| *open).await.unwrap();
            query.get("status").map_or_else(|| json(&good), |code| status(code.parse().unwrap()))
        }
        "/text" => whole(200, "text/plain", value),
        "/many" => many(query),
        "/null" => whole(200, "application/json", "null"),
        "/null-value" => json(&json!({ "value": null })),
        "/no-value" => json(&json!({ "other": 1 })),
        "/html" => whole(200, "text/html", "<!DOCTYPE html><html><body>login</body></html>"),
        "/empty" => whole(200, "application/json", ""),
        "/cut" => whole(200, "application/json", "{\"value\": \"cut off he"),
        "/long-value" => json(&json!({ "value": "x".repeat(100_000) })),
        "/gzip" => {
            let mut answer = whole(200, "application/json", GZIP);
            set(&mut answer, "content-encoding", "gzip");
            answer
        }
        "/encoded" => {
            let mut answer = whole(200, "text/plain", value);
            set(&mut answer, "content-encoding", query["as"]);
            answer
        }
        "/echo" => echo(request).await,
        "/short" => with_length(
            1000,
            streamed(async |sender| {
                let _ = sender.send(Ok(GOOD)).await;
            }),
        ),
        "/close-kept" if connection.is_kept() => no_answer(),
        "/close-kept" => json(&good),
        "/close-at-once" => no_answer(),
        "/cut-chunks" => streamed(async |sender| {
            let _ = sender.send(Ok(GOOD)).await;
            let _ = sender.send(Err(io::Error::other("as a crash does"))).await;
        }),
        "/huge" => with_length(HUGE, streamed(huge)),
        "/huge-chunks" => streamed(huge),
        "/drip" => streamed(async |sender| {
            while sender.send(Ok(Bytes::from_static(b" "))).await.is_ok() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }),
        "/hang" => std::future::pending().await,
        "/hang-body" => with_length(100, streamed(async |sender| sender.closed().await)),
        "/reset" => {
            let connection = connection.clone();
            with_length(
                1000,
                streamed(async move |sender| {
                    let _ = sender.send(Ok(GOOD)).await;
                    connection.will_reset();
                    let _ = sender.send(Err(io::Error::other("as a crash does"))).await;
                }),
            )
        }
        "/reset-at-once" => {
            connection.will_reset();
            no_answer()
        }
        "/etag" => conditional(&request, IF_NONE_MATCH, "etag", &format!("\"{value}\""), &good),
        "/etag-part" => conditional(&request, IF_NONE_MATCH, "etag", "\"part\"", &json!({ "value": value })),
        "/last-modified" => conditional(&request, IF_MODIFIED_SINCE, "last-modified", LAST_MODIFIED, &good),
        "/bearer" => authorized(&request, AUTHORIZATION.as_str(), &format!("Bearer {}", state.token), &good),
        "/header" => authorized(&request, "x-api-key", &format!("Key {}", state.token), &good),
        "/basic" => {
            let pair = STANDARD.encode(format!("service:{}", state.token));
            authorized(&request, AUTHORIZATION.as_str(), &format!("Basic {pair}"), &good)
        }
        "/aws" => sigv4::answer(state, query, request).await,
        _ if path.starts_with("/session/") || path.starts_with("/latest/") => {
            session::answer(state, path, query, request).await
        }
        "/hawk" => hawk::answer(state, query, request, &good).await,
        _ => match path.split('/').collect::<Vec<_>>().as_slice() {
            ["", "status", code] => status(code.parse().unwrap()),
            ["", "redirect", how] => redirect(state, how),
            ["", "reflect", code] => reflect(&request, code.parse().unwrap(), &value),
            ["", "apps", _, "config-vars"] => {
                let vars = json!({ "DATABASE_URL": value, "OTHER": "x" });
                authorized(&request, AUTHORIZATION.as_str(), &format!("Bearer {}", state.token), &vars)
            }
            _ => status(404),
        },
    }
}

const GOOD: Bytes = Bytes::from_static(b"{\"value\": \"good-value\"}");
const HUGE: usize = 50 << 20;

async fn huge(sender: crate::answer::Sender) {
    let part = Bytes::from(vec![b' '; 1 << 16]);
    for _ in 0..HUGE / part.len() {
        if sender.send(Ok(part.clone())).await.is_err() {
            return;
        }
    }
}

/// All that was asked, and the value, in every place that a log or an error could be made of.
fn reflect(request: &Request<Incoming>, code: u16, value: &str) -> Answer {
    let shown = request.headers().iter().filter_map(|(name, value)| Some(format!("{name}={}", value.to_str().ok()?)));
    let shown = shown.chain([value.to_owned()]).collect::<Vec<_>>().join(" ").replace('"', "'");
    let body = shown.clone();
    let mut answer = whole(code, &format!("text/plain; of=\"{shown}\""), body);
    for name in ["etag", "retry-after", "www-authenticate", "location", "server", "warning", "x-request-id"] {
        set(&mut answer, name, &format!("\"{shown}\""));
    }
    answer
}

/// An object with this many members `k0`, `k1` and so on, each an object with a `value`, and of this size in all.
fn many(query: &HashMap<&str, &str>) -> Answer {
    use std::fmt::Write;
    let (keys, size): (usize, usize) = (query["keys"].parse().unwrap(), query["size"].parse().unwrap());
    let mut body = String::from("{");
    let share = size / keys - 40;
    for key in 0..keys {
        write!(body, "\"k{key}\":{{\"value\":\"v{key}\",\"pad\":\"{}\"}},", "x".repeat(share)).unwrap();
    }
    body.push_str("\"end\":true}");
    whole(200, "application/json", body)
}

fn with_length(length: usize, mut answer: Answer) -> Answer {
    set(&mut answer, "content-length", &length.to_string());
    answer
}

/// A number of steps to the good answer, or one of the ways not to get there.
fn redirect(state: &State, how: &str) -> Answer {
    let to = match how {
        "loop" => "/redirect/loop".to_owned(),
        "elsewhere" => format!("http://127.0.0.1:{}/good", state.other),
        "https" => "https://127.0.0.1/good".to_owned(),
        "host" => "//localhost/good".to_owned(),
        "nowhere" => return status(302),
        "repeated" => {
            let mut answer = status(307);
            set(&mut answer, "location", "/echo?repeated");
            return answer;
        }
        "0" => "../good".to_owned(),
        steps => (steps.parse::<u32>().unwrap() - 1).to_string(),
    };
    let mut answer = status(302);
    set(&mut answer, "location", &to);
    answer
}

fn conditional(
    request: &Request<Incoming>,
    condition: hyper::header::HeaderName,
    validator: &str,
    current: &str,
    good: &serde_json::Value,
) -> Answer {
    let unchanged = request.headers().get(condition).is_some_and(|known| known == current);
    let mut answer = if unchanged { whole(304, "application/json", "") } else { json(good) };
    set(&mut answer, validator, current);
    answer
}

fn authorized(request: &Request<Incoming>, header: &str, expected: &str, good: &serde_json::Value) -> Answer {
    match request.headers().get(header) {
        Some(shown) if shown == expected => json(good),
        _ => status(401),
    }
}

async fn echo(request: Request<Incoming>) -> Answer {
    let method = request.method().to_string();
    let content_type = request.headers().get(CONTENT_TYPE).map(|value| value.to_str().unwrap().to_owned());
    let body = request.into_body().collect().await.unwrap().to_bytes();
    json(&json!({ "method": method, "content-type": content_type, "body": String::from_utf8_lossy(&body) }))
}
