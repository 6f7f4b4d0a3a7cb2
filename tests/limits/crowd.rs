//! Starting the peers of `tests/limits/swarm.rs`, and hearing what they have done.
#![allow(clippy::unwrap_used, unreachable_pub, dead_code, reason = "a test may panic; each user has its share")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
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
