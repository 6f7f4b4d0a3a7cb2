//! The upstream as a process of its own (`tests/upstream`), started, told how to behave, and asked what it saw.

use std::cell::Cell;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::TOKEN;

pub struct Process {
    child: Child,
    ports: HashMap<String, u16>,
    controls: Cell<u64>,
}

impl Process {
    /// `directory` gets `ca.pem`, the authority that its certificates are of.
    pub fn start(directory: &Path) -> Self {
        Self::start_at(directory, 0)
    }

    /// With a port for the listener `plain`.
    pub fn start_at(directory: &Path, port: u16) -> Self {
        let examples = Path::new(env!("CARGO_BIN_EXE_keyhatch")).with_file_name("examples");
        let program = examples.join("upstream");
        assert!(program.exists(), "{} is missing: cargo build --example upstream", program.display());
        let mut command = Command::new(program);
        command.arg("--ca").arg(directory.join("ca.pem")).args(["--token", TOKEN, "--port", &port.to_string()]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { child, ports: serde_json::from_str(&line).unwrap(), controls: Cell::new(0) }
    }

    /// Of one of `plain`, `other`, `proxy`, `tls`.
    pub fn port(&self, listener: &str) -> u16 {
        self.ports[listener]
    }

    /// From now on requests for `path` are answered as those for `target` are.
    pub fn behave(&self, path: &str, target: &str) {
        self.control(&format!("as{path}"), target);
    }

    /// What good answers hold from now on.
    pub fn set_value(&self, value: &str) {
        self.control("value", value);
    }

    /// Lets all go on that ask for `/gate`, or has those that come from now on wait.
    pub fn set_gate(&self, open: bool) {
        self.control("gate", if open { "open" } else { "shut" });
    }

    /// What `tls` shows to new connections: `valid`, `expired`, `of-another-host` or `of-another-authority`.
    pub fn set_certificate(&self, which: &str) {
        self.control("certificate", which);
    }

    /// By how many seconds its clock is ahead, for Hawk.
    pub fn set_ahead(&self, seconds: i64) {
        self.control("ahead", &seconds.to_string());
    }

    /// Ends all sessions that were given.
    pub fn revoke(&self) {
        self.control("revoke", "");
    }

    /// Of the service account, in DER.
    pub fn set_public_key(&self, der: &[u8]) {
        use base64::Engine;
        self.control("public-key", &base64::engine::general_purpose::STANDARD.encode(der));
    }

    /// By how many seconds its clock is ahead, for signatures and assertions.
    pub fn set_session_ahead(&self, seconds: i64) {
        self.control("session-ahead", &seconds.to_string());
    }

    /// All requests but these, in their order, with `listener`, `method`, `target`, `path`, `headers`, and `millis` since its start.
    pub fn requests(&self) -> Vec<Value> {
        self.control("requests", "").as_array().unwrap().clone()
    }

    pub fn requests_for(&self, path: &str) -> Vec<Value> {
        self.requests().into_iter().filter(|request| request["path"] == path).collect()
    }

    pub fn connections(&self, listener: &str) -> u64 {
        self.control("connections", "")[listener].as_u64().unwrap_or(0)
    }

    /// How many connections to `other` were for telling it or asking it something.
    pub fn controls(&self) -> u64 {
        self.controls.get()
    }

    fn control(&self, what: &str, body: &str) -> Value {
        self.controls.set(self.controls.get() + 1);
        let mut stream = TcpStream::connect(("127.0.0.1", self.port("other"))).unwrap();
        let length = body.len();
        write!(
            stream,
            "PUT /-/{what} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        serde_json::from_str(body).unwrap()
    }

    /// From then on connections are refused.
    pub fn stop(&mut self) {
        // It may have ended by itself; the test says what it expects.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}
