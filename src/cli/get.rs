//! `keyhatch get`: one value, for a script or a person.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use super::args::Get;
use super::tell;
use crate::client::blocking::Client;
use crate::client::{Error, Form, Value};
use crate::exit::Exit;
use crate::shown;

/// For how long one request waits for a change.
pub(super) const WAIT: Duration = Duration::from_secs(60);

pub(super) fn run(asked: &Get, socket: &Path) -> Exit {
    let form = if asked.json { Form::Json } else { Form::TextOrJson };
    let client = Client::at(socket);
    if asked.watch && asked.key.starts_with("/-/") {
        tell(&format_args!("{}: only the values of keys can be watched", shown::part(&asked.key)));
        return Exit::Usage;
    }
    if asked.watch { watch(&asked.key, form, &client) } else { once(asked, form, &client) }
}

fn once(asked: &Get, form: Form, client: &Client) -> Exit {
    let key = asked.key.as_str();
    let ask = || if asked.fresh { client.fresh(key, form) } else { client.get(key, form) };
    match patiently(asked.wait, ask) {
        Ok(value) => print(&value, std::io::stdout().is_terminal()),
        Err(error) => tell_failure(key, &error),
    }
}

/// Asks again for so long, while what is wrong may mend itself.
pub(super) fn patiently<T>(wait: Option<Duration>, ask: impl Fn() -> Result<T, Error>) -> Result<T, Error> {
    let give_up = Instant::now() + wait.unwrap_or_default();
    loop {
        let answer = ask();
        let left = give_up.saturating_duration_since(Instant::now());
        match answer {
            Err(error) if error.is_temporary() && !left.is_zero() => std::thread::sleep(error.retry_after().min(left)),
            answer => return answer,
        }
    }
}

/// Until something is wrong that waiting does not mend.
fn watch(key: &str, form: Form, client: &Client) -> Exit {
    let mut held: Option<Value> = None;
    let mut trouble = Exit::Ok;
    loop {
        let answer = match &held {
            None => client.get(key, form).map(Some),
            Some(known) => client.changed(known, WAIT),
        };
        match answer {
            Ok(changed) => {
                trouble = Exit::Ok;
                if let Some(value) = changed {
                    if print(&value, true) != Exit::Ok {
                        return Exit::Other;
                    }
                    held = Some(value);
                }
            }
            Err(error) => {
                let exit = exit_of(&error);
                // Each trouble is told once, however long it lasts.
                if exit != trouble {
                    tell_failure(key, &error);
                }
                if !error.is_temporary() {
                    return exit;
                }
                trouble = exit;
                std::thread::sleep(error.retry_after());
            }
        }
    }
}

/// How a command ends that got this instead of a value.
pub(super) fn exit_of(error: &Error) -> Exit {
    match error.problem() {
        Some(problem) => Exit::of_status(problem.status),
        None if matches!(error, Error::Key(_)) => Exit::Usage,
        None if error.is_temporary() => Exit::Unavailable,
        None => Exit::Other,
    }
}

pub(super) fn tell_failure(key: &str, error: &Error) -> Exit {
    match error {
        // It is about no key.
        Error::NoBroker { .. } => tell(error),
        _ => tell(&format_args!("{}: {error}", shown::part(key))),
    }
    exit_of(error)
}

/// A line about a value that was not confirmed just now.
pub(super) fn tell_staleness(value: &Value) {
    if let Some(detail) = value.stale() {
        let word = if detail == "drill" { "in a drill" } else { "stale" };
        let (age, verdict) = (super::table::duration(value.age().as_secs()), value.cache_status());
        tell(&format_args!("{}: {word}, {age} old ({verdict})", value.key()));
    }
}

fn print(value: &Value, line: bool) -> Exit {
    tell_staleness(value);
    let mut out = std::io::stdout().lock();
    let newline: &[u8] = if line { b"\n" } else { b"" };
    match out.write_all(value.as_str().as_bytes()).and_then(|()| out.write_all(newline)).and_then(|()| out.flush()) {
        Ok(()) => Exit::Ok,
        Err(_) => Exit::Other,
    }
}
