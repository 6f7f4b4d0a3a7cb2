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

use crowd::{Swarm, command, measure};
use support::{Broker, GRANTED, STRANGER, Upstream};

const KEY: &str = "/billing/database-url";
const OTHER: u32 = STRANGER + 1;
const ROUNDS: usize = 5;

/// The uid, and the arguments of its swarm.
type Attack<'a> = (u32, &'a [&'a str]);

fn median(broker: &Broker, mode: &str, figure: &str) -> u64 {
    let measured = || {
        let swarm = command(broker, GRANTED, &[mode, "3000", KEY]);
        let mut first = Command::new("chrt");
        first.args(["--fifo", "1"]).arg(swarm.get_program()).args(swarm.get_args());
        measure(first)[figure].as_u64().unwrap()
    };
    let mut figures: Vec<u64> = (0..ROUNDS).map(|_| measured()).collect();
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
}
