//! Drills: one request that lasts as long as the drill. Its answer is two lines of JSON, one at the beginning and the
//! report at the end; the connection's end is the drill's.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use serde::Deserialize;
use serde_json::json;

use super::answer::{Answer, AnswerBody, Problem, answer, json};
use super::request::Call;
use crate::acl::Pattern;
use crate::config::{self, TokenName};
use crate::parent::engine::{Covers, Fail, LONGEST_DRILL, NoDrill, Over, RunningDrill};
use crate::shown;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Drill {
    key: Option<String>,
    token: Option<String>,
    origin: Option<String>,
    fail: Fail,
    /// In seconds.
    #[serde(rename = "for")]
    length: u64,
}

/// What is still to be said of a drill.
pub(super) struct Lines {
    first: Option<Bytes>,
    running: Option<RunningDrill>,
}

impl Lines {
    pub(super) fn poll_line(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(first));
        }
        let Some(running) = &mut self.running else { return Poll::Ready(None) };
        let ended = ready!(Pin::new(&mut running.ended).poll(context));
        self.running = None;
        // Whoever ends a drill says how.
        let line = ended.ok().map(|(over, mut report)| {
            report["over"] = json!(over);
            Bytes::from(format!("{report}\n"))
        });
        Poll::Ready(line)
    }
}

/// As status spells it, of what a person writes.
fn origin(text: String) -> Result<String, Problem> {
    let of_http = ["http://", "https://"].iter().any(|scheme| text.to_ascii_lowercase().starts_with(scheme));
    if !of_http {
        return Ok(text);
    }
    let legal = "an origin is scheme, host and port, such as https://api.example.com:443";
    config::origin(&text).ok_or_else(|| Problem::malformed(format!("{}: {legal}", shown::part(&text))))
}

pub(super) async fn begin(call: Call) -> Result<Answer, Problem> {
    let asked: Drill = call.json()?;
    let longest = LONGEST_DRILL.as_secs();
    if asked.length == 0 || asked.length > longest {
        return Err(Problem::malformed(format!("a drill lasts 1 to {longest} seconds, not {}", asked.length)));
    }
    let engine = &call.desk.engine;
    let unknown = |what: String| Problem::new(StatusCode::NOT_FOUND, "unknown", what);
    let covers = match (asked.key, asked.token, asked.origin) {
        (Some(key), None, None) => {
            let pattern = Pattern::parse(&key);
            Covers::Keys(pattern.map_err(|error| Problem::malformed(format!("{}: {error}", shown::part(&key))))?)
        }
        (None, Some(name), None) => {
            let name = TokenName(name);
            if !engine.has_token(&name) {
                return Err(unknown(format!("there is no token `{}`", shown::part(&name.0))));
            }
            Covers::Token(name)
        }
        (None, None, Some(text)) => Covers::Origin(origin(text)?),
        _ => return Err(Problem::malformed("a drill is about one of `key`, `token` and `origin`")),
    };
    let (uid, pid, told) = (call.operator.uid, call.operator.pid, covers.told());
    let begun = engine.begin_drill(covers, asked.fail, Duration::from_secs(asked.length)).await;
    let running = begun.map_err(|error| match error {
        NoDrill::AlreadyOne => Problem::new(StatusCode::CONFLICT, "conflict", "a drill is on already; one at a time"),
        NoDrill::Nothing => unknown(format!("no key is covered by {}", shown::part(&told))),
    })?;
    tracing::warn!(uid, pid, covers = told, fail = ?asked.fail, seconds = asked.length, "a drill begins");
    let first = json!({ "covers": told, "keys": running.keys, "fail": asked.fail, "ends-in": asked.length });
    let lines = Lines { first: Some(Bytes::from(format!("{first}\n"))), running: Some(running) };
    Ok(answer(AnswerBody::Drill(lines), "application/x-ndjson"))
}

/// Ends the drill there is: its report goes to whoever began it.
pub(super) async fn end(call: Call) -> Result<Answer, Problem> {
    if !call.desk.engine.end_drill(None, Over::Asked) {
        return Err(Problem::new(StatusCode::NOT_FOUND, "unknown", "no drill is on"));
    }
    tracing::info!(uid = call.operator.uid, pid = call.operator.pid, "the drill is ended");
    Ok(json(&json!({ "ended": true })))
}
