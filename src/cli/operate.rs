//! `keyhatch metrics`, `refresh` and `purge`: one request to the operator's socket each. And whether the broker there is the
//! one that is meant.

use std::io::{BufRead, ErrorKind, IsTerminal, Write};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::args::Purge;
use super::table::{Table, duration, or_dash};
use super::{show, show_json, tell};
use crate::client::http::{self, Answer, Failed};
use crate::exit::Exit;
use crate::shown;

/// The body of a good answer of the operator's socket; else how the command ends, which has been told.
pub(super) fn told(answer: Result<Answer, Failed>, socket: &Path) -> Result<String, Exit> {
    if let Err(error) = &answer
        && http::system_error(error).is_some_and(|error| error.kind() == ErrorKind::PermissionDenied)
    {
        let (at, why) = (socket.display(), http::reason(error));
        tell(&format_args!("{at}: {why}: only root and members of `admin-group` may ask here"));
        return Err(Exit::Denied);
    }
    told_of_any(answer, socket)
}

/// The same of any socket.
pub(super) fn told_of_any(answer: Result<Answer, Failed>, socket: &Path) -> Result<String, Exit> {
    let answer = answer.map_err(|error| {
        tell(&format_args!("no broker answers at {}: {}", socket.display(), http::reason(&error)));
        Exit::Unavailable
    })?;
    let body = String::from_utf8_lossy(&answer.body).into_owned();
    match Exit::of_status(answer.status) {
        Exit::Ok => Ok(body),
        exit => {
            let problem: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
            match problem.get("detail").and_then(|detail| detail.as_str()) {
                Some(detail) => tell(&format_args!("{} {}", answer.status, shown::part(detail))),
                None => tell(&format_args!("{}: {}", answer.status, shown::part(&body))),
            }
            Err(exit)
        }
    }
}

/// What a broker is that was started with another configuration than the one that a command is about.
pub(super) fn of_another(started_with: &Path, meant: &Path) -> Option<String> {
    if std::path::absolute(meant).is_ok_and(|meant| meant == started_with) {
        return None;
    }
    let (started_with, meant) = (started_with.display().to_string(), meant.display());
    let started_with = shown::part(&started_with);
    Some(format!("the broker was started with --config {started_with}, this is about {meant}; nothing was changed"))
}

/// What a broker says that it was started with, as far as it matters here.
#[derive(Deserialize)]
struct Started {
    config: PathBuf,
}

/// That the broker at this socket is the one of the configuration that somebody has named: for what changes something there.
pub(super) fn is_meant(socket: &Path, named: &Path) -> Result<(), Exit> {
    let body = told(http::ask(socket, "/reload", &[]), socket)?;
    let Ok(Started { config }) = serde_json::from_str(&body) else {
        tell(&"the answer cannot be read");
        return Err(Exit::Other);
    };
    of_another(&config, named).map_or(Ok(()), |message| {
        tell(&message);
        Err(Exit::Configuration)
    })
}

pub(super) fn metrics(socket: &Path, json: bool) -> Exit {
    match told(http::ask(socket, "/metrics", &[]), socket) {
        Ok(text) if json => show_json(&serde_json::json!({ "metrics": text }).to_string()),
        Ok(text) => show(text.trim_end()),
        Err(exit) => exit,
    }
}

#[derive(Deserialize)]
struct Refreshed {
    keys: Vec<Line>,
}

#[derive(Deserialize)]
struct Line {
    key: String,
    outcome: String,
    reason: Option<String>,
    changed: bool,
    age: Option<u64>,
    millis: u64,
}

pub(super) fn refresh(socket: &Path, keys: &[String], json: bool) -> Exit {
    let body = match told(http::post(socket, "/refresh", &serde_json::json!({ "keys": keys })), socket) {
        Ok(body) => body,
        Err(exit) => return exit,
    };
    let Ok(Refreshed { keys }) = serde_json::from_str(&body) else {
        tell(&"the answer cannot be read");
        return Exit::Other;
    };
    let mut table = Table::new(&["KEY", "OUTCOME", "AGE", "TOOK", "NOTE"], &[2, 3]);
    let mut exit = Exit::Ok;
    for line in keys {
        exit = worse(exit, &line.outcome);
        let note = line.reason.or_else(|| line.changed.then(|| "another value than before".to_owned()));
        let (age, took) = (or_dash(line.age.map(duration)), format!("{} ms", line.millis));
        table.row([line.key, line.outcome, age, took, note.unwrap_or_default()]);
    }
    match if json { show_json(&body) } else { show(table.text().trim_end()) } {
        Exit::Ok => exit,
        failed => failed,
    }
}

/// What asking again would not mend is worse than an outage.
fn worse(exit: Exit, outcome: &str) -> Exit {
    match (outcome, exit) {
        ("answered", exit) | (_, exit @ Exit::Upstream) => exit,
        ("unavailable" | "timeout", _) => Exit::Unavailable,
        ("drill" | "call", Exit::Ok) => Exit::Other,
        ("drill" | "call", exit) => exit,
        _ => Exit::Upstream,
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Purged {
    keys: Option<Vec<String>>,
    had_a_value: usize,
}

pub(super) fn purge(asked: &Purge, socket: &Path) -> Exit {
    if asked.all && !asked.yes {
        if !std::io::stdin().is_terminal() {
            tell(&"purge --all asks first; where nobody can answer, give --yes");
            return Exit::Usage;
        }
        if !agreed() {
            tell(&"nothing is purged");
            return Exit::Other;
        }
    }
    let body = if asked.all { serde_json::json!({ "all": true }) } else { serde_json::json!({ "keys": asked.keys }) };
    let body = match told(http::post(socket, "/purge", &body), socket) {
        Ok(body) => body,
        Err(exit) => return exit,
    };
    if asked.json {
        return show_json(&body);
    }
    match serde_json::from_str(&body) {
        Ok(Purged { keys: Some(keys), had_a_value }) => {
            let mut lines: Vec<String> = keys.iter().map(|key| shown::part(key)).collect();
            lines.push(format!("purged; {had_a_value} of them had a value"));
            show(&lines.join("\n"))
        }
        Ok(Purged { keys: None, had_a_value }) => show(&format!("all keys are purged; {had_a_value} values are gone")),
        Err(error) => {
            tell(&format_args!("the answer cannot be read: {error}"));
            Exit::Other
        }
    }
}

fn agreed() -> bool {
    let mut err = std::io::stderr().lock();
    // There is nobody to ask when stderr is closed.
    let _ = write!(err, "Forget the values of all keys, in memory and on disk? Type yes: ").and_then(|()| err.flush());
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).is_ok() && answer.trim() == "yes"
}
