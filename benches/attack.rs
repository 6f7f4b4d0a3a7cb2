//! How long a granted user waits while others attack: `cargo bench --bench attack`, as root, after
//! `cargo build --release --examples`. (`--profile dev` needs the examples of that profile.)
//!
//! Run by `taskset -c 0`: then the attackers have core 1 for themselves, and only what they cost the broker is measured.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement may panic")]

#[path = "../tests/limits/crowd.rs"]
mod crowd;
#[path = "../tests/support/mod.rs"]
mod support;

use crowd::{Staying, Swarm, allow_open_files, measure, open_files};
use support::{Broker, GRANTED, PARENT, STRANGER, Upstream, WORKER};

const KEY: &str = "/billing/database-url";
const OTHER: u32 = STRANGER + 1;
const ROUNDS: usize = 5;

/// The uid, and the arguments of its swarm.
type Attack<'a> = (u32, &'a [&'a str]);

fn median(broker: &Broker, mode: &str, figure: &str) -> u64 {
    let mut figures: Vec<u64> =
        (0..ROUNDS).map(|_| measure(broker, GRANTED, mode, 3000, KEY)[figure].as_u64().unwrap()).collect();
    figures.sort_unstable();
    figures[ROUNDS / 2]
}

/// The same on a kept connection, while these roles have no descriptor left: nobody new comes in then.
fn starved_median(broker: &Broker, roles: &[(u32, u32)], figure: &str) -> u64 {
    let mut figures: Vec<u64> = (0..ROUNDS)
        .map(|_| {
            let staying = Staying::start(broker, GRANTED, 3000, KEY);
            let enough: Vec<u64> = roles.iter().map(|(pid, _)| open_files(*pid)).collect();
            roles.iter().for_each(|(pid, uid)| allow_open_files(*pid, *uid, 3));
            let measured = staying.measure();
            roles.iter().zip(enough).for_each(|((pid, uid), enough)| allow_open_files(*pid, *uid, enough));
            measured[figure].as_u64().unwrap()
        })
        .collect();
    figures.sort_unstable();
    figures[ROUNDS / 2]
}

fn main() {
    let upstream = Upstream::start(0);
    let broker = Broker::new(upstream.port, "max-age = \"1h\"");
    assert!(broker.curl(GRANTED, KEY, &[]).starts_with("HTTP/1.1 200"));
    let only = std::env::args().nth(1).filter(|name| !name.starts_with("--"));
    let attacks: [(&str, &[Attack<'_>]); 6] = [
        ("quiet", &[]),
        ("10,000 slow connections", &[(STRANGER, &["stare", "10000", KEY])]),
        ("garbage on 64 connections", &[(OTHER, &["garbage", "64"])]),
        ("pipelined denials on 64", &[(OTHER, &["deny", "64"])]),
        ("slow and garbage", &[(STRANGER, &["stare", "10000", KEY]), (OTHER, &["garbage", "64"])]),
        ("quiet again", &[]),
    ];
    let roles = [(broker.parent(), PARENT), (broker.worker(), WORKER)];
    let starved: [(&str, &[(u32, u32)]); 3] = [
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
        let of = |mode| format!("{:>8} {:>7}", median(&broker, mode, "p50"), median(&broker, mode, "p99"));
        println!("{name:28} {} {}", of("measure"), of("knock"));
        crowd.iter().for_each(Swarm::goes_on);
    }
    let crowd =
        [Swarm::start(&broker, STRANGER, &["stare", "10000", KEY]), Swarm::start(&broker, OTHER, &["garbage", "64"])];
    crowd.iter().for_each(|swarm| swarm.move_to("1"));
    for (name, roles) in starved {
        if only.as_ref().is_some_and(|only| !name.contains(only.as_str())) {
            continue;
        }
        crowd.iter().for_each(Swarm::goes_on);
        let of = |figure| starved_median(&broker, roles, figure);
        println!("{name:28} {:>8} {:>7}", of("p50"), of("p99"));
    }
}
