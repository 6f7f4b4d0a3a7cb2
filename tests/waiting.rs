//! `Prefer: wait`: peers that wait for a change learn of it, and cost the upstream no more than one of them would.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

use support::process::Process;
use support::serving::{at, configuration};
use support::{Broker, GRANTED, as_uid, wait_until};

const PEERS: usize = 500;

fn serving(settings: &'static str) -> (Process, Broker) {
    let mut upstream = None;
    let mut broker = Broker::prepared(|directory| {
        let started = Process::start(directory);
        let text = configuration(&[("value", at(&started, "/good", ""), settings)]);
        upstream = Some(started);
        let limits = format!("[limits]\nconnections = {0}\nconnections-per-user = {0}\n", PEERS + 50);
        // The tests' own uid waits, others make the changes.
        text.replace("[limits]\n", &limits).replace(&format!("user = {GRANTED}"), &format!("user = [{GRANTED}, 0]"))
    });
    broker.start();
    (upstream.unwrap(), broker)
}

/// The tag of the value there is.
fn tag(broker: &Broker) -> String {
    let answer = broker.curl(GRANTED, "/value", &[]);
    answer.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap().trim().to_owned()
}

fn ask(broker: &Broker, tag: &str, seconds: u32) -> UnixStream {
    let mut stream = UnixStream::connect(broker.path("keyhatch.sock")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    write!(
        stream,
        "GET /value HTTP/1.1\r\nIf-None-Match: {tag}\r\nPrefer: wait={seconds}\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    stream
}

fn answer(mut stream: UnixStream) -> String {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Another peer has the value asked for anew.
fn revalidate(broker: &Broker, expected: &str) {
    let fresh = ["--header", "Cache-Control: no-cache"];
    wait_until("it is asked anew", || broker.curl(GRANTED, "/value", &fresh).contains(expected));
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn a_change_ends_the_wait_and_so_does_time() {
    let (upstream, broker) = serving("max-age = \"1h\"");
    let tag = tag(&broker);
    let unchanged = answer(ask(&broker, &tag, 1));
    assert!(unchanged.starts_with("HTTP/1.1 304 "), "{unchanged}");
    assert!(unchanged.contains("preference-applied: wait=1\r\n") && unchanged.contains(&tag), "{unchanged}");

    let waiting = ask(&broker, &tag, 25);
    upstream.set_value("changed");
    revalidate(&broker, "changed");
    let changed = answer(waiting);
    assert!(changed.starts_with("HTTP/1.1 200 ") && changed.ends_with("{\"value\":\"changed\"}"), "{changed}");
    assert!(changed.contains("preference-applied: wait=25\r\n"), "{changed}");
    let at_once = answer(ask(&broker, &tag, 25));
    assert!(at_once.starts_with("HTTP/1.1 200 ") && at_once.contains("changed"), "the old tag is news: {at_once}");
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn many_who_wait_cost_what_one_costs() {
    let (upstream, broker) = serving("max-age = \"0s\"");
    let tag = tag(&broker);
    for round in 0..2 {
        let waiting: Vec<UnixStream> = (0..PEERS).map(|_| ask(&broker, &tag, 1)).collect();
        assert!(waiting.into_iter().all(|stream| answer(stream).starts_with("HTTP/1.1 304 ")));
        let calls = upstream.requests_for("/good").len();
        assert!(calls <= 3, "{calls} calls for {PEERS} peers, round {round}");
    }
    let waiting: Vec<UnixStream> = (0..PEERS).map(|_| ask(&broker, &tag, 25)).collect();
    upstream.set_value("changed");
    revalidate(&broker, "changed");
    assert!(waiting.into_iter().all(|stream| answer(stream).ends_with("{\"value\":\"changed\"}")));
    let calls = upstream.requests_for("/good").len();
    assert!(calls <= 6, "{calls} calls for {PEERS} peers and a change");
}

/// Nobody else asks.
#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn for_the_sake_of_all_who_wait_the_upstream_is_asked_every_ten_seconds() {
    let (upstream, broker) = serving("max-age = \"1s\"");
    let tag = tag(&broker);
    let since = Instant::now();
    let waiting: Vec<UnixStream> = (0..PEERS).map(|_| ask(&broker, &tag, 29)).collect();
    wait_until("it was asked, and is unchanged", || upstream.requests_for("/good").len() == 2);
    upstream.set_value("changed");
    assert!(waiting.into_iter().all(|stream| answer(stream).ends_with("{\"value\":\"changed\"}")));
    assert!(since.elapsed() < Duration::from_secs(28), "before their time is over");
    let asked: Vec<u64> =
        upstream.requests_for("/good").iter().map(|request| request["millis"].as_u64().unwrap()).collect();
    assert_eq!(asked.len(), 3, "{asked:?}");
    assert!(asked[1..].windows(2).all(|pair| pair[1] - pair[0] >= 9_500), "{asked:?}");
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn a_wait_ends_with_the_broker_and_through_an_outage_it_goes_on() {
    let (mut upstream, mut broker) = serving("max-age = \"1h\"");
    let tag = tag(&broker);
    upstream.stop();
    let outage = answer(ask(&broker, &tag, 1));
    assert!(outage.starts_with("HTTP/1.1 304 "), "{outage}");
    let waiting = ask(&broker, &tag, 60);
    wait_until("it waits", || broker.curl(GRANTED, "/-/health", &[]).contains("HTTP/1.1 200 "));
    assert_eq!(broker.end("TERM"), Some(0), "{}", broker.log());
    let ended = answer(waiting);
    assert!(ended.starts_with("HTTP/1.1 304 "), "{ended}");
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn get_watch_prints_each_change() {
    let (upstream, broker) = serving("max-age = \"1h\"");
    let mut watch = as_uid(GRANTED, env!("CARGO_BIN_EXE_keyhatch"));
    watch.args(["get", "/value", "--watch", "--socket"]).arg(broker.path("keyhatch.sock")).stdout(Stdio::piped());
    let mut watching = watch.spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(watching.stdout.take().unwrap()));
    assert_eq!(lines.next().unwrap().unwrap(), "good-value");
    upstream.set_value("changed");
    revalidate(&broker, "changed");
    assert_eq!(lines.next().unwrap().unwrap(), "changed");
    watching.kill().unwrap();
    watching.wait().unwrap();
}
