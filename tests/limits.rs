//! `[limits]` from outside: what one user does, also at full speed, costs others little and the machine what was allowed.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "limits/crowd.rs"]
mod crowd;
mod support;

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crowd::{Staying, Swarm, allow_open_files, command, measure, most_open_files, open_files};
use support::process::Process;
use support::{Broker, GRANTED, STRANGER, Upstream, WORKER, as_uid, send, wait_until};

const KEY: &str = "/billing/database-url";
const OTHER: u32 = STRANGER + 1;
/// The tests' own uid may read the key, too.
const ROOT_MAY: &str = "[clients.root]\nuser = 0\nkeys = [\"/**\"]\n";

fn connect(broker: &Broker) -> UnixStream {
    let stream = UnixStream::connect(broker.path("keyhatch.sock")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

fn ask(stream: &mut UnixStream, more: &str) -> String {
    write!(stream, "GET {KEY} HTTP/1.1\r\nHost: x\r\n{more}\r\n").unwrap();
    let mut answer = vec![0; 1 << 16];
    let length = stream.read(&mut answer).unwrap();
    String::from_utf8(answer[..length].to_vec()).unwrap()
}

/// Everything that the broker says until it closes, which is a reset where it has not read all.
fn rest(mut stream: &UnixStream) -> String {
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "it does not end");
    }
    String::from_utf8(answer).unwrap()
}

/// So many connections that are in, and were answered once.
fn answered(broker: &Broker, count: usize) -> Vec<UnixStream> {
    let mut kept: Vec<UnixStream> = (0..count).map(|_| connect(broker)).collect();
    assert!(kept.iter_mut().all(|stream| is_good(&ask(stream, ""))));
    kept
}

fn is_good(answer: &str) -> bool {
    answer.starts_with("HTTP/1.1 200 OK")
}

/// Proportional set size in kB: what this process alone costs the machine.
fn pss(pid: u32) -> u64 {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// Processor time so far, in clock ticks.
fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
#[ignore = "needs root: drops to two uids"]
fn both_roles_may_open_as_many_files_as_the_limits_need() {
    let upstream = Upstream::start(0);
    let mut broker = Broker::with(upstream.port, "", "[limits]\nconnections = 300\n");
    broker.end("TERM");
    // Twice the connections, one key, 384; and where there may be more, 16,128 for those that are turned away.
    for most in [985, 2_000, most_open_files()] {
        let mut few = Command::new("prlimit");
        few.args([&format!("--nofile=100:{most}"), env!("CARGO_BIN_EXE_keyhatch")]);
        broker.start_by(few, &[]);
        let may = most.min(985 + 16_128);
        assert_eq!([open_files(broker.parent()), open_files(broker.worker())], [may, may]);
        broker.end("TERM");
    }
}

#[test]
#[ignore = "needs root: drops to two uids"]
fn beyond_its_connections_a_user_is_told_so_without_being_read() {
    let upstream = Upstream::start(0);
    let limits = format!("[limits]\nconnections = 16\nconnections-per-user = 3\n{ROOT_MAY}");
    let broker = Broker::with(upstream.port, "max-age = \"1h\"", &limits);
    let mut kept = answered(&broker, 3);
    for _ in 0..100 {
        let told = rest(&connect(&broker));
        let well_formed = told.starts_with("HTTP/1.1 503 ") && told.contains("\r\nretry-after: 1\r\n");
        assert!(well_formed && told.contains("\"code\":\"unavailable\""), "{told}");
    }
    assert!(kept.iter_mut().all(|stream| is_good(&ask(stream, ""))), "those that are in stay");
    assert!(is_good(&broker.curl(GRANTED, KEY, &[])), "another user has places of its own");
    kept.pop();
    wait_until("its place is free", || is_good(&ask(&mut connect(&broker), "")));
}

/// The number in an answer: each one that the broker makes has the next.
fn number(answer: &str) -> u64 {
    let id = answer.lines().find_map(|line| line.strip_prefix("x-request-id: "));
    u64::from_str_radix(id.unwrap_or_else(|| panic!("{answer}")).trim(), 16).unwrap()
}

/// The socket of applications, and how many were at it before.
struct Door {
    socket: PathBuf,
    before: usize,
}

impl Door {
    fn new(broker: &Broker) -> Self {
        let mut door = Self { socket: broker.path("keyhatch.sock"), before: 0 };
        door.before = door.count();
        door
    }

    fn count(&self) -> usize {
        let sockets = std::fs::read_to_string("/proc/net/unix").unwrap();
        sockets.lines().filter(|line| line.ends_with(self.socket.to_str().unwrap())).count()
    }

    /// The granted user asks for what nobody has, and waits for the answer as the last of so many.
    fn knock(&self, options: &[&str], last: usize) -> Child {
        let mut curl = as_uid(GRANTED, "curl");
        curl.args(["--silent", "--include", "--max-time", "20", "http://keyhatch/no", "--unix-socket"]);
        let curl = curl.arg(&self.socket).args(options).stdout(Stdio::piped()).spawn().unwrap();
        wait_until("it has connected, behind all others", || self.count() == self.before + last);
        let stat = format!("/proc/{}/stat", curl.id());
        wait_until("it waits", || std::fs::read_to_string(&stat).unwrap().contains(") S "));
        curl
    }
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn who_is_let_in_does_not_wait_for_those_before_it_who_are_turned_away() {
    let upstream = Upstream::start(0);
    let limits = format!("[limits]\nconnections-per-user = 3\n{ROOT_MAY}");
    let broker = Broker::with(upstream.port, "max-age = \"1h\"", &limits);
    let _kept = answered(&broker, 3);
    let door = Door::new(&broker);
    send("STOP", broker.worker());
    let over: Vec<UnixStream> = (0..100).map(|_| connect(&broker)).collect();
    let curl = door.knock(&[], 101);
    send("CONT", broker.worker());
    let denied = String::from_utf8(curl.wait_with_output().unwrap().stdout).unwrap();
    assert!(denied.starts_with("HTTP/1.1 403 "), "{denied}");
    let over: Vec<String> = over.iter().map(rest).collect();
    assert!(over.iter().all(|told| told.starts_with("HTTP/1.1 503 ")));
    let sooner = over.iter().filter(|told| number(told) < number(&denied)).count();
    assert!(sooner < 50, "{sooner} of 100 were turned away first");
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn who_is_turned_away_once_waits_behind_nobody_who_is_all_the_time() {
    let upstream = Upstream::start(0);
    let limits = format!("[limits]\nconnections-per-user = 3\n{ROOT_MAY}");
    let broker = Broker::with(upstream.port, "max-age = \"1h\"", &limits);
    let _staying = [GRANTED; 3].map(|uid| Staying::start(command(&broker, uid, &["stay", "1", KEY])));
    let _kept = answered(&broker, 3);
    let door = Door::new(&broker);
    send("STOP", broker.worker());
    let over: Vec<UnixStream> = (0..100).map(|_| connect(&broker)).collect();
    let once = door.knock(&[], 101);
    send("CONT", broker.worker());
    let once = refusal(once, "503");
    let sooner = over.iter().filter(|over| number(&rest(over)) < once).count();
    assert!(sooner < 50, "{sooner} of 100 were turned away first");
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn who_sends_garbage_once_waits_behind_nobody_who_does_all_the_time() {
    let upstream = Upstream::start(0);
    let limits = format!("[limits]\nconnections-per-user = 200\n{ROOT_MAY}");
    let broker = Broker::with(upstream.port, "max-age = \"1h\"", &limits);
    let many: Vec<UnixStream> = (0..190).map(|_| connect(&broker)).collect();
    many.iter().for_each(|mut stream| stream.write_all(b"G(T /no HTTP/1.1\r\n\r\n").unwrap());
    let numbers: Vec<u64> = many.iter().take(10).map(|stream| number(&rest(stream))).collect();
    send("STOP", broker.worker());
    let once = Door::new(&broker).knock(&["--request", "G(T"], 1);
    send("CONT", broker.worker());
    let once = refusal(once, "400");
    let later = many.iter().skip(10).filter(|many| number(&rest(many)) > once).count();
    assert!(later > 40, "all but {later} of 180 were refused first");
    assert!(numbers.is_sorted(), "those of one user in their order");
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn who_has_gone_before_it_is_let_in_is_not_served() {
    let upstream = Upstream::start(0);
    let mut broker = Broker::with(upstream.port, "max-age = \"1h\"", ROOT_MAY);
    send("STOP", broker.worker());
    for _ in 0..100 {
        write!(connect(&broker), "GET /nobody/has/this HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    }
    let mut stays = connect(&broker);
    // One that only sends no more is answered.
    write!(stays, "GET {KEY} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    stays.shutdown(std::net::Shutdown::Write).unwrap();
    send("CONT", broker.worker());
    assert!(is_good(&rest(&stays)));
    assert_eq!(broker.end("TERM"), Some(0));
    assert!(!broker.log().contains("/nobody/has/this"), "{}", broker.log());
}

/// The number of this one, which is refused so.
fn refusal(curl: Child, status: &str) -> u64 {
    let told = String::from_utf8(curl.wait_with_output().unwrap().stdout).unwrap();
    assert_eq!(told.get(9..12), Some(status), "{told}");
    number(&told)
}

#[test]
#[ignore = "needs root: drops to two uids"]
fn a_header_may_be_as_long_as_is_allowed() {
    let upstream = Upstream::start(0);
    for (size, fits, does_not) in [("8KiB", 7 << 10, 20 << 10), ("64KiB", 60 << 10, 80 << 10)] {
        let limits = format!("[limits]\nheader-size = \"{size}\"\n{ROOT_MAY}");
        let broker = Broker::with(upstream.port, "max-age = \"1h\"", &limits);
        let long = |length| format!("X-Long: {}\r\n", "x".repeat(length));
        assert!(is_good(&ask(&mut connect(&broker), &long(fits))), "{size}");
        let mut stream = connect(&broker);
        // It may close before it has read all.
        let _ = write!(stream, "GET {KEY} HTTP/1.1\r\n{}\r\n", long(does_not));
        let refused = rest(&stream);
        assert!(refused.starts_with("HTTP/1.1 431 "), "{size}: {refused}");
    }
}

#[test]
#[ignore = "needs root: drops to two uids"]
fn neither_bytes_one_by_one_nor_an_answer_that_is_not_read_keep_a_place() {
    let mut upstream = None;
    let mut broker = Broker::prepared(|directory| {
        let started = Process::start(directory);
        let url = format!("http://127.0.0.1:{}/good", started.port("plain"));
        upstream = Some(started);
        format!(
            "[limits]\nconnections-per-user = 1\nheader-timeout = \"700ms\"\nidle-timeout = \"700ms\"\n\
             [keys.\"{KEY}\"]\nsource = {{ type = \"http\", url = \"{url}\", field = \"value\" }}\n{ROOT_MAY}"
        )
    });
    upstream.as_ref().unwrap().set_value(&"x".repeat(1_000_000));
    broker.start();
    let mut slow = connect(&broker);
    wait_until("a header that never ends is over", || slow.write_all(b"x").is_err());
    assert!(rest(&slow).starts_with("HTTP/1.1 408 "));
    let mut staring = connect(&broker);
    write!(staring, "GET {KEY} HTTP/1.1\r\n\r\n").unwrap();
    staring.read_exact(&mut [0; 12]).unwrap();
    wait_until("its place is free", || is_good(&ask(&mut connect(&broker), "")));
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn a_granted_user_is_answered_while_others_attack() {
    let upstream = Upstream::start(0);
    let broker = Broker::with(upstream.port, "max-age = \"1h\"", ROOT_MAY);
    let mut kept = connect(&broker);
    assert!(is_good(&ask(&mut kept, "")));
    let roles = [broker.parent(), broker.worker()];
    let before = roles.map(pss);
    let slow = Swarm::start(&broker, STRANGER, &["stare", "10000", KEY]);
    let loud = Swarm::start(&broker, OTHER, &["garbage", "200"]);
    for _ in 0..3 {
        slow.goes_on();
        loud.goes_on();
        for (mode, count) in [("measure", 500), ("knock", 20)] {
            // Fails unless each one is answered with the value.
            measure(command(&broker, GRANTED, &[mode, &count.to_string(), KEY]));
        }
        assert!(is_good(&ask(&mut kept, "")));
    }
    wait_until("a thousand have been turned away, and a hundred have sent garbage", || {
        slow.done() > 1000 && loud.done() > 100
    });
    let after = roles.map(pss);
    // 128 connections with 16 KiB of header each, as much again for what is made of them, and the heap's own ways.
    assert!(after[0] < before[0] + 8 * 1024, "the parent: {before:?} kB before, {after:?} kB under attack");
    assert!(after[1] < before[1] + 16 * 1024, "the worker: {before:?} kB before, {after:?} kB under attack");
    slow.goes_on();
    loud.goes_on();
    assert!(!broker.log().contains("can be accepted"), "there were descriptors for all: {}", broker.log());
}

#[test]
#[ignore = "needs root: drops to two uids, and takes descriptors away from one"]
fn without_descriptors_nobody_spins_and_who_is_in_is_answered() {
    let upstream = Upstream::start(0);
    let broker = Broker::with(upstream.port, "max-age = \"1h\"", ROOT_MAY);
    let worker = broker.worker();
    let mut kept = connect(&broker);
    assert!(is_good(&ask(&mut kept, "")));
    let enough = open_files(worker);
    allow_open_files(worker, WORKER, 3);
    let mut waiting: Vec<UnixStream> = (0..200).map(|_| connect(&broker)).collect();
    wait_until("it is said", || broker.log().contains("no connection can be accepted"));
    let (before, since) = (ticks(worker), Instant::now());
    wait_until("some time has passed", || {
        assert!(is_good(&ask(&mut kept, "")));
        std::thread::park_timeout(Duration::from_millis(100));
        since.elapsed() > Duration::from_secs(2)
    });
    // Of some two hundred.
    let used = ticks(worker) - before;
    assert!(used < 50, "{used} ticks for nothing");
    assert_eq!(broker.log().matches("no connection can be accepted").count(), 1, "{}", broker.log());
    allow_open_files(worker, WORKER, enough);
    let mut last = waiting.remove(0);
    assert!(is_good(&ask(&mut last, "")), "who waited is served");
}

/// A busy machine may hold up one round.
#[test]
#[ignore = "needs root: drops to two uids, and takes descriptors away from one"]
fn without_descriptors_who_waits_is_let_in_as_soon_as_others_end() {
    let upstream = Upstream::start(0);
    let broker = Broker::with(upstream.port, "max-age = \"1h\"", ROOT_MAY);
    let worker = broker.worker();
    let enough = open_files(worker);
    let round = || {
        let kept = answered(&broker, 10);
        let numbers = std::fs::read_dir(format!("/proc/{worker}/fd")).unwrap();
        let highest = numbers.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse::<u64>().unwrap()).max();
        allow_open_files(worker, WORKER, highest.unwrap() + 1);
        // The first few may find a number that is free.
        let mut waiting: Vec<UnixStream> = (0..8).map(|_| connect(&broker)).collect();
        waiting.last().unwrap().set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        write!(waiting.last_mut().unwrap(), "GET {KEY} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        assert!(waiting.last_mut().unwrap().read(&mut [0; 4096]).is_err(), "it does not wait");
        let since = Instant::now();
        drop(kept);
        waiting.last().unwrap().set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        assert!(waiting.last_mut().unwrap().read(&mut [0; 4096]).unwrap() > 0);
        let took = since.elapsed();
        assert!(waiting.iter_mut().all(|stream| is_good(&ask(stream, ""))));
        allow_open_files(worker, WORKER, enough);
        took
    };
    let mut took: Vec<Duration> = (0..5).map(|_| round()).collect();
    took.sort_unstable();
    assert!(took[2] < Duration::from_millis(500), "{took:?}");
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn a_flood_of_denials_drowns_no_grant() {
    let upstream = Upstream::start(0);
    let mut broker = Broker::with(upstream.port, "max-age = \"1h\"", "");
    let began = Instant::now();
    let users = [STRANGER, OTHER, OTHER + 1];
    let flood = users.map(|uid| Swarm::start(&broker, uid, &["deny", "8"]));
    flood.iter().for_each(Swarm::goes_on);
    // The first answer of a connection has a line.
    let again = format!("http://keyhatch{KEY}");
    assert!(is_good(&broker.curl(GRANTED, KEY, &[again.as_str(); 20])));
    let told = |log: &str, uid: u32, event: &str| {
        let uid = format!("uid={uid} ");
        log.lines().filter(|line| line.contains(&uid) && line.contains(event)).count()
    };
    wait_until("the grant is told", || told(&broker.log(), GRANTED, "answer role") == 1);
    flood.iter().for_each(Swarm::goes_on);
    let give_up = Instant::now() + Duration::from_secs(120);
    while flood.iter().map(Swarm::done).sum::<u64>() < 100_000 {
        assert!(Instant::now() < give_up, "a hundred thousand were not denied");
        std::thread::park_timeout(Duration::from_millis(50));
    }
    let mut get = as_uid(GRANTED, "curl");
    get.args(["--silent", "--unix-socket"]).arg(broker.path("keyhatch.sock"));
    assert!(get.arg(&again).output().unwrap().status.success(), "the worker is not held up");
    drop(flood);
    assert_eq!(broker.end("TERM"), Some(0));
    let log = broker.log();
    let intervals = usize::try_from(began.elapsed().as_secs() / 10 + 2).unwrap();
    for uid in users {
        let denied = told(&log, uid, "denied role");
        assert!((1..=50 * intervals).contains(&denied), "{denied} lines about {uid}");
    }
    let lines = log.lines().count();
    assert!(lines <= 700 * intervals + 100, "{lines} lines");
    let counted = log.lines().filter(|line| line.contains("counted") && line.contains("verdict=hit"));
    let hits: u64 =
        counted.filter_map(|line| line.split_once("count=")?.1.split(' ').next()?.parse::<u64>().ok()).sum();
    assert_eq!(
        hits,
        20,
        "hits are counted, however many denials are: {}",
        log.lines().filter(|l| l.contains("hit")).collect::<String>()
    );
}
