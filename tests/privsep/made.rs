//! How the two roles come to be, watched from outside: nothing is left to chance by who starts them, and no secret is there
//! yet when the worker is made.
#![allow(unsafe_code, reason = "ptrace(2) has no function in the features of nix that the program needs")]

use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{UnixAddr, getsockname, getsockopt, sockopt};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::support::channel::copy_of;
use super::support::children;
use super::*;

/// Every process that it starts, and every program that one of these becomes.
const EVENTS: libc::c_int =
    libc::PTRACE_O_TRACEFORK | libc::PTRACE_O_TRACEVFORK | libc::PTRACE_O_TRACECLONE | libc::PTRACE_O_TRACEEXEC;

fn trace(request: libc::c_uint, pid: Pid, data: libc::c_long) {
    // SAFETY: these requests take numbers, and no pointer of ours.
    let done = unsafe { libc::ptrace(request, pid.as_raw(), 0, data) };
    // One that is gone needs nothing.
    assert!(Errno::result(done).is_ok_and(|_| true) || Errno::last() == Errno::ESRCH, "{request}: {}", Errno::last());
}

/// What becomes of one of these next (`None`: of any), of this thread's alone: other tests have children of their own.
fn next(of: Option<Pid>) -> WaitStatus {
    let mut next = WaitStatus::StillAlive;
    wait_until("something becomes of it", || {
        let flags = WaitPidFlag::__WNOTHREAD | WaitPidFlag::__WALL | WaitPidFlag::WNOHANG;
        next = waitpid(of, Some(flags)).unwrap();
        next != WaitStatus::StillAlive
    });
    next
}

fn is_worker(pid: Pid) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|arguments| arguments.starts_with(b"keyhatch\0worker\0"))
}

#[test]
#[ignore = "needs root: traces the start"]
fn the_worker_is_made_by_root_with_one_thread_and_before_a_token_is_read() {
    let (_upstream, mut broker) = serving("max-age = \"1h\"");
    broker.end("TERM");
    let mut serve = Command::new(env!("CARGO_BIN_EXE_keyhatch"));
    // SAFETY: between fork and exec this makes one call that takes no pointer.
    unsafe {
        serve.pre_exec(|| Errno::result(libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0)).map(drop).map_err(Into::into));
    }
    broker.launch(serve, &[]);
    let parent = Pid::from_raw(broker.parent().cast_signed());
    assert_eq!(next(Some(parent)), WaitStatus::Stopped(parent, Signal::SIGTRAP), "it is executed");
    trace(libc::PTRACE_SETOPTIONS, parent, (EVENTS | libc::PTRACE_O_EXITKILL).into());
    trace(libc::PTRACE_CONT, parent, 0);
    let (mut made, mut traced) = (Vec::new(), vec![parent]);
    let worker = loop {
        let (pid, signal) = match next(None) {
            WaitStatus::PtraceEvent(pid, _, libc::PTRACE_EVENT_EXEC) if is_worker(pid) => break pid,
            WaitStatus::PtraceEvent(pid, _, event) if pid == parent && event != libc::PTRACE_EVENT_EXEC => {
                let holds = |bytes: &[u8]| memory_holds(broker.parent(), bytes);
                let (threads, uids) = (field(broker.parent(), "Threads"), field(broker.parent(), "Uid"));
                // What is made after the worker is nothing that matters here.
                let has_worker =
                    children(broker.parent()).iter().any(|child| is_worker(Pid::from_raw(child.cast_signed())));
                if !has_worker {
                    made.push((threads, uids, holds(TOKEN.as_bytes()), holds(b"parent-user")));
                }
                (pid, 0)
            }
            WaitStatus::Stopped(pid, signal) => {
                // Whoever is new begins with a stop that is the tracer's affair. A thread becomes no worker.
                let new = !traced.contains(&pid);
                if new && field(pid.as_raw().cast_unsigned(), "Tgid") != [pid.to_string()] {
                    trace(libc::PTRACE_DETACH, pid, 0);
                    continue;
                }
                traced.extend(new.then_some(pid));
                (pid, if new { 0 } else { signal as libc::c_long })
            }
            WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..) => {
                assert_ne!(pid, parent, "it has ended: {}", broker.log());
                traced.retain(|one| *one != pid);
                continue;
            }
            other => (other.pid().unwrap(), 0),
        };
        trace(libc::PTRACE_CONT, pid, signal);
    };
    let arguments = fs::read(format!("/proc/{worker}/cmdline")).unwrap();
    trace(libc::PTRACE_DETACH, worker, 0);
    for pid in traced.into_iter().filter(|pid| *pid != worker) {
        // It must stand still for that.
        kill(pid, Signal::SIGSTOP).unwrap();
        next(Some(pid));
        trace(libc::PTRACE_DETACH, pid, 0);
        // It may have stood still for something else, and the signal be on its way yet.
        kill(pid, Signal::SIGCONT).unwrap();
    }
    // Whatever was made before the worker, and the worker.
    let as_it_should = (vec!["1".to_owned()], vec!["0".to_owned(); 4], false, true);
    assert!(!made.is_empty() && made.iter().all(|one| *one == as_it_should), "threads, uids, token, scan: {made:?}");
    assert!(arguments.starts_with(format!("keyhatch\0worker\0{WORKER}\0{WORKER}\0").as_bytes()), "{arguments:?}");
    wait_until("it serves", || broker.curl(GRANTED, KEY, &[]).starts_with("HTTP/1.1 200 OK"));
    assert_eq!(broker.end("TERM"), Some(0), "{}", broker.log());
}

/// A change of ids leaves the inheritable set and the groups as they are.
#[test]
#[ignore = "needs root: drops to two uids"]
fn capabilities_and_groups_that_were_inherited_go_as_well() {
    let (_upstream, mut broker) = serving("max-age = \"1h\"");
    broker.end("TERM");
    let mut serve = Command::new("setpriv");
    serve.args(["--groups=4,24", "--inh-caps=+chown,+net_raw", "--ambient-caps=+chown,+net_raw"]);
    serve.arg(env!("CARGO_BIN_EXE_keyhatch"));
    broker.start_by(serve, &[]);
    for pid in [broker.parent(), broker.worker()] {
        assert_eq!(field(pid, "Groups"), Vec::<String>::new());
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(field(pid, set), ["0000000000000000"], "{set}");
        }
    }
    assert_eq!(broker.end("TERM"), Some(0), "{}", broker.log());
}

#[test]
#[ignore = "needs root: drops to two uids"]
fn the_worker_can_grow_no_file_and_start_no_process() {
    let (_upstream, broker) = serving("max-age = \"1h\"");
    let limits = fs::read_to_string(format!("/proc/{}/limits", broker.worker())).unwrap();
    for what in ["Max file size", "Max processes"] {
        let line = limits.lines().find_map(|line| line.strip_prefix(what)).unwrap();
        assert!(line.split_whitespace().take(2).eq(["0", "0"]), "{what}: {line}");
    }
}

/// Whatever of applications' connections it had itself, nobody would look at.
#[test]
#[ignore = "needs root: takes descriptors of another process"]
fn the_parent_listens_for_the_operator_alone() {
    let (_upstream, broker) = serving("max-age = \"1h\"");
    let listened = |pid: u32| -> Vec<PathBuf> {
        let numbers = descriptors(pid).into_iter().filter(|(_, kind)| kind == "socket").map(|(number, _)| number);
        let copies = numbers.filter_map(|number| copy_of(pid, number.cast_signed()));
        let listening = copies.filter(|copy| getsockopt(copy, sockopt::AcceptConn).unwrap());
        listening.map(|copy| getsockname::<UnixAddr>(copy.as_raw_fd()).unwrap().path().unwrap().into()).collect()
    };
    assert_eq!(listened(broker.parent()), [broker.path("admin.sock")]);
    assert_eq!(listened(broker.worker()), [broker.path("keyhatch.sock")]);
}
