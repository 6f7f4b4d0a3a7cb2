//! The last known good on disk, from outside: over restarts, crashes and damage, never another value and never a younger one.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "cache/bundles.rs"]
mod bundles;
#[path = "cache/states.rs"]
mod states;
mod support;

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::time::Instant;

use support::process::Process;
use support::serving::{at, fails, logs, serving};
use support::{Broker, GRANTED, PARENT, Upstream, VALUE, send, wait_until};

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

/// Both roles are gone, without having been asked to end.
fn crash(broker: &mut Broker) {
    let worker = broker.worker();
    end_of(broker, worker);
}

fn end_of(broker: &mut Broker, worker: u32) {
    broker.end("KILL");
    let worker = format!("/proc/{worker}/exe");
    wait_until("the worker ends", || !std::path::Path::new(&worker).exists());
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
    crash(&mut broker);
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

/// A broker with two keys that have a value each, ended, and an upstream that is down from now on. And the files of
/// the two values.
fn two_values_in_an_outage() -> (Process, Broker, [std::path::PathBuf; 2]) {
    let (upstream, mut broker) =
        serving(&|upstream| vec![("a", at(upstream, "/good", ""), ""), ("b", at(upstream, "/good?b", ""), "")]);
    let mut names = Vec::new();
    for key in ["/a", "/b"] {
        wait_until("the clock is sealed", || !files(&broker).is_empty());
        let before = files(&broker);
        assert!(broker.curl(GRANTED, key, &[]).ends_with(support::serving::GOOD));
        names.extend(files(&broker).into_keys().filter(|name| !before.contains_key(name)));
    }
    let paths: Vec<_> = names.iter().map(|name| broker.path("cache").join(name)).collect();
    broker.end("TERM");
    upstream.behave("/good", "/status/503");
    (upstream, broker, paths.try_into().unwrap())
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn damaged_and_renamed_files_are_as_if_they_were_not_there() {
    let (_upstream, mut broker, [a, b]) = two_values_in_an_outage();
    let whole = std::fs::read(&a).unwrap();
    let mut changed = whole.clone();
    *changed.last_mut().unwrap() ^= 1;
    for (content, said) in [(&changed[..], "damaged"), (&whole[..whole.len() - 1], "damaged"), (&[], "no sealed file")]
    {
        std::fs::write(&a, content).unwrap();
        broker.start();
        fails(&broker, "/a", 503, "status");
        assert!(broker.curl(GRANTED, "/b", &[]).ends_with(support::serving::GOOD));
        logs(&broker, said);
        broker.end("TERM");
        std::fs::write(broker.path("log"), "").unwrap();
    }
    std::fs::copy(&b, &a).unwrap();
    broker.start();
    fails(&broker, "/a", 503, "status");
    logs(&broker, "renamed");
}

/// Of another seal key, of a newer format, of nobody we know: named at the start, and not touched by anything after it.
#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn what_is_not_ours_is_named_and_stays() {
    let (upstream, mut broker, [a, b]) = two_values_in_an_outage();
    let other_key = broker.path("cache").join("0".repeat(40));
    std::fs::rename(&b, &other_key).unwrap();
    let mut sealed = std::fs::read(&other_key).unwrap();
    // After the magic: the version, and the id of the seal key.
    sealed[5] ^= 1;
    std::fs::write(&other_key, &sealed).unwrap();
    sealed[4] = 99;
    let newer = broker.path("cache").join("1".repeat(40));
    std::fs::write(&newer, &sealed).unwrap();
    let notes = broker.path("cache").join("notes");
    std::fs::write(&notes, "mine").unwrap();
    let said = [(&other_key, "another seal key"), (&newer, "format 99"), (&notes, "no sealed file of keyhatch")];
    let content = || said.map(|(file, _)| std::fs::read(file).unwrap());
    let before = content();
    broker.start();
    for (file, why) in said {
        let name = file.file_name().unwrap().to_str().unwrap();
        let told = |line: &&str| line.contains("left alone") && line.contains(name) && line.contains(why);
        wait_until(name, || broker.log().lines().filter(told).count() == 1);
    }
    upstream.behave("/good", "/good");
    upstream.set_value("newer");
    wait_until("it writes", || broker.curl(GRANTED, "/b", &[]).ends_with("{\"value\":\"newer\"}"));
    assert!(broker.curl(GRANTED, "/a", &[]).ends_with("{\"value\":\"newer\"}") && a.exists() && b.exists());
    broker.end("TERM");
    assert_eq!(content(), before);
}

#[test]
#[ignore = "needs root: drops to two uids"]
fn of_many_files_that_are_not_ours_some_are_named_and_the_rest_is_counted() {
    let mut broker = Broker::prepared(|_| String::new());
    broker.start();
    assert_eq!(broker.end("TERM"), Some(0));
    (0..25).for_each(|n| std::fs::write(broker.path("cache").join(format!("notes-{n}")), "mine").unwrap());
    broker.start();
    let log = broker.log();
    assert_eq!(
        log.lines().filter(|line| line.contains("left alone") && line.contains("file=\"notes-")).count(),
        10,
        "{log}"
    );
    let rest = "more of them left alone in the cache directory; `keyhatch cache ls` names each files=15";
    assert_eq!(log.matches(rest).count(), 1, "{log}");
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn what_is_deleted_costs_what_was_in_it_and_makes_nothing_younger() {
    let (_upstream, mut broker, [a, b]) = two_values_in_an_outage();
    broker.start();
    wait_until("they are some seconds old", || age(&broker.curl(GRANTED, "/a", &[])) >= 3);
    broker.end("TERM");
    // The clock and the ledger, as far as there is one.
    let states = files(&broker).into_keys().map(|name| broker.path("cache").join(name));
    let states: Vec<_> = states.filter(|file| *file != a && *file != b).collect();
    assert!(!states.is_empty());
    states.iter().for_each(|file| std::fs::remove_file(file).unwrap());
    broker.start();
    for key in ["/a", "/b"] {
        let answer = broker.curl(GRANTED, key, &[]);
        assert!(answer.ends_with(support::serving::GOOD) && age(&answer) >= 3, "{key}: {answer}");
    }
    broker.end("TERM");
    std::fs::remove_file(&a).unwrap();
    broker.start();
    fails(&broker, "/a", 503, "status");
    assert!(broker.curl(GRANTED, "/b", &[]).ends_with(support::serving::GOOD));
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn a_changed_source_does_not_serve_the_value_of_the_one_before() {
    let (_upstream, mut broker, _) = two_values_in_an_outage();
    let (before, after) = ("/good?b\"", "/good?c\"");
    // Nothing else is to be wrong.
    broker.write("absent", "a token\n", 0o400);
    reconfigure(&broker, before, after);
    let check = |broker: &Broker| {
        let mut check = Command::new(env!("CARGO_BIN_EXE_keyhatch"));
        let done = check.arg("check").arg(broker.path("keyhatch.toml")).output().unwrap();
        assert!(done.status.success());
        String::from_utf8(done.stderr).unwrap()
    };
    let lost = "the sealed value of 1 key would be lost, because the definition of its source has changed: /b";
    assert!(check(&broker).contains(lost), "{}", check(&broker));
    broker.start();
    assert!(check(&broker).contains(lost), "also while the broker runs");
    fails(&broker, "/b", 503, "status");
    logs(&broker, "another definition of the key's source");
    broker.end("TERM");
    reconfigure(&broker, after, before);
    assert!(!check(&broker).contains("lost"));
    broker.start();
    assert!(broker.curl(GRANTED, "/b", &[]).ends_with(support::serving::GOOD), "nothing has replaced it meanwhile");
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn what_is_sealed_can_be_listed_and_verified_without_being_shown() {
    let (_upstream, mut broker, [a, _]) = two_values_in_an_outage();
    broker.start();
    let cache = |command: &str| {
        let mut cache = Command::new(env!("CARGO_BIN_EXE_keyhatch"));
        cache.args(["cache", command, "--config"]).arg(broker.path("keyhatch.toml")).output().unwrap()
    };
    for command in ["ls", "verify"] {
        let done = cache(command);
        let told = String::from_utf8(done.stdout).unwrap();
        assert!(done.status.success() && told.contains("/a ") && told.contains(" good "), "{told}");
        assert!(!told.contains("good-value"));
    }
    std::fs::write(broker.path("cache/notes"), "mine").unwrap();
    let mut changed = std::fs::read(&a).unwrap();
    *changed.last_mut().unwrap() ^= 1;
    std::fs::write(&a, changed).unwrap();
    assert!(cache("ls").status.success(), "labels are whole");
    let done = cache("verify");
    let told = String::from_utf8(done.stdout).unwrap();
    assert_eq!(done.status.code(), Some(1), "{told}");
    assert!(
        told.contains("damaged") && told.contains("notes") && told.contains("no sealed file of keyhatch"),
        "{told}"
    );
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn what_was_answered_survives_a_crash_whenever_it_comes() {
    let (upstream, mut broker) = serving(&|upstream| vec![("a", at(upstream, "/good", ""), "")]);
    let value = |round: u64| format!("{round}-{}", "x".repeat(3000));
    let text =
        |answer: &str| answer.rsplit_once("{\"value\":\"").map(|(_, value)| value.trim_end_matches("\"}").to_owned());
    for round in 0..15 {
        upstream.behave("/good", "/good");
        upstream.set_value(&value(2 * round));
        let answered = text(&broker.curl(GRANTED, "/a", &FRESH)).unwrap();
        upstream.set_value(&value(2 * round + 1));
        let (parent, worker) = (broker.parent(), broker.worker());
        let killer = std::thread::spawn(move || {
            std::thread::park_timeout(std::time::Duration::from_millis(round));
            send("KILL", parent);
        });
        // Some of these get an answer before the end, some do not.
        let answered = text(&broker.curl(GRANTED, "/a", &FRESH)).unwrap_or(answered);
        killer.join().unwrap();
        end_of(&mut broker, worker);
        upstream.behave("/good", "/status/503");
        broker.start();
        let found = text(&broker.curl(GRANTED, "/a", &[])).unwrap_or_else(|| panic!("round {round}: {}", broker.log()));
        assert!(found == answered || found == value(2 * round + 1), "round {round}: {answered:.9} {found:.9}");
    }
}

#[test]
#[ignore = "needs root: mounts a small file system, drops to two uids and asks as others"]
fn a_full_disk_costs_persistence_and_no_answer() {
    let upstream = std::cell::OnceCell::new();
    let mut broker = Broker::prepared(|directory| {
        let started = upstream.get_or_init(|| Process::start(directory));
        support::serving::configuration(&[("a", at(started, "/good", ""), "")])
    });
    let upstream = upstream.into_inner().unwrap();
    let cache = broker.path("cache").display().to_string();
    let mount = format!(
        "mkdir {cache} && mount -t tmpfs -o size=32k,mode=0700,uid={PARENT},gid={PARENT} none {cache} && exec \"$0\" \"$@\""
    );
    let mut serve = Command::new("unshare");
    serve.args(["--mount", "sh", "-c", &mount, env!("CARGO_BIN_EXE_keyhatch")]);
    broker.start_by(serve, &[]);
    assert!(broker.curl(GRANTED, "/a", &[]).ends_with(support::serving::GOOD));
    let inside = |command: String| {
        let mut enter = Command::new("nsenter");
        enter.args(["--mount", "--target", &broker.parent().to_string(), "sh", "-c", &command]);
        enter.output().unwrap()
    };
    inside(format!("cat /dev/zero > {cache}/fill"));
    upstream.set_value("newer");
    let answer = broker.curl(GRANTED, "/a", &FRESH);
    assert!(answer.contains("fwd-status=200") && answer.ends_with("{\"value\":\"newer\"}"), "{answer}");
    logs(&broker, "not persisted");
    assert!(inside(format!("rm {cache}/fill")).status.success());
    let list = format!(
        "{} cache ls --json --config {}",
        env!("CARGO_BIN_EXE_keyhatch"),
        broker.path("keyhatch.toml").display()
    );
    wait_until("it is sealed when it is confirmed", || {
        broker.curl(GRANTED, "/a", &FRESH);
        let listed = String::from_utf8(inside(list.clone()).stdout).unwrap();
        listed.contains(&format!("\"size\":{}", "{'value':'newer'}".len()))
    });
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn a_damaged_ledger_or_clock_is_told_by_the_start() {
    let (upstream, mut broker, values) = two_values_in_an_outage();
    upstream.behave("/good", "/good");
    broker.start();
    // The ledger is there for values that were confirmed.
    wait_until("it is good again", || broker.curl(GRANTED, "/a", &FRESH).contains("fwd-status=200"));
    assert_eq!(broker.end("TERM"), Some(0));
    upstream.behave("/good", "/status/503");
    let states = files(&broker).into_keys().map(|name| broker.path("cache").join(name));
    for state in states.filter(|path| !values.contains(path)) {
        let mut changed = std::fs::read(&state).unwrap();
        *changed.last_mut().unwrap() ^= 1;
        std::fs::write(state, changed).unwrap();
    }
    broker.start();
    for told in ["the clock's last mark: ", "the ledger: "] {
        logs(&broker, told);
    }
    assert!(broker.curl(GRANTED, "/a", &[]).ends_with(support::serving::GOOD));
}
