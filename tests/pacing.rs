//! The upstream is not hurt by us: fetches are shared, paced by back-off, and counted for each user.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::sync::atomic::Ordering;

use support::{Broker, GRANTED, Upstream, wait_until};

const KEY: &str = "/billing/database-url";

/// Many requests, one after another, on one connection.
fn many(broker: &Broker, count: usize, more: &[&str]) -> String {
    let again = format!("http://keyhatch{KEY}");
    broker.curl(GRANTED, KEY, &[more, &vec![again.as_str(); count - 1]].concat())
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn while_the_upstream_is_down_peers_do_not_set_the_pace() {
    let mut upstream = Upstream::start(0);
    let broker = Broker::new(upstream.port, "stale-if-error = \"1h\"");
    assert!(broker.curl(GRANTED, KEY, &[]).starts_with("HTTP/1.1 200 OK"));
    upstream.stop();
    let answers = many(&broker, 200, &[]);
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 200, "all get the last known good");
    let attempts = broker.log().matches("connect-refused").count();
    assert!((1..20).contains(&attempts), "{attempts} attempts for 200 requests:\n{}", broker.log());
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn no_cache_asks_the_upstream_at_most_once_a_second() {
    let upstream = Upstream::start(0);
    let broker = Broker::new(upstream.port, "max-age = \"1h\"");
    assert!(broker.curl(GRANTED, KEY, &[]).starts_with("HTTP/1.1 200 OK"));
    let fresh = ["--header", "Cache-Control: no-cache"];
    wait_until("it is asked again", || broker.curl(GRANTED, KEY, &fresh).contains("fwd=request; fwd-status=200"));
    let before = upstream.calls.load(Ordering::SeqCst);
    let started = std::time::Instant::now();
    many(&broker, 100, &fresh);
    let allowed = usize::try_from(started.elapsed().as_secs()).unwrap() + 1;
    let calls = upstream.calls.load(Ordering::SeqCst) - before;
    assert!(calls <= allowed, "{calls} calls, {allowed} allowed");
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn what_is_fresh_is_said_to_be_so_while_the_upstream_is_down() {
    let mut upstream = Upstream::start(0);
    let broker = Broker::new(upstream.port, "max-age = \"1h\"");
    assert!(broker.curl(GRANTED, KEY, &[]).starts_with("HTTP/1.1 200 OK"));
    upstream.stop();
    let fresh = ["--header", "Cache-Control: no-cache"];
    wait_until("it fails", || broker.curl(GRANTED, KEY, &fresh).contains("detail=connect-refused"));
    let barred = broker.curl(GRANTED, KEY, &fresh);
    assert!(barred.contains("cache-status: keyhatch; hit; ttl=") && !barred.contains("detail="), "{barred}");
    assert!(barred.contains("age: "), "{barred}");
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn a_user_over_its_budget_gets_the_stale_value_and_the_upstream_no_call() {
    let upstream = Upstream::start(0);
    let broker = Broker::with(upstream.port, "stale-if-error = \"1h\"", "[limits]\nfetches-per-user = 1\n");
    let answers = many(&broker, 50, &[]);
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 50);
    assert!(answers.contains("detail=over-budget"), "{answers}");
    let calls = upstream.calls.load(Ordering::SeqCst);
    assert!(calls < 25, "{calls} calls of 50 requests");
}

#[test]
#[ignore = "needs root: drops to two uids"]
fn a_key_with_refresh_is_fetched_at_start() {
    let upstream = Upstream::start(0);
    let broker = Broker::new(upstream.port, "max-age = \"1h\"\nrefresh = \"30m\"");
    wait_until("it is fetched", || broker.curl(GRANTED, "/-/health", &[]).contains("\"fresh\":1"));
    assert!(broker.curl(GRANTED, KEY, &[]).contains("keyhatch; hit; ttl="));
    assert_eq!(upstream.calls.load(Ordering::SeqCst), 1);
}
