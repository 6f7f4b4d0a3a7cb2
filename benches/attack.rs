//! How long a granted user waits while others attack: `cargo bench --bench attack`, as root, after
//! `cargo build --release --examples`. (`--profile dev` needs the examples of that profile.)
//!
//! Run by `taskset -c 0`: then the attackers have core 1 for themselves, and only what they cost the broker is measured. The user
//! runs before the broker, by `chrt --fifo`: on one core the kernel else decides how long it waits for the broker to rest.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement may panic")]

#[path = "../tests/limits/crowd.rs"]
mod crowd;
#[path = "../tests/support/mod.rs"]
mod support;

use std::process::Command;

use crowd::{Staying, Swarm, allow_open_files, command, measure, open_files};
use support::{Broker, GRANTED, PARENT, STRANGER, Upstream, WORKER, wait_until};

const KEY: &str = "/billing/database-url";
const OTHER: u32 = STRANGER + 1;
const ROUNDS: usize = 5;

/// The uid, and the arguments of its swarm.
type Attack<'a> = (u32, &'a [&'a str]);

/// The user that is measured.
fn user(broker: &Broker, mode: &str) -> Command {
    let swarm = command(broker, GRANTED, &[mode, "3000", KEY]);
    let mut first = Command::new("chrt");
    first.args(["--fifo", "1"]).arg(swarm.get_program()).args(swarm.get_args());
    first
}

fn median(measured: impl Fn() -> u64) -> u64 {
    let mut figures: Vec<u64> = (0..ROUNDS).map(|_| measured()).collect();
    figures.sort_unstable();
    figures[ROUNDS / 2]
}

/// On a connection that was there before, while these roles, with their users, have no descriptor left: nobody new comes in then.
fn starved(broker: &Broker, roles: &[(u32, u32)], figure: &str) -> u64 {
    let staying = Staying::start(user(broker, "stay"));
    let enough: Vec<u64> = roles.iter().map(|(pid, _)| open_files(*pid)).collect();
    roles.iter().for_each(|(pid, uid)| allow_open_files(*pid, *uid, 3));
    let measured = staying.measure();
    roles.iter().zip(enough).for_each(|((pid, uid), enough)| allow_open_files(*pid, *uid, enough));
    measured[figure].as_u64().unwrap()
}

/// That the worker has open.
fn files(broker: &Broker) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", broker.worker())).unwrap().count()
}

fn main() {
    let upstream = Upstream::start(0);
    let broker = Broker::new(upstream.port, "max-age = \"1h\"");
    assert!(broker.curl(GRANTED, KEY, &[]).starts_with("HTTP/1.1 200"));
    let at_rest = files(&broker);
    let only = std::env::args().nth(1).filter(|name| !name.starts_with("--"));
    let attacks: [(&str, &[Attack<'_>]); 7] = [
        ("quiet", &[]),
        ("10,000 slow connections", &[(STRANGER, &["stare", "10000", KEY])]),
        ("garbage on 64 connections", &[(OTHER, &["garbage", "64"])]),
        ("pipelined denials on 64", &[(OTHER, &["deny", "64"])]),
        ("garbage, closed at once", &[(OTHER, &["rush", "64"])]),
        ("slow and garbage", &[(STRANGER, &["stare", "10000", KEY]), (OTHER, &["garbage", "64"])]),
        ("quiet again", &[]),
    ];
    let roles = [(broker.parent(), PARENT), (broker.worker(), WORKER)];
    let without: [(&str, &[(u32, u32)]); 3] = [
        ("no descriptors, worker", &roles[1..]),
        ("no descriptors, parent", &roles[..1]),
        ("no descriptors, both", &roles),
    ];
    println!("{:28} {:>16} {:>16}", "", "kept: p50 p99", "anew: p50 p99");
    for (name, swarms) in attacks {
        if only.as_ref().is_some_and(|only| !name.contains(only.as_str())) {
            continue;
        }
        let crowd: Vec<Swarm> = swarms.iter().map(|(uid, arguments)| Swarm::start(&broker, *uid, arguments)).collect();
        crowd.iter().for_each(|swarm| swarm.move_to("1"));
        crowd.iter().for_each(Swarm::goes_on);
        let figure = |mode, figure| median(|| measure(user(&broker, mode))[figure].as_u64().unwrap());
        let of = |mode| format!("{:>8} {:>7}", figure(mode, "p50"), figure(mode, "p99"));
        println!("{name:28} {} {}", of("measure"), of("knock"));
        crowd.iter().for_each(Swarm::goes_on);
        drop(crowd);
        wait_until("nothing is left of them", || files(&broker) <= at_rest);
    }
    let crowd =
        [Swarm::start(&broker, STRANGER, &["stare", "10000", KEY]), Swarm::start(&broker, OTHER, &["garbage", "64"])];
    crowd.iter().for_each(|swarm| swarm.move_to("1"));
    for (name, roles) in without {
        if only.as_ref().is_some_and(|only| !name.contains(only.as_str())) {
            continue;
        }
        crowd.iter().for_each(Swarm::goes_on);
        let of = |figure| median(|| starved(&broker, roles, figure));
        println!("{name:28} {:>8} {:>7}", of("p50"), of("p99"));
    }
}
