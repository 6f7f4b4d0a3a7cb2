//! The wall between the two roles, looked at from outside: what the kernel shows of each, and what others can do to them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "privsep/made.rs"]
mod made;
#[path = "privsep/said.rs"]
mod said;
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::sys::socket::Shutdown;
use support::channel::{End, adopt_orphans, orphan_ended};
use support::{Broker, GRANTED, PARENT, TOKEN, Upstream, VALUE, WORKER, as_uid, memory_holds, send, wait_until};

const KEY: &str = "/billing/database-url";
/// So often each way of ending is tried: the one in the middle counts.
const DEATHS: usize = 5;

fn serving(settings: &str) -> (Upstream, Broker) {
    let upstream = Upstream::start(0);
    let broker = Broker::new(upstream.port, settings);
    (upstream, broker)
}

/// The words of a line of `/proc/PID/status`.
fn field(pid: u32, name: &str) -> Vec<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
    line.split_whitespace().map(str::to_owned).collect()
}

/// What each descriptor of a process is, without the numbers that differ from run to run.
fn descriptors(pid: u32) -> Vec<(u32, String)> {
    let kind = |entry: std::io::Result<fs::DirEntry>| {
        let path = entry.unwrap().path();
        // One that was closed meanwhile is none.
        let target = fs::read_link(&path).ok()?.display().to_string();
        let kind = target.split(":[").next().unwrap().to_owned();
        let kind = if kind == "anon_inode" { target } else { kind };
        Some((path.file_name().unwrap().to_str().unwrap().parse().unwrap(), kind))
    };
    let mut found: Vec<_> = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().filter_map(kind).collect();
    found.sort();
    found
}

fn started_with(pid: u32) -> Vec<u8> {
    [fs::read(format!("/proc/{pid}/environ")).unwrap(), fs::read(format!("/proc/{pid}/cmdline")).unwrap()].concat()
}

fn holds(bytes: &[u8], part: &str) -> bool {
    bytes.windows(part.len()).any(|window| window == part.as_bytes())
}

#[test]
#[ignore = "needs root: drops to two uids"]
fn both_roles_are_nobody_and_can_become_nobody_else() {
    let (_upstream, broker) = serving("max-age = \"1h\"");
    assert!(broker.curl(GRANTED, KEY, &[]).starts_with("HTTP/1.1 200 OK"));
    for (pid, uid) in [(broker.parent(), PARENT), (broker.worker(), WORKER)] {
        assert_eq!(field(pid, "Uid"), vec![uid.to_string(); 4]);
        assert_eq!(field(pid, "Gid"), vec![uid.to_string(); 4]);
        assert_eq!(field(pid, "Groups"), Vec::<String>::new());
        assert_eq!(field(pid, "NoNewPrivs"), ["1"]);
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(field(pid, set), ["0000000000000000"], "{set} of {uid}");
        }
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let core: Vec<&str> = limits.lines().find(|line| line.starts_with("Max core")).unwrap().split("  ").collect();
        assert!(core.iter().filter(|word| word.trim() == "0").count() == 2, "{core:?}");
        assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).unwrap(), Path::new("/"));
        let role = if uid == PARENT { "parent" } else { "worker" };
        for layer in ["user: uid", "capabilities: none, and none to be had", "no-new-privs: set", "no-dump: no core"] {
            let line = |line: &str| line.contains(layer) && line.contains(&format!("role=\"{role}\" holds=true"));
            assert!(broker.log().lines().any(line), "{role}: {layer}\n{}", broker.log());
        }
    }
    let mut status = Command::new(env!("CARGO_BIN_EXE_keyhatch"));
    let status = status.arg("status").arg("--admin-socket").arg(broker.path("admin.sock")).output().unwrap();
    let status = String::from_utf8(status.stdout).unwrap();
    for line in ["parent  user          yes    uid 61001", "worker  capabilities  yes    none, and none to be had"] {
        assert!(status.contains(line), "{status}");
    }
    assert_eq!(field(broker.worker(), "Threads"), ["1"]);
    assert!(!broker.log().contains("what does not hold"), "{}", broker.log());
}

#[test]
#[ignore = "needs root: looks into the processes of others"]
fn the_worker_has_its_sockets_and_nothing_else_open() {
    let (_upstream, broker) = serving("max-age = \"1h\"");
    assert!(broker.curl(GRANTED, KEY, &[]).starts_with("HTTP/1.1 200 OK"));
    // Standard input and output, the log, the listener, the channel; then the event loop and its signals.
    let first = ["/dev/null", "/dev/null", "pipe", "socket", "socket"];
    let rest =
        ["anon_inode:[eventfd]", "anon_inode:[eventpoll]", "anon_inode:[eventpoll]", "socket", "socket", "socket"];
    let worker = broker.worker();
    // A connection that has just ended may still be among them.
    wait_until("only those are open that should be", || {
        let found = descriptors(worker);
        let (begins, others) = found.split_at(found.len().min(5));
        let mut others: Vec<&str> = others.iter().map(|(_, kind)| kind.as_str()).collect();
        others.sort_unstable();
        begins.iter().map(|(number, kind)| (*number, kind.as_str())).eq((0..).zip(first)) && others == rest
    });

    let cache = broker.path("cache").display().to_string();
    let ours = broker.directory.path().display().to_string();
    // What is being sealed is open for a moment.
    wait_until("tokens and seal key are read and closed", || {
        let files: Vec<String> = descriptors(broker.parent()).into_iter().map(|(_, kind)| kind).collect();
        files.iter().filter(|file| file.starts_with(&ours) && !file.ends_with("/log")).eq([&cache])
    });
}

#[test]
#[ignore = "needs root: looks into the processes of others"]
fn what_the_caller_left_around_is_gone() {
    let upstream = Upstream::start(0);
    let mut broker = Broker::new(upstream.port, "max-age = \"1h\"");
    broker.end("TERM");
    let mut serve = Command::new("env");
    serve.args(["--block-signal=TERM,INT,CHLD", "PLANTED=planted-in-the-environment", "LANG=C", "KEYHATCH_TEST=kept"]);
    serve.args(["LISTEN_PID=1", "LISTEN_FDS=7"]);
    // An open file at 7, as of a careless caller.
    serve.args(["sh", "-c", "exec 7<\"$1\"; shift; exec \"$@\"", "sh"]).arg(broker.path("token"));
    serve.arg(env!("CARGO_BIN_EXE_keyhatch")).current_dir(broker.directory.path());
    broker.start_by(serve, &[]);
    assert!(broker.curl(GRANTED, KEY, &[]).starts_with("HTTP/1.1 200 OK"));
    let (parent, worker) = (broker.parent(), broker.worker());
    assert!(holds(&started_with(parent), "KEYHATCH_TEST=kept") && holds(&started_with(parent), "LANG=C"));
    for pid in [parent, worker] {
        let started = started_with(pid);
        for secret in ["PLANTED", "planted-in-the-environment", TOKEN, VALUE] {
            assert!(!holds(&started, secret), "{secret}: {}", String::from_utf8_lossy(&started));
        }
        assert!(!memory_holds(pid, b"planted-in-the-environment"));
        assert_eq!(field(pid, "SigBlk"), ["0000000000000000"]);
        let token = broker.path("token").display().to_string();
        assert!(descriptors(pid).iter().all(|(_, kind)| *kind != token), "{:?}", descriptors(pid));
    }
    assert!(fs::read(format!("/proc/{worker}/environ")).unwrap().is_empty());
    assert_eq!(broker.end("TERM"), Some(0), "{}", broker.log());
}

#[test]
#[ignore = "needs root: drops to two uids and reads the memory of others"]
fn the_token_stays_on_its_side_of_the_wall() {
    let (_upstream, broker) = serving("max-age = \"1h\"");
    assert!(broker.curl(GRANTED, KEY, &[]).starts_with("HTTP/1.1 200 OK"));
    let worker = broker.worker();
    assert!(memory_holds(worker, VALUE.as_bytes()), "the scan finds what is there");
    assert!(!memory_holds(worker, TOKEN.as_bytes()));
    assert!(!broker.log().contains(TOKEN) && !broker.log().contains(VALUE));
}

#[test]
#[ignore = "needs root: drops to two uids and reads the memory of others"]
fn tokens_lie_in_pages_that_nobody_else_reads() {
    let (_upstream, broker) = serving("");
    let parent = broker.parent();
    let maps = fs::read_to_string(format!("/proc/{parent}/smaps")).unwrap();
    let secret = maps.contains("/secretmem");
    // Where the kernel has no secret pages: locked, and left out of cores.
    let locked =
        || maps.lines().any(|line| line.starts_with("VmFlags:") && line.contains(" lo") && line.contains(" dd"));
    assert!(secret || locked(), "{maps}");
    assert!(!secret || !memory_holds(parent, TOKEN.as_bytes()), "no copy of it stays anywhere else");
    assert!(memory_holds(parent, b"parent-user"), "the scan finds what is there");
    assert!(
        broker.curl(GRANTED, KEY, &[]).starts_with("HTTP/1.1 200 OK"),
        "the parent has the token: its upstream demands it"
    );
}

#[test]
#[ignore = "needs root: starts and drops privileges"]
fn tokens_are_read_where_nothing_can_be_locked() {
    let (_upstream, mut broker) = serving("");
    broker.end("TERM");
    let mut limited = Command::new("prlimit");
    limited.args(["--memlock=0", "--", env!("CARGO_BIN_EXE_keyhatch")]);
    broker.start_by(limited, &[]);
    assert!(broker.log().contains("guarded pages that may be swapped"), "{}", broker.log());
    assert!(broker.curl(GRANTED, KEY, &["-H", "Cache-Control: no-cache"]).starts_with("HTTP/1.1 200 OK"));
    assert_eq!(broker.end("TERM"), Some(0), "{}", broker.log());
}

/// A line of `/proc/PID/maps`: its addresses, its rights, its name.
type Mapping = (std::ops::Range<u64>, String, String);

fn mappings(pid: u32) -> Vec<Mapping> {
    let mapping = |line: &str| {
        let mut words = line.split_whitespace();
        let (start, end) = words.next().unwrap().split_once('-').unwrap();
        let address = |text| u64::from_str_radix(text, 16).unwrap();
        let rights = words.next().unwrap().to_owned();
        (address(start)..address(end), rights, words.nth(3).unwrap_or_default().to_owned())
    };
    fs::read_to_string(format!("/proc/{pid}/maps")).unwrap().lines().map(mapping).collect()
}

/// The stack pointer of a thread that waits in the kernel (proc_pid_syscall(5)).
fn stack_pointer(pid: u32, thread: &str) -> Option<u64> {
    let told = fs::read_to_string(format!("/proc/{pid}/task/{thread}/syscall")).ok()?;
    u64::from_str_radix(told.split_whitespace().nth_back(1)?.strip_prefix("0x")?, 16).ok()
}

#[test]
#[ignore = "needs root: looks into the processes of others"]
fn no_memory_is_written_and_executed_and_every_stack_ends_at_a_guard() {
    let (_upstream, broker) = serving("max-age = \"1h\"");
    assert!(broker.curl(GRANTED, KEY, &[]).starts_with("HTTP/1.1 200 OK"));
    for pid in [broker.parent(), broker.worker()] {
        let both = |(_, rights, _): &Mapping| rights.contains('w') && rights.contains('x');
        assert!(!mappings(pid).iter().any(both), "{:?}", mappings(pid));
        let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(|thread| thread.unwrap());
        let mut looked_at = 0;
        for thread in threads {
            let (name, mut pointer) = (thread.file_name().into_string().unwrap(), None);
            wait_until("the thread waits, or has ended", || {
                pointer = stack_pointer(pid, &name);
                pointer.is_some() || !thread.path().exists()
            });
            let Some(pointer) = pointer else { continue };
            let all = mappings(pid);
            let at = all.iter().position(|(place, ..)| place.contains(&pointer)).unwrap();
            looked_at += 1;
            // Below that of the first thread, the kernel itself leaves a gap.
            let (below, stack) = (&all[at - 1], &all[at]);
            let guarded = below.0.end == stack.0.start && below.1 == "---p";
            assert!(guarded || stack.2 == "[stack]", "{pid}, {name}: {stack:?} above {below:?}");
        }
        // The log of the parent, and its sealed files, have threads.
        assert!(looked_at >= if pid == broker.parent() { 4 } else { 1 }, "{looked_at} threads of {pid}");
    }
}

/// Whether a process of this uid can open the memory of another one.
fn can_open_memory(uid: u32, pid: u32) -> bool {
    let mut read = as_uid(uid, "sh");
    read.args(["-c", "exec 3<\"$1\"", "sh"]).arg(format!("/proc/{pid}/mem")).stderr(Stdio::null());
    read.status().unwrap().success()
}

#[test]
#[ignore = "needs root: acts as the users of both roles"]
fn not_even_their_own_users_can_look_into_them() {
    let (_upstream, broker) = serving("");
    let mut plain = as_uid(PARENT, "sleep").arg("60").spawn().unwrap();
    let plain_pid = plain.id();
    // Until it is executed, the change of ids keeps it from being looked into.
    wait_until("it has become that user", || {
        field(plain_pid, "Name") == ["sleep"] && field(plain_pid, "Uid") == vec![PARENT.to_string(); 4]
    });
    let restricted = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").is_ok_and(|scope| scope.trim() != "0");
    let can = can_open_memory(PARENT, plain_pid);
    plain.kill().unwrap();
    plain.wait().unwrap();
    // Where Yama is strict, it alone would be enough, and this proves nothing more.
    assert!(can || restricted, "a process that does nothing about it can be read");
    for uid in [PARENT, WORKER] {
        for pid in [broker.parent(), broker.worker()] {
            assert!(!can_open_memory(uid, pid), "{uid} reads {pid}");
            for name in ["environ", "maps", "fd", "cwd"] {
                let path = PathBuf::from(format!("/proc/{pid}/{name}"));
                let mut look = as_uid(uid, "ls");
                let seen = look.arg("-L").arg(&path).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
                let named = as_uid(uid, "cat").arg(&path).stderr(Stdio::null()).output().unwrap().stdout;
                assert!(
                    named.is_empty() && (name == "environ" || name == "maps" || !seen.success()),
                    "{uid} sees {path:?}"
                );
            }
        }
    }
}

/// By the end of file on the channel, and by no timeout. A busy machine may hold up one of them.
#[test]
#[ignore = "needs root: drops to two uids, takes a descriptor of another process"]
fn either_death_ends_the_other() {
    adopt_orphans();
    let (_upstream, mut broker) = serving("");
    type Way = fn(&Broker);
    let ways: [(&str, Way); 5] = [
        ("the parent is killed", |broker| send("KILL", broker.parent())),
        ("the worker is killed", |broker| send("KILL", broker.worker())),
        ("the parent hears nothing more", |broker| End::of(broker.parent()).unwrap().cut(Shutdown::Read)),
        ("the worker hears nothing more", |broker| End::of(broker.parent()).unwrap().cut(Shutdown::Write)),
        ("nobody hears anything more", |broker| End::of(broker.parent()).unwrap().cut(Shutdown::Both)),
    ];
    for (name, way) in ways {
        let mut once = || {
            let (worker, parent_is_killed) = (broker.worker(), name == "the parent is killed");
            let began = Instant::now();
            way(&broker);
            let code = broker.end("CONT");
            assert_eq!(code, if parent_is_killed { None } else { Some(1) }, "{name}: {}", broker.log());
            wait_until(&format!("the worker ends: {name}"), || orphan_ended(worker).is_some());
            let took = began.elapsed();
            broker.start();
            took
        };
        let mut took: Vec<Duration> = (0..DEATHS).map(|_| once()).collect();
        took.sort_unstable();
        assert!(took[DEATHS / 2] < Duration::from_secs(1), "{name}: {took:?}");
    }
    assert!(broker.log().contains("the worker is gone"), "{}", broker.log());
}

#[test]
#[ignore = "needs root: drops to two uids"]
fn a_worker_that_stands_still_does_not_keep_the_parent() {
    let (_upstream, mut broker) = serving("");
    let worker = broker.worker();
    send("STOP", worker);
    wait_until("the worker stands still", || field(worker, "State")[0] == "T");
    let code = broker.end("TERM");
    assert_eq!(code, Some(1), "{}", broker.log());
    assert!(broker.log().contains("the worker does not answer"), "{}", broker.log());
    send("CONT", worker);
    wait_until("it ends when it can", || !Path::new(&format!("/proc/{worker}/exe")).exists());
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn the_end_waits_for_what_is_in_flight_and_for_nothing_else() {
    adopt_orphans();
    for signal in ["TERM", "INT"] {
        let (upstream, mut broker) = serving("");
        let worker = broker.worker();
        upstream.held.store(true, Ordering::SeqCst);
        // Neither a connection that says nothing nor one that said all it wanted is in flight.
        let socket = broker.path("keyhatch.sock");
        let silent = std::os::unix::net::UnixStream::connect(&socket).unwrap();
        let mut kept = std::os::unix::net::UnixStream::connect(&socket).unwrap();
        std::io::Write::write_all(&mut kept, b"GET /-/whoami HTTP/1.1\r\nHost: keyhatch\r\n\r\n").unwrap();
        let mut buffer = [0; 4096];
        assert!(std::io::Read::read(&mut kept, &mut buffer).unwrap() > 0);

        let answer = std::thread::scope(|scope| {
            let asking = scope.spawn(|| broker.curl(GRANTED, KEY, &[]));
            wait_until("the upstream is asked", || upstream.calls.load(Ordering::SeqCst) == 1);
            send(signal, broker.parent());
            wait_until("the signal is heard", || broker.log().contains("ending"));
            upstream.held.store(false, Ordering::SeqCst);
            asking.join().unwrap()
        });
        assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains(VALUE), "{answer}\n{}", broker.log());
        let ending = std::time::Instant::now();
        assert_eq!(broker.end("CONT"), Some(0), "{}", broker.log());
        let mut of_worker = None;
        wait_until("the worker ends", || {
            of_worker = orphan_ended(worker);
            of_worker.is_some()
        });
        assert_eq!(of_worker, Some(Ok(0)), "{}", broker.log());
        assert!(ending.elapsed().as_secs() < 4, "nobody waits for connections without a request");
        drop((silent, kept));
    }
}

#[test]
#[ignore = "needs root: starts it as somebody else"]
fn without_root_it_says_what_is_missing_and_keeps_the_rest() {
    let upstream = Upstream::start(0);
    let mut broker = Broker::new(upstream.port, "max-age = \"1h\"");
    broker.end("TERM");
    // The directory becomes the caller's, with all that was made in it.
    let mut chown = Command::new("chown");
    assert!(chown.args(["-R", &GRANTED.to_string()]).arg(broker.directory.path()).status().unwrap().success());
    fs::remove_file(broker.path("keyhatch.sock")).unwrap();
    fs::remove_file(broker.path("admin.sock")).unwrap();
    broker.start_by(as_uid(GRANTED, env!("CARGO_BIN_EXE_keyhatch")), &[]);
    assert!(broker.curl(GRANTED, KEY, &[]).starts_with("HTTP/1.1 200 OK"), "{}", broker.log());
    let warning = "not started as root; what does not hold: user (uid 61010, the same for both roles); capabilities";
    assert_eq!(broker.log().matches(warning).count(), 1, "{}", broker.log());
    for pid in [broker.parent(), broker.worker()] {
        assert_eq!(field(pid, "NoNewPrivs"), ["1"]);
        assert!(!can_open_memory(GRANTED, pid));
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(field(pid, set), ["0000000000000000"], "{set}");
        }
    }
    assert!(!memory_holds(broker.worker(), TOKEN.as_bytes()));
}
