//! Hawk against a server that checks every MAC: replies that are authentic or not, clocks that differ.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use support::process::Process;
use support::serving::{at, fails, good, header, logs, serving, stale};
use support::{GRANTED, TOKEN, wait_until};

/// A source at `/hawk` with these parameters of the upstream, and a key of this name.
fn hawk(upstream: &Process, query: &str, key: &str) -> String {
    let auth = format!("auth = {{ type = \"hawk\", id = \"acme\", key = \"{key}\" }}, allow-plaintext = true");
    at(upstream, &format!("/hawk?{query}"), &auth)
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn requests_are_signed() {
    let (upstream, broker) = serving(&|upstream| {
        let sha1 = hawk(upstream, "algorithm=sha1", "t").replace("\"acme\"", "\"acme\", algorithm = \"sha1\"");
        let post = "method = \"POST\", body = 'a=1', headers = { Content-Type = \"Text/Plain; charset=utf-8\" }, auth";
        let through = hawk(upstream, "", "t").replace("/hawk?", "/redirect/1");
        vec![
            ("get", hawk(upstream, "a=1&b=%20", "t"), ""),
            ("post", hawk(upstream, "c=2", "t").replace("auth", post), ""),
            ("sha1", sha1, ""),
            ("wrong-algorithm", hawk(upstream, "algorithm=sha1&d", "t"), ""),
            ("wrong-id", hawk(upstream, "e", "t").replace("acme", "another"), ""),
            ("redirected", through, ""),
        ]
    });
    for key in ["/get", "/post", "/sha1"] {
        good(&broker, key);
    }
    fails(&broker, "/wrong-algorithm", 502, "status");
    fails(&broker, "/wrong-id", 502, "status");
    logs(&broker, "failing key=/wrong-id outcome=\"token-refused\"");
    // Signed anew for each step.
    upstream.behave("/redirect/0", "/hawk");
    good(&broker, "/redirected");
    assert!(!format!("{:?}", upstream.requests()).contains(TOKEN), "the key is never sent");
    assert!(!broker.log().contains(TOKEN) && !broker.log().contains("mac="));
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn a_reply_that_is_signed_must_be_authentic() {
    let (upstream, broker) = serving(&|upstream| {
        vec![
            ("signed", hawk(upstream, "reply=signed", "t"), ""),
            ("unsigned", hawk(upstream, "reply=unsigned", "t"), ""),
            ("forged", hawk(upstream, "reply=forged", "t"), ""),
            ("other-body", hawk(upstream, "reply=other-body", "t"), ""),
        ]
    });
    good(&broker, "/signed");
    good(&broker, "/unsigned");
    fails(&broker, "/forged", 503, "reply-not-authentic");
    fails(&broker, "/other-body", 503, "reply-not-authentic");
    upstream.behave("/hawk", "/hawk?reply=other-body");
    stale(&broker, "/signed", "reply-not-authentic");
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn a_clock_that_differs_costs_one_request_once() {
    let (upstream, broker) = serving(&|upstream| {
        vec![
            ("a", hawk(upstream, "a", "t"), ""),
            ("b", hawk(upstream, "b", "t"), ""),
            ("c", hawk(upstream, "c", "u"), ""),
        ]
    });
    for (ahead, key, requests) in
        [(3600, "/a", 2), (3600, "/a", 1), (3600, "/b", 1), (3600, "/c", 2), (-86_400, "/a", 2)]
    {
        upstream.set_ahead(ahead);
        let before = upstream.requests().len();
        let answer = broker.curl(GRANTED, key, &[]);
        assert!(answer.contains("fwd-status=200; stored"), "{answer}\n{}", broker.log());
        assert_eq!(upstream.requests().len() - before, requests, "{ahead} {key}");
    }
    let shown: Vec<String> =
        upstream.requests().iter().map(|request| header(request, "authorization").unwrap().to_owned()).collect();
    let nonces: std::collections::HashSet<&str> = shown.iter().map(|h| h.split("nonce=\"").nth(1).unwrap()).collect();
    assert_eq!(nonces.len(), shown.len(), "each is signed anew");
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn a_clock_is_not_set_by_who_has_not_the_key() {
    let (upstream, broker) = serving(&|upstream| {
        vec![
            ("held", hawk(upstream, "held", "t"), ""),
            ("forged", hawk(upstream, "stale=forged", "u"), ""),
            ("bare", hawk(upstream, "stale=bare", "v"), ""),
        ]
    });
    good(&broker, "/held");
    upstream.set_ahead(3600);
    fails(&broker, "/forged", 503, "clock-skew");
    fails(&broker, "/bare", 503, "clock-skew");
    upstream.behave("/hawk", "/hawk?stale=forged");
    stale(&broker, "/held", "clock-skew");
    assert_eq!(upstream.requests().len(), 4, "none is sent twice");
    assert!(!broker.log().contains("token-refused"), "{}", broker.log());
    upstream.behave("/hawk", "/hawk");
    wait_until("its time is believed when it proves to have the key", || {
        broker.curl(GRANTED, "/held", &[]).contains("fwd-status=200")
    });
}
