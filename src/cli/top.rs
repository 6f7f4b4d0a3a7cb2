//! `keyhatch top`: the status, again every second, the worst keys first.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use super::status::{Line, Status, ask, read, told_drill};
use super::table::{Table, duration, or_dash};
use super::{show, show_json, tell};
use crate::client::http;
use crate::exit::Exit;
use crate::shown;
use crate::sys::terminal::{Screen, Wake};

const INTERVAL: Duration = Duration::from_secs(1);

pub(super) fn run(socket: &Path, json: bool) -> Exit {
    if json {
        return stream(socket);
    }
    let (status, _) = match ask(socket) {
        Ok(found) => found,
        Err(exit) => return exit,
    };
    if !(std::io::stdout().is_terminal() && std::io::stdin().is_terminal()) {
        return show(frame(&status, &HashMap::new(), usize::MAX, usize::MAX).join("\n").trim_end());
    }
    let done = watch(socket, status);
    match done {
        Ok(()) => Exit::Ok,
        Err(Trouble::Broker(exit)) => exit,
        Err(Trouble::Terminal(error)) => {
            tell(&format_args!("this terminal: {error}"));
            Exit::Other
        }
    }
}

/// One object a second, until nobody reads or the broker has gone.
fn stream(socket: &Path) -> Exit {
    loop {
        match ask(socket) {
            Ok((_, text)) => {
                if show_json(&text) != Exit::Ok {
                    return Exit::Ok;
                }
            }
            Err(exit) => return exit,
        }
        std::thread::sleep(INTERVAL);
    }
}

enum Trouble {
    Terminal(std::io::Error),
    Broker(Exit),
}

fn watch(socket: &Path, mut status: Status) -> Result<(), Trouble> {
    // Dropped on every way out, before anything else is told.
    let mut screen = Screen::enter().map_err(Trouble::Terminal)?;
    let mut before = HashMap::new();
    loop {
        let (width, height) = screen.size();
        draw(&frame(&status, &before, width, height)).map_err(Trouble::Terminal)?;
        if screen.wait(INTERVAL).map_err(Trouble::Terminal)? == Wake::Quit {
            return Ok(());
        }
        before = status.keys.iter().map(|line| (line.name(), line.serves)).collect();
        let answer = http::ask(socket, "/status", &[]);
        let good = answer.as_ref().is_ok_and(|answer| answer.status == 200);
        // What is wrong is told on the screen that stays.
        let screen_kept = good.then_some(screen);
        match (read(answer, socket), screen_kept) {
            (Ok((next, _)), Some(kept)) => (status, screen) = (next, kept),
            (Ok(_), None) => return Err(Trouble::Broker(Exit::Other)),
            (Err(exit), _) => return Err(Trouble::Broker(exit)),
        }
    }
}

fn draw(lines: &[String]) -> std::io::Result<()> {
    // Home; each line, and what was right of it; what was below.
    let mut text = String::from("\x1b[H");
    text.push_str(&lines.iter().map(|line| format!("{line}\x1b[K")).collect::<Vec<_>>().join("\r\n"));
    text.push_str("\x1b[J");
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush())
}

/// `before` are the serves of a second ago.
fn frame(status: &Status, before: &HashMap<String, u64>, width: usize, height: usize) -> Vec<String> {
    let count = |state: &str| status.keys.iter().filter(|line| line.state == state).count();
    let states = ["fresh", "stale", "failing", "revoked", "never-fetched"];
    let counts: Vec<String> = states.iter().map(|state| format!("{} {state}", count(state))).collect();
    let mut lines = vec![format!("keyhatch {}, up {}: {}", status.version, duration(status.uptime), counts.join(", "))];
    lines.extend(status.drill.as_ref().map(told_drill));
    lines.push(String::new());
    let rank = |line: &Line| match line.state.as_str() {
        "revoked" => 0,
        "failing" => 1,
        "stale" => 2,
        _ => 3,
    };
    let rate = |line: &Line| before.get(&line.name()).map(|before| line.serves.saturating_sub(*before));
    let mut keys: Vec<&Line> = status.keys.iter().collect();
    keys.sort_by_key(|line| (rank(line), Reverse(rate(line)), Reverse(line.serves), line.name()));
    let mut table = Table::new(&["KEY", "STATE", "AGE", "SERVES", "PER S", "LAST FETCH"], &[2, 3, 4]);
    let room = height.saturating_sub(lines.len() + 1);
    for line in keys.into_iter().take(room) {
        let (age, rate) = (or_dash(line.age.map(duration)), or_dash(rate(line).map(|rate| rate.to_string())));
        table.row([line.name(), line.state.clone(), age, line.serves.to_string(), rate, line.note()]);
    }
    lines.extend(table.lines());
    lines.iter().map(|line| shown::part(line).chars().take(width).collect()).collect()
}
