//! `keyhatch get`: one value, for a script or a person.

use std::io::{IsTerminal, Write};
use std::path::Path;

use super::{client, tell};
use crate::exit::Exit;

pub(super) fn run(key: &str, socket: &Path, json: bool, fresh: bool) -> Exit {
    let accept = if json { "application/json" } else { "text/plain, application/json;q=0.5" };
    let mut headers = vec![("accept", accept)];
    if fresh {
        headers.push(("cache-control", "no-cache"));
    }
    let answer = match client::ask(socket, key, &headers) {
        Ok(answer) => answer,
        Err(error) => {
            tell(&format_args!("no broker answers at {}: {error}", socket.display()));
            return Exit::Unavailable;
        }
    };
    let exit = Exit::of_status(answer.status);
    if exit != Exit::Ok {
        let problem: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let detail = problem.get("detail").and_then(|detail| detail.as_str()).unwrap_or("the broker refused");
        tell(&format_args!("{key}: {} {detail}", answer.status));
        return exit;
    }
    let verdict = answer.headers.get("cache-status").and_then(|value| value.to_str().ok()).unwrap_or_default();
    if verdict.contains("ttl=-") && verdict.contains("detail=") {
        tell(&format_args!("{key}: stale ({verdict})"));
    }
    let mut out = std::io::stdout().lock();
    let newline: &[u8] = if out.is_terminal() { b"\n" } else { b"" };
    match out.write_all(&answer.body).and_then(|()| out.write_all(newline)).and_then(|()| out.flush()) {
        Ok(()) => Exit::Ok,
        Err(_) => Exit::Other,
    }
}
