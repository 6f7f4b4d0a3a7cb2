//! Rows of what is asked of a store and what comes of it, a broker with a key for each of them, and whether it is so.

use std::fmt::Write;

use crate::support::{Broker, GRANTED, wait_until};

pub(crate) struct Row {
    pub(crate) preset: &'static str,
    settings: String,
    pub(crate) expected: Expected,
}

pub(crate) enum Expected {
    /// The JSON that a peer is given.
    Value(&'static str),
    Failure {
        class: &'static str,
        detail: &'static str,
        /// 0 where the upstream says none.
        status: u16,
    },
}

/// What shows a token; a row without one of these gets `token`.
const SHOWS: [&str; 7] = [
    "token =",
    "secret-id =",
    "key = \"google",
    "client-secret =",
    "secret-access-key =",
    "credentials-file =",
    "credentials =",
];

pub(crate) fn rows(text: &'static str) -> Vec<Row> {
    let (mut rows, mut preset, mut common) = (Vec::new(), "", "");
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
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

/// A key for each row, with a token of its own: one's back-off is no other's.
pub(crate) fn configure(rows: &[Row], stores: &str, upstream: &str, files: &[&str]) -> String {
    let mut text = String::from("[tokens]\n");
    for file in files {
        writeln!(text, "{file} = {{ file = \"DIR/{file}\" }}").unwrap();
    }
    for number in 0..rows.len() {
        writeln!(text, "t{number} = {{ file = \"DIR/token\" }}").unwrap();
    }
    for (number, row) in rows.iter().enumerate() {
        let settings = row.settings.replace("STORES", stores).replace("UPSTREAM", upstream);
        let mut settings = settings.replace("\"TOKEN\"", &format!("\"t{number}\""));
        if !SHOWS.iter().any(|shown| settings.contains(shown)) {
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

pub(crate) fn hold(broker: &Broker, rows: &[Row]) {
    assert!(!rows.is_empty());
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
}
