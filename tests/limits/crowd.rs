//! Starting the peers of `tests/limits/swarm.rs`, and hearing what they have done.
#![allow(clippy::unwrap_used, unreachable_pub, dead_code, reason = "a test may panic; each user has its share")]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::support::{Broker, as_uid, wait_until};

pub struct Swarm {
    child: Child,
    done: Arc<AtomicU64>,
}

/// A swarm that has not begun.
pub fn command(broker: &Broker, uid: u32, arguments: &[&str]) -> Command {
    let program = Path::new(env!("CARGO_BIN_EXE_keyhatch")).with_file_name("examples").join("swarm");
    assert!(program.exists(), "{} is missing: cargo build --example swarm", program.display());
    let mut swarm = as_uid(uid, program.to_str().unwrap());
    swarm.arg(broker.path("keyhatch.sock")).args(arguments).stdin(Stdio::null());
    swarm
}

impl Swarm {
    pub fn start(broker: &Broker, uid: u32, arguments: &[&str]) -> Self {
        let mut child = command(broker, uid, arguments).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let done = Arc::new(AtomicU64::new(0));
        let heard = done.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                heard.store(line.parse().unwrap(), Ordering::SeqCst);
            }
        });
        Self { child, done }
    }

    /// How often they have done what they do.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::SeqCst)
    }

    /// On this core and no other.
    pub fn move_to(&self, core: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("taskset").args(["-cp", core, &pid]).stdout(Stdio::null()).status().unwrap().success());
    }

    /// They do it now, and have not stopped.
    pub fn goes_on(&self) {
        let before = self.done();
        wait_until("the swarm goes on", || self.done() > before);
    }
}

impl Drop for Swarm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the requests of this swarm took, in microseconds.
pub fn measure(mut swarm: Command) -> serde_json::Value {
    let done = swarm.output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    serde_json::from_slice(&done.stdout).unwrap()
}

/// One with a connection that was answered once, and does nothing more for the moment.
pub struct Staying {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Staying {
    pub fn start(mut stay: Command) -> Self {
        let mut child = stay.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        let mut staying = Self { child, lines };
        assert_eq!(staying.line(), "ready\n");
        staying
    }

    /// As [`measure`].
    pub fn measure(mut self) -> serde_json::Value {
        self.child.stdin.take().unwrap().write_all(b"go\n").unwrap();
        let figures = serde_json::from_str(&self.line()).unwrap();
        assert!(self.child.wait().unwrap().success());
        figures
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line
    }
}

impl Drop for Staying {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn open_files(pid: u32) -> u64 {
    limits(&pid.to_string()).0
}

/// That this process may have, or give to another.
pub fn most_open_files() -> u64 {
    limits("self").1
}

/// The soft and the hard one of open files.
fn limits(pid: &str) -> (u64, u64) {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let mut figures = line.split_whitespace().map(|figure| figure.parse().unwrap_or(u64::MAX));
    (figures.next().unwrap(), figures.next().unwrap())
}

/// The same user may change it, without any capability (prlimit(2)). What is open stays so.
pub fn allow_open_files(pid: u32, uid: u32, count: u64) {
    let mut prlimit = as_uid(uid, "prlimit");
    assert!(prlimit.args(["--pid", &pid.to_string(), &format!("--nofile={count}:")]).status().unwrap().success());
}
