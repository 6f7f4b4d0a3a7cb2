//! Outages from both sides: peers get their answer in bounded time, the upstream one attempt in each interval.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use support::process::Process;
use support::serving::{GOOD, at, configuration, good, serving};
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

const PEERS: usize = 64;

/// Asks again and again, on one connection: how often it was answered with this status, until that is enough.
fn ask_always(mut stream: UnixStream, status: &str, answered: &AtomicUsize, enough: &AtomicBool) {
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    while !enough.load(Ordering::SeqCst) {
        stream.write_all(b"GET /busy HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        // Larger than any answer here, which comes whole.
        let mut answer = [0; 4096];
        let length = stream.read(&mut answer).unwrap();
        let answer = str::from_utf8(&answer[..length]).unwrap();
        if !answer.starts_with(&format!("HTTP/1.1 {status} ")) {
            assert!(enough.load(Ordering::SeqCst), "{answer}");
        }
        answered.fetch_add(1, Ordering::SeqCst);
    }
}

/// Whether they get something or nothing meanwhile, and whatever the upstream does instead of answering.
#[test]
#[ignore = "needs root: drops to two uids"]
fn sixty_four_busy_peers_cost_one_attempt_in_each_interval_and_recovery_is_seen_within_one() {
    for (held, outage) in [(true, "/reset-at-once"), (false, "/status/503")] {
        let mut upstream = None;
        let mut broker = Broker::prepared(|directory| {
            let started = Process::start(directory);
            let text = configuration(&[("busy", at(&started, "/busy", ""), "")]);
            upstream = Some(started);
            let limits = format!("[limits]\nconnections-per-user = {}\n", PEERS + 1);
            text.replace("[limits]\n", &limits).replace(&format!("user = {GRANTED}"), &format!("user = [{GRANTED}, 0]"))
        });
        broker.start();
        let upstream = upstream.unwrap();
        if held {
            // A connection that was kept and is found gone would be one attempt more.
            upstream.behave("/busy", "/good?close=1");
            good(&broker, "/busy");
        }
        upstream.behave("/busy", outage);
        let before = times(&upstream, "/busy").len();
        let (answered, enough) = (AtomicUsize::new(0), AtomicBool::new(false));
        let status = if held { "200" } else { "503" };
        let recovered = std::thread::scope(|scope| {
            for _ in 0..PEERS {
                let stream = UnixStream::connect(broker.path("keyhatch.sock")).unwrap();
                scope.spawn(|| ask_always(stream, status, &answered, &enough));
            }
            wait_until("four attempts have failed", || times(&upstream, "/busy").len() >= before + 4);
            enough.store(!held, Ordering::SeqCst);
            upstream.behave("/busy", "/good");
            let mended = Instant::now();
            wait_until("the recovery is seen", || broker.curl(GRANTED, "/busy", &[]).contains("fwd-status=200"));
            let recovered = mended.elapsed();
            enough.store(true, Ordering::SeqCst);
            recovered
        });
        let attempts = times(&upstream, "/busy").split_off(before);
        let gaps: Vec<u64> = attempts.windows(2).map(|pair| pair[1] - pair[0]).take(4).collect();
        for (gap, least) in gaps.iter().zip([800, 1600, 3200, if held { 6400 } else { 4000 }]) {
            assert!(*gap >= least, "{outage}: {gaps:?}: a fifth less than 1, 2, 4, 8 s at least");
        }
        // The fourth interval is of 8 s, or of 5 s while somebody gets nothing; a second for a busy machine.
        assert!(recovered < Duration::from_secs(if held { 9 } else { 6 }), "{outage}: {recovered:?}");
        let answered = answered.load(Ordering::SeqCst);
        assert!(answered > 5 * PEERS, "{outage}: they were busy: {answered}");
    }
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
