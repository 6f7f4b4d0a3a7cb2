//! What is kept of keys with parameters, in memory and on disk: never more than `max-entries`, and the right ones.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use support::parameters::{alike, good, listed, sealed, serving, status, was_asked};
use support::process::Process;
use support::{Broker, GRANTED, STRANGER, wait_until};

/// In kB.
fn resident(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Asks for the paths with these numbers, several at a time, and says how many were answered.
fn ask_many(broker: &Broker, uid: u32, range: &str) -> usize {
    let answers =
        broker.curl(uid, &format!("/n/{range}"), &["--parallel", "--parallel-max", "50", "--no-progress-meter"]);
    answers.matches("HTTP/1.1 200 ").count()
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn ten_thousand_arguments_leave_a_hundred_entries_a_hundred_files_and_flat_memory() {
    let (_upstream, mut broker) = alike("max-age = \"1h\"\nmax-entries = 100");
    // Ten thousand waits for a disk are nothing to be tested here.
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    std::fs::set_permissions(memory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let cache = memory.path().join("cache");
    let text = std::fs::read_to_string(broker.path("keyhatch.toml")).unwrap();
    let there = text.replace(broker.path("cache").to_str().unwrap(), cache.to_str().unwrap());
    broker.end("TERM");
    broker.write("keyhatch.toml", &there, 0o600);
    broker.start();
    let files = || std::fs::read_dir(&cache).unwrap().count();
    assert_eq!(ask_many(&broker, GRANTED, "[0-2999]"), 3000);
    let before = [resident(broker.parent()), resident(broker.worker())];
    assert_eq!(ask_many(&broker, GRANTED, "[3000-9999]"), 7000);
    let after = [resident(broker.parent()), resident(broker.worker())];
    for (before, after) in before.into_iter().zip(after) {
        assert!(after < before + 2048, "{before} KiB became {after} KiB");
    }
    assert_eq!(listed(&broker, GRANTED).len(), 100);
    // Beside those of values there are the clock and the ledger.
    wait_until("a hundred files are left", || sealed(&broker).len() == 100 && files() <= 102);
    let mut kept = listed(&broker, GRANTED);
    kept.sort();
    let mut on_disk = sealed(&broker);
    on_disk.sort();
    assert_eq!(kept, on_disk);

    assert_eq!(broker.end("TERM"), Some(0));
    broker.start();
    assert_eq!(listed(&broker, GRANTED).len(), 100);
    for key in kept.iter().take(10) {
        assert!(!was_asked(&good(&broker, GRANTED, key)), "{key} is still fresh");
    }
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn the_least_recently_used_goes_also_when_uses_were_answered_from_memory() {
    let (_upstream, broker) = alike("max-age = \"1h\"\nmax-entries = 3");
    for key in ["/n/a", "/n/b", "/n/c"] {
        assert!(was_asked(&good(&broker, GRANTED, key)));
    }
    assert!(!was_asked(&good(&broker, GRANTED, "/n/a")), "the parent is not asked for this one");
    good(&broker, GRANTED, "/n/d");
    assert_eq!(listed(&broker, GRANTED), ["/n/a", "/n/c", "/n/d"]);
    assert!(was_asked(&good(&broker, GRANTED, "/n/b")), "it is out of the worker's memory, too");
    assert_eq!(listed(&broker, GRANTED), ["/n/a", "/n/b", "/n/d"]);
    wait_until("as many files are left", || sealed(&broker).len() == 3);
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn the_least_frequently_used_goes_also_when_uses_were_answered_from_memory() {
    let (_upstream, broker) = alike("max-age = \"1h\"\nmax-entries = 3\neviction = \"lfu\"");
    for (key, times) in [("/n/a", 4), ("/n/b", 2), ("/n/c", 3)] {
        (0..times).for_each(|_| drop(good(&broker, GRANTED, key)));
    }
    good(&broker, GRANTED, "/n/d");
    assert_eq!(listed(&broker, GRANTED), ["/n/a", "/n/c", "/n/d"]);
    good(&broker, GRANTED, "/n/e");
    assert_eq!(listed(&broker, GRANTED), ["/n/a", "/n/c", "/n/e"], "the new one of before was used least");
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn whoever_has_the_most_loses_first() {
    let (_upstream, broker) = alike("max-age = \"1h\"\nmax-entries = 10");
    for key in ["/n/mine1", "/n/mine2"] {
        good(&broker, STRANGER, key);
    }
    assert_eq!(ask_many(&broker, GRANTED, "[0-99]"), 100);
    let listed = listed(&broker, STRANGER);
    assert_eq!(listed.len(), 10);
    assert!(listed.contains(&"/n/mine1".to_owned()) && listed.contains(&"/n/mine2".to_owned()), "{listed:?}");
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn a_restart_keeps_the_entries_and_what_is_too_many_goes() {
    let (mut upstream, mut broker) = alike("max-entries = 5");
    for key in ["/n/a", "/n/b", "/n/c", "/n/d"] {
        good(&broker, GRANTED, key);
    }
    assert_eq!(broker.end("TERM"), Some(0));
    upstream.stop();
    broker.start();
    assert_eq!(listed(&broker, GRANTED), ["/n/a", "/n/b", "/n/c", "/n/d"]);
    let answer = good(&broker, GRANTED, "/n/b");
    assert!(answer.ends_with("{\"value\":\"good-value\"}") && answer.contains("detail=connect-refused"), "{answer}");
    assert_eq!(status(&broker.curl(GRANTED, "/n/e", &[])), 503);
    assert_eq!(broker.end("TERM"), Some(0));

    let text = std::fs::read_to_string(broker.path("keyhatch.toml")).unwrap();
    broker.write("keyhatch.toml", &text.replace("max-entries = 5", "max-entries = 2"), 0o600);
    broker.start();
    assert_eq!(listed(&broker, GRANTED), ["/n/c", "/n/d"]);
    wait_until("the others' files are gone", || sealed(&broker) == ["/n/c", "/n/d"]);
    assert_eq!(broker.end("TERM"), Some(0));

    // Out of its constraint, a path is no key any more, whatever is on disk; another source is another value.
    let text = std::fs::read_to_string(broker.path("keyhatch.toml")).unwrap();
    broker.write("keyhatch.toml", &text.replace("[a-z0-9]+", "[a-c]").replace("good?n", "other?n"), 0o600);
    broker.start();
    assert_eq!(status(&broker.curl(GRANTED, "/n/d", &[])), 400);
    assert_eq!(status(&broker.curl(GRANTED, "/n/c", &[])), 503);
}

/// One that asks for `/big` and does not read the answer.
fn ask_and_stare(broker: &Broker) -> UnixStream {
    let mut stream = UnixStream::connect(broker.path("keyhatch.sock")).unwrap();
    stream.write_all(b"GET /big HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // The head has come: the answer is on its way.
    stream.read_exact(&mut [0; 12]).unwrap();
    stream
}

/// An upstream with one large value, and a broker that has room for few of such.
fn big() -> (Process, Broker) {
    let (upstream, mut broker) = serving(&format!(
        "[keys.\"/big\"]\nsource = {{ type = \"http\", url = \"http://127.0.0.1:PORT/good\", field = \"value\" }}\n\
         [clients.all]\nuser = [0, {GRANTED}]\nkeys = [\"/big\"]\n"
    ));
    broker.end("TERM");
    let text = std::fs::read_to_string(broker.path("keyhatch.toml")).unwrap();
    broker.write("keyhatch.toml", &text.replace("[limits]\n", "[limits]\nmemory = \"4MiB\"\n"), 0o600);
    broker.start();
    upstream.set_value(&"x".repeat(BIG));
    drop(ask_and_stare(&broker));
    (upstream, broker)
}

/// Just below the largest value.
const BIG: usize = (1 << 20) - 100;

#[test]
#[ignore = "needs root: drops to two uids"]
fn peers_that_do_not_read_cost_no_more_memory_than_there_is() {
    let (upstream, broker) = big();
    let before = resident(broker.worker());
    let mut staring = Vec::new();
    for n in 0..60 {
        upstream.set_value(&format!("{n:03}{}", "x".repeat(BIG - 3)));
        staring.push(ask_and_stare(&broker));
    }
    let grown = resident(broker.worker()).saturating_sub(before);
    assert!(grown < 20_000, "{grown} kB more");
    // Who reads is served, once the others have had their time.
    wait_until("there is room", || broker.curl(GRANTED, "/big", &[]).len() > BIG);
    assert!(resident(broker.worker()).saturating_sub(before) < 20_000);
}

#[test]
#[ignore = "needs root: drops to two uids"]
fn one_value_is_there_once_however_many_do_not_read_it() {
    let (_upstream, broker) = big();
    let before = resident(broker.worker());
    let staring: Vec<UnixStream> = (0..60).map(|_| ask_and_stare(&broker)).collect();
    let grown = resident(broker.worker()).saturating_sub(before);
    assert!(grown < 12_000, "{grown} kB more");
    for mut stream in staring {
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        assert!(rest.len() > BIG, "nobody is cut: {}", rest.len());
    }
}
