//! The worker's log: what it writes holds up nobody, and what is written in its name is told as its own.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use super::support::channel::copy_of;
use super::*;

/// Lines that are several times what the pipe takes.
const MANY: usize = 3000;

#[test]
#[ignore = "needs root: drops to two uids"]
fn a_log_that_nobody_reads_holds_up_no_peer() {
    let upstream = Upstream::start(0);
    let root = "[clients.root]\nuser = 0\nkeys = [\"/billing/*\"]\n";
    let mut broker = Broker::with(upstream.port, "max-age = \"1h\"", root);
    broker.end("TERM");
    broker.start_with(&["--log-requests"]);
    let mut peer = UnixStream::connect(broker.path("keyhatch.sock")).unwrap();
    peer.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut ask = || {
        write!(peer, "GET {KEY} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(format!("{VALUE}\"}}").as_bytes()) {
            let mut part = [0; 4096];
            let length = peer.read(&mut part).unwrap_or(0);
            assert!(length > 0, "{}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&part[..length]);
        }
    };
    ask();
    send("STOP", broker.parent());
    wait_until("the parent stands still", || field(broker.parent(), "State")[0] == "T");
    (0..MANY).for_each(|_| ask());
    send("CONT", broker.parent());
    assert_eq!(broker.end("TERM"), Some(0), "{}", broker.log());
    assert!(broker.log().contains("lines dropped"), "what did not fit is counted");
}

#[test]
#[ignore = "needs root: takes a descriptor of another process, drops to two uids"]
fn what_the_worker_says_is_cut_paced_cleaned_and_marked() {
    let (_upstream, broker) = serving("");
    let mut pipe = fs::File::from(copy_of(broker.worker(), 2).unwrap());
    // It never blocks: what does not fit is tried again.
    let mut say = |mut bytes: &[u8]| {
        wait_until("there is room in the pipe", || {
            let length = pipe.write(bytes).unwrap_or(0);
            bytes = &bytes[length..];
            bytes.is_empty()
        });
    };
    say(b"forged\x1b[31m\r of the parent\n");
    say(b"{\"event\":\"denied\",\"key\":\"/for\\u001b[31mged\",\"verdict\":\"a\\nb\"}\n");
    let mut long = vec![b'l'; 100_000];
    long.push(b'\n');
    say(&long);
    wait_until("all of it is told", || broker.log().matches('l').count() > 100_000);
    for line in broker.log().lines().filter(|line| line.contains("forged") || line.contains("llll")) {
        assert!(line.contains("role=\"worker\"") && line.len() < 4500, "{line}");
        assert!(!line.contains(|c: char| c.is_control()), "{line:?}");
    }
    assert_eq!(broker.log().matches("forged").count() + broker.log().matches("/for[31mged").count(), 2);

    let lines = |broker: &Broker| broker.log().matches("a flood").count();
    let began = Instant::now();
    say(&b"a flood\n".repeat(20_000));
    wait_until("what was too much is counted", || broker.log().contains("lines of the worker were dropped"));
    let most = 1000 * (usize::try_from(began.elapsed().as_secs()).unwrap() + 2);
    assert!((1..=most.min(15_000)).contains(&lines(&broker)), "{} of {most}", lines(&broker));
}
