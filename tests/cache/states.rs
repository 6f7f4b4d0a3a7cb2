//! What a start reads of its cache directory is bounded, whatever whoever can write there has made of it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::*;

/// More than any file has, and than the address space of the broker in this test takes.
const HUGE: u64 = 8 << 30;
/// For all of it, in bytes. What is below the limit of a ledger still is beyond it.
const SPACE: u64 = 768 << 20;

/// The broker's own files: of no key.
fn states(broker: &Broker) -> Vec<PathBuf> {
    let mut list = Command::new(env!("CARGO_BIN_EXE_keyhatch"));
    let done = list.args(["cache", "ls", "--json", "--config"]).arg(broker.path("keyhatch.toml")).output().unwrap();
    let listed: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    let states = listed["files"].as_array().unwrap().iter().filter(|file| file["state"] == "state");
    states.map(|file| broker.path("cache").join(file["file"].as_str().unwrap())).collect()
}

/// With as much memory as an honest directory needs, and not as much as it would take to read what is there.
fn start(broker: &mut Broker) {
    let mut serve = Command::new("prlimit");
    serve.args([&format!("--as={SPACE}"), "--", env!("CARGO_BIN_EXE_keyhatch")]);
    broker.start_by(serve, &[]);
}

fn lengthen(file: &PathBuf, to: u64) {
    File::options().write(true).open(file).unwrap().set_len(to).unwrap();
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn a_file_that_is_longer_than_it_can_be_is_not_read() {
    let (_upstream, mut broker, [a, b]) = two_values_in_an_outage();
    // Something to be kept in the ledger: a key that has left and comes back.
    reconfigure(&broker, "[keys.\"/b\"]", "[keys.\"/c\"]");
    start(&mut broker);
    wait_until("the ledger is written", || states(&broker).len() == 2);
    broker.end("TERM");
    reconfigure(&broker, "[keys.\"/c\"]", "[keys.\"/b\"]");
    let whole: Vec<Vec<u8>> = states(&broker).iter().map(|file| std::fs::read(file).unwrap()).collect();
    let files = states(&broker);
    let restore = || files.iter().zip(&whole).for_each(|(file, whole)| std::fs::write(file, whole).unwrap());
    for file in &files {
        // Sealed by our own key, and with something behind it.
        lengthen(file, HUGE);
        start(&mut broker);
        assert!(broker.curl(GRANTED, "/a", &[]).ends_with(support::serving::GOOD), "{}", broker.log());
        broker.end("TERM");
        restore();
        // Nothing of ours, under the name of one and shorter than the longest of them.
        File::create(file).unwrap().write_at(b"KHSV", 0).unwrap();
        lengthen(file, (1 << 30) - 1);
        start(&mut broker);
        assert!(broker.curl(GRANTED, "/a", &[]).ends_with(support::serving::GOOD), "{}", broker.log());
        broker.end("TERM");
        restore();
    }
    // A value is as long as its label says.
    lengthen(&a, HUGE);
    start(&mut broker);
    fails(&broker, "/a", 503, "status");
    assert!(broker.curl(GRANTED, "/b", &[]).ends_with(support::serving::GOOD), "{}", broker.log());
    logs(&broker, "damaged");
    assert!(b.exists());
}

/// What a crash has left of many values in one file.
#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn a_bundle_that_is_longer_than_it_can_be_is_not_read() {
    let names: Vec<&'static str> = (0..300).map(|n| &*format!("k{n}").leak()).collect();
    let keys = |upstream: &Process| names.iter().map(|name| (*name, at(upstream, "/good", ""), "")).collect();
    let (upstream, mut broker) = serving(&keys);
    assert!(broker.curl(GRANTED, "/k0", &[]).ends_with(support::serving::GOOD), "{}", broker.log());
    crash(&mut broker);
    // The clock, and what is not in files of its own yet.
    let states = states(&broker);
    assert!(states.len() >= 2 && files(&broker).len() < names.len(), "the answer did not wait for all of them");
    states.iter().for_each(|file| lengthen(file, HUGE));
    upstream.behave("/good", "/status/503");
    start(&mut broker);
    let answers: Vec<String> =
        names.iter().step_by(30).map(|key| broker.curl(GRANTED, &format!("/{key}"), &[])).collect();
    let told = |answer: &String| answer.starts_with("HTTP/1.1 503 ") || answer.ends_with(support::serving::GOOD);
    assert!(answers.iter().all(told), "{answers:?}\n{}", broker.log());
    assert_eq!(broker.end("TERM"), Some(0), "{}", broker.log());
}
