//! kill -9 in the middle of writing, again and again: what somebody was answered is what a restart finds, or something newer.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::*;

const WRITES: u64 = 1000;
const CRASHES: u64 = 25;

/// The number in an answer with a value, which is whole.
fn number(answer: &str) -> Option<u64> {
    answer.split_once("\r\n\r\n{\"value\":\"crash|")?.1.strip_suffix("\"}")?.parse().ok()
}

/// Has the upstream give another value for each request, until the broker is gone: the last one that came back.
fn write(mut stream: UnixStream, upstream: &Numbered, answered: &AtomicU64, until: &AtomicBool) {
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    while !until.load(Ordering::SeqCst) {
        upstream.number.fetch_add(1, Ordering::SeqCst);
        // Larger than any answer here, which comes whole or not at all.
        let mut answer = [0; 4096];
        let asked = stream.write_all(b"GET /own/crash HTTP/1.1\r\nHost: x\r\n\r\n");
        let Ok(length) = asked.and_then(|()| stream.read(&mut answer)) else { return };
        let answer = str::from_utf8(&answer[..length]).unwrap();
        let Some(number) = number(answer) else {
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 503 "), "{answer}");
            return;
        };
        answered.store(number, Ordering::SeqCst);
    }
}

#[test]
#[ignore = "needs root: drops to two uids"]
fn what_was_answered_is_there_whenever_a_crash_comes() {
    let upstream = Numbered::start();
    let url = format!("http://127.0.0.1:{}/crash", upstream.port);
    let mut broker = Broker::prepared(|_| {
        format!(
            "[limits]\nfetches-per-user = 1000000\n[keys.\"/own/crash\"]\nsource = {{ type = \"http\", url = \"{url}\" }}\n\
             [clients.root]\nuser = 0\nkeys = [\"/**\"]\n"
        )
    });
    broker.start();
    let (socket, admin) = (broker.path("keyhatch.sock"), broker.path("admin.sock"));
    let (answered, mut crashes, mut slow) = (AtomicU64::new(0), 0, 0);
    while crashes < CRASHES || upstream.number.load(Ordering::SeqCst) < WRITES {
        let (first, second) = (broker.parent(), broker.worker());
        let victim = if crashes % 3 == 2 { second } else { first };
        let said_slow = broker.log().matches("the disk is slow").count();
        let until = AtomicBool::new(false);
        let stream = UnixStream::connect(&socket).unwrap();
        std::thread::scope(|scope| {
            let writing = scope.spawn(|| write(stream, &upstream, &answered, &until));
            // Any moment: this is the one thing here that is another one at each run.
            let moment = RandomState::new().hash_one(crashes) % 200_000;
            std::thread::park_timeout(Duration::from_micros(moment));
            support::send("KILL", victim);
            wait_until("both roles are gone", || {
                broker.has_ended() && !Path::new(&format!("/proc/{second}/exe")).exists()
            });
            until.store(true, Ordering::SeqCst);
            writing.join().unwrap();
        });
        crashes += 1;

        upstream.is_down.store(true, Ordering::SeqCst);
        broker.start();
        let answer = broker.curl(0, "/own/crash", &[]);
        let (told, asked) = (answered.load(Ordering::SeqCst), upstream.number.load(Ordering::SeqCst));
        let found = number(&answer).unwrap_or(0);
        let context = format!("crash {crashes}: {told} was answered, {found} is there: {answer}\n{}", broker.log());
        assert!(told == 0 || found > 0, "nothing is there. {context}");
        assert!(found <= asked, "{context}");
        // Where the log says that a value was served before it was sealed, it may be lost.
        if broker.log().matches("the disk is slow").count() > said_slow {
            slow += 1;
        } else {
            assert!(found >= told, "older. {context}");
        }
        upstream.is_down.store(false, Ordering::SeqCst);
        let mut refresh = Command::new(env!("CARGO_BIN_EXE_keyhatch"));
        refresh.args(["refresh", "/own/crash", "--admin-socket"]).arg(&admin);
        assert!(refresh.output().unwrap().status.success(), "back-off ends: {}", broker.log());
    }
    assert!(slow < crashes / 2, "the disk was slow {slow} times of {crashes}: this shows nothing");
    let files = std::fs::read_dir(broker.path("cache")).unwrap().count();
    assert!(files <= 5, "{files} files: what was cut short does not stay");
}
