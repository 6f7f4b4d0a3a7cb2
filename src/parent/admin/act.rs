//! What root does: refresh, purge and reload. One line in the log for each, before it is done.

use std::collections::BTreeSet;
use std::rc::Rc;

use hyper::StatusCode;
use hyper::header::{self, HeaderValue};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::answer::{Answer, Problem, json, text};
use super::request::Call;
use crate::parent::engine::{Engine, PurgeError, Refreshed, Unselectable};
use crate::parent::reload::UPGRADE;
use crate::secret::KeyPath;
use crate::shown;

/// Keys that one refresh may fetch, and how many at a time.
const MOST: usize = 1000;
const AT_ONCE: usize = 16;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Refresh {
    /// Paths or patterns.
    keys: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Purge {
    /// Paths or patterns.
    #[serde(default)]
    keys: Vec<String>,
    /// Also what is sealed of keys that are not in the configuration.
    #[serde(default)]
    all: bool,
}

/// Every key once, in their order.
fn select(engine: &Engine, texts: &[String]) -> Result<Vec<KeyPath>, Problem> {
    if texts.is_empty() {
        return Err(Problem::malformed("no key is named"));
    }
    let mut selected = BTreeSet::new();
    for text in texts {
        match engine.select(text) {
            Ok(keys) => selected.extend(keys),
            Err(Unselectable::Malformed(why)) => {
                return Err(Problem::malformed(format!("{}: {why}", shown::part(text))));
            }
            Err(Unselectable::Unknown) => {
                let what = if text.contains('*') { "matches no key" } else { "there is no such key" };
                let detail = format!("{}: {what}", shown::part(text));
                return Err(Problem::new(StatusCode::NOT_FOUND, "unknown", detail));
            }
        }
    }
    Ok(selected.into_iter().collect())
}

pub(super) async fn refresh(call: Call) -> Result<Answer, Problem> {
    let asked: Refresh = call.json()?;
    let keys = select(&call.desk.engine, &asked.keys)?;
    if keys.len() > MOST {
        return Err(Problem::malformed(format!("these are {} keys; one refresh takes {MOST}", keys.len())));
    }
    let (uid, pid) = (call.operator.uid, call.operator.pid);
    tracing::info!(uid, pid, keys = named(&asked.keys), "refresh");
    let turns = Rc::new(Semaphore::new(AT_ONCE));
    let mut under_way = JoinSet::new();
    for key in keys {
        let (engine, turns) = (call.desk.engine.clone(), turns.clone());
        under_way.spawn_local(async move {
            // The semaphore is never closed.
            let _turn = turns.acquire().await;
            engine.refresh(key).await
        });
    }
    let mut done: Vec<Refreshed> = under_way.join_all().await;
    done.sort_unstable_by(|a, b| a.key.cmp(&b.key));
    Ok(json(&json!({ "keys": done })))
}

pub(super) async fn purge(call: Call) -> Result<Answer, Problem> {
    let asked: Purge = call.json()?;
    let engine = &call.desk.engine;
    let (uid, pid) = (call.operator.uid, call.operator.pid);
    let (purged, had) = match (asked.all, asked.keys.is_empty()) {
        (true, false) => return Err(Problem::malformed("`all` and `keys` exclude each other")),
        (true, true) => {
            tracing::warn!(uid, pid, "purge of all keys");
            (None, engine.purge_all().await)
        }
        (false, _) => {
            let keys = select(engine, &asked.keys)?;
            tracing::warn!(uid, pid, keys = named(&asked.keys), "purge");
            let had = engine.purge(&keys).await;
            (Some(keys), had)
        }
    };
    match had {
        Ok(had) => Ok(json(&json!({ "keys": purged, "had-a-value": had }))),
        Err(error) => {
            tracing::error!(uid, pid, ?error, "the purge is not complete");
            let detail = match error {
                PurgeError::Worker => "purged here and on disk, but the worker has not said that it forgot".to_owned(),
                PurgeError::Disk(why) => format!("out of memory, but not off the disk: {why}"),
            };
            Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "incomplete", detail))
        }
    }
}

/// The connection becomes the reloader's.
pub(super) async fn reload(call: Call) -> Result<Answer, Problem> {
    let (desk, uid, pid) = (call.desk.clone(), call.operator.uid, call.operator.pid);
    let upgrade = call.upgrade(UPGRADE)?;
    tracing::info!(uid, pid, "reload");
    tokio::task::spawn_local(desk.reloader.clone().take(upgrade));
    let mut answer = text(String::new(), "application/json");
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    answer.headers_mut().insert(header::UPGRADE, HeaderValue::from_static(UPGRADE));
    Ok(answer)
}

/// For the log: what was asked for, as far as a line goes.
fn named(texts: &[String]) -> String {
    const LONGEST: usize = 500;
    let mut text = String::new();
    for one in texts {
        if text.len() + one.len() > LONGEST {
            text.push_str(" …");
            break;
        }
        if !text.is_empty() {
            text.push(' ');
        }
        text.extend(one.escape_debug());
    }
    text
}
