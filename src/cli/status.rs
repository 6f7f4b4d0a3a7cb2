//! `keyhatch status` and `keyhatch list`: how keys are, for the operator and for a peer.

use std::path::Path;

use serde::Deserialize;

use super::args::{self, Bad};
use super::table::{Table, call, duration, or_dash};
use super::{operate, show, show_json, tell};
use crate::client::http::{self, Answer, Failed};
use crate::exit::Exit;
use crate::shown;

/// What the operator's socket says.
#[derive(Deserialize)]
pub(super) struct Status {
    pub(super) version: String,
    pub(super) uptime: u64,
    pub(super) keys: Vec<Line>,
    templates: Vec<Template>,
    origins: Vec<Origin>,
    tokens: Vec<Token>,
    #[serde(default)]
    sessions: Vec<Session>,
    pub(super) drill: Option<Drill>,
    layers: Vec<Layer>,
}

#[derive(Deserialize)]
struct Listing {
    keys: Vec<Line>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Line {
    key: String,
    /// Of a call, for the operator alone.
    arguments: Option<String>,
    pub(super) state: String,
    /// Seconds.
    pub(super) age: Option<u64>,
    /// What follows is of the operator's status alone.
    #[serde(default)]
    pub(super) serves: u64,
    last_outcome: Option<Outcome>,
    next_attempt_in: Option<u64>,
    /// `max-age` is zero: past it is where its values belong.
    #[serde(default)]
    asked_each_time: bool,
    #[serde(default)]
    drill: bool,
}

#[derive(Deserialize)]
struct Outcome {
    class: String,
    reason: Option<String>,
    ago: u64,
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
    serves: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Origin {
    origin: String,
    token: Option<String>,
    failures: u64,
    back_off: Option<u64>,
}

/// What a login gave.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Session {
    origin: Option<String>,
    tokens: Vec<String>,
    state: String,
    ends_in: Option<u64>,
    reason: Option<String>,
    next_attempt_in: Option<u64>,
}

#[derive(Deserialize)]
struct Token {
    token: String,
    state: String,
    ago: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Drill {
    pub(super) covers: String,
    pub(super) fail: String,
    pub(super) ends_in: u64,
}

/// What confines a role.
#[derive(Deserialize)]
struct Layer {
    role: String,
    name: String,
    level: String,
    holds: bool,
}

impl Line {
    /// The path, and of a call enough of the digest of its arguments to tell it from others.
    pub(super) fn name(&self) -> String {
        call(&self.key, self.arguments.as_deref())
    }

    /// How the last fetch ended, and when the next may be made.
    pub(super) fn note(&self) -> String {
        let mut note = self.last_outcome.as_ref().map_or_else(String::new, |Outcome { class, reason, ago }| {
            let reason = reason.as_ref().map_or_else(String::new, |reason| format!(" ({reason})"));
            format!("{class}{reason} {} ago", duration(*ago))
        });
        if let Some(seconds) = self.next_attempt_in {
            note.push_str(&format!(", next attempt in {}", duration(seconds)));
        }
        if self.drill {
            note.push_str(", in a drill");
        }
        note.trim_start_matches(", ").to_owned()
    }

    fn is(&self, bad: Bad) -> bool {
        let state = match self.state.as_str() {
            "stale" if self.asked_each_time => return false,
            "stale" => Bad::Stale,
            "failing" => Bad::Failing,
            "revoked" => Bad::Revoked,
            _ => return false,
        };
        state >= bad
    }
}

/// Every key, by the operator's socket.
pub(super) fn status(asked: &args::Status, socket: &Path) -> Exit {
    let (status, text) = match ask(socket) {
        Ok(found) => found,
        Err(exit) => return exit,
    };
    let shown = if asked.json { show_json(&text) } else { show(table(&status).trim_end()) };
    let bad = |line: &&Line| asked.fail_on.is_some_and(|bad| line.is(bad));
    if status.keys.iter().any(|line| bad(&line)) { Exit::Other } else { shown }
}

/// The status, and its JSON; if there is none, that has been told.
pub(super) fn ask(socket: &Path) -> Result<(Status, String), Exit> {
    read(http::ask(socket, "/status", &[]), socket)
}

/// The same from an answer that has come.
pub(super) fn read(answer: Result<Answer, Failed>, socket: &Path) -> Result<(Status, String), Exit> {
    let body = operate::told(answer, socket)?;
    let status = serde_json::from_str(&body).map_err(|error| {
        tell(&format_args!("the status cannot be read: {error}"));
        Exit::Other
    })?;
    Ok((status, body))
}

/// The keys that the caller may read, by the socket of the applications.
pub(super) fn list(socket: &Path, json: bool) -> Exit {
    let answer = http::ask(socket, "/-/keys", &[("accept", "application/json")]);
    let body = match operate::told_of_any(answer, socket) {
        Ok(body) => body,
        Err(exit) => return exit,
    };
    if json {
        return show_json(&body);
    }
    match serde_json::from_str(&body) {
        Ok(Listing { keys }) => {
            let mut table = Table::new(&["KEY", "STATE", "AGE"], &[2]);
            keys.into_iter().for_each(|line| table.row([line.name(), line.state, or_dash(line.age.map(duration))]));
            show(table.text().trim_end())
        }
        Err(error) => {
            tell(&format_args!("the answer cannot be read: {error}"));
            Exit::Other
        }
    }
}

fn table(status: &Status) -> String {
    let mut keys = Table::new(&["KEY", "STATE", "AGE", "SERVES", "LAST FETCH"], &[2, 3]);
    for line in &status.keys {
        let age = or_dash(line.age.map(duration));
        keys.row([line.name(), line.state.clone(), age, line.serves.to_string(), line.note()]);
    }
    let mut templates = Table::new(&["PARAMETERS", "ENTRIES", "EVICTION", "FAILING", "SERVES"], &[1, 3, 4]);
    for Template { key, entries, max_entries, eviction, failing, serves } in &status.templates {
        let entries = format!("{entries} of {max_entries}");
        templates.row([key.clone(), entries, eviction.clone(), failing.to_string(), serves.to_string()]);
    }
    let mut origins = Table::new(&["ORIGIN", "TOKEN", "FAILURES", "BACK-OFF"], &[2]);
    for Origin { origin, token, failures, back_off } in &status.origins {
        let token = or_dash(token.clone());
        origins.row([origin.clone(), token, failures.to_string(), or_dash(back_off.map(duration))]);
    }
    let mut tokens = Table::new(&["TOKEN", "STATE", "SINCE"], &[]);
    for Token { token, state, ago } in &status.tokens {
        tokens.row([token.clone(), state.clone(), or_dash(ago.map(|ago| format!("{} ago", duration(ago))))]);
    }
    let mut sessions = Table::new(&["SESSION OF", "TOKENS", "STATE", "ENDS IN", "LAST ATTEMPT"], &[3]);
    for Session { origin, tokens, state, ends_in, reason, next_attempt_in } in &status.sessions {
        let next = next_attempt_in.map(|seconds| format!("next in {}", duration(seconds)));
        let note = reason.iter().cloned().chain(next).collect::<Vec<_>>().join(", ");
        let (origin, tokens) = (or_dash(origin.clone()), tokens.join(", "));
        sessions.row([origin, tokens, state.clone(), or_dash(ends_in.map(duration)), note]);
    }
    let mut layers = Table::new(&["ROLE", "LAYER", "HOLDS", "LEVEL"], &[]);
    for Layer { role, name, level, holds } in &status.layers {
        layers.row([role.clone(), name.clone(), if *holds { "yes" } else { "NO" }.to_owned(), level.clone()]);
    }
    let drill = status.drill.as_ref().map(told_drill).map_or_else(String::new, |line| format!("{line}\n\n"));
    let tables = [keys, templates, origins, tokens, sessions, layers].map(|table| table.text());
    // Of those after the first, a heading alone says nothing.
    let (first, others) = tables.split_at(1);
    let others = others.iter().filter(|text| text.lines().count() > 1).map(|text| format!("\n{text}"));
    drill + &first.concat() + &others.collect::<String>()
}

pub(super) fn told_drill(drill: &Drill) -> String {
    let (covers, fail) = (shown::part(&drill.covers), shown::part(&drill.fail));
    format!("A DRILL IS ON: {covers} fails with {fail}, for another {}", duration(drill.ends_in))
}
