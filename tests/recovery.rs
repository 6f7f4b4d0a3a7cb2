//! Outages from both sides: peers get their answer in bounded time, the upstream one attempt in each interval.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::os::unix::fs::MetadataExt;

use support::process::Process;
use support::serving::{GOOD, at, good, serving};
use support::{Broker, GRANTED, wait_until};

/// When the upstream was asked for this path, in milliseconds.
fn times(upstream: &Process, path: &str) -> Vec<u64> {
    upstream.requests_for(path).iter().map(|request| request["millis"].as_u64().unwrap()).collect()
}

fn load(broker: &Broker, key: &str) -> String {
    let url = format!("http://keyhatch{key}");
    broker.curl(GRANTED, key, &[url.as_str(); 50])
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn attempts_are_paced_by_doubling_intervals_and_not_by_peers() {
    let (upstream, broker) = serving(&|upstream| vec![("busy", at(upstream, "/busy", ""), "")]);
    upstream.behave("/busy", "/good");
    good(&broker, "/busy");
    upstream.behave("/busy", "/status/500");
    wait_until("five attempts have failed", || {
        assert_eq!(load(&broker, "/busy").matches("HTTP/1.1 200 OK").count(), 51, "all are answered");
        times(&upstream, "/busy").len() >= 5
    });
    let attempts = times(&upstream, "/busy");
    let gaps: Vec<u64> = attempts.windows(2).skip(1).map(|pair| pair[1] - pair[0]).collect();
    for (gap, least) in gaps.iter().zip([800, 1600, 3200]) {
        assert!(*gap >= least, "{gaps:?}: a fifth less than 1, 2, 4 s at least");
    }
    upstream.behave("/busy", "/good");
    wait_until("the recovery is seen", || load(&broker, "/busy").contains("fwd-status=200"));
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn what_the_upstream_asks_for_is_honoured() {
    let (upstream, broker) = serving(&|upstream| vec![("limited", at(upstream, "/limited", ""), "")]);
    upstream.behave("/limited", "/good");
    good(&broker, "/limited");
    upstream.behave("/limited", "/status/429?retry-after=3");
    wait_until("it is asked again after the time that it wants", || {
        load(&broker, "/limited");
        times(&upstream, "/limited").len() >= 3
    });
    let attempts = times(&upstream, "/limited");
    assert!(attempts[2] - attempts[1] >= 2990, "{attempts:?}");
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn while_it_hangs_the_deadline_is_waited_for_once() {
    let settings = "failover-timeout = \"300ms\"\nfetch-timeout = \"20s\"";
    let (upstream, broker) = serving(&|upstream| vec![("hung", at(upstream, "/hung", ""), settings)]);
    upstream.behave("/hung", "/good");
    good(&broker, "/hung");
    upstream.behave("/hung", "/gate");
    let first = broker.curl(GRANTED, "/hung", &[]);
    assert!(
        first.ends_with(GOOD) && first.contains("fwd=stale") && first.contains("detail=failover-timeout"),
        "{first}"
    );
    let others = load(&broker, "/hung");
    assert_eq!(others.matches("keyhatch; hit; ").count(), 51, "nobody waits again: {others}");
    assert_eq!(times(&upstream, "/hung").len(), 2);
    // The late answer is stored all the same.
    upstream.set_value("late");
    upstream.set_gate(true);
    wait_until("the late answer is served", || broker.curl(GRANTED, "/hung", &[]).contains("late"));
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn within_the_window_the_stale_value_comes_at_once_and_one_refresh_runs_behind() {
    let settings = "max-age = \"1s\"\nstale-while-revalidate = \"1h\"\nfailover-timeout = \"5s\"";
    let (upstream, broker) = serving(&|upstream| vec![("window", at(upstream, "/window", ""), settings)]);
    upstream.behave("/window", "/good");
    good(&broker, "/window");
    upstream.behave("/window", "/gate");
    upstream.set_value("refreshed");
    wait_until("it is stale", || broker.curl(GRANTED, "/window", &[]).contains("detail=revalidating"));
    let others = load(&broker, "/window");
    assert_eq!(others.matches("detail=revalidating").count(), 51, "{others}");
    assert_eq!(times(&upstream, "/window").len(), 2, "one refresh");
    upstream.set_gate(true);
    wait_until("the refreshed value is served", || broker.curl(GRANTED, "/window", &[]).contains("refreshed"));
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn refresh_goes_on_by_itself_and_a_failure_shortens_nothing() {
    let settings = "max-age = \"1h\"\nrefresh = \"1s\"";
    let (upstream, broker) = serving(&|upstream| vec![("ahead", at(upstream, "/ahead", ""), settings)]);
    wait_until("it has failed at start", || times(&upstream, "/ahead").len() == 1);
    upstream.behave("/ahead", "/good");
    wait_until("nobody has asked and it is fresh", || broker.curl(GRANTED, "/-/keys", &[]).contains("\"fresh\""));
    for bad in ["/status/500", "/html", "/empty"] {
        upstream.behave("/ahead", bad);
        let before = times(&upstream, "/ahead").len();
        wait_until("a refresh has failed", || times(&upstream, "/ahead").len() > before);
        let answer = broker.curl(GRANTED, "/ahead", &[]);
        assert!(answer.contains("keyhatch; hit; ttl=35") && answer.ends_with(GOOD), "{bad}: {answer}");
        upstream.behave("/ahead", "/good");
    }
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn what_is_not_modified_becomes_young_without_being_written_again() {
    let (upstream, broker) = serving(&|upstream| vec![("same", at(upstream, "/etag", ""), "")]);
    good(&broker, "/same");
    let file = broker.sealed_file("/same");
    let written = || {
        let found = std::fs::metadata(&file).unwrap();
        (found.ino(), found.mtime(), found.mtime_nsec())
    };
    let before = written();
    let again = broker.curl(GRANTED, "/same", &[]);
    assert!(again.contains("fwd-status=304") && again.contains("\r\nage: 0\r\n"), "{again}");
    assert_eq!(written(), before);
    upstream.set_value("changed");
    assert!(broker.curl(GRANTED, "/same", &[]).contains("changed"));
    assert_ne!(written(), before);
}
