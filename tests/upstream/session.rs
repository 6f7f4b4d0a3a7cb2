//! Where sessions come from, as the real ones do: logins, token endpoints, metadata. Written from their documentation.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http_body_util::BodyExt;
use hyper::Request;
use hyper::body::{Bytes, Incoming};
use serde_json::{Value, json};

use crate::answer::{Answer, json, set, status, streamed, whole};
use crate::state::State;

/// What has been given, and what counts.
#[derive(Default)]
pub(crate) struct Sessions {
    given: u32,
    /// Those that are good, each with the grant that it came of.
    pub(crate) good: Vec<String>,
    /// Wrapping tokens that were unwrapped.
    pub(crate) unwrapped: Vec<String>,
    /// Of the service account, in DER.
    pub(crate) public_key: Vec<u8>,
    /// By how many seconds the clock of signatures is ahead.
    pub(crate) ahead: i64,
}

impl Sessions {
    pub(crate) fn begin(&mut self) -> String {
        self.given += 1;
        let token = format!("planted-session-{}", self.given);
        self.good.push(token.clone());
        token
    }
}

fn now(state: &State) -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    now.checked_add_signed(state.sessions.borrow().ahead).unwrap()
}

/// The answer of a server by whose clock it is this time.
pub(crate) fn dated(state: &State, mut answer: Answer) -> Answer {
    let date = SystemTime::UNIX_EPOCH + Duration::from_secs(now(state));
    set(&mut answer, "date", &httpdate::fmt_http_date(date));
    answer
}

fn header(request: &Request<Incoming>, name: &str) -> String {
    request.headers().get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
}

fn refused(code: u16, error: &str) -> Answer {
    whole(code, "application/json", format!("{{\"errors\":[\"{error}\"]}}"))
}

/// `lease` is the lifetime that is told, as JSON.
pub(crate) async fn answer(
    state: &Rc<State>,
    path: &str,
    query: &HashMap<&str, &str>,
    request: Request<Incoming>,
) -> Answer {
    let shown = header(&request, "x-vault-token");
    let authorization = header(&request, "authorization");
    let metadata = header(&request, "x-aws-ec2-metadata-token");
    let ttl = header(&request, "x-aws-ec2-metadata-token-ttl-seconds");
    let (method, content_type) = (request.method().to_string(), header(&request, "content-type"));
    let body = request.into_body().collect().await.unwrap().to_bytes();
    // A number where it is one, else a text: `lease-text` is always one.
    let lease: Value = match (query.get("lease"), query.get("lease-text")) {
        (Some(lease), _) => serde_json::from_str(&lease.replace("%22", "\"")).unwrap(),
        (None, Some(text)) => serde_json::from_str(text).unwrap_or_else(|_| json!(text)),
        (None, None) => json!(3600),
    };
    let is_good = |token: &str| state.sessions.borrow().good.iter().any(|good| good == token);
    let begin = || state.sessions.borrow_mut().begin();
    match path {
        "/session/login" => {
            let sent: Value = serde_json::from_slice(&body).unwrap_or_default();
            let mut legal = query.get("takes").map_or(state.token.clone(), |secrets| (*secrets).to_owned());
            legal = legal.replace("TOKEN", &state.token);
            let is_legal = legal.split(',').any(|legal| sent["secret_id"] == legal);
            if method != "POST" || sent["role_id"] != "role" || !is_legal {
                return refused(400, "invalid role or secret ID");
            }
            json(&json!({ "auth": { "client_token": begin(), "lease_duration": lease, "renewable": true } }))
        }
        // Two that belong together.
        "/session/pair" => {
            let sent: Value = serde_json::from_slice(&body).unwrap_or_default();
            let pair = (sent["a"].as_str().unwrap_or_default(), sent["b"].as_str().unwrap_or_default());
            if pair != (state.token.as_str(), state.token.as_str()) && pair != ("planted-next-a", "planted-next-b") {
                return refused(401, "no such pair");
            }
            json(&json!({ "auth": { "client_token": begin() } }))
        }
        "/session/renew" if method == "POST" && is_good(&shown) => {
            json(&json!({ "auth": { "client_token": shown, "lease_duration": lease } }))
        }
        "/session/unwrap" if shown == state.token && body.is_empty() => {
            let again = state.sessions.borrow().unwrapped.contains(&shown);
            state.sessions.borrow_mut().unwrapped.push(shown);
            if again {
                return refused(400, "wrapping token is not valid or does not exist");
            }
            json(&json!({ "data": { "secret_id": "planted-wrapped-secret" } }))
        }
        "/session/lookup" if serde_json::from_slice::<Value>(&body).unwrap()["token"] == state.token.as_str() => {
            json(&json!({ "data": { "creation_path": "auth/approle/role/billing/secret-id", "creation_ttl": 60 } }))
        }
        "/session/secret" if is_good(&shown) => json(&json!({ "value": *state.value.borrow() })),
        "/session/no-json" => whole(200, "text/html", "<html>log in</html>"),
        "/session/no-token" => json(&json!({ "auth": { "lease_duration": 60 } })),
        "/session/odd-token" => json(&json!({ "auth": { "client_token": "a\nb" } })),
        // All that was sent, where an error or a log could be made of it.
        "/session/reflect" => {
            let sent = String::from_utf8_lossy(&body).replace(['"', '\r', '\n'], "'");
            let sent = format!("{sent} {authorization} {shown} planted-session-reflected");
            let code = query["code"].parse().unwrap();
            let mut answer = whole(code, "application/json", json!({ "error": sent, "errors": [sent] }).to_string());
            for name in ["www-authenticate", "location", "warning", "retry-after", "x-request-id"] {
                set(&mut answer, name, &format!("\"{sent}\""));
            }
            answer
        }
        "/session/huge" => streamed(async |sender| {
            let part = Bytes::from(vec![b' '; 1 << 16]);
            for _ in 0..(1 << 30) / part.len() {
                if sender.send(Ok(part.clone())).await.is_err() {
                    return;
                }
            }
        }),
        "/session/bearer" if authorization.strip_prefix("Bearer ").is_some_and(is_good) => {
            json(&json!({ "value": *state.value.borrow() }))
        }
        "/session/oauth" => {
            let sent = form(&body);
            let shows = |name: &str| sent.get(name).map_or("", String::as_str);
            let pair = match query.get("send") {
                Some(&"body") => (shows("client_id").to_owned(), shows("client_secret").to_owned()),
                _ => basic(&authorization),
            };
            let good = content_type == "application/x-www-form-urlencoded"
                && shows("grant_type") == "client_credentials"
                && shows("scope") == "read:all x/y"
                && pair == ("a client".to_owned(), state.token.clone());
            if !good {
                return whole(400, "application/json", "{\"error\":\"invalid_client\"}");
            }
            json(&json!({ "access_token": begin(), "token_type": "bearer", "expires_in": lease }))
        }
        "/session/google" => match assertion(state, &body) {
            Ok(()) => {
                dated(state, json(&json!({ "access_token": begin(), "token_type": "Bearer", "expires_in": 3599 })))
            }
            Err(why) => dated(
                state,
                whole(
                    400,
                    "application/json",
                    json!({ "error": "invalid_grant", "error_description": why }).to_string(),
                ),
            ),
        },
        "/latest/api/token" if method == "PUT" && !ttl.is_empty() => whole(200, "text/plain", "planted-imds-token\n"),
        _ if path.starts_with("/latest/") && metadata != "planted-imds-token" => status(401),
        "/latest/meta-data/iam/security-credentials/" => whole(200, "text/plain", "the-role"),
        "/latest/meta-data/iam/security-credentials/the-role" => keys(state, query),
        "/session/container" if authorization == state.token => keys(state, query),
        _ => refused(403, "permission denied"),
    }
}

/// Credentials of AWS, each time others; the secret is the token.
fn keys(state: &State, _: &HashMap<&str, &str>) -> Answer {
    let session = state.sessions.borrow_mut().begin();
    let number = session.rsplit('-').next().unwrap().to_owned();
    let expires = SystemTime::now() + Duration::from_secs(3600);
    let date = humantime::format_rfc3339_seconds(expires).to_string();
    json(&json!({
        "Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": format!("ASIAPLANTED{number:0>9}"), "SecretAccessKey": state.token,
        "Token": session, "Expiration": date,
    }))
}

pub(crate) fn form(body: &[u8]) -> HashMap<String, String> {
    let decode = |text: &str| {
        let mut bytes = Vec::new();
        let mut rest = text.as_bytes();
        while let Some((first, after)) = rest.split_first() {
            let (byte, after) = match first {
                b'%' => (u8::from_str_radix(std::str::from_utf8(&after[..2]).unwrap(), 16).unwrap(), &after[2..]),
                b'+' => (b' ', after),
                byte => (*byte, after),
            };
            bytes.push(byte);
            rest = after;
        }
        String::from_utf8(bytes).unwrap()
    };
    let text = String::from_utf8_lossy(body).into_owned();
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (decode(name), decode(value))).collect()
}

/// User and password, each as in a form.
fn basic(authorization: &str) -> (String, String) {
    let pair =
        authorization.strip_prefix("Basic ").and_then(|encoded| STANDARD.decode(encoded).ok()).unwrap_or_default();
    let pair = String::from_utf8(pair).unwrap();
    let (user, password) = pair.split_once(':').unwrap_or_default();
    let both = form(format!("u={user}&p={password}").as_bytes());
    (both["u"].clone(), both["p"].clone())
}

/// An assertion as Google takes it: signed by the account's key, for this endpoint, of this time.
fn assertion(state: &State, body: &[u8]) -> Result<(), String> {
    let sent = form(body);
    if sent.get("grant_type").map(String::as_str) != Some("urn:ietf:params:oauth:grant-type:jwt-bearer") {
        return Err("grant type".into());
    }
    let parts: Vec<&str> = sent["assertion"].split('.').collect();
    let [head, claims, signature] = parts[..] else { return Err("three parts".into()) };
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).unwrap();
    let key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, state.sessions.borrow().public_key.clone());
    key.verify(format!("{head}.{claims}").as_bytes(), &decode(signature)).map_err(|_| "Invalid JWT Signature.")?;
    let (head, claims): (Value, Value) =
        (serde_json::from_slice(&decode(head)).unwrap(), serde_json::from_slice(&decode(claims)).unwrap());
    if head != json!({ "alg": "RS256", "typ": "JWT", "kid": "planted-key-id" }) {
        return Err("header".into());
    }
    let (iat, exp, now) = (claims["iat"].as_u64().unwrap(), claims["exp"].as_u64().unwrap(), now(state));
    if iat > now + 60 || exp < now || exp - iat > 3600 {
        return Err("Invalid JWT: Token must be a short-lived token".into());
    }
    let audience = claims["aud"].as_str().unwrap();
    if claims["iss"] != "broker@project.iam.example"
        || !["a b", "https://www.googleapis.com/auth/cloud-platform"].iter().any(|scope| claims["scope"] == *scope)
        || !audience.ends_with("/session/google")
    {
        return Err("claims".into());
    }
    Ok(())
}
