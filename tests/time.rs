//! Clocks that are wrong, set, and stopped by suspend: no value becomes younger than it is, none is lost. The program runs
//! by clocks of its own (`tests/time/clock.rs`); those of the machine are never touched.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{DirEntryExt, FileExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use support::process::Process;
use support::serving::{GOOD, at, configuration};
use support::{Broker, GRANTED, Upstream, VALUE, memory_holds, wait_until};

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

/// An upstream, and a broker whose clocks can be moved.
struct Scene {
    upstream: Process,
    broker: Broker,
    /// By how many seconds the wall clock and the clock since boot are ahead.
    ahead: (i64, i64),
}

impl Scene {
    /// With one key, `/k`, of these settings.
    fn new(settings: &'static str, wall: i64) -> Self {
        let mut upstream = None;
        let broker = Broker::prepared(|directory| {
            let started = Process::start(directory);
            let text = configuration(&[("k", at(&started, "/good", ""), settings)]);
            upstream = Some(started);
            text
        });
        let examples = Path::new(env!("CARGO_BIN_EXE_keyhatch")).with_file_name("examples");
        fs::copy(examples.join("clock"), broker.path("program")).unwrap();
        fs::set_permissions(broker.path("program"), fs::Permissions::from_mode(0o755)).unwrap();
        broker.write("clocks", &"\0".repeat(16), 0o600);
        let mut scene = Self { upstream: upstream.unwrap(), broker, ahead: (0, 0) };
        scene.step(wall, 0);
        scene.start();
        scene
    }

    fn start(&mut self) {
        self.broker.start_by(Command::new(self.broker.path("program")), &[]);
    }

    fn restart(&mut self, signal: &str) {
        self.broker.end(signal);
        self.start();
    }

    /// Sets the wall clock this much forward, and lets that much pass on the clock since boot.
    fn step(&mut self, wall: i64, boot: i64) {
        self.ahead = (self.ahead.0 + wall, self.ahead.1 + boot);
        let clocks = File::options().write(true).open(self.broker.path("clocks")).unwrap();
        for (place, seconds) in [(0, self.ahead.0), (8, self.ahead.1)] {
            clocks.write_all_at(&(seconds * 1_000_000_000).to_ne_bytes(), place).unwrap();
        }
    }

    fn ask(&self) -> String {
        self.broker.curl(GRANTED, "/k", &[])
    }

    /// The age of the value, which is there.
    fn age(&self) -> i64 {
        let answer = self.ask();
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with(GOOD), "{answer}\n{}", self.broker.log());
        let age: i64 = answer.lines().find_map(|line| line.strip_prefix("age: ")).unwrap().trim().parse().unwrap();
        assert!(age >= 0, "{answer}");
        age
    }

    /// What is sealed: names and inodes.
    fn files(&self) -> BTreeMap<String, u64> {
        let files = fs::read_dir(self.broker.path("cache")).unwrap().map(Result::unwrap);
        let files = files.map(|file| (file.file_name().into_string().unwrap(), file.ino()));
        files.filter(|(name, _)| !name.starts_with('.')).collect()
    }

    /// How many of these files have others in their place.
    fn rewritten(&self, before: &BTreeMap<String, u64>) -> usize {
        let now = self.files();
        before.iter().filter(|(name, inode)| now.get(*name) != Some(inode)).count()
    }

    fn comes_of_age(&self, least: i64) {
        wait_until(&format!("it is {least} s old, at least"), || self.age() >= least);
        // A minute for what a crash or a slow machine adds.
        assert!(self.age() < least + 90, "{} is more than {least}", self.age());
    }
}

#[test]
#[ignore = "needs root: drops to two uids"]
fn set_forward_it_ends_what_the_worker_holds() {
    let mut scene = Scene::new("max-age = \"12h\"", 0);
    assert_eq!(scene.age(), 0);
    assert!(scene.ask().contains("cache-status: keyhatch; hit; ttl="));
    scene.step(DAY, 0);
    wait_until("the upstream is asked", || scene.ask().contains("fwd=stale"));
    assert!(scene.ask().contains("hit; ttl=43"), "young again");

    scene.upstream.stop();
    scene.step(DAY, 0);
    scene.comes_of_age(DAY);
    scene.restart("TERM");
    scene.comes_of_age(DAY);
}

#[test]
#[ignore = "needs root: drops to two uids"]
fn a_value_that_never_is_stale_tells_its_age_by_the_clock_that_was_set() {
    let mut scene = Scene::new("max-age = \"forever\"", 0);
    assert_eq!(scene.age(), 0);
    scene.step(DAY, 0);
    scene.comes_of_age(DAY);
    assert_eq!(scene.upstream.requests_for("/good").len(), 1, "and is fresh");
}

#[test]
#[ignore = "needs root: drops to two uids"]
fn set_back_it_makes_nothing_younger() {
    for signal in ["TERM", "KILL"] {
        let mut scene = Scene::new("", 0);
        assert_eq!(scene.age(), 0);
        scene.upstream.stop();
        scene.step(HOUR, HOUR);
        scene.comes_of_age(HOUR);
        scene.step(-DAY, 0);
        scene.comes_of_age(HOUR);
        scene.restart(signal);
        scene.comes_of_age(HOUR);
        scene.step(-DAY, HOUR);
        scene.comes_of_age(2 * HOUR);
        scene.step(2 * DAY, 0);
        scene.comes_of_age(2 * HOUR);
    }
}

#[test]
#[ignore = "needs root: drops to two uids"]
fn a_clock_that_is_wrong_at_boot_loses_nothing() {
    let mut scene = Scene::new("stale-if-error = \"forever\"", 0);
    assert_eq!(scene.age(), 0);
    scene.upstream.stop();
    // As after a boot without a battery: 1970, until the time is known.
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let wrong = i64::try_from(since_epoch.as_secs()).unwrap() - 100;
    scene.broker.end("TERM");
    scene.step(-wrong, 0);
    scene.start();
    scene.comes_of_age(0);
    scene.step(wrong + DAY, 0);
    scene.comes_of_age(DAY);

    // Fetched while the time was not known: older than it is by what was unknown, never younger.
    let mut scene = Scene::new("stale-if-error = \"forever\"", -wrong);
    assert_eq!(scene.age(), 0);
    scene.upstream.stop();
    scene.step(wrong, 0);
    scene.comes_of_age(wrong);
}

#[test]
#[ignore = "needs root: drops to two uids"]
fn suspend_counts() {
    let mut scene = Scene::new("max-age = \"30m\"", 0);
    assert_eq!(scene.age(), 0);
    scene.upstream.stop();
    assert!(scene.ask().contains("hit; ttl=17"));
    // The clock that timers run by stands still meanwhile.
    scene.step(HOUR, HOUR);
    assert!(scene.age() >= HOUR, "at once");
    scene.comes_of_age(HOUR);
    // Also where the wall clock is not set before somebody asks.
    scene.step(0, HOUR);
    assert!(scene.age() >= 2 * HOUR, "at once");
    scene.restart("KILL");
    scene.comes_of_age(2 * HOUR);
}

#[test]
#[ignore = "needs root: drops to two uids"]
fn what_is_confirmed_costs_one_small_write_a_minute_and_is_a_minute_behind_at_most() {
    let mut scene = Scene::new("stale-if-error = \"forever\"", 0);
    assert_eq!(scene.age(), 0);
    wait_until("the value and the clock are sealed", || scene.files().len() == 2);
    let before = scene.files();
    let asked = |scene: &Scene| (0..20).for_each(|_| assert_eq!(scene.age(), 0));
    asked(&scene);
    assert_eq!(scene.files(), before, "written again");

    scene.step(61, 61);
    asked(&scene);
    wait_until("the age and the clock are", || scene.files().len() == 3 && scene.rewritten(&before) == 1);
    let before = scene.files();
    asked(&scene);
    scene.step(50, 50);
    asked(&scene);
    assert_eq!(scene.files(), before, "twice in a minute");
    assert_eq!(scene.upstream.requests_for("/good").len(), 81, "and was asked for each answer");

    // The answer waits for it: no crash comes between.
    for (passed, ages) in [(0, 50..112), (61, 0..60)] {
        scene.step(passed, passed);
        wait_until("the upstream answers", || scene.age() == 0);
        scene.upstream.behave("/good", "/status/503");
        scene.restart("KILL");
        let age = scene.age();
        assert!(ages.contains(&age), "{age} after {passed}");
        scene.upstream.behave("/good", "/good");
    }
}

#[test]
#[ignore = "needs root: drops to two uids"]
fn what_is_confirmed_is_not_tried_again_and_again_where_the_disk_takes_nothing() {
    let mut scene = Scene::new("", 0);
    assert_eq!(scene.age(), 0);
    wait_until("the value and the clock are sealed", || scene.files().len() == 2);
    fs::set_permissions(scene.broker.path("cache"), fs::Permissions::from_mode(0o500)).unwrap();
    for _ in 0..5 {
        scene.step(61, 61);
        (0..10).for_each(|_| assert_eq!(scene.age(), 0));
    }
    let log = scene.broker.log();
    // The clock and the ages, and once more if all of this took 20 s.
    let told = log.lines().filter(|line| line.contains("persisted")).count();
    assert!((1..=4).contains(&told), "{told}: {log}");
}

/// By the clock, and not by the next request.
#[test]
#[ignore = "needs root: drops to two uids and reads the memory of others"]
fn a_value_is_in_the_worker_for_as_long_as_its_lease() {
    const KEY: &str = "/billing/database-url";
    let upstream = Upstream::start(0);
    let broker = Broker::new(upstream.port, "max-age = \"4s\"");
    assert!(broker.curl(GRANTED, KEY, &[]).starts_with("HTTP/1.1 200 OK"));
    let holds = |pid| memory_holds(pid, VALUE.as_bytes());
    assert!(holds(broker.worker()), "the scan finds what is there");
    wait_until("the lease is over, and the value wiped", || !holds(broker.worker()));
    assert!(holds(broker.parent()), "it is the last known good");
}
