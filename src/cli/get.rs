//! `keyhatch get`: one value, for a script or a person.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use super::args::Get;
use super::client::{self, Answer};
use super::tell;
use crate::exit::Exit;
use crate::secret::KeyPath;

pub(super) fn run(asked: &Get, socket: &Path) -> Exit {
    let key = asked.key.as_str();
    if let Err(error) = KeyPath::parse(key)
        && !key.starts_with("/-/")
    {
        tell(&format_args!("{}: {error}", key.escape_debug()));
        return Exit::Usage;
    }
    if asked.watch { watch(asked, socket) } else { once(asked, socket) }
}

fn accepted(asked: &Get) -> (&'static str, &'static str) {
    ("accept", if asked.json { "application/json" } else { "text/plain, application/json;q=0.5" })
}

fn once(asked: &Get, socket: &Path) -> Exit {
    let key = asked.key.as_str();
    let mut headers = vec![accepted(asked)];
    if asked.fresh {
        headers.push(("cache-control", "no-cache"));
    }
    let give_up = Instant::now() + asked.wait.unwrap_or_default();
    loop {
        let answer = client::ask(socket, key, &headers);
        let exit = answer.as_ref().map_or(Exit::Unavailable, |answer| Exit::of_status(answer.status));
        let left = give_up.saturating_duration_since(Instant::now());
        if matches!(exit, Exit::Unavailable | Exit::Temporary) && !left.is_zero() {
            std::thread::sleep(pause(answer.ok().as_ref()).min(left));
            continue;
        }
        return match answer {
            Ok(answer) if exit == Exit::Ok => print(key, &answer, std::io::stdout().is_terminal()),
            failed => tell_failure(key, socket, &failed),
        };
    }
}

/// Until something is wrong that waiting does not mend.
fn watch(asked: &Get, socket: &Path) -> Exit {
    let key = asked.key.as_str();
    let mut tag = String::new();
    let mut trouble = Exit::Ok;
    loop {
        let mut headers = vec![accepted(asked)];
        if !tag.is_empty() {
            headers.extend([("if-none-match", tag.as_str()), ("prefer", "wait=60")]);
        }
        let answer = client::ask(socket, key, &headers);
        match &answer {
            Ok(answer) if answer.status == 304 => trouble = Exit::Ok,
            Ok(answer) if Exit::of_status(answer.status) == Exit::Ok => {
                trouble = Exit::Ok;
                if print(key, answer, true) != Exit::Ok {
                    return Exit::Other;
                }
                tag = answer.headers.get("etag").and_then(|tag| tag.to_str().ok()).unwrap_or_default().to_owned();
            }
            failed => {
                let exit = failed.as_ref().map_or(Exit::Unavailable, |answer| Exit::of_status(answer.status));
                // Each trouble is told once, however long it lasts.
                if exit != trouble {
                    tell_failure(key, socket, failed);
                }
                if !matches!(exit, Exit::Unavailable | Exit::Temporary) {
                    return exit;
                }
                trouble = exit;
                std::thread::sleep(pause(failed.as_ref().ok()));
            }
        }
    }
}

fn tell_failure(key: &str, socket: &Path, failed: &Result<Answer, Box<dyn std::error::Error>>) -> Exit {
    match failed {
        Ok(answer) => {
            let problem: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
            let detail = problem.get("detail").and_then(|detail| detail.as_str()).unwrap_or("the broker refused");
            tell(&format_args!("{key}: {} {detail}", answer.status));
            Exit::of_status(answer.status)
        }
        Err(error) => {
            tell(&format_args!("no broker answers at {}: {error}", socket.display()));
            Exit::Unavailable
        }
    }
}

/// What the broker asks for, but soon enough to see a recovery.
fn pause(answer: Option<&Answer>) -> Duration {
    let asked = answer.and_then(|answer| answer.headers.get("retry-after")?.to_str().ok()?.parse().ok());
    asked.map_or(Duration::from_millis(200), |seconds: u64| Duration::from_secs(seconds.clamp(1, 5)))
}

fn print(key: &str, answer: &Answer, line: bool) -> Exit {
    let verdict = answer.headers.get("cache-status").and_then(|value| value.to_str().ok()).unwrap_or_default();
    if verdict.contains("detail=") {
        let age = answer.headers.get("age").and_then(|age| age.to_str().ok()?.parse().ok());
        let age = age.map_or_else(|| "?".to_owned(), super::table::duration);
        let word = if verdict.contains("detail=drill") { "in a drill" } else { "stale" };
        tell(&format_args!("{key}: {word}, {age} old ({verdict})"));
    }
    let mut out = std::io::stdout().lock();
    let newline: &[u8] = if line { b"\n" } else { b"" };
    match out.write_all(&answer.body).and_then(|()| out.write_all(newline)).and_then(|()| out.flush()) {
        Ok(()) => Exit::Ok,
        Err(_) => Exit::Other,
    }
}
