//! Every shipped preset against a stand-in for its upstream, which takes the requests that the real one takes and answers in
//! its shapes: values, and what each failure is taken for.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::BTreeSet;
use std::fmt::Write;

use keyhatch::config::shipped_presets;
use support::process::Process;
use support::{Broker, GRANTED, TOKEN, wait_until};

const ROWS: &str = include_str!("stores/rows.txt");

struct Row {
    preset: &'static str,
    settings: String,
    expected: Expected,
}

enum Expected {
    /// The JSON that a peer is given.
    Value(&'static str),
    Failure {
        class: &'static str,
        detail: &'static str,
        /// 0 where the upstream says none.
        status: u16,
    },
}

fn rows() -> Vec<Row> {
    let (mut rows, mut preset, mut common) = (Vec::new(), "", "");
    for line in ROWS.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let Some(row) = line.strip_prefix("    ") else {
            (preset, common) = line.split_once(", ").unwrap();
            continue;
        };
        let (settings, expected) = row.split_once(" => ").unwrap();
        let expected = match expected.strip_prefix("! ").map(|failure| failure.split(' ').collect::<Vec<_>>()) {
            None => Expected::Value(expected),
            Some(words) => Expected::Failure { class: words[0], detail: words[1], status: words[2].parse().unwrap() },
        };
        rows.push(Row { preset, settings: format!("{common}, {settings}"), expected });
    }
    rows
}

/// A key for each row, with tokens of its own: one's back-off is no other's.
fn configure(upstream: &Process, rows: &[Row]) -> String {
    let mut text = String::from("[tokens]\nbad = { file = \"DIR/bad\" }\n");
    for number in 0..rows.len() {
        writeln!(text, "t{number} = {{ file = \"DIR/token\" }}").unwrap();
    }
    for (number, row) in rows.iter().enumerate() {
        let base = format!("http://127.0.0.1:{}/stores", upstream.port("plain"));
        let mut settings = row.settings.replace("STORES", &base);
        if !settings.contains("token = ") {
            write!(settings, ", token = \"t{number}\"").unwrap();
        }
        writeln!(
            text,
            "[keys.\"/row/{number}\"]\nsource = {{ type = \"{}\", {settings}, allow-plaintext = true }}",
            row.preset
        )
        .unwrap();
    }
    writeln!(text, "[clients.all]\nuser = {GRANTED}\nkeys = [\"/**\"]").unwrap();
    text
}

#[test]
fn every_shipped_preset_has_rows() {
    let shipped: BTreeSet<String> = shipped_presets().into_iter().map(|preset| preset.name).collect();
    let rows = rows();
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
    let rows = rows();
    let mut broker = Broker::prepared(|_| configure(&upstream, &rows));
    broker.write("bad", "not-the-token\n", 0o400);
    broker.start();
    for (number, row) in rows.iter().enumerate() {
        let key = format!("/row/{number}");
        let answer = broker.curl(GRANTED, &key, &[]);
        let context = format!("{} {}\n{answer}", row.preset, row.settings);
        match row.expected {
            Expected::Value(value) => {
                assert!(answer.starts_with("HTTP/1.1 200 "), "{context}");
                assert_eq!(answer.split_once("\r\n\r\n").unwrap().1, value, "{context}");
            }
            Expected::Failure { class, detail, status } => {
                let code = if class == "token-refused" { "refused" } else { class };
                assert!(answer.contains(&format!("\"code\":\"{code}\"")), "{context}");
                assert!(answer.contains(&format!("detail={detail}\r\n")), "{context}");
                assert_eq!(answer.contains(&format!("fwd-status={status};")), status != 0, "{context}");
                let line = format!("failing key={key} outcome=\"{class}\"");
                wait_until(&format!("{line}: {context}"), || broker.log().contains(&line));
            }
        }
    }
    let log = broker.log();
    assert!(!log.contains(TOKEN) && !log.contains("said to a person") && !log.contains("sealed"), "of a body: {log}");
}
