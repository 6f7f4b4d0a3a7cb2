//! Many values of one answer, at a crash before each is in a file of its own.

use std::process::Command;

use crate::support::process::Process;
use crate::support::serving::{GOOD, at, serving};
use crate::support::{Broker, GRANTED, wait_until};
use crate::{crash, files};

const KEYS: usize = 300;

/// A broker that crashed when one answer had given many keys their values, and an upstream that is down from now on.
fn crashed_with_a_bundle() -> (Process, Broker, Vec<&'static str>) {
    let names: Vec<&'static str> = (0..KEYS).map(|n| &*format!("k{n}").leak()).collect();
    let keys = |upstream: &Process| names.iter().map(|name| (*name, at(upstream, "/good", ""), "")).collect();
    let (upstream, mut broker) = serving(&keys);
    assert!(broker.curl(GRANTED, "/k0", &[]).ends_with(GOOD), "{}", broker.log());
    crash(&mut broker);
    assert!(files(&broker).len() < KEYS, "the answer did not wait for all of them");
    upstream.behave("/good", "/status/503");
    (upstream, broker, names)
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn many_values_of_one_answer_survive_a_crash_before_each_has_its_file() {
    let (_upstream, mut broker, names) = crashed_with_a_bundle();
    broker.start();
    wait_until("each has its file", || files(&broker).len() > KEYS);
    for name in names.iter().step_by(7) {
        let answer = broker.curl(GRANTED, &format!("/{name}"), &[]);
        assert!(answer.ends_with(GOOD), "{name}: {answer}");
    }
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn a_damaged_bundle_is_told_by_verify_and_once_by_the_start_that_removes_it() {
    let (_upstream, mut broker, _) = crashed_with_a_bundle();
    let size = |name: &String| std::fs::metadata(broker.path("cache").join(name)).unwrap().len();
    let bundle = files(&broker).into_keys().max_by_key(size).unwrap();
    let path = broker.path("cache").join(&bundle);
    let mut changed = std::fs::read(&path).unwrap();
    *changed.last_mut().unwrap() ^= 1;
    std::fs::write(&path, changed).unwrap();

    let mut verify = Command::new(env!("CARGO_BIN_EXE_keyhatch"));
    let told = verify.args(["cache", "verify", "--config"]).arg(broker.path("keyhatch.toml")).output().unwrap();
    let lines = String::from_utf8(told.stdout).unwrap();
    let what = "damaged: values that had no files of their own yet; the next start removes it";
    assert!(told.status.code() == Some(1) && path.exists(), "{lines}");
    assert!(lines.lines().any(|line| line.contains(&bundle) && line.contains(what)), "{lines}");

    broker.start();
    let said = |broker: &Broker| {
        let log = broker.log();
        let of_bundle = log.lines().filter(|line| line.contains("a bundle of values of the last run gives nothing"));
        of_bundle.filter(|line| line.contains(&bundle) && line.contains("problem=damaged")).count()
    };
    wait_until("the start says so", || said(&broker) == 1);
    assert!(!path.exists());
    assert_eq!(broker.end("TERM"), Some(0));
    broker.start();
    assert_eq!((broker.end("TERM"), said(&broker)), (Some(0), 1), "{}", broker.log());
}
