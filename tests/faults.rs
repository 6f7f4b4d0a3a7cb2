//! Faults of the machine and of either role, at any moment: never a wrong value, never another's, never younger than it
//! is, never a wait beyond the deadlines; and what restarts brings the service back.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "faults/crashes.rs"]
mod crashes;
#[path = "faults/cut.rs"]
mod cut;
#[path = "faults/gone.rs"]
mod gone;
#[path = "faults/supervisor.rs"]
mod supervisor;
mod support;

use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::libc;
use support::process::Process;
use support::serving::{GOOD, at, configuration, logs};
use support::{Broker, GRANTED, wait_until};

use supervisor::{Asking, Numbered, hit};

/// So often a role is hit.
const BLOWS: u64 = 12;

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn whatever_hits_a_role_nobody_gets_a_wrong_value_and_the_service_comes_back() {
    let upstream = Numbered::start();
    let mut broker = Broker::prepared(|_| upstream.configuration());
    broker.start();
    let asking = Asking::start(&broker, "check");
    asking.are_served(&broker, Some(0));
    for blow in 0..BLOWS {
        upstream.number.store(blow + 1, Ordering::SeqCst);
        // Any moment, though nearly the same one at every run.
        std::thread::park_timeout(Duration::from_millis([3, 47, 110, 20, 71][usize::try_from(blow % 5).unwrap()]));
        hit(&mut broker, ["KILL", "SEGV", "STOP"][usize::try_from(blow % 3).unwrap()], blow % 2 == 0);
        asking.are_served(&broker, Some(blow + 1));
    }
    // What somebody was given is never taken back, but where the log says that it was not sealed in time.
    for own in ["granted", "stranger"] {
        let numbers = asking.numbers(own);
        assert!(numbers.is_sorted() || broker.log().contains("the disk is slow"), "{numbers:?}");
    }
    drop(asking);

    upstream.is_down.store(true, Ordering::SeqCst);
    upstream.number.store(BLOWS + 1, Ordering::SeqCst);
    let asking = Asking::start(&broker, "check-stale");
    asking.are_served(&broker, Some(BLOWS));
    for (signal, parent) in [("KILL", true), ("SEGV", false), ("STOP", true), ("STOP", false), ("KILL", false)] {
        hit(&mut broker, signal, parent);
        asking.are_served(&broker, Some(BLOWS));
    }
}

/// Each: the call, its errno, what the log says of each value then.
const CALLS: &[(&str, i32, &str)] = &[
    ("fsync", libc::EIO, "Input/output error"),
    ("renameat", libc::EIO, "Input/output error"),
    ("openat-create", libc::EDQUOT, "Disk quota exceeded"),
    ("unlinkat", libc::EIO, ""),
    ("syncfs", libc::EIO, ""),
    ("write", libc::EIO, "Input/output error"),
    ("write", libc::ENOSPC, "No space left on device"),
];

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn no_call_of_the_store_that_fails_costs_an_answer_or_tears_a_file() {
    for (call, errno, told) in CALLS {
        let upstream = std::cell::OnceCell::new();
        let mut broker = Broker::prepared(|directory| {
            let started = upstream.get_or_init(|| Process::start(directory));
            configuration(&[("a", at(started, "/good", ""), ""), ("b", at(started, "/good?b", ""), "")])
        });
        let upstream = upstream.into_inner().unwrap();
        broker.start();
        assert!(broker.curl(GRANTED, "/a", &[]).ends_with(GOOD));
        assert_eq!(broker.end("TERM"), Some(0));
        broker.start_by(failing(call, *errno), &[]);
        upstream.set_value("newer");
        for key in ["/a", "/b"] {
            let answer = broker.curl(GRANTED, key, &[]);
            assert!(answer.contains("fwd-status=200") && answer.ends_with("{\"value\":\"newer\"}"), "{call}: {answer}");
        }
        if !told.is_empty() {
            logs(&broker, told);
            for key in ["/a", "/b"] {
                let said = |line: &&str| line.contains("not persisted") && line.contains(&format!("key={key} "));
                wait_until("it is said", || broker.log().lines().any(|line| said(&line)));
                assert_eq!(broker.log().lines().filter(said).count(), 1, "{call}: {}", broker.log());
            }
        }
        broker.end("KILL");
        upstream.behave("/good", "/status/503");
        wait_until("the directory is free", || {
            let mut verify = Command::new(env!("CARGO_BIN_EXE_keyhatch"));
            let done = verify.args(["cache", "verify", "--config"]).arg(broker.path("keyhatch.toml")).output().unwrap();
            let torn = !done.status.success();
            assert!(!torn, "{call}: {}", String::from_utf8_lossy(&done.stdout));
            !torn
        });
        broker.start();
        let answer = broker.curl(GRANTED, "/a", &[]);
        let whole = answer.ends_with(GOOD) || answer.ends_with("{\"value\":\"newer\"}");
        assert!(whole && answer.contains("fwd=stale"), "{call}: {answer}\n{}", broker.log());
        if told.is_empty() {
            assert!(answer.ends_with("{\"value\":\"newer\"}"), "{call}: this one does not keep a value from the disk");
        }
    }
}

/// What is there and cannot be read is as if it were not there, for as long as that lasts.
#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn what_cannot_be_read_is_missing_until_it_can_be() {
    for call in ["openat", "statx", "read"] {
        let upstream = std::cell::OnceCell::new();
        let mut broker = Broker::prepared(|directory| {
            let started = upstream.get_or_init(|| Process::start(directory));
            configuration(&[("a", at(started, "/good", ""), ""), ("b", at(started, "/good?b", ""), "")])
        });
        let upstream = upstream.into_inner().unwrap();
        broker.start();
        for key in ["/a", "/b"] {
            assert!(broker.curl(GRANTED, key, &[]).ends_with(GOOD));
        }
        assert_eq!(broker.end("TERM"), Some(0));
        upstream.behave("/good", "/status/503");
        broker.start_by(failing(call, libc::EIO), &[]);
        let nothing = broker.curl(GRANTED, "/b", &[]);
        assert!(nothing.starts_with("HTTP/1.1 503 "), "{call}: {nothing}");
        logs(&broker, "Input/output error");
        upstream.behave("/good", "/good");
        upstream.set_value("newer");
        let newer = "{\"value\":\"newer\"}";
        wait_until("the upstream is asked again", || broker.curl(GRANTED, "/a", &[]).ends_with(newer));
        broker.end("KILL");

        upstream.behave("/good", "/status/503");
        broker.start();
        for (key, value) in [("/a", newer), ("/b", GOOD)] {
            let answer = broker.curl(GRANTED, key, &[]);
            assert!(answer.ends_with(value) && answer.contains("fwd=stale"), "{call}: {answer}\n{}", broker.log());
        }
    }
}

/// The program, for which this call fails.
fn failing(call: &str, errno: i32) -> Command {
    let everywhere = ["fsync", "syncfs", "renameat", "unlinkat", "getdents64", "openat-create"].contains(&call);
    let name = if everywhere { "failing" } else { "broken" };
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_keyhatch")).with_file_name("examples").join(name);
    assert!(program.exists(), "{} is missing: cargo build --example {name}", program.display());
    let mut command = Command::new(program);
    if everywhere {
        command.args([call, &errno.to_string(), env!("CARGO_BIN_EXE_keyhatch")]);
    } else {
        command.env("KEYHATCH_FAULT", format!("{call}:{errno}"));
    }
    command
}

#[test]
#[ignore = "needs root: drops to two uids"]
fn a_cache_directory_that_cannot_be_locked_is_no_other_brokers() {
    let broker = Broker::prepared(|_| String::new());
    let (code, said) = broker.refused_by(failing("flock", libc::ENOLCK));
    let why = "the cache directory cannot be locked: No locks available";
    assert!(code == Some(78) && said.contains(why) && !said.contains("another broker"), "{code:?}: {said}");
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn a_directory_that_cannot_be_read_costs_what_is_in_it_and_no_answer() {
    let upstream = std::cell::OnceCell::new();
    let mut broker = Broker::prepared(|directory| {
        let started = upstream.get_or_init(|| Process::start(directory));
        configuration(&[("a", at(started, "/good", ""), "")])
    });
    let _upstream = upstream.into_inner().unwrap();
    broker.start_by(failing("getdents64", libc::EIO), &[]);
    let since = Instant::now();
    assert!(broker.curl(GRANTED, "/a", &[]).ends_with(GOOD), "{}", broker.log());
    assert!(since.elapsed() < Duration::from_secs(15));
}
