//! `keyhatch status` and `keyhatch list`: how keys are, for the operator and for a peer.

use std::fmt::Write as _;
use std::io::Write;
use std::path::Path;

use serde::Deserialize;

use super::{client, tell};
use crate::exit::Exit;

#[derive(Deserialize)]
struct Listing {
    keys: Vec<Line>,
    /// These are of the operator's status alone.
    #[serde(default)]
    templates: Vec<Template>,
    #[serde(default)]
    tokens: Vec<Token>,
    #[serde(default)]
    layers: Vec<Layer>,
}

/// `in-use`, `unproven` (tried first until it is accepted), or `missing`.
#[derive(Deserialize)]
struct Token {
    token: String,
    state: String,
}

/// A key with parameters.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Template {
    key: String,
    entries: u64,
    max_entries: u64,
    eviction: String,
    /// Paths without a value whose failure is remembered.
    failing: u64,
}

/// What confines a role.
#[derive(Deserialize)]
struct Layer {
    role: String,
    name: String,
    level: String,
    holds: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Line {
    key: String,
    state: String,
    /// Seconds.
    age: Option<u64>,
    last_failure: Option<String>,
    next_attempt_in: Option<u64>,
}

/// Every key, by the operator's socket.
pub(super) fn status(socket: &Path, json: bool) -> Exit {
    show(socket, "/status", json)
}

/// The keys that the caller may read, by the socket of the applications.
pub(super) fn list(socket: &Path, json: bool) -> Exit {
    show(socket, "/-/keys", json)
}

fn show(socket: &Path, path: &str, json: bool) -> Exit {
    let answer = match client::ask(socket, path, &[("accept", "application/json")]) {
        Ok(answer) => answer,
        Err(error) => {
            tell(&format_args!("no broker answers at {}: {error}", socket.display()));
            return Exit::Unavailable;
        }
    };
    let exit = Exit::of_status(answer.status);
    if exit != Exit::Ok {
        tell(&format_args!("{}: {}", answer.status, String::from_utf8_lossy(&answer.body).escape_debug()));
        return exit;
    }
    let mut out = std::io::stdout().lock();
    let written = if json {
        out.write_all(&answer.body).and_then(|()| out.write_all(b"\n"))
    } else {
        match serde_json::from_slice(&answer.body) {
            Ok(listing) => out.write_all(table(&listing).as_bytes()),
            Err(error) => Err(error.into()),
        }
    };
    if written.and_then(|()| out.flush()).is_ok() { Exit::Ok } else { Exit::Other }
}

fn table(listing: &Listing) -> String {
    let width = listing.keys.iter().map(|line| line.key.len()).max().unwrap_or(0).max("KEY".len());
    let mut text = format!("{:width$}  {:13}  {:>8}  NOTE\n", "KEY", "STATE", "AGE");
    for line in &listing.keys {
        let age = line.age.map_or("-".into(), duration);
        // Writing to a String does not fail.
        let _ = write!(text, "{:width$}  {:13}  {age:>8}", line.key, line.state);
        if let Some(failure) = &line.last_failure {
            let _ = write!(text, "  {failure}");
        }
        if let Some(seconds) = line.next_attempt_in {
            let _ = write!(text, ", next attempt in {}", duration(seconds));
        }
        text.push('\n');
    }
    if !listing.templates.is_empty() {
        let width = listing.templates.iter().map(|line| line.key.len()).max().unwrap_or(0).max("PARAMETERS".len());
        let _ = writeln!(text, "\n{:width$}  {:>13}  EVICTION  FAILING", "PARAMETERS", "ENTRIES");
        for Template { key, entries, max_entries, eviction, failing } in &listing.templates {
            let entries = format!("{entries} of {max_entries}");
            let _ = writeln!(text, "{key:width$}  {entries:>13}  {eviction:8}  {failing}");
        }
    }
    if !listing.tokens.is_empty() {
        let width = listing.tokens.iter().map(|line| line.token.len()).max().unwrap_or(0).max("TOKEN".len());
        let _ = writeln!(text, "\n{:width$}  STATE", "TOKEN");
        for Token { token, state } in &listing.tokens {
            let _ = writeln!(text, "{token:width$}  {state}");
        }
    }
    if !listing.layers.is_empty() {
        text.push_str("\nROLE    LAYER         HOLDS  LEVEL\n");
    }
    for Layer { role, name, level, holds } in &listing.layers {
        let _ = writeln!(text, "{role:6}  {name:12}  {:5}  {level}", if *holds { "yes" } else { "NO" });
    }
    text
}

/// The two largest units, as in `2h 5m`.
pub(super) fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}
