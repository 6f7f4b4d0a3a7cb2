//! The presets of AWS against moto, a server that somebody else wrote.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::rows::{configure, hold, rows};
use crate::support::Broker;

struct Moto {
    child: Child,
    port: u16,
}

impl Moto {
    fn start() -> Self {
        let target = Path::new(env!("CARGO_BIN_EXE_keyhatch")).parent().unwrap().parent().unwrap();
        let python = target.join("tools/moto/bin/python");
        assert!(python.exists(), "{} is missing: tests/run makes it", python.display());
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stores/real_moto.py");
        let mut start = Command::new(python);
        // The script ends with its input, which is held open here.
        start.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = start.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { port: line.trim().parse().unwrap(), child }
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        // It is of no use any more.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn a_server_of_others_takes_what_the_presets_of_aws_ask() {
    let moto = Moto::start();
    let rows = rows(include_str!("moto.txt"));
    let origin = format!("http://127.0.0.1:{}", moto.port);
    let mut broker = Broker::prepared(|_| configure(&rows, &origin, &origin, &[]));
    broker.start();
    hold(&broker, &rows);
}
