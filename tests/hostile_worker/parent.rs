//! The real parent, alone: its channel is standard input, at whose other end tests/hostile_worker.rs plays the worker.
//!
//! `hostile-worker DIRECTORY`: the configuration, the listener's path, the seal key and the cache are in there.
#![allow(clippy::unwrap_used, reason = "what is missing here is a fault of the test")]

use std::io::{Write, stdin, stdout};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use keyhatch::config::{SourceText, System, parse};
use keyhatch::credential::Kept;
use keyhatch::parent::reload::Origin;
use keyhatch::parent::{CacheInputs, LogOptions, ParentInputs, SourceInputs, UnitSource, run};
use keyhatch::sys::{clock, file, peer, proc, spawn};
use keyhatch::telemetry;

fn main() -> ExitCode {
    let directory = PathBuf::from(std::env::args_os().nth(1).unwrap());
    telemetry::start(false, tracing::Level::INFO, telemetry::Stderr::Other);
    let path = directory.join("keyhatch.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let (worker_log, _writer) = spawn::log_pipe().unwrap();
    let inputs = ParentInputs {
        config: parse(vec![SourceText { path, text }], &System).unwrap(),
        channel: stdin().as_fd().try_clone_to_owned().unwrap(),
        worker_log,
        cache: CacheInputs {
            directory: file::open_directory(&directory.join("cache")).unwrap(),
            seal_keys: vec![std::fs::File::open(directory.join("seal.key")).unwrap()],
            boot: clock::boot_id(),
        },
        tokens: Vec::new(),
        sources: SourceInputs::default(),
        origin: Origin { config: "/nowhere".into(), privileged: true },
        listeners: vec![directory.join("keyhatch.sock")],
        runner: None,
        units: Some(UnitSource { proc: proc::find().unwrap(), certain: peer::has_pidfd() }),
        admin: None,
        manager: None,
        layers: Vec::new(),
        kept: Kept::default(),
        start: None,
        started_as_root: false,
    };
    std::thread::spawn(move || starve(&directory));
    let (_guard, dropped) = telemetry::detach();
    match run(inputs, LogOptions { requests: false, dropped }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "ended: {error}");
            ExitCode::FAILURE
        }
    }
}

/// When the file `starve` appears, opens files until there is no descriptor left, and says so.
fn starve(directory: &Path) {
    while !directory.join("starve").exists() {
        std::thread::park_timeout(std::time::Duration::from_millis(5));
    }
    let mut held = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        held.push(file);
    }
    let _ = stdout().write_all(b"starved\n");
    loop {
        std::thread::park();
    }
}
