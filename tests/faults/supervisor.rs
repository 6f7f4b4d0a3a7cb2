//! What restarts the program, as a service manager does, its upstream, and the peers that ask all the time.
#![allow(clippy::unwrap_used, reason = "a part of the tests, which may panic")]

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::{Broker, GRANTED, STRANGER, as_uid, send, wait_until};

/// Each has a key of its own.
const PEERS: [(u32, &str, &str); 2] = [(GRANTED, "granted", "stranger"), (STRANGER, "stranger", "granted")];

/// Answers with the last part of the path and a number, so that each value says whose it is and which.
pub(crate) struct Numbered {
    pub(crate) port: u16,
    pub(crate) number: Arc<AtomicU64>,
    pub(crate) is_down: Arc<AtomicBool>,
}

impl Numbered {
    /// Serves as long as the test runs.
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (number, is_down) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (current, down) = (number.clone(), is_down.clone());
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let mut line = String::new();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let _ = reader.read_line(&mut line);
                let name = line.split(' ').nth(1).and_then(|path| path.rsplit('/').next()).unwrap_or_default();
                let body = format!("{{\"value\":\"{name}|{}\"}}", current.load(Ordering::SeqCst));
                let status = if down.load(Ordering::SeqCst) { "503 Down" } else { "200 OK" };
                let length = body.len();
                let close = "Connection: close\r\nContent-Type: application/json";
                // Who asked may have been killed.
                let _ = write!(stream, "HTTP/1.1 {status}\r\n{close}\r\nContent-Length: {length}\r\n\r\n{body}");
                let rest = reader.lines().map_while(Result::ok).take_while(|line| !line.is_empty());
                rest.for_each(drop);
            }
        });
        Self { port, number, is_down }
    }

    pub(crate) fn configuration(&self) -> String {
        let mut text = String::from("[defaults]\ntimeout = \"2s\"\n");
        for (uid, own, _) in PEERS {
            let url = format!("http://127.0.0.1:{}/{own}", self.port);
            writeln!(
                text,
                "[keys.\"/own/{own}\"]\nsource = {{ type = \"http\", url = \"{url}\" }}\n\
                 [clients.{own}]\nuser = {uid}\nkeys = [\"/own/{own}\"]"
            )
            .unwrap();
        }
        text
    }
}

/// One peer of each user, until it is dropped.
pub(crate) struct Asking {
    children: Vec<Child>,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Asking {
    pub(crate) fn start(broker: &Broker, mode: &str) -> Self {
        let program = Path::new(env!("CARGO_BIN_EXE_keyhatch")).with_file_name("examples").join("swarm");
        assert!(program.exists(), "{} is missing: cargo build --example swarm", program.display());
        let heard = Arc::<Mutex<Vec<String>>>::default();
        let start = |(uid, own, other): (u32, &str, &str)| {
            let mut check = as_uid(uid, program.to_str().unwrap());
            check.arg(broker.path("keyhatch.sock")).args([mode, own, other]);
            let mut child = check.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
            let lines = BufReader::new(child.stdout.take().unwrap()).lines();
            let heard = heard.clone();
            std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| heard.lock().unwrap().push(line)));
            child
        };
        Self { children: PEERS.map(start).into(), heard }
    }

    /// All get their value, and so far none has seen what is wrong.
    pub(crate) fn are_served(&self, broker: &Broker, number: Option<u64>) {
        let before = self.heard.lock().unwrap().len();
        for (_, own, _) in PEERS {
            let wanted = number.map_or_else(|| format!("{own}|"), |number| format!("{own}|{number}"));
            wait_until(&format!("{own} gets {wanted}"), || {
                let heard = self.heard.lock().unwrap();
                let wrong: Vec<&String> = heard.iter().filter(|line| line.starts_with("wrong")).collect();
                assert!(wrong.is_empty(), "{wrong:?}\n{}", broker.log());
                heard[before..].iter().any(|line| line.starts_with(&wanted))
            });
        }
    }

    /// What this peer was given, in its order.
    pub(crate) fn numbers(&self, own: &str) -> Vec<u64> {
        let heard = self.heard.lock().unwrap();
        heard.iter().filter_map(|line| line.strip_prefix(own)?.strip_prefix('|')?.parse().ok()).collect()
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Hits one role. What has ended is gone as a whole, and started again.
pub(crate) fn hit(broker: &mut Broker, signal: &str, parent: bool) {
    let (first, second) = (broker.parent(), broker.worker());
    let victim = if parent { first } else { second };
    send(signal, victim);
    if signal == "STOP" {
        std::thread::park_timeout(Duration::from_millis(1200));
        return send("CONT", victim);
    }
    wait_until("both roles are gone", || {
        if signal == "SEGV" {
            // One that was sent, and comes of no access, only takes away the handler that the standard library has for it.
            let _ = Command::new("kill").arg("-SEGV").arg(victim.to_string()).stderr(Stdio::null()).status();
        }
        let worker_is_gone = !Path::new(&format!("/proc/{second}/exe")).exists();
        broker.has_ended() && worker_is_gone
    });
    broker.start();
}
