//! A broker of whoever runs the test, that user as its peer, and `keyhatch reload`.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;

use crate::support::process::Process;
use crate::support::{Broker, GRANTED};

pub(crate) fn me() -> u32 {
    nix::unistd::geteuid().as_raw()
}

pub(crate) struct Scene {
    pub(crate) upstream: Process,
    pub(crate) broker: Broker,
}

/// A key with this name, path at the upstream, and settings.
pub(crate) type Key<'a> = (&'a str, &'a str, &'a str);

impl Scene {
    /// All of these keys are granted to the caller and to one user more.
    pub(crate) fn new(keys: &[Key<'_>]) -> Self {
        Self::with(keys, &all(), "")
    }

    /// `more` stands before everything else.
    pub(crate) fn with(keys: &[Key<'_>], clients: &str, more: &str) -> Self {
        let mut upstream = None;
        let mut broker = Broker::prepared(|directory| {
            let started = Process::start(directory);
            let text = text(&started, keys, clients, more);
            upstream = Some(started);
            text
        });
        broker.start();
        Self { upstream: upstream.unwrap(), broker }
    }

    pub(crate) fn configure(&self, keys: &[Key<'_>], clients: &str) {
        self.broker.configure(&text(&self.upstream, keys, clients, ""));
    }

    pub(crate) fn command(&self, json: bool) -> Command {
        let mut reload = Command::new(env!("CARGO_BIN_EXE_keyhatch"));
        reload.arg("reload").arg("--config").arg(self.broker.path("keyhatch.toml"));
        reload.arg("--admin-socket").arg(self.broker.path("admin.sock")).args(json.then_some("--json"));
        reload
    }

    pub(crate) fn reload(&self) -> Output {
        self.command(false).output().unwrap()
    }

    /// One that ends well.
    pub(crate) fn reloads(&self) -> String {
        let done = self.reload();
        let told = told(&done);
        assert_eq!(done.status.code(), Some(0), "{told}\n{}", self.broker.log());
        told
    }

    /// One that changes nothing: what it says.
    pub(crate) fn refuses(&self) -> String {
        let done = self.reload();
        let told = told(&done);
        assert_eq!(done.status.code(), Some(78), "{told}\n{}", self.broker.log());
        told
    }

    /// A key by this path, all of whose requests are answered alike.
    pub(crate) fn get(&self, path: &str) -> Answer {
        Kept::new(&self.broker).ask(path, "")
    }

    pub(crate) fn status(&self) -> Value {
        let mut status = Command::new(env!("CARGO_BIN_EXE_keyhatch"));
        let done = status.args(["status", "--json", "--admin-socket"]).arg(self.broker.path("admin.sock")).output();
        serde_json::from_slice(&done.unwrap().stdout).unwrap()
    }

    pub(crate) fn token_state(&self, name: &str) -> String {
        let status = self.status();
        let tokens = status["tokens"].as_array().unwrap();
        tokens.iter().find(|token| token["token"] == name).unwrap()["state"].as_str().unwrap().to_owned()
    }
}

pub(crate) fn told(done: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr))
}

/// Everything to the caller.
pub(crate) fn all() -> String {
    client("/**")
}

pub(crate) fn client(pattern: &str) -> String {
    format!("[clients.all]\nuser = [{}, {GRANTED}]\nkeys = [\"{pattern}\"]\n", me())
}

fn text(upstream: &Process, keys: &[Key<'_>], clients: &str, more: &str) -> String {
    let port = upstream.port("plain");
    let key = |(name, path, settings): &Key<'_>| {
        format!(
            "[keys.\"{name}\"]\nsource = {{ type = \"http\", url = \"http://127.0.0.1:{port}{path}\", field = \"value\", \
             auth = {{ type = \"bearer\", token = \"t\" }}, allow-plaintext = true }}\n{settings}\n"
        )
    };
    let keys: String = keys.iter().map(key).collect();
    format!("{more}\n[tokens]\nt = {{ file = \"DIR/token\" }}\n{keys}{clients}")
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn age(&self) -> u64 {
        let line = self.head.lines().find_map(|line| line.strip_prefix("age: "));
        line.unwrap_or_else(|| panic!("no age: {}", self.head)).trim().parse().unwrap()
    }
}

/// One connection that stays.
pub(crate) struct Kept(BufReader<UnixStream>);

impl Kept {
    pub(crate) fn new(broker: &Broker) -> Self {
        let stream = UnixStream::connect(broker.path("keyhatch.sock")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Self(BufReader::new(stream))
    }

    pub(crate) fn send(&mut self, path: &str, headers: &str) {
        write!(self.0.get_mut(), "GET {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n").unwrap();
    }

    pub(crate) fn ask(&mut self, path: &str, headers: &str) -> Answer {
        self.send(path, headers);
        self.answer()
    }

    pub(crate) fn answer(&mut self) -> Answer {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(self.0.read_line(&mut head).unwrap() > 0, "the connection ended: {head}");
        }
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.map_or(0, |length| length.trim().parse().unwrap())];
        if status != 304 {
            self.0.read_exact(&mut body).unwrap();
        }
        Answer { status, head, body: String::from_utf8(body).unwrap() }
    }
}
