//! The sandbox of each role: from inside, by a probe that enters it and tries what it forbids; from outside, on the real
//! broker. Each step succeeds without the sandbox, so that what forbids it is the sandbox.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use support::{Broker, GRANTED, PARENT, Upstream, WORKER, as_uid, wait_until};

const KEY: &str = "/billing/database-url";
/// What a step says that succeeds.
const DONE: &str = "done";
/// What a step comes to that makes a call which is not on the list.
const KILLED: &str = "killed by signal 31";

fn probe() -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_keyhatch")).with_file_name("examples").join("probe");
    assert!(program.exists(), "{} is missing: cargo build --example probe", program.display());
    program
}

fn outcome(mut command: Command, role: &str, step: &[&str]) -> String {
    let done = command.arg(role).args(step).output().unwrap();
    match done.status.signal() {
        Some(signal) => format!("killed by signal {signal}"),
        None if done.status.success() && done.stderr.is_empty() => {
            let said = String::from_utf8(done.stdout).unwrap();
            // What becomes another program says nothing.
            if said.is_empty() { DONE.into() } else { said }
        }
        None => panic!("{role} {step:?}: {}", String::from_utf8_lossy(&done.stderr)),
    }
}

/// What can be reached by whoever is not in a sandbox.
struct Surroundings {
    broker: Broker,
    file: String,
    /// One that a source has, one that none has.
    ports: [TcpListener; 2],
    udp: UdpSocket,
    unix: String,
    _unix: UnixListener,
    name: String,
    _named: UnixListener,
    /// Of the users of the two roles, doing nothing about those who look.
    others: [Child; 2],
    /// Where their memory can be read.
    address: [String; 2],
}

impl Surroundings {
    fn new() -> Self {
        let ports = [TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap()];
        let port = ports[0].local_addr().unwrap().port();
        let broker = Broker::prepared(|_| {
            format!("[keys.\"/a\"]\nsource = {{ type = \"http\", url = \"http://127.0.0.1:{port}/\" }}\n")
        });
        broker.write("file", "for everybody", 0o644);
        fs::create_dir(broker.path("cache")).unwrap();
        std::os::unix::fs::chown(broker.path("cache"), Some(PARENT), Some(PARENT)).unwrap();
        let unix = broker.path("other.sock");
        let listener = UnixListener::bind(&unix).unwrap();
        fs::set_permissions(&unix, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
        let name = broker.directory.path().display().to_string();
        let named = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let others = [PARENT, WORKER].map(|uid| as_uid(uid, "sleep").arg("600").spawn().unwrap());
        let address = [&others[0], &others[1]].map(stack);
        Self {
            file: broker.path("file").display().to_string(),
            broker,
            ports,
            udp: UdpSocket::bind("127.0.0.1:0").unwrap(),
            unix: unix.display().to_string(),
            _unix: listener,
            name,
            _named: named,
            others,
            address,
        }
    }

    fn port(&self, which: usize) -> String {
        self.ports[which].local_addr().unwrap().port().to_string()
    }

    fn parent(&self) -> String {
        format!("parent={}", self.broker.directory.path().display())
    }

    /// What is the same for both roles: no list has any of these calls.
    fn never(&self, role: usize) -> Vec<Vec<String>> {
        let pid = self.others[role].id().to_string();
        let steps: Vec<Vec<&str>> = vec![
            vec!["execute"],
            vec!["fork"],
            vec!["debug", &pid],
            vec!["read-memory", &pid, &self.address[role]],
            vec!["signal", &pid],
            vec!["io-uring"],
            vec!["out-of-band"],
            vec!["hear-out-of-band"],
            vec!["new-code"],
            vec!["written-code"],
            vec!["user-namespace"],
        ];
        steps.into_iter().map(|step| step.into_iter().map(str::to_owned).collect()).collect()
    }
}

impl Drop for Surroundings {
    fn drop(&mut self) {
        for other in &mut self.others {
            other.kill().unwrap();
            other.wait().unwrap();
        }
    }
}

/// Where the stack of a process is, once it is the program that it was to become.
fn stack(of: &Child) -> String {
    let mut address = 0;
    wait_until("it runs", || {
        let name = fs::read_to_string(format!("/proc/{}/comm", of.id())).unwrap();
        let maps = fs::read_to_string(format!("/proc/{}/maps", of.id())).unwrap();
        let stack = maps.lines().find(|line| line.ends_with("[stack]")).and_then(|line| line.split_once('-'));
        let end = stack.and_then(|(_, rest)| rest.split_once(' ')).map(|(end, _)| end);
        address = end.map_or(0, |end| usize::from_str_radix(end, 16).unwrap() - 64);
        name == "sleep\n" && address != 0
    });
    address.to_string()
}

/// That a step has this outcome in the sandbox, and succeeds for the same user without one.
fn forbids(role: &str, uid: u32, step: &[&str], told: &str) {
    assert_eq!(outcome(as_uid(uid, probe().to_str().unwrap()), "none", step), DONE, "without a sandbox: {step:?}");
    assert_eq!(outcome(Command::new(probe()), role, step), told, "{role}: {step:?}");
}

fn permits(role: &str, step: &[&str]) {
    assert_eq!(outcome(Command::new(probe()), role, step), DONE, "{role}: {step:?}");
}

#[test]
#[ignore = "needs root: enters the sandbox as serve does"]
fn whoever_takes_over_the_worker_is_killed_at_the_first_step() {
    let around = Surroundings::new();
    let port = around.port(0);
    let udp = around.udp.local_addr().unwrap().port().to_string();
    for step in around.never(1) {
        forbids("worker", WORKER, &step.iter().map(String::as_str).collect::<Vec<_>>(), KILLED);
    }
    let datagrams = around.broker.path("datagrams.sock");
    let _journal = UnixDatagram::bind(&datagrams).unwrap();
    fs::set_permissions(&datagrams, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    let steps: [&[&str]; 16] = [
        &["send-to", datagrams.to_str().unwrap()],
        &["make-datagrams"],
        &["give-a-peer"],
        &["take-from-a-peer"],
        &["close-the-channel"],
        &["end-a-listener"],
        &["open", &around.file],
        &["list", "/"],
        &["look", &around.file],
        &["tcp", &port],
        &["listen", "0"],
        &["fast-open", &port],
        &["udp", &udp],
        &["unix", &around.unix],
        &["abstract", &around.name],
        &["thread"],
    ];
    for step in steps {
        forbids("worker", WORKER, step, KILLED);
    }
    permits("worker", &["give-and-take-by-the-channel"]);
    assert_eq!(outcome(Command::new(probe()), "none", &["root"]), DONE);
    assert_eq!(outcome(Command::new(probe()), "worker", &["root"]), KILLED);
}

/// Behind the list of calls, which alone would be enough.
#[test]
#[ignore = "needs root: leaves for namespaces"]
fn each_layer_of_the_worker_holds_by_itself() {
    let around = Surroundings::new();
    let (port, pid) = (around.port(0), around.others[1].id().to_string());
    for (step, told) in [
        (vec!["open", &around.file], "EACCES"),
        (vec!["list", "/"], "EACCES"),
        (vec!["tcp", &port], "EACCES"),
        (vec!["listen", "0"], "EACCES"),
        (vec!["abstract", &around.name], "EPERM"),
        (vec!["signal", &pid], "EPERM"),
        (vec!["debug", &pid], "EPERM"),
    ] {
        assert_eq!(outcome(as_uid(WORKER, probe().to_str().unwrap()), "none", &step), DONE, "{step:?}");
        assert_eq!(outcome(as_uid(WORKER, probe().to_str().unwrap()), "shut", &step), told, "{step:?}");
    }
    for (step, told) in [
        (vec!["open", &around.file], "ENOENT"),
        (vec!["open", "/proc/self/status"], "ENOENT"),
        (vec!["create", "/x"], "EROFS"),
        (vec!["tcp", &port], "ENETUNREACH"),
        (vec!["unix", &around.unix], "ENOENT"),
        (vec!["abstract", &around.name], "ECONNREFUSED"),
    ] {
        assert_eq!(outcome(Command::new(probe()), "left", &step), told, "{step:?}");
    }
    assert_eq!(outcome(Command::new(probe()), "left", &["list", "/"]), DONE);
    let written = outcome(Command::new(probe()), "no-new-code", &["written-code"]);
    assert!(["EACCES", "absent"].contains(&written.as_str()), "{written}");
}

#[test]
#[ignore = "needs root: enters the sandbox as serve does"]
fn whoever_takes_over_the_parent_reaches_upstreams_and_the_cache() {
    let around = Surroundings::new();
    let role = around.parent();
    let (listed, other) = (around.port(0), around.port(1));
    for step in around.never(0) {
        forbids(&role, PARENT, &step.iter().map(String::as_str).collect::<Vec<_>>(), KILLED);
    }
    forbids(&role, PARENT, &["fast-open", &other], KILLED);
    forbids(&role, PARENT, &["open", &around.file], "EACCES");
    forbids(&role, PARENT, &["open", "/proc/self/status"], "EACCES");
    forbids(&role, PARENT, &["list", "/etc"], "EACCES");
    forbids(&role, PARENT, &["list", "/proc"], "EACCES");
    forbids(&role, PARENT, &["tcp", &other], "EACCES");
    forbids(&role, PARENT, &["listen", "0"], "EACCES");
    forbids(&role, PARENT, &["abstract", &around.name], "EPERM");
    assert_eq!(outcome(Command::new(probe()), "none", &["packets"]), DONE);
    assert_eq!(outcome(Command::new(probe()), &role, &["packets"]), KILLED);
    assert_eq!(outcome(Command::new(probe()), &role, &["root"]), KILLED);

    let cache = around.broker.path("cache");
    permits(&role, &["create", cache.join("new").to_str().unwrap()]);
    permits(&role, &["open", cache.join("new").to_str().unwrap()]);
    permits(&role, &["list", cache.to_str().unwrap()]);
    permits(&role, &["open", "/etc/hosts"]);
    permits(&role, &["tcp", &listed]);
    permits(&role, &["name"]);
    permits(&role, &["thread"]);
}

fn field(pid: u32, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned()
}

#[test]
#[ignore = "needs root: looks into the processes of others"]
fn the_kernel_shows_both_sandboxes() {
    let upstream = Upstream::start(0);
    let broker = Broker::new(upstream.port, "max-age = \"1h\"");
    assert!(broker.curl(GRANTED, KEY, &[]).starts_with("HTTP/1.1 200 OK"));
    let (parent, worker) = (broker.parent(), broker.worker());
    // Every thread of theirs.
    for pid in [parent, worker] {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let threads: Vec<u32> =
            threads.map(|thread| thread.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect();
        assert!(threads.iter().all(|thread| field(*thread, "Seccomp:") == "2"), "{threads:?}");
    }
    let namespace = |pid: u32, kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
    for kind in ["net", "mnt", "ipc", "uts"] {
        assert_eq!(namespace(parent, kind), namespace(std::process::id(), kind));
        assert_ne!(namespace(worker, kind), namespace(parent, kind), "{kind}");
    }
    assert_eq!(fs::read_dir(format!("/proc/{worker}/root")).unwrap().count(), 0);
    let mounts = fs::read_to_string(format!("/proc/{worker}/mounts")).unwrap();
    assert!(mounts.lines().count() == 1 && mounts.contains(" / tmpfs ro,nosuid,nodev,noexec"), "{mounts}");
    let interfaces = fs::read_to_string(format!("/proc/{worker}/net/dev")).unwrap();
    assert!(interfaces.lines().skip(2).all(|line| line.trim().starts_with("lo:")), "{interfaces}");
    let layers = status(&broker);
    for line in ["parent  landlock      yes", "parent  seccomp       yes", "worker  namespaces    yes"] {
        assert!(layers.contains(line), "{layers}");
    }
    assert!(layers.contains("worker  landlock      yes") && layers.contains("worker  seccomp       yes"), "{layers}");
}

fn status(broker: &Broker) -> String {
    let mut status = Command::new(env!("CARGO_BIN_EXE_keyhatch"));
    let done = status.arg("status").arg("--admin-socket").arg(broker.path("admin.sock")).output().unwrap();
    String::from_utf8(done.stdout).unwrap()
}

/// A kernel without this call.
fn serve_without(call: &str) -> Command {
    let mut command = Command::new(probe());
    command.args(["refuse", call, env!("CARGO_BIN_EXE_keyhatch")]);
    command
}

const FAILING: [(&str, &str, &[&str]); 4] = [
    ("landlock_create_ruleset", "landlock", &["parent", "worker"]),
    ("seccomp", "seccomp", &["parent", "worker"]),
    ("unshare", "namespaces", &["worker"]),
    ("pivot_root", "namespaces", &["worker"]),
];

#[test]
#[ignore = "needs root: drops to two uids"]
fn a_layer_that_fails_stops_the_start_unless_it_need_not_hold() {
    let upstream = Upstream::start(0);
    let mut broker = Broker::new(upstream.port, "max-age = \"1h\"");
    broker.end("TERM");
    for (call, layer, roles) in FAILING {
        let mut serve = serve_without(call);
        serve.args(["serve", "--config"]).arg(broker.path("keyhatch.toml")).stdin(Stdio::null());
        let done = serve.output().unwrap();
        let log = String::from_utf8(done.stderr).unwrap();
        let code = if roles.contains(&"parent") { 78 } else { 1 };
        assert_eq!(done.status.code(), Some(code), "{call}: {log}");
        let told = format!("the layer `{layer}` of the sandbox of the {} fails", roles[0]);
        assert!(log.matches(&told).count() == 1 && log.contains("best-effort"), "{call}: {log}");
    }
    let text = fs::read_to_string(broker.path("keyhatch.toml")).unwrap();
    broker.write("keyhatch.toml", &text.replace("[server]", "[server]\nsandbox = \"best-effort\""), 0o600);
    for (call, layer, roles) in FAILING {
        broker.start_by(serve_without(call), &[]);
        assert!(broker.curl(GRANTED, KEY, &[]).starts_with("HTTP/1.1 200 OK"), "{call}: {}", broker.log());
        let layers = status(&broker);
        for role in roles {
            assert!(layers.contains(&format!("{role}  {layer:12}  NO     missing: ")), "{call}: {layers}");
        }
        assert_eq!(layers.matches(" NO ").count(), roles.len(), "{call}: {layers}");
        assert_eq!(broker.end("TERM"), Some(0), "{}", broker.log());
        let told = format!("the layer `{layer}` of the sandbox of the {} is missing", roles[roles.len() - 1]);
        assert!(broker.log().contains(&told), "{call}: {}", broker.log());
    }
}

/// As under the hardened unit: without the capabilities for namespaces nothing stops, and the other layers hold.
#[test]
#[ignore = "needs root: takes capabilities from a root"]
fn without_the_capabilities_the_worker_stays_where_it_is() {
    let upstream = Upstream::start(0);
    let mut broker = Broker::new(upstream.port, "max-age = \"1h\"");
    broker.end("TERM");
    for missing in ["-sys_admin", "-sys_chroot"] {
        let mut serve = Command::new("setpriv");
        serve.args(["--bounding-set", missing, env!("CARGO_BIN_EXE_keyhatch")]);
        broker.start_by(serve, &[]);
        assert!(broker.curl(GRANTED, KEY, &[]).starts_with("HTTP/1.1 200 OK"), "{}", broker.log());
        let layers = status(&broker);
        assert!(layers.contains("worker  namespaces    NO     not its own: CAP_SYS_ADMIN"), "{layers}");
        assert_eq!(layers.matches(" NO ").count(), 1, "{layers}");
        assert_eq!(field(broker.worker(), "Seccomp:"), "2");
        broker.end("TERM");
    }
}
