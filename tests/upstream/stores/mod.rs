//! Stores of secrets, below `/stores/NAME`: each refuses a request that the real one would refuse, and answers and fails in
//! its shapes. What a name asks for (`absent`, `denied`, `throttled`, …) says how it fails.

mod aws;
mod clouds;
mod hashicorp;
mod others;

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use http_body_util::BodyExt;
use hyper::Request;
use hyper::body::Incoming;
use hyper::header::HeaderMap;
use hyper::http::request::Parts;
use serde_json::{Value, json};

use crate::answer::{Answer, set, whole};
use crate::state::State;

/// A request to a store.
pub(crate) struct Asked {
    pub(crate) method: String,
    /// As it was written.
    pub(crate) path: String,
    /// Decoded.
    pub(crate) query: BTreeMap<String, String>,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
    pub(crate) token: String,
    /// What good answers hold.
    pub(crate) value: String,
    pub(crate) state: Rc<State>,
    pub(crate) head: Parts,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// `Authorization: Bearer` and the token.
    pub(crate) fn is_bearer(&self) -> bool {
        self.header("authorization") == format!("Bearer {}", self.token)
    }

    /// Whether some login of a store gave this.
    pub(crate) fn is_session(&self, token: &str) -> bool {
        self.state.sessions.borrow().good.iter().any(|good| good == token)
    }

    /// `Authorization: Bearer` and what a login gave.
    pub(crate) fn is_bearer_of_session(&self) -> bool {
        self.header("authorization").strip_prefix("Bearer ").is_some_and(|token| self.is_session(token))
    }

    pub(crate) fn begin_session(&self) -> String {
        self.state.sessions.borrow_mut().begin()
    }

    pub(crate) fn query(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }

    /// Nothing but these may be asked; the empty ones need not.
    pub(crate) fn has_only(&self, names: &[&str]) -> bool {
        self.query.keys().all(|name| names.contains(&name.as_str()))
    }

    /// The last segment, by which a store knows how to fail.
    pub(crate) fn last(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }
}

pub(crate) async fn answer(state: &Rc<State>, target: &str, request: Request<Incoming>) -> Answer {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let Some((store, path)) = path.split_once('/') else { return refuse(404, &json!("no such store")) };
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let asked = Asked {
        method: head.method.to_string(),
        path: path.to_owned(),
        query: pairs.map(|(name, value)| (decoded(name), decoded(value))).collect(),
        headers: head.headers.clone(),
        body: String::from_utf8(body.to_vec()).unwrap(),
        token: state.token.clone(),
        value: state.value.borrow().clone(),
        state: state.clone(),
        head,
    };
    let stores: HashMap<&str, fn(&Asked) -> Answer> = HashMap::from([
        ("vault", hashicorp::vault as fn(&Asked) -> Answer),
        ("consul", hashicorp::consul),
        ("doppler", others::doppler),
        ("infisical", others::infisical),
        ("connect", others::connect),
        ("gitlab", others::gitlab),
        ("heroku", others::heroku),
        ("kubernetes", clouds::kubernetes),
        ("google", clouds::google),
        ("azure", clouds::azure),
        ("azure-login", clouds::azure_login),
        ("secretsmanager", aws::secrets_manager),
        ("ssm", aws::ssm),
    ]);
    match stores.get(store) {
        Some(store) => store(&asked),
        None => refuse(404, &json!("no such store")),
    }
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits: String = [rest.next().unwrap(), rest.next().unwrap()].map(char::from).iter().collect();
                u8::from_str_radix(&digits, 16).unwrap()
            }
            other => other,
        });
    }
    String::from_utf8(bytes).unwrap()
}

pub(crate) fn refuse(status: u16, body: &Value) -> Answer {
    whole(status, "application/json", body.to_string())
}

/// What the real one never sends, so that a test sees which request was not as it takes it.
pub(crate) fn not_so(why: &str) -> Answer {
    refuse(418, &json!({ "the stand-in": why }))
}

pub(crate) fn with(mut answer: Answer, name: &str, value: &str) -> Answer {
    set(&mut answer, name, value);
    answer
}
