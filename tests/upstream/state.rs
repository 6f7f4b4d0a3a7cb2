//! What the process remembers: every request, and what the tests have told it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use hyper::Request;
use nix::sys::socket::{setsockopt, sockopt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::session::Sessions;

/// One connection: which listener took it, and a handle to end it as a crash does.
pub(crate) struct Connection {
    pub(crate) listener: &'static str,
    socket: OwnedFd,
    requests: Cell<u32>,
}

impl Connection {
    pub(crate) fn new(listener: &'static str, stream: &TcpStream) -> Self {
        Self { listener, socket: stream.as_fd().try_clone_to_owned().unwrap(), requests: Cell::new(0) }
    }

    /// Whether this is not its first request.
    pub(crate) fn is_kept(&self) -> bool {
        self.requests.get() > 1
    }

    /// Closing will be a reset, not an end.
    pub(crate) fn will_reset(&self) {
        let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
        setsockopt(&self.socket, sockopt::Linger, &linger).unwrap();
    }
}

pub(crate) struct State {
    pub(crate) token: String,
    /// The port of the listener `other`.
    pub(crate) other: u16,
    /// What good answers hold.
    pub(crate) value: RefCell<String>,
    /// Behaves for the one path as for the other.
    aliases: RefCell<HashMap<String, String>>,
    requests: RefCell<Vec<Value>>,
    connections: RefCell<HashMap<&'static str, u64>>,
    /// What the listener `tls` shows.
    pub(crate) certificate: RefCell<String>,
    /// Of Hawk, which may be shown only once.
    pub(crate) nonces: RefCell<Vec<String>>,
    /// By how many seconds the clock of Hawk is ahead.
    pub(crate) ahead: Cell<i64>,
    pub(crate) sessions: RefCell<Sessions>,
    /// Opened once, for all who wait at it.
    pub(crate) gate: watch::Sender<bool>,
    started: Instant,
}

impl State {
    pub(crate) fn new(token: String, other: u16) -> Self {
        Self {
            token,
            other,
            value: RefCell::new("good-value".to_owned()),
            aliases: RefCell::default(),
            requests: RefCell::default(),
            connections: RefCell::default(),
            certificate: RefCell::new("valid".to_owned()),
            nonces: RefCell::default(),
            ahead: Cell::new(0),
            sessions: RefCell::default(),
            gate: watch::Sender::new(false),
            started: Instant::now(),
        }
    }

    pub(crate) fn count_connection(&self, listener: &'static str) {
        *self.connections.borrow_mut().entry(listener).or_default() += 1;
    }

    /// Remembers a request, and gives the target whose behaviour is wanted for it.
    pub(crate) fn take<B>(&self, connection: &Connection, request: &Request<B>) -> String {
        connection.requests.set(connection.requests.get() + 1);
        let headers: serde_json::Map<String, Value> = request
            .headers()
            .iter()
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into()))
            .collect();
        let path = request.uri().path();
        self.requests.borrow_mut().push(json!({
            "listener": connection.listener,
            "method": request.method().as_str(),
            "target": request.uri().to_string(),
            "path": path,
            "headers": headers,
            "millis": u64::try_from(self.started.elapsed().as_millis()).unwrap(),
        }));
        let target = request.uri().path_and_query().map_or(path, |target| target.as_str());
        self.aliases.borrow().get(path).cloned().unwrap_or_else(|| target.to_owned())
    }

    /// Whether this wrapping token was shown before; from now on it was.
    pub(crate) fn was_unwrapped(&self, token: &str) -> bool {
        let unwrapped = &mut self.sessions.borrow_mut().unwrapped;
        let again = unwrapped.iter().any(|known| known == token);
        unwrapped.push(token.to_owned());
        again
    }

    /// A control request: tells what was asked, or changes how it behaves.
    pub(crate) fn control(&self, what: &str, body: String) -> Value {
        match what.split_once('/').unwrap_or((what, "")) {
            ("requests", _) => self.requests.borrow().clone().into(),
            ("connections", _) => json!(*self.connections.borrow()),
            ("as", path) => {
                self.aliases.borrow_mut().insert(format!("/{path}"), body);
                Value::Null
            }
            ("value", _) => {
                *self.value.borrow_mut() = body;
                Value::Null
            }
            ("gate", _) => {
                self.gate.send_replace(body == "open");
                Value::Null
            }
            ("certificate", _) => {
                *self.certificate.borrow_mut() = body;
                Value::Null
            }
            ("revoke", _) => {
                self.sessions.borrow_mut().good.clear();
                Value::Null
            }
            ("public-key", _) => {
                use base64::Engine;
                let der = base64::engine::general_purpose::STANDARD.decode(body).unwrap();
                self.sessions.borrow_mut().public_key = der;
                Value::Null
            }
            ("session-ahead", _) => {
                self.sessions.borrow_mut().ahead = body.parse().unwrap();
                Value::Null
            }
            ("ahead", _) => {
                self.ahead.set(body.parse().unwrap());
                Value::Null
            }
            _ => panic!("no such control: {what}"),
        }
    }
}
