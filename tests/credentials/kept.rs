//! Both roles die at once: whoever keeps the connections has them for the next broker. Here that is the test, as systemd would.

use std::io::Read as _;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::time::Duration;

use keyhatch::sys::pass;

use super::*;

/// What systemd gives to a service.
struct ServiceManager(UnixDatagram);

impl ServiceManager {
    fn of(broker: &Broker) -> Self {
        let socket = UnixDatagram::bind(broker.path("notify")).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self(socket)
    }

    /// Starts a broker that may have its connections kept, and passes it what was kept of another one.
    fn start(&self, broker: &mut Broker, kept: Option<OwnedFd>) {
        let mut serve = Command::new("sh");
        let passing = "LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=credential";
        let variables = if kept.is_some() { passing } else { "" };
        let script = format!("exec 3>&1 1>/dev/null; {variables} exec \"$0\" \"$@\"");
        serve.args(["-c", &script]).arg(env!("CARGO_BIN_EXE_keyhatch"));
        serve.env("NOTIFY_SOCKET", broker.path("notify")).env("FDSTORE", "1");
        serve.stdout(kept.map_or_else(Stdio::null, Stdio::from));
        broker.start_by(serve, &[]);
    }

    /// The next connection to keep.
    fn kept(&self) -> OwnedFd {
        loop {
            let (mut bytes, mut fds) = ([0; 4096], Vec::new());
            let length = pass::receive(self.0.as_fd(), &mut bytes, &mut fds).unwrap();
            if bytes[..length].starts_with(b"FDSTORE=1") {
                assert_eq!((&bytes[..length], fds.len()), (&b"FDSTORE=1\nFDNAME=credential"[..], 1));
                return fds.remove(0);
            }
            assert!(fds.is_empty());
        }
    }
}

fn scene(name: &str) -> (Upstream, Broker, ServiceManager, Group, String) {
    let upstream = Upstream::start(0);
    upstream.held.store(true, Ordering::SeqCst);
    let unit = unit(name);
    let clients = client("named", &unit, "keys = [\"/web/*\", \"/billing/*\"]");
    let mut broker = Broker::prepared(|_| configuration(upstream.port, "timeout = \"30s\"", &clients));
    broker.write("password", "the password", 0o600);
    broker.write("object", "{}", 0o600);
    broker.write("empty", "\"\"", 0o600);
    // With a part of it before it, it would still be no longer than a credential can be.
    broker.write("large", &"v".repeat(600_000), 0o600);
    broker.write("middling", "", 0o600);
    broker.write("huge", "", 0o600);
    let manager = ServiceManager::of(&broker);
    manager.start(&mut broker, None);
    let group = Group::new(&unit);
    (upstream, broker, manager, group, unit)
}

/// Neither has a last word.
fn kill_both(broker: &mut Broker) {
    let worker = broker.worker();
    send("STOP", worker);
    broker.end("KILL");
    send("KILL", worker);
}

#[test]
#[ignore = "needs root: makes control groups"]
fn what_nothing_was_written_to_waits_for_the_next_broker() {
    let (upstream, mut broker, manager, group, unit) = scene("kept");
    let asking = group.ask(&broker.path("keyhatch.sock"), &[address(1, &unit, "billing.database-url")]);
    let kept = manager.kept();
    wait_until("it is fetched", || upstream.calls.load(Ordering::SeqCst) == 1);
    kill_both(&mut broker);
    manager.start(&mut broker, Some(kept));
    upstream.held.store(false, Ordering::SeqCst);
    let read = asking.read_one();
    assert_eq!((read.ended, read.text.as_str()), (true, VALUE), "{}", broker.log());
    log_says(&broker, &["INFO credential ", &format!("unit={unit}"), "client=\"named\""]);
    // It is judged anew, too.
    upstream.held.store(true, Ordering::SeqCst);
    let asking = group.ask(&broker.path("keyhatch.sock"), &[address(1, &unit, "billing.database-url")]);
    let kept = manager.kept();
    kill_both(&mut broker);
    broker.configure(&configuration(upstream.port, "", &client("other", "other.service", "keys = \"/**\"")));
    manager.start(&mut broker, Some(kept));
    assert!(asking.read_one().fails_the_unit(), "{}", broker.log());
    log_says(&broker, &["credential refused", &format!("unit={unit}"), "no client grants it to the unit"]);
}

#[test]
#[ignore = "needs root: makes control groups"]
fn what_something_was_written_to_is_refused_by_the_next_broker() {
    let (_upstream, mut broker, manager, group, unit) = scene("begun");
    let mut asking = group.ask(&broker.path("keyhatch.sock"), &[address(1, &unit, "web.large")]);
    let kept = manager.kept();
    // Nobody reads: the buffer of the socket holds some 200 KiB.
    asking.peek();
    kill_both(&mut broker);
    manager.start(&mut broker, Some(kept));
    let read = asking.read_one();
    assert!(read.fails_the_unit(), "{read:?}\n{}", broker.log());
    log_says(&broker, &["credential refused", &format!("unit={unit}"), "something was written"]);
}

/// It lies in the buffer of the socket, and nobody has anything to add.
#[test]
#[ignore = "needs root: makes control groups"]
fn what_was_served_and_is_not_read_yet_is_not_refused_by_the_next_broker() {
    let (_upstream, mut broker, manager, group, unit) = scene("served");
    let mut asking = group.ask(&broker.path("keyhatch.sock"), &[address(1, &unit, "web.db-password")]);
    let kept = manager.kept();
    asking.peek();
    log_says(&broker, &["INFO credential ", &format!("unit={unit}")]);
    kill_both(&mut broker);
    manager.start(&mut broker, Some(kept));
    // By now it has looked at what was kept.
    assert_eq!(ask(&broker, &group, &unit, "web.object").text, "{}");
    assert!(!broker.log().contains("credential refused"), "{}", broker.log());
    let read = asking.read_one();
    assert_eq!((read.ended, read.text.as_str()), (true, "the password"));
}

#[test]
#[ignore = "needs root: makes control groups"]
fn what_is_no_credential_is_not_written_to_and_costs_no_start() {
    let (_upstream, mut broker, manager, group, unit) = scene("stray");
    kill_both(&mut broker);
    let (stray, mut other) = UnixStream::pair().unwrap();
    manager.start(&mut broker, Some(stray.into()));
    let mut read = Vec::new();
    other.read_to_end(&mut read).unwrap();
    assert!(read.is_empty());
    assert_eq!(ask(&broker, &group, &unit, "web.db-password").text, "the password");
}

/// Its queue is full, and nobody reads it.
#[test]
#[ignore = "needs root: makes control groups"]
fn no_unit_waits_for_the_service_manager() {
    let (upstream, broker, manager, group, unit) = scene("unheard");
    let most: usize = std::fs::read_to_string("/proc/sys/net/unix/max_dgram_qlen").unwrap().trim().parse().unwrap();
    let names: Vec<String> = (0..2 * most + 9).map(|n| address(n, &unit, "web.db-password")).collect();
    for read in group.ask(&broker.path("keyhatch.sock"), &names).read() {
        assert_eq!((read.ended, read.text.as_str()), (true, "the password"));
    }
    // What waits is told as soon as there is room.
    let asking = group.ask(&broker.path("keyhatch.sock"), &[address(1, &unit, "billing.database-url")]);
    wait_until("it is fetched", || upstream.calls.load(Ordering::SeqCst) == 1);
    let is_it = |kept: OwnedFd| {
        let name = keyhatch::sys::peer::abstract_name(kept.as_fd()).unwrap().unwrap();
        name.ends_with(b"billing.database-url")
    };
    wait_until("it is kept", || is_it(manager.kept()));
    drop(asking);
}
