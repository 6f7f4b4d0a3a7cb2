//! Every shipped preset against a stand-in for its upstream, which takes the requests that the real one takes and answers in
//! its shapes: values, and what each failure is taken for.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "stores/moto.rs"]
mod moto;
#[path = "stores/rows.rs"]
mod rows;
mod support;

use std::collections::BTreeSet;

use keyhatch::config::shipped_presets;
use rows::{Expected, configure, hold, rows};
use support::process::Process;
use support::service_account::key_file;
use support::{Broker, TOKEN};

const ROWS: &str = include_str!("stores/rows.txt");

#[test]
fn every_shipped_preset_has_rows() {
    let shipped: BTreeSet<String> = shipped_presets().into_iter().map(|preset| preset.name).collect();
    let rows = rows(ROWS);
    let tried: BTreeSet<String> = rows.iter().map(|row| row.preset.to_owned()).collect();
    assert_eq!(shipped, tried);
    for preset in &shipped {
        let of = |wanted: fn(&Expected) -> bool| rows.iter().any(|row| row.preset == preset && wanted(&row.expected));
        assert!(of(|expected| matches!(expected, Expected::Value(_))), "{preset}: no value");
        assert!(
            of(|expected| matches!(expected, Expected::Failure { class: "gone", .. })),
            "{preset}: nothing that is gone"
        );
    }
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn every_answer_of_a_store_is_taken_for_what_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let upstream = Process::start(directory.path());
    let origin = format!("http://127.0.0.1:{}", upstream.port("plain"));
    let (key, public) = key_file(&format!("{origin}/session/google"));
    upstream.set_public_key(&public);
    let lines = format!("AWS_ACCESS_KEY_ID=AKIAIOSFODNN7EXAMPLE\nAWS_SECRET_ACCESS_KEY={TOKEN}\n");
    let profile = format!("[broker]\naws_access_key_id = AKIAIOSFODNN7EXAMPLE\naws_secret_access_key = {TOKEN}\n");
    let files = [
        ("bad", "not-the-token\n"),
        ("google", &key),
        ("aws-file", &lines),
        ("aws-profiles", &profile),
        ("wrapped-secret-id", "wrapped-secret-id\n"),
        ("wrapped-token", "wrapped-token\n"),
    ];
    let rows = rows(ROWS);
    let names = files.map(|(name, _)| name);
    let mut broker = Broker::prepared(|_| configure(&rows, &format!("{origin}/stores"), &origin, &names));
    for (name, content) in files {
        broker.write(name, content, 0o400);
    }
    broker.start_with(&["--log-level", "trace"]);
    hold(&broker, &rows);
    let log = broker.log();
    for shown in [TOKEN, "said to a person", "sealed", "planted-session", "unwrapped-secret-id", "not-the-token"] {
        assert!(!log.contains(shown), "{shown} is in the log: {log}");
    }
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn what_a_source_says_of_answers_comes_before_their_status() {
    let directory = tempfile::tempdir().unwrap();
    let upstream = Process::start(directory.path());
    let origin = format!("http://127.0.0.1:{}", upstream.port("plain"));
    let rows = rows(include_str!("stores/http.txt"));
    let mut broker = Broker::prepared(|_| configure(&rows, &origin, &origin, &[]));
    broker.start();
    hold(&broker, &rows);
}
