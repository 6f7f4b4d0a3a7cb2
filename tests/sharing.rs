//! One fetch for all who ask: whatever peers do, an upstream sees one call for a document at a time.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use support::process::Process;
use support::serving::{GOOD, at, configuration, good};
use support::{Broker, GRANTED, as_uid, wait_until};

const PEERS: usize = 200;

/// A broker whose keys the tests' own uid may read, too, over many connections.
fn serving(keys: &dyn Fn(&Process) -> String) -> (Process, Broker) {
    let mut upstream = None;
    let mut broker = Broker::prepared(|directory| {
        let started = Process::start(directory);
        let text = configuration(&[]) + &keys(&started);
        upstream = Some(started);
        let limits = format!("[limits]\nconnections = {0}\nconnections-per-user = {0}\n", PEERS + 50);
        text.replace("document-size = \"4KiB\"\n", "")
            .replace("[limits]\n", &limits)
            .replace(&format!("user = {GRANTED}"), &format!("user = [{GRANTED}, 0]"))
    });
    broker.start();
    (upstream.unwrap(), broker)
}

fn key(name: &str, source: &str, settings: &str) -> String {
    format!("[keys.\"/{name}\"]\nsource = {{ type = \"http\", {source} }}\n{settings}\n")
}

fn ask(broker: &Broker, key: &str) -> UnixStream {
    let mut stream = UnixStream::connect(broker.path("keyhatch.sock")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    write!(stream, "GET /{key} HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap();
    stream
}

fn answer(mut stream: UnixStream) -> String {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// All of these have reached the parent: another peer's request, sent after them, has been answered.
fn all_have_asked(upstream: &Process, broker: &Broker) {
    wait_until("the upstream is asked", || !upstream.requests_for("/gate").is_empty());
    assert!(broker.curl(0, "/-/keys", &[]).starts_with("HTTP/1.1 200 "));
}

#[test]
#[ignore = "needs root: drops to two uids"]
fn two_hundred_peers_of_a_cold_key_are_one_call() {
    let (upstream, broker) = serving(&|upstream| key("cold", &at(upstream, "/gate", ""), "timeout = \"20s\""));
    let waiting: Vec<UnixStream> = (0..PEERS).map(|_| ask(&broker, "cold")).collect();
    all_have_asked(&upstream, &broker);
    upstream.set_gate(true);
    let answers: Vec<String> = waiting.into_iter().map(answer).collect();
    assert!(answers.iter().all(|answer| answer.starts_with("HTTP/1.1 200 ") && answer.ends_with(GOOD)));
    assert_eq!(upstream.requests_for("/gate").len(), 1);
    let collapsed = answers.iter().filter(|answer| answer.contains("; collapsed;")).count();
    assert_eq!(collapsed, PEERS - 1, "all but the one that began it");
}

#[test]
#[ignore = "needs root: drops to two uids"]
fn twenty_keys_of_one_document_are_one_call() {
    let (upstream, broker) = serving(&|upstream| {
        let url = format!("url = \"http://127.0.0.1:{}/gate\"", upstream.port("plain"));
        (0..20).fold(String::new(), |mut text, n| {
            let part = ["field = \"value\"", "pointer = \"/other\"", "field = [\"value\", \"other\"]"][n % 3];
            write!(text, "{}", key(&format!("part{n}"), &format!("{url}, {part}"), "timeout = \"20s\"")).unwrap();
            text
        })
    });
    let waiting: Vec<UnixStream> = (0..20).map(|n| ask(&broker, &format!("part{n}"))).collect();
    all_have_asked(&upstream, &broker);
    upstream.set_gate(true);
    assert!(waiting.into_iter().all(|stream| answer(stream).starts_with("HTTP/1.1 200 ")));
    assert_eq!(upstream.requests_for("/gate").len(), 1);
}

#[test]
#[ignore = "needs root: drops to two uids"]
fn who_hangs_up_cancels_nobody() {
    let (upstream, broker) = serving(&|upstream| key("cold", &at(upstream, "/gate", ""), "timeout = \"20s\""));
    let first = ask(&broker, "cold");
    all_have_asked(&upstream, &broker);
    let waiting: Vec<UnixStream> = (0..10).map(|_| ask(&broker, "cold")).collect();
    drop(first);
    all_have_asked(&upstream, &broker);
    upstream.set_gate(true);
    assert!(waiting.into_iter().all(|stream| answer(stream).ends_with(GOOD)));
    assert_eq!(upstream.requests_for("/gate").len(), 1);
}

#[test]
#[ignore = "needs root: drops to two uids"]
fn a_fetch_that_fails_fails_all_and_is_remembered() {
    let settings = "timeout = \"20s\"\nnegative-max-age = \"20s\"";
    let (upstream, broker) = serving(&|upstream| key("cold", &at(upstream, "/gate", ""), settings));
    upstream.behave("/gate", "/gate?status=404");
    let waiting: Vec<UnixStream> = (0..20).map(|_| ask(&broker, "cold")).collect();
    all_have_asked(&upstream, &broker);
    upstream.set_gate(true);
    for answer in waiting.into_iter().map(answer) {
        assert!(answer.starts_with("HTTP/1.1 502 ") && answer.contains("\"code\":\"gone\""), "{answer}");
        assert!(answer.contains("fwd-status=404") && answer.contains("detail=status"), "{answer}");
    }
    let remembered = answer(ask(&broker, "cold"));
    assert!(remembered.starts_with("HTTP/1.1 502 ") && remembered.contains("detail=breaker-open"), "{remembered}");
    assert_eq!(upstream.requests_for("/gate").len(), 1);
}

/// As many as a configuration may well have, in as long a document as the defaults allow.
#[test]
#[ignore = "needs root: drops to two uids"]
fn ten_thousand_keys_of_one_long_document_hold_up_nobody() {
    const KEYS: usize = 10_000;
    let (upstream, broker) = serving(&|upstream| {
        upstream.behave("/m", &format!("/many?keys={KEYS}&size=8000000"));
        let url = format!("http://127.0.0.1:{}/m", upstream.port("plain"));
        let one = |n| format!("[keys.\"/m/{n}\"]\nsource={{type=\"http\",url=\"{url}\",pointer=\"/k{n}/value\"}}\n");
        let defaults = "[defaults]\nmax-age = \"1h\"\ntimeout = \"60s\"\nfetch-timeout = \"60s\"\n";
        let other =
            key("other", &at(upstream, "/good", ""), "max-age = \"0s\"\ntimeout = \"5s\"\nfailover-timeout = \"5s\"");
        defaults.to_owned() + &other + &(0..KEYS).map(one).collect::<String>()
    });
    let first = ask(&broker, "m/0");
    let first = std::thread::spawn(|| answer(first));
    wait_until("the upstream is asked", || !upstream.requests_for("/m").is_empty());
    let mut others = 0;
    while !first.is_finished() {
        // Within its `timeout`, or it would be 503.
        let other = broker.curl(0, "/other", &[]);
        assert!(other.starts_with("HTTP/1.1 200 "), "{other}\n{}", broker.log());
        others += 1;
    }
    assert!(others > 0);
    let first = first.join().unwrap();
    assert!(first.ends_with("\r\n\r\n\"v0\""), "{first}\n{}", broker.log());
    let listed = broker.curl(0, "/-/keys", &[]);
    assert_eq!(listed.matches("\"fresh\"").count(), KEYS, "all have their values");
    for n in (0..KEYS).step_by(499) {
        let answer = broker.curl(0, &format!("/m/{n}"), &[]);
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with(&format!("\r\n\r\n\"v{n}\"")), "{n}: {answer}");
    }
    assert_eq!(upstream.requests_for("/m").len(), 1, "{}", broker.log());
}

/// As subordinate uids are (subuid(5)): each may connect for itself.
#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn who_has_many_uids_leaves_room_for_named_clients() {
    let (upstream, mut broker) = serving(&|_| String::new());
    broker.end("TERM");
    let keys =
        key("gate", &at(&upstream, "/gate", ""), "timeout = \"60s\"") + &key("good", &at(&upstream, "/good", ""), "");
    let anyone = "[clients.anyone]\nanyone = true\nkeys = [\"/gate\"]\n";
    broker.configure(&format!(
        "{}{keys}{anyone}",
        configuration(&[]).replace("[limits]\n", "[limits]\nconnections = 16\n")
    ));
    broker.start();
    let ask = |uid| {
        let mut curl = as_uid(uid, "curl");
        curl.args(["--silent", "--max-time", "60", "--unix-socket"]).arg(broker.path("keyhatch.sock"));
        curl.arg("http://keyhatch/gate").stdout(std::process::Stdio::null()).spawn().unwrap()
    };
    let mut asking: Vec<_> = (0..16).map(|n| ask(MANY + n)).collect();
    wait_until("they have what they can have", || {
        broker.curl(MANY + 16, "/-/whoami", &[]).starts_with("HTTP/1.1 503 ")
    });
    good(&broker, "/good");
    upstream.set_gate(true);
    let served = asking.iter_mut().filter_map(|curl| curl.wait().ok()).count();
    assert_eq!(served, 16);
    wait_until("there is room again", || broker.curl(MANY, "/gate", &[]).starts_with("HTTP/1.1 200 "));
}

/// A peer that holds its connection until it is dropped.
struct Staring(std::process::Child);

impl Drop for Staring {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Of whom there is no client: an eighth of all places is theirs, however many they are.
#[test]
#[ignore = "needs root: asks as many others"]
fn strangers_share_an_eighth_of_the_places() {
    let swarm = std::path::Path::new(env!("CARGO_BIN_EXE_keyhatch")).with_file_name("examples").join("swarm");
    assert!(swarm.exists(), "{} is missing: cargo build --example swarm", swarm.display());
    let (upstream, mut broker) = serving(&|_| String::new());
    broker.end("TERM");
    let limits = configuration(&[]).replace("[limits]\n", "[limits]\nconnections = 16\nheader-timeout = \"1h\"\n");
    broker.configure(&(limits + &key("good", &at(&upstream, "/good", ""), "")));
    broker.start();
    // Each holds a connection, with half a header.
    let stare = |uid| {
        let mut peer = as_uid(uid, swarm.to_str().unwrap());
        peer.arg(broker.path("keyhatch.sock")).args(["stare", "1"]).stdout(std::process::Stdio::null());
        Staring(peer.spawn().unwrap())
    };
    assert!(broker.curl(MANY, "/-/whoami", &[]).starts_with("HTTP/1.1 200 "));
    let staring: Vec<_> = (0..2).map(|n| stare(MANY + n)).collect();
    wait_until("they have what they can have", || {
        broker.curl(MANY + 16, "/-/whoami", &[]).starts_with("HTTP/1.1 503 ")
    });
    good(&broker, "/good");
    drop(staring);
    wait_until("there is room again", || broker.curl(MANY, "/-/whoami", &[]).starts_with("HTTP/1.1 200 "));
}

/// The first of uids that belong together.
const MANY: u32 = 61_100;
