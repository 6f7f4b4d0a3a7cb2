//! The last known good on disk, from outside: over restarts, crashes and damage, never another value and never a younger one.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::time::Instant;

use support::{Broker, GRANTED, Upstream, VALUE, wait_until};

const KEY: &str = "/billing/database-url";
const FRESH: [&str; 2] = ["--header", "Cache-Control: no-cache"];

fn age(answer: &str) -> u64 {
    let age = answer.lines().find_map(|line| line.strip_prefix("age: "));
    age.unwrap_or_else(|| panic!("no age: {answer}")).trim().parse().unwrap()
}

/// Name and inode of what is in the cache directory.
fn files(broker: &Broker) -> BTreeMap<String, u64> {
    let listed = std::fs::read_dir(broker.path("cache")).unwrap().map(Result::unwrap);
    let named = listed.map(|file| (file.file_name().into_string().unwrap(), file));
    // Not what is being written.
    let whole = named.filter(|(name, _)| !name.starts_with('.'));
    whole.map(|(name, file)| (name, file.metadata().unwrap().ino())).collect()
}

/// A value that was fetched some seconds ago and confirmed just now; and since when.
fn confirmed(broker: &Broker) -> Instant {
    assert!(broker.curl(GRANTED, KEY, &[]).contains("fwd-status=200"), "{}", broker.log());
    wait_until("it is some seconds old", || age(&broker.curl(GRANTED, KEY, &[])) >= 3);
    let since = Instant::now();
    assert!(broker.curl(GRANTED, KEY, &FRESH).contains("fwd-status=200"));
    since
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn a_confirmed_value_is_not_written_again_and_its_age_outlives_a_restart() {
    let mut upstream = Upstream::start(0);
    let mut broker = Broker::new(upstream.port, "max-age = \"1h\"");
    wait_until("the clock is sealed", || !files(&broker).is_empty());
    let before = files(&broker);
    let since = confirmed(&broker);
    let value = files(&broker).into_iter().find(|(name, _)| !before.contains_key(name)).unwrap();
    assert_eq!(broker.end("TERM"), Some(0));
    upstream.stop();
    assert_eq!(files(&broker)[&value.0], value.1, "the same inode");
    broker.start();
    let answer = broker.curl(GRANTED, KEY, &[]);
    assert!(answer.contains(VALUE) && age(&answer) <= since.elapsed().as_secs(), "{answer}");
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn after_a_crash_a_value_is_never_younger_and_at_most_a_minute_older() {
    let mut upstream = Upstream::start(0);
    let mut broker = Broker::new(upstream.port, "max-age = \"1h\"");
    let since = confirmed(&broker);
    let shown = age(&broker.curl(GRANTED, KEY, &[]));
    broker.end("KILL");
    upstream.stop();
    broker.start();
    let answer = broker.curl(GRANTED, KEY, &[]);
    let told = age(&answer);
    assert!(answer.contains(VALUE) && told >= shown && told <= since.elapsed().as_secs() + 60, "{answer}");
}

/// Replaces a part of the configuration, for the next start.
fn reconfigure(broker: &Broker, from: &str, to: &str) {
    let text = std::fs::read_to_string(broker.path("keyhatch.toml")).unwrap();
    assert!(text.contains(from), "{text}");
    broker.write("keyhatch.toml", &text.replace(from, to), 0o600);
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn a_seal_key_can_be_replaced_by_another_one() {
    let mut upstream = Upstream::start(0);
    let mut broker = Broker::new(upstream.port, "");
    assert!(broker.curl(GRANTED, KEY, &[]).contains("fwd-status=200"));
    broker.end("TERM");
    upstream.stop();
    let key = |name: &str| format!("{{ file = \"{}\" }}", broker.path(name).display());
    let (old, new, credential) = (key("seal.key"), key("new.key"), "{ credential = \"new.key\" }");
    let before = files(&broker);
    reconfigure(&broker, &old, &format!("[{new}, {old}]"));
    broker.start();
    wait_until("all is sealed anew", || files(&broker).keys().all(|name| !before.contains_key(name)));
    assert!(broker.curl(GRANTED, KEY, &[]).contains(VALUE));
    broker.end("TERM");

    std::fs::remove_file(broker.path("seal.key")).unwrap();
    reconfigure(&broker, &format!("[{new}, {old}]"), credential);
    let mut serve = Command::new(env!("CARGO_BIN_EXE_keyhatch"));
    serve.env("CREDENTIALS_DIRECTORY", broker.directory.path());
    broker.start_by(serve, &[]);
    assert!(broker.curl(GRANTED, KEY, &[]).contains(VALUE), "{}", broker.log());
}

#[test]
#[ignore = "needs root: the configuration is root's"]
fn a_seal_key_that_is_missing_and_not_the_first_file_is_not_made() {
    let upstream = Upstream::start(0);
    let mut broker = Broker::new(upstream.port, "");
    broker.end("TERM");
    let first = format!("{{ file = \"{}\" }}", broker.path("seal.key").display());
    let older = format!("[{first}, {{ file = \"{}\" }}]", broker.path("older.key").display());
    reconfigure(&broker, &first, &older);
    let (code, told) = broker.refused();
    assert!(code == Some(78) && told.contains("older.key") && told.contains("No such file"), "{told}");
    assert!(!broker.path("older.key").exists());
    reconfigure(&broker, &older, "{ credential = \"seal\" }");
    let (code, told) = broker.refused();
    assert!(code == Some(78) && told.contains("credential seal: $CREDENTIALS_DIRECTORY is not set"), "{told}");
}
