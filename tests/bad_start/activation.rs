//! Sockets as systemd passes them, without a systemd: what is true is served, a lie is told and ends the start.

use std::fs;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};

use crate::scene::Scene;
use crate::support::{send, wait_until};
use crate::{GOOD, serve};

/// `serve` with these descriptors from 3 on, and these variables; `$$` in them is its own pid.
fn passing(fds: Vec<OwnedFd>, variables: &str) -> Command {
    let many = fds.len();
    let mut fds = fds.into_iter();
    let mut command = Command::new("sh");
    let mut shut = String::from("exec");
    // A shell has names for two descriptors that it was started with, beside stderr.
    if let Some(first) = fds.next() {
        command.stdin(first);
        shut += " 3<&0";
    }
    if let Some(second) = fds.next() {
        command.stdout(second);
        shut += " 4>&1";
    }
    assert!(many <= 2);
    let script = format!("{shut} 0</dev/null 1>/dev/null; {variables} exec \"$0\" \"$@\"");
    command.args(["-c", &script]).arg(env!("CARGO_BIN_EXE_keyhatch"));
    command
}

fn unix(path: &Path, kind: SockType, listens: bool) -> OwnedFd {
    let made = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(made.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
    if listens {
        listen(&made, Backlog::new(128).unwrap()).unwrap();
    }
    made
}

const BOTH: &str = "LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=admin:data";
const DATA: &str = "LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=data";

/// The test's own start() gives /dev/null as stdin; here stdin is a descriptor to pass.
fn start(scene: &mut Scene, mut serve: Command) {
    let log = fs::File::create(scene.path().join("log")).unwrap();
    serve.args(["serve", "--config"]).arg(scene.path().join("keyhatch.toml"));
    scene.child = Some(serve.stderr(log).spawn().unwrap());
}

fn serves(scene: &mut Scene, serve: Command) -> String {
    start(scene, serve);
    let log = scene.path().join("log");
    let child = scene.child.as_mut().unwrap();
    wait_until("it serves", || {
        let log = fs::read_to_string(&log).unwrap();
        assert!(child.try_wait().unwrap().is_none(), "{log}");
        log.contains("serving")
    });
    scene.log()
}

fn refused(name: &str, serve: Command, told: &[&str]) {
    let mut scene = Scene::new(GOOD);
    start(&mut scene, serve);
    let mut child = scene.child.take().unwrap();
    let mut ended = None;
    wait_until("it ends", || {
        ended = child.try_wait().unwrap();
        ended.is_some() || scene.log().contains("serving")
    });
    let log = scene.log();
    if ended.is_none() {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert_eq!(ended.and_then(|status| status.code()), Some(78), "{name}: {log}");
    assert!(told.iter().all(|part| log.contains(part)), "{name}: {told:?} in {log}");
    crate::sockets::nothing_is_left(&scene);
    assert!(!scene.path().join("cache").exists(), "{name}: nothing is made");
}

/// One request by hand: any connection gets an answer.
fn answers(path: &Path) -> bool {
    use std::io::{Read, Write};
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(b"GET /-/health HTTP/1.1\r\nHost: k\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.starts_with("HTTP/1.1 200 ")
}

#[test]
#[ignore = "needs root: drops to two uids"]
fn sockets_that_were_passed_are_served_and_stay() {
    let mut scene = Scene::new(GOOD);
    let (data, admin) = (scene.path().join("passed.sock"), scene.path().join("admin.sock"));
    let fds = vec![unix(&admin, SockType::Stream, true), unix(&data, SockType::Stream, true)];
    let listening = fds[1].try_clone().unwrap();
    crate::chmod(&data, 0o666);
    let log = serves(&mut scene, passing(fds, BOTH));
    let own = scene.path().join("keyhatch.sock");
    let differs = format!("systemd passed {}: server.socket = \"{}\" does not count", data.display(), own.display());
    assert!(log.contains(&differs) && log.contains(&format!("systemd passed {}", admin.display())), "{log}");
    assert!(!own.exists(), "none is bound beside those");
    assert!(answers(&data));
    // The parent knows peers by the path that the kernel tells: a value that it has to fetch is refused for its source alone.
    let mut curl = crate::as_uid(61_010, "curl");
    curl.args(["--silent", "--unix-socket"]).arg(&data).arg("http://k/billing/url");
    let said = String::from_utf8(curl.output().unwrap().stdout).unwrap();
    assert!(said.contains("\"code\":\"unavailable\""), "{said}\n{}", scene.log());
    let mut status = serve();
    let done = status.arg("status").arg("--admin-socket").arg(&admin).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    // Nothing of systemd's is in the environment of either role, and after the end its sockets are there, and listen.
    let pid = scene.child.as_ref().unwrap().id();
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap();
    assert!(!environment.windows(7).any(|part| part == b"LISTEN_"), "{}", String::from_utf8_lossy(&environment));
    send("TERM", pid);
    assert!(scene.child.take().unwrap().wait().unwrap().success());
    assert!(data.exists() && admin.exists());
    assert!(UnixStream::connect(&data).is_ok());
    drop(listening);
}

#[test]
#[ignore = "needs root: a start that would drop"]
fn lies_about_passed_sockets_are_told() {
    let directory = tempfile::Builder::new().prefix("keyhatch-test-").tempdir_in("/run").unwrap();
    let at = |name: &str| directory.path().join(name);
    let stream = |name: &str| unix(&at(name), SockType::Stream, true);
    let file = || OwnedFd::from(fs::File::open("/dev/null").unwrap());
    let abstractly = || {
        let address = SocketAddr::from_abstract_name(format!("keyhatch-test-{}", std::process::id())).unwrap();
        OwnedFd::from(UnixListener::bind_addr(&address).unwrap())
    };
    let one = stream("one");
    let again = || one.try_clone().unwrap();
    let cases: Vec<(&str, Vec<OwnedFd>, &str, &[&str])> = vec![
        (
            "more than there are",
            vec![again()],
            "LISTEN_PID=$$ LISTEN_FDS=999 LISTEN_FDNAMES=data",
            &["LISTEN_FDS=999", "at most two"],
        ),
        (
            "beyond a number",
            vec![again()],
            "LISTEN_PID=$$ LISTEN_FDS=99999999999",
            &["LISTEN_FDS=99999999999", "at most two"],
        ),
        ("no number", vec![again()], "LISTEN_PID=$$ LISTEN_FDS=-1", &["LISTEN_FDS=-1 is no number"]),
        ("no pid", vec![again()], "LISTEN_PID=me LISTEN_FDS=1", &["LISTEN_PID=me is no number"]),
        ("one is not open", vec![again()], BOTH, &["LISTEN_FDS=2", "descriptor 4 is not open"]),
        ("no names", vec![again()], "LISTEN_PID=$$ LISTEN_FDS=1", &["LISTEN_FDNAMES=\"\"", "FileDescriptorName="]),
        ("too many names", vec![again()], "LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=data:admin", &["do not fit"]),
        (
            "another name",
            vec![again()],
            "LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=keyhatch.socket",
            &["`keyhatch.socket`", "`data`", "`admin`"],
        ),
        (
            "two of one name",
            vec![again(), stream("two")],
            "LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=data:data",
            &["two sockets have the name `data`"],
        ),
        ("one of two names", vec![again(), again()], BOTH, &["`data` and `admin` are both "]),
        ("a file", vec![file()], DATA, &["`data`", "it is no socket"]),
        (
            "TCP",
            vec![TcpListener::bind(("127.0.0.1", 0)).unwrap().into()],
            DATA,
            &["socket of the internet", "ListenStream= takes a path"],
        ),
        (
            "datagrams",
            vec![UnixDatagram::bind(at("datagrams")).unwrap().into()],
            DATA,
            &["ListenStream=, not ListenDatagram="],
        ),
        ("packets", vec![unix(&at("packets"), SockType::SeqPacket, true)], DATA, &["not ListenSequentialPacket="]),
        ("does not listen", vec![unix(&at("silent"), SockType::Stream, false)], DATA, &["does not listen"]),
        ("a connection", vec![UnixStream::pair().unwrap().0.into()], DATA, &["does not listen", "Accept=no"]),
        ("abstract", vec![abstractly()], DATA, &["it has no path"]),
    ];
    for (name, fds, variables, told) in cases {
        refused(name, passing(fds, variables), told);
    }
}

/// What is for another process is no lie; it is not taken, and a socket of our own is bound.
#[test]
#[ignore = "needs root: drops to two uids"]
fn what_was_passed_to_another_process_is_not_taken() {
    for (variables, told) in [
        ("LISTEN_PID=1 LISTEN_FDS=1 LISTEN_FDNAMES=data", "LISTEN_PID=1 is another process"),
        ("LISTEN_PID=$$ LISTEN_PIDFDID=1 LISTEN_FDS=1 LISTEN_FDNAMES=data", "LISTEN_PIDFDID=1 is an earlier process"),
        ("LISTEN_FDS=1 LISTEN_FDNAMES=data", "serving"),
    ] {
        if told.contains("PIDFDID") && keyhatch::sys::inherited::own_pidfd_inode().is_none() {
            continue;
        }
        let mut scene = Scene::new(GOOD);
        let other = unix(&scene.path().join("other.sock"), SockType::Stream, true);
        let log = serves(&mut scene, passing(vec![other], variables));
        assert!(log.contains(told), "{log}");
        assert!(answers(&scene.path().join("keyhatch.sock")));
    }
}

#[test]
#[ignore = "needs root: drops to two uids"]
fn the_service_manager_is_told_and_is_not_needed() {
    let scene = Scene::new(GOOD);
    let heard = UnixDatagram::bind(scene.path().join("notify")).unwrap();
    heard.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let hear = || {
        let mut bytes = [0; 4096];
        let length = heard.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    };
    let mut told = Scene::new(GOOD);
    let mut with = serve();
    with.env("NOTIFY_SOCKET", scene.path().join("notify")).env("WATCHDOG_USEC", "200000");
    told.serves(with);
    assert_eq!(hear(), "READY=1\nSTATUS=1 key, 1 without a value");
    for _ in 0..5 {
        assert_eq!(hear(), "WATCHDOG=1");
    }
    // The worker stands still: nothing more comes but what was on its way.
    let pid = told.child.as_ref().unwrap().id();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let worker: u32 = children.split_whitespace().next().unwrap().parse().unwrap();
    send("STOP", worker);
    heard.set_read_timeout(Some(Duration::from_millis(600))).unwrap();
    let mut bytes = [0; 64];
    let late = std::iter::repeat_with(|| heard.recv(&mut bytes)).take(9).take_while(Result::is_ok).count();
    assert!(late < 4, "{late} times after it was stopped");
    send("CONT", worker);
    heard.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert_eq!(hear(), "WATCHDOG=1");
    send("TERM", pid);
    wait_until("it says that it stops", || hear() == "STOPPING=1\nSTATUS=ending");
    assert!(told.child.take().unwrap().wait().unwrap().success());

    // Another process is watched; nobody hears; it is no address.
    let mut other = Scene::new(GOOD);
    let mut with = serve();
    with.env("NOTIFY_SOCKET", scene.path().join("notify")).env("WATCHDOG_USEC", "1000").env("WATCHDOG_PID", "1");
    other.serves(with);
    assert!(hear().starts_with("READY=1\n"));
    heard.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert!(heard.recv(&mut bytes).is_err(), "{}", String::from_utf8_lossy(&bytes));
    drop(heard);
    send("TERM", other.child.as_ref().unwrap().id());
    assert!(other.child.take().unwrap().wait().unwrap().success());
    assert_eq!(other.log().matches("the service manager does not hear us").count(), 1, "{}", other.log());
    for address in ["/run/keyhatch-test-nobody", "@keyhatch-test-nobody", "vsock:2:1", ""] {
        let mut alone = Scene::new(GOOD);
        let mut with = serve();
        with.env("NOTIFY_SOCKET", address);
        let log = alone.serves(with);
        assert!(log.contains(&format!("the service manager cannot be told: NOTIFY_SOCKET={address}: ")), "{log}");
    }
}

/// Each line says how serious it is, if it is the journal that reads stderr.
#[test]
#[ignore = "needs root: drops to two uids"]
fn lines_have_priorities_where_the_journal_reads_them() {
    use std::os::unix::fs::MetadataExt;
    for journal in [true, false] {
        let mut scene = Scene::new(&GOOD.replace("user = 61010", "user = \"nobody-is-called-this\""));
        let log = fs::File::create(scene.path().join("log")).unwrap();
        let found = log.metadata().unwrap();
        let inode = if journal { found.ino() } else { found.ino() + 1 };
        let mut with = serve();
        with.env("JOURNAL_STREAM", format!("{}:{inode}", found.dev()));
        let log = scene.serves(with);
        for (line, priority) in [("serving", "<6> INFO "), ("matches nobody", "<3>ERROR ")] {
            let line = log.lines().find(|one| one.contains(line)).unwrap();
            assert_eq!(line.starts_with(priority), journal, "{line}");
            assert_eq!(line.starts_with("20"), !journal, "{line}");
        }
    }
    let mut scene = Scene::new(&GOOD.replace("[server]", "[server"));
    let log = fs::File::create(scene.path().join("log")).unwrap().metadata().unwrap();
    let mut with = serve();
    with.env("JOURNAL_STREAM", format!("{}:{}", log.dev(), log.ino()));
    let told = scene.refused(with, 78);
    assert!(told.lines().count() > 2 && told.lines().all(|line| line.starts_with("<3>")), "{told}");
}
