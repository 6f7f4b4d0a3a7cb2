//! Refusals: one of them loses nothing, a storm against the token withholds, and a document that is gone is shredded.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::path::PathBuf;
use std::process::Command;

use support::process::Process;
use support::serving::{BEARER, GOOD, at, good, logs, serving};
use support::{Broker, GRANTED, memory_holds, wait_until};

const QUICK: &str = "revoked-after = 2\nrevoked-over = \"1s\"";

fn status(broker: &Broker, key: &str) -> String {
    broker.curl(GRANTED, key, &[]).split_whitespace().nth(1).unwrap().to_owned()
}

/// Two keys of two documents, of one token.
fn two_of_one_token(upstream: &Process) -> Vec<support::serving::Key> {
    vec![("one", at(upstream, "/one", BEARER), QUICK), ("two", at(upstream, "/two", BEARER), QUICK)]
}

/// Gives the files that hold the two values.
fn both_good(upstream: &Process, broker: &Broker) -> Vec<PathBuf> {
    for (key, path) in [("/one", "/one"), ("/two", "/two")] {
        upstream.behave(path, "/good");
        good(broker, key);
    }
    vec![broker.sealed_file("/one"), broker.sealed_file("/two")]
}

/// How many values the files say to be withheld, or the ledger.
fn withheld(broker: &Broker) -> usize {
    let mut list = Command::new(env!("CARGO_BIN_EXE_keyhatch"));
    let listed = list.args(["cache", "ls", "--config"]).arg(broker.path("keyhatch.toml")).output().unwrap();
    String::from_utf8(listed.stdout).unwrap().matches(" withheld ").count()
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn one_refusal_between_good_answers_loses_nothing() {
    // The number alone would not do it, and the time alone would not.
    let (number, time) = ("revoked-after = 2\nrevoked-over = \"0s\"", "revoked-after = 1\nrevoked-over = \"1h\"");
    let (upstream, broker) = serving(&|upstream| {
        vec![("one", at(upstream, "/one", BEARER), number), ("two", at(upstream, "/two", BEARER), time)]
    });
    let files = both_good(&upstream, &broker);
    for refusal in ["/status/403", "/status/401", "/status/404"] {
        for key in ["/one", "/two"] {
            upstream.behave(key, refusal);
            let answer = broker.curl(GRANTED, key, &[]);
            assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with(GOOD), "{key}, {refusal}: {answer}");
            upstream.behave(key, "/good");
            wait_until("it is good again", || broker.curl(GRANTED, key, &[]).contains("fwd-status=200"));
        }
    }
    assert!(files.iter().all(|file| file.exists()));
    assert!(!broker.log().contains("withheld") && !broker.log().contains("shredded"));
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn a_storm_against_the_token_withholds_and_an_accepted_token_brings_it_back() {
    let (upstream, broker) = serving(&two_of_one_token);
    let files = both_good(&upstream, &broker);
    upstream.behave("/one", "/status/401");
    upstream.behave("/two", "/status/401");
    wait_until("one is withheld", || status(&broker, "/one") == "502");
    wait_until("two is withheld", || status(&broker, "/two") == "502");
    wait_until("it is out of the worker's memory", || !memory_holds(broker.worker(), b"good-value"));
    assert!(files.iter().all(|file| file.exists()), "and still on disk");
    assert_eq!(withheld(&broker), 2);
    for key in ["/one", "/two"] {
        logs(&broker, &format!("the value is withheld key={key}"));
        assert_eq!(broker.log().matches(&format!("the value is withheld key={key}")).count(), 1, "{}", broker.log());
    }
    // The token is accepted for one document; the other one's upstream is down.
    upstream.behave("/two", "/status/503");
    upstream.behave("/one", "/good");
    wait_until("one is good again", || status(&broker, "/one") == "200");
    wait_until("two serves again, from disk", || broker.curl(GRANTED, "/two", &[]).ends_with(GOOD));
}

/// What is in the cache directory besides these files: the ledger and the clock.
fn states(broker: &Broker, files: &[PathBuf]) -> Vec<(PathBuf, Vec<u8>)> {
    let listed = std::fs::read_dir(broker.path("cache")).unwrap().map(|file| file.unwrap().path());
    let states = listed.filter(|file| !files.contains(file));
    states.map(|file| (file.clone(), std::fs::read(file).unwrap())).collect()
}

/// What becomes of the ledger and the clock while nothing runs.
type Fate = fn(&Broker, &[(PathBuf, Vec<u8>)]);

const FATES: [(&str, Fate); 3] = [
    ("lost", |_, now| now.iter().for_each(|(file, _)| std::fs::remove_file(file).unwrap())),
    ("damaged", |_, now| {
        for (file, content) in now {
            let mut content = content.clone();
            *content.last_mut().unwrap() ^= 1;
            std::fs::write(file, content).unwrap();
        }
    }),
    ("older", |broker, now| {
        for (file, _) in now {
            let before = broker.path("before").join(file.file_name().unwrap());
            if before.exists() { std::fs::copy(before, file).map(drop) } else { std::fs::remove_file(file) }.unwrap();
        }
    }),
];

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn what_was_withheld_stays_so_whatever_becomes_of_the_ledger() {
    for (fate, befall) in FATES {
        let (upstream, mut broker) = serving(&two_of_one_token);
        let files = both_good(&upstream, &broker);
        assert_eq!(broker.end("TERM"), Some(0));
        std::fs::create_dir(broker.path("before")).unwrap();
        for (file, content) in states(&broker, &files) {
            std::fs::write(broker.path("before").join(file.file_name().unwrap()), content).unwrap();
        }
        broker.start();
        for path in ["/one", "/two"] {
            upstream.behave(path, "/status/401");
            wait_until("it is withheld", || status(&broker, path) == "502");
        }
        for path in ["/one", "/two"] {
            upstream.behave(path, "/status/503");
        }
        assert_eq!(broker.end("TERM"), Some(0));
        befall(&broker, &states(&broker, &files));
        assert_eq!(withheld(&broker), 2, "{fate}");
        broker.start();
        assert_eq!((status(&broker, "/one"), status(&broker, "/two")), ("503".into(), "503".into()), "{fate}");
        // The token is accepted for one document; the other one's upstream is still down.
        upstream.behave("/one", "/good");
        wait_until("one is good again", || status(&broker, "/one") == "200");
        wait_until("two serves again, from disk", || broker.curl(GRANTED, "/two", &[]).ends_with(GOOD));
        assert_eq!(broker.end("TERM"), Some(0));
        upstream.behave("/one", "/status/503");
        broker.start();
        assert_eq!((status(&broker, "/one"), status(&broker, "/two")), ("200".into(), "200".into()), "{fate}: granted");
    }
}

/// Two copies say so, the ledger and the file itself: either is enough, and mends the other.
#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn a_backup_of_its_file_does_not_bring_back_what_was_withheld() {
    let (upstream, mut broker) = serving(&two_of_one_token);
    let files = both_good(&upstream, &broker);
    let backup = std::fs::read(&files[0]).unwrap();
    upstream.behave("/one", "/status/401");
    wait_until("it is withheld", || status(&broker, "/one") == "502");
    upstream.behave("/one", "/status/503");
    assert_eq!(broker.end("TERM"), Some(0));
    // After the magic: the version of the format.
    assert_eq!((std::fs::read(&files[0]).unwrap()[4], backup[4]), (3, 2));
    std::fs::write(&files[0], &backup).unwrap();
    broker.start();
    assert_eq!(status(&broker, "/one"), "503", "the ledger knows");
    wait_until("the file says so, too", || std::fs::read(&files[0]).unwrap()[4] == 3);
    assert_eq!(broker.end("TERM"), Some(0));
    states(&broker, &files).iter().for_each(|(file, _)| std::fs::remove_file(file).unwrap());
    broker.start();
    assert_eq!(status(&broker, "/one"), "503", "the file knows");
    assert_eq!(broker.end("TERM"), Some(0));
    std::fs::write(&files[0], &backup).unwrap();
    broker.start();
    assert_eq!(status(&broker, "/one"), "503", "the ledger has learnt it again");
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn a_document_that_is_gone_is_shredded_and_a_backup_does_not_bring_it_back() {
    for gone in ["/status/403", "/status/404", "/status/410", "/no-value"] {
        let (upstream, mut broker) = serving(&two_of_one_token);
        let files = both_good(&upstream, &broker);
        let backup: Vec<(PathBuf, Vec<u8>)> =
            files.into_iter().map(|file| (file.clone(), std::fs::read(file).unwrap())).collect();
        upstream.behave("/one", gone);
        wait_until("one is shredded", || status(&broker, "/one") == "502");
        good(&broker, "/two");
        logs(&broker, "shredded key=/one");
        assert_eq!(broker.log().matches("shredded key=/one").count(), 1, "{gone}: {}", broker.log());
        let changed =
            backup.iter().filter(|(file, content)| std::fs::read(file).ok().as_ref() != Some(content)).count();
        assert_eq!(changed, 1, "{gone}: the one file is replaced by its tombstone");

        assert_eq!(broker.end("TERM"), Some(0), "{}", broker.log());
        for (file, content) in &backup {
            std::fs::write(file, content).unwrap();
        }
        upstream.behave("/one", "/status/503");
        upstream.behave("/two", "/status/503");
        broker.start();
        assert_eq!(status(&broker, "/one"), "503", "{gone}: {}", broker.log());
        assert!(broker.curl(GRANTED, "/two", &[]).ends_with(GOOD), "the backup is good for the other one");
        // What the upstream gives anew is no backup.
        upstream.behave("/one", "/good");
        wait_until("it has a value again", || broker.curl(GRANTED, "/one", &[]).ends_with(GOOD));
    }
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn never_means_never() {
    let (upstream, broker) = serving(&|upstream| {
        vec![
            ("kept", at(upstream, "/kept", BEARER), "revoked-after = \"never\""),
            ("one", at(upstream, "/one", BEARER), QUICK),
        ]
    });
    for path in ["/kept", "/one"] {
        upstream.behave(path, "/good");
        good(&broker, path);
        upstream.behave(path, "/status/410");
    }
    wait_until("the other one is shredded", || status(&broker, "/one") == "502");
    assert!(upstream.requests_for("/kept").len() < 20);
    assert_eq!(status(&broker, "/kept"), "200");
}
