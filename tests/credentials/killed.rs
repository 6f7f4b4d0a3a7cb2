//! The end of either role at any moment after a connection was accepted: the surviving one refuses what has no value.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime};

use nix::sys::socket::Shutdown;

use super::support::channel::End;
use super::support::wait_until;
use super::*;

/// Of these the buffer of a socket (some 200 KiB) holds a part.
const LARGE: [(&str, usize); 2] = [("web.middling", MIDDLING), ("web.large", 1_000_000)];

fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// With an upstream that does not answer until it is told to.
fn scene(name: &str) -> (Upstream, Broker, Group, String) {
    let upstream = Upstream::start(0);
    upstream.held.store(true, Ordering::SeqCst);
    let unit = unit(name);
    let broker =
        broker(upstream.port, "timeout = \"30s\"", &client("named", &unit, "keys = [\"/web/*\", \"/billing/*\"]"));
    // Who connects as another user comes here, too.
    fs::set_permissions(broker.directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let group = Group::new(&unit);
    (upstream, broker, group, unit)
}

/// The worker has accepted and handed over; the parent has not looked yet.
#[test]
#[ignore = "needs root: makes control groups"]
fn the_worker_dies_while_the_parent_stands_still() {
    let (_upstream, mut broker, group, unit) = scene("worker-early");
    let (parent, worker) = (broker.parent(), broker.worker());
    send("STOP", parent);
    let before = descriptors(worker);
    let asking = group.ask(&broker.path("keyhatch.sock"), &[address(1, &unit, "web.db-password")]);
    wait_until("it is accepted", || descriptors(worker) > before);
    send("KILL", worker);
    wait_until("the worker is dead", || descriptors(worker) == 0);
    send("CONT", parent);
    let read = asking.read_one();
    assert!(read.fails_the_unit() || read.text == "the password", "{read:?}\n{}", broker.log());
    wait_until("the parent follows", || broker.has_ended());
}

/// More than the channel holds: the worker accepts no more than it can hand over, but one.
#[test]
#[ignore = "needs root: makes control groups"]
fn the_worker_dies_with_a_full_channel() {
    let (_upstream, mut broker, group, unit) = scene("worker-full");
    let (parent, worker) = (broker.parent(), broker.worker());
    let socket = broker.path("keyhatch.sock");
    let names: Vec<String> = (0..600).map(|n| address(n, &unit, "web.db-password")).collect();
    send("STOP", parent);
    let before = descriptors(worker);
    let asking = Asking::begun(&socket, &group.procs(), 0, &names);
    let mut last = (before, 0);
    wait_until("the channel is full", || {
        let now = descriptors(worker);
        last = if now == last.0 && now > before { (now, last.1 + 1) } else { (now, 0) };
        last.1 > 20
    });
    assert!(last.0 - before < 500, "{} were accepted", last.0 - before);
    send("KILL", worker);
    wait_until("the worker is dead", || descriptors(worker) == 0);
    send("CONT", parent);
    // The one that is accepted and not handed over has no other holder: docs/threat-model.md says so.
    let empty = asking.read().into_iter().filter(|read| !read.fails_the_unit() && read.text.is_empty());
    assert!(empty.count() <= 1, "{}", broker.log());
    wait_until("the parent follows", || broker.has_ended());
}

#[test]
#[ignore = "needs root: makes control groups"]
fn the_worker_dies_while_the_parent_fetches() {
    let (upstream, mut broker, group, unit) = scene("worker-late");
    let asking = group.ask(&broker.path("keyhatch.sock"), &[address(1, &unit, "billing.database-url")]);
    wait_until("it is fetched", || upstream.calls.load(Ordering::SeqCst) == 1);
    send("KILL", broker.worker());
    let read = asking.read_one();
    assert!(read.fails_the_unit(), "{read:?}\n{}", broker.log());
    wait_until("the parent follows", || broker.has_ended());
}

#[test]
#[ignore = "needs root: makes control groups"]
fn the_parent_dies_before_it_has_looked_and_while_it_fetches() {
    let (_upstream, mut broker, group, unit) = scene("parent-early");
    let worker = broker.worker();
    send("STOP", broker.parent());
    let before = descriptors(worker);
    let asking = group.ask(&broker.path("keyhatch.sock"), &[address(1, &unit, "web.db-password")]);
    wait_until("it is accepted", || descriptors(worker) > before);
    broker.end("KILL");
    assert!(asking.read_one().fails_the_unit());

    let (upstream, mut broker, group, unit) = scene("parent-late");
    let names: Vec<String> = (0..100).map(|n| address(n, &unit, "billing.database-url")).collect();
    let asking = group.ask(&broker.path("keyhatch.sock"), &names);
    wait_until("it is fetched", || upstream.calls.load(Ordering::SeqCst) == 1);
    wait_until("all are with the worker", || descriptors(broker.worker()) >= names.len());
    broker.end("KILL");
    let read = asking.read();
    assert!(read.iter().all(Read::fails_the_unit), "{read:?}");
}

/// A part of a value is no value: what follows it makes it too long.
#[test]
#[ignore = "needs root: makes control groups"]
fn either_role_dies_in_the_middle_of_a_value() {
    for (parent_dies, (id, length)) in [true, false].into_iter().flat_map(|dies| LARGE.map(|large| (dies, large))) {
        let (_upstream, mut broker, group, unit) = scene(if parent_dies { "parent-mid" } else { "worker-mid" });
        let mut asking = group.ask(&broker.path("keyhatch.sock"), &[address(1, &unit, id)]);
        // Nobody reads: the buffer of the socket holds some 200 KiB.
        asking.peek();
        if parent_dies {
            broker.end("KILL");
        } else {
            send("KILL", broker.worker());
        }
        let read = asking.read_one();
        let whole = !parent_dies && read.length == length;
        assert!(read.fails_the_unit() || whole, "{read:?}\n{}", broker.log());
        wait_until("the other follows", || broker.has_ended());
    }
}

/// Both roles live on for as long as they need to refuse what they hold.
#[test]
#[ignore = "needs root: makes control groups, takes a descriptor of another process"]
fn the_channel_is_cut_before_while_and_after_the_parent_fetches() {
    for (n, how) in [Shutdown::Read, Shutdown::Write, Shutdown::Both].into_iter().enumerate() {
        // On its way to the parent.
        let (_upstream, mut broker, group, unit) = scene(&format!("cut-early-{n}"));
        let (parent, worker) = (broker.parent(), broker.worker());
        send("STOP", parent);
        let before = descriptors(worker);
        let asking = group.ask(&broker.path("keyhatch.sock"), &[address(1, &unit, "web.db-password")]);
        wait_until("it is accepted", || descriptors(worker) > before);
        wait_until("it is handed over", || End::of(parent).unwrap().has_waiting());
        End::of(parent).unwrap().cut(how);
        send("CONT", parent);
        let read = asking.read_one();
        assert!(read.fails_the_unit() || read.text == "the password", "{how:?}: {read:?}\n{}", broker.log());
        wait_until("both end", || broker.has_ended() && descriptors(worker) == 0);

        let (upstream, mut broker, group, unit) = scene(&format!("cut-late-{n}"));
        let worker = broker.worker();
        let asking = group.ask(&broker.path("keyhatch.sock"), &[address(1, &unit, "billing.database-url")]);
        wait_until("it is fetched", || upstream.calls.load(Ordering::SeqCst) == 1);
        End::of(broker.parent()).unwrap().cut(how);
        let read = asking.read_one();
        assert!(read.fails_the_unit(), "{how:?}: {read:?}\n{}", broker.log());
        wait_until("both end", || broker.has_ended() && descriptors(worker) == 0);

        for (id, length) in LARGE {
            let (_upstream, mut broker, group, unit) = scene(&format!("cut-mid-{n}"));
            let worker = broker.worker();
            let mut asking = group.ask(&broker.path("keyhatch.sock"), &[address(1, &unit, id)]);
            asking.peek();
            End::of(broker.parent()).unwrap().cut(how);
            let read = asking.read_one();
            assert!(read.fails_the_unit() || read.length == length, "{how:?}: {read:?}\n{}", broker.log());
            wait_until("both end", || broker.has_ended() && descriptors(worker) == 0);
        }
    }
}

/// Both have the connections then and refuse them: a value with some of those words in it would be taken for one.
#[test]
#[ignore = "needs root: makes control groups, takes a descriptor of another process"]
fn either_role_ends_by_an_error_in_the_middle_of_a_value() {
    let frame_of_nobody = [200];
    for of_parent in [true, false] {
        let (_upstream, mut broker, group, unit) = scene(if of_parent { "parent-error" } else { "worker-error" });
        let (parent, worker) = (broker.parent(), broker.worker());
        let names: Vec<String> = (0..10).map(|n| address(n, &unit, "web.middling")).collect();
        let mut asking = group.ask(&broker.path("keyhatch.sock"), &names);
        asking.peek();
        // What one is told in the name of the other.
        End::of(if of_parent { worker } else { parent }).unwrap().put(&frame_of_nobody);
        for read in asking.read() {
            assert!(read.fails_the_unit() || read.length == MIDDLING, "{read:?}\n{}", broker.log());
        }
        wait_until("both end", || broker.has_ended() && descriptors(worker) == 0);
    }
}

/// It cannot be told anything. The last state is sealed meanwhile, and the service ends by itself before systemd ends it
/// (`TimeoutStopSec=10s`).
#[test]
#[ignore = "needs root: makes control groups"]
fn a_reader_that_stands_still_does_not_keep_the_last_state_from_being_sealed() {
    let (_upstream, mut broker, group, unit) = scene("still");
    let mut asking = group.ask(&broker.path("keyhatch.sock"), &[address(1, &unit, "web.middling")]);
    asking.peek();
    let (began, told) = (SystemTime::now(), "units do not read that they have no credential");
    send("TERM", broker.parent());
    log_says(&broker, &["credential refused", "the broker ends in the middle"]);
    let sealed = || fs::metadata(broker.path("cache")).unwrap().modified().unwrap();
    // The drain takes 5 s.
    wait_until("the last state is sealed", || sealed() > began + Duration::from_secs(4));
    assert!(!broker.log().contains(told), "{}", broker.log());
    wait_until("it ends", || broker.has_ended());
    assert!(began.elapsed().unwrap() < Duration::from_millis(9500), "{began:?}\n{}", broker.log());
    // In good order: a failure has a line.
    assert!(broker.log().contains(told) && !broker.log().contains("ended: "), "{}", broker.log());
    drop(asking);
}

/// What is not read by the end of the drain is refused by both, and not ended by one while the other writes.
#[test]
#[ignore = "needs root: makes control groups"]
fn a_reader_that_begins_late_has_no_value_with_other_bytes_in_it() {
    let (_upstream, mut broker, group, unit) = scene("late-reader");
    let names: Vec<String> = (0..10).map(|n| address(n, &unit, "web.middling")).collect();
    let mut asking = group.ask(&broker.path("keyhatch.sock"), &names);
    asking.peek();
    send("TERM", broker.parent());
    log_says(&broker, &["credential refused", "the broker ends in the middle"]);
    for read in asking.read() {
        assert!(read.fails_the_unit(), "{read:?}\n{}", broker.log());
    }
    wait_until("it ends", || broker.has_ended());
}
