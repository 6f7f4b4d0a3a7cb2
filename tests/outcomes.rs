//! Every outcome of the staleness contract, from a real upstream process: what is served while a value is held, and
//! what is said when none is.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::fmt::Write;

use support::process::Process;
use support::{Broker, GRANTED, TOKEN, wait_until};

/// What an upstream does, and what keyhatch makes of it.
struct Row {
    /// The upstream's path that behaves like this.
    does: &'static str,
    class: &'static str,
    /// In `Cache-Status`.
    detail: &'static str,
}

const fn row(does: &'static str, class: &'static str, detail: &'static str) -> Row {
    Row { does, class, detail }
}

const ROWS: [Row; 53] = [
    row("/status/401", "token-refused", "status"),
    // The only document of its token.
    row("/status/403", "token-refused", "status"),
    row("/status/403?remaining=0", "unavailable", "status"),
    row("/status/404", "gone", "status"),
    row("/status/410", "gone", "status"),
    row("/null", "gone", "field-missing"),
    row("/null-value", "gone", "field-missing"),
    row("/no-value", "gone", "field-missing"),
    row("/text", "unavailable", "invalid-body"),
    row("/html", "unavailable", "invalid-body"),
    row("/cut", "unavailable", "invalid-body"),
    row("/gzip", "unavailable", "invalid-body"),
    row("/status/201", "unavailable", "invalid-body"),
    row("/status/206", "unavailable", "invalid-body"),
    row("/empty", "unavailable", "empty-body"),
    row("/status/204", "unavailable", "empty-body"),
    row("/status/304", "unavailable", "status"),
    row("/status/408", "unavailable", "status"),
    row("/status/425", "unavailable", "status"),
    row("/status/429", "unavailable", "rate-limited"),
    row("/status/429?retry-after=7", "unavailable", "rate-limited"),
    row("/status/429?retry-date=7", "unavailable", "rate-limited"),
    row("/status/429?remaining=0&reset=7", "unavailable", "rate-limited"),
    row("/status/500", "unavailable", "status"),
    row("/status/501", "unavailable", "status"),
    row("/status/502", "unavailable", "status"),
    row("/status/503", "unavailable", "status"),
    row("/status/503?retry-after=7", "unavailable", "status"),
    row("/status/504", "unavailable", "status"),
    row("/short", "unavailable", "reset"),
    row("/cut-chunks", "unavailable", "reset"),
    row("/reset", "unavailable", "reset"),
    row("/reset-at-once", "unavailable", "reset"),
    row("/close-at-once", "unavailable", "reset"),
    row("/hang", "unavailable", "failover-timeout"),
    row("/hang-body", "unavailable", "failover-timeout"),
    row("/drip", "unavailable", "failover-timeout"),
    row("/status/400", "misconfigured", "status"),
    row("/status/402", "misconfigured", "status"),
    row("/status/405", "misconfigured", "status"),
    row("/status/407", "misconfigured", "status"),
    row("/status/409", "misconfigured", "status"),
    row("/status/422", "misconfigured", "status"),
    row("/status/451", "misconfigured", "status"),
    row("/status/300", "misconfigured", "status"),
    row("/redirect/nowhere", "misconfigured", "status"),
    row("/redirect/elsewhere", "misconfigured", "redirect-elsewhere"),
    row("/redirect/https", "misconfigured", "redirect-elsewhere"),
    row("/redirect/host", "misconfigured", "redirect-elsewhere"),
    row("/redirect/loop", "misconfigured", "redirect-loop"),
    row("/huge", "misconfigured", "document-too-large"),
    row("/huge-chunks", "misconfigured", "document-too-large"),
    row("/long-value", "misconfigured", "value-too-large"),
];

impl Row {
    fn code(&self) -> &'static str {
        if self.class == "token-refused" { "refused" } else { self.class }
    }

    /// The status when nothing is held.
    fn status(&self) -> u16 {
        if self.class == "unavailable" { 503 } else { 502 }
    }

    /// The upstream's status, where the answer counts for what it is.
    fn upstream_status(&self) -> Option<&'static str> {
        let number = self.does.strip_prefix("/status/")?.split('?').next();
        number.filter(|_| matches!(self.detail, "status" | "rate-limited"))
    }

    fn hangs(&self) -> bool {
        self.detail == "failover-timeout"
    }
}

/// A key for each row, asked at `/PREFIX/N` of the upstream; each with a token of its own, so that one's back-off is no
/// other's.
fn configure(upstream: &Process, prefix: &str) -> String {
    let mut text = String::from("[limits]\nvalue-size = \"64KiB\"\ndocument-size = \"1MiB\"\n[tokens]\n");
    for number in 0..ROWS.len() {
        writeln!(text, "t{number} = {{ file = \"DIR/token\" }}").unwrap();
    }
    for (number, row) in ROWS.iter().enumerate() {
        let timeouts =
            if row.hangs() { "timeout = \"1s\"\nfailover-timeout = \"1s\"\nfetch-timeout = \"2s\"" } else { "" };
        write!(
            text,
            "[keys.\"/{prefix}/{number}\"]\nsource = {{ type = \"http\", url = \"http://127.0.0.1:{}/{prefix}/{number}\", \
             field = \"value\", auth = {{ type = \"bearer\", token = \"t{number}\" }}, allow-plaintext = true }}\n{timeouts}\n",
            upstream.port("plain")
        )
        .unwrap();
    }
    write!(text, "[clients.all]\nuser = {GRANTED}\nkeys = [\"/**\"]\n").unwrap();
    text
}

/// That the log says so of this key; a call that hangs ends some time after its answer.
fn logged(broker: &Broker, key: &str, row: &Row) {
    let line = |line: &&str| line.contains(&format!("failing key={key} outcome=\"{}\"", row.class));
    wait_until(&format!("{key} ({}) is logged as {}", row.does, row.class), || broker.log().lines().any(|l| line(&l)));
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn with_nothing_held_the_peer_is_told_the_class() {
    let directory = tempfile::tempdir().unwrap();
    let upstream = Process::start(directory.path());
    let mut broker = Broker::prepared(|_| configure(&upstream, "cold"));
    broker.start();
    for (number, row) in ROWS.iter().enumerate() {
        let key = format!("/cold/{number}");
        upstream.behave(&key, row.does);
        let answer = broker.curl(GRANTED, &key, &[]);
        let context = format!("{}: {answer}", row.does);
        assert!(answer.starts_with(&format!("HTTP/1.1 {} ", row.status())), "{context}");
        assert!(answer.contains(&format!("\"code\":\"{}\"", row.code())), "{context}");
        assert!(answer.contains("cache-status: keyhatch; fwd=uri-miss"), "{context}");
        assert!(answer.contains(&format!("detail={}\r\n", row.detail)), "{context}");
        assert_eq!(answer.contains("retry-after: "), row.status() == 503, "{context}");
        if let Some(status) = row.upstream_status() {
            assert!(answer.contains(&format!("fwd-status={status};")), "{context}");
        }
        if row.does.contains('7') && row.detail == "rate-limited" {
            let wait: u64 =
                answer.split("retry-after: ").nth(1).unwrap().split_whitespace().next().unwrap().parse().unwrap();
            assert!((5..=7).contains(&wait), "what the upstream asks for is passed on: {context}");
        }
        logged(&broker, &key, row);
        assert!(!answer.contains(TOKEN) && !answer.contains("127.0.0.1"), "{context}");
    }
    assert!(!broker.log().contains(TOKEN));
    assert_eq!(upstream.connections("other"), upstream.controls(), "nothing followed a redirect to another origin");
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn with_a_value_held_it_is_served_and_the_detail_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let upstream = Process::start(directory.path());
    let mut broker = Broker::prepared(|_| configure(&upstream, "held"));
    broker.start();
    for (number, row) in ROWS.iter().enumerate() {
        let key = format!("/held/{number}");
        upstream.behave(&key, "/good");
        let first = broker.curl(GRANTED, &key, &[]);
        assert!(first.starts_with("HTTP/1.1 200 ") && first.contains("fwd-status=200; stored"), "{first}");
        upstream.behave(&key, row.does);
        let answer = broker.curl(GRANTED, &key, &[]);
        let context = format!("{}: {answer}", row.does);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{context}");
        assert!(answer.ends_with("{\"value\":\"good-value\"}"), "{context}");
        assert!(answer.contains("cache-status: keyhatch; fwd=stale"), "{context}");
        let detail = if row.detail == "status" { "stale-if-error" } else { row.detail };
        assert!(answer.contains(&format!("detail={detail}\r\n")), "{context}");
        assert!(answer.contains("\r\nage: "), "{context}");
        if let Some(status) = row.upstream_status() {
            assert!(answer.contains(&format!("fwd-status={status};")), "{context}");
        }
        logged(&broker, &key, row);
    }
    for (number, row) in ROWS.iter().enumerate() {
        let key = format!("/held/{number}");
        upstream.behave(&key, "/good");
        if !row.does.contains('7') {
            wait_until("it is answered again", || broker.curl(GRANTED, &key, &[]).contains("fwd-status=200"));
        }
    }
    assert!(!broker.log().contains(TOKEN));
}
