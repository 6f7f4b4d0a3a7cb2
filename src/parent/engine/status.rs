//! What the operator is told of the broker, as JSON. Never a value, never a byte of a token.

use std::collections::HashMap;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::entry::Entry;
use super::expanded::Table;
use super::{Engine, documents};
use crate::config::TokenName;
use crate::parent::upstream::SessionStanding;
use crate::secret::KeyPath;
use crate::staleness::Span;

/// So many keys are told before others have their turn.
const AT_ONCE: usize = 16;

fn seconds_since(at: Instant) -> u64 {
    at.elapsed().as_secs()
}

/// Rounded up: 0 is now.
fn seconds_until(at: Instant) -> u64 {
    u64::try_from(at.saturating_duration_since(Instant::now()).as_millis().div_ceil(1000)).unwrap_or(u64::MAX)
}

/// How the keys are, in numbers.
pub(in crate::parent) struct Health {
    /// Of the configuration, and paths with a value of those with parameters.
    pub(in crate::parent) keys: usize,
    /// With a value past its `max-age`.
    pub(in crate::parent) stale: usize,
    /// When the first of those passed it, in milliseconds since the epoch.
    pub(in crate::parent) stale_since: Option<u64>,
    /// Whose last fetch failed.
    pub(in crate::parent) failing: usize,
    pub(in crate::parent) without: usize,
}

/// What there is to say against a key.
#[derive(Clone, Copy, Default)]
struct Ailing {
    stale_since: Option<u64>,
    failing: bool,
    without: bool,
}

impl Ailing {
    fn of(entry: &Entry, now: u64) -> Self {
        let failing = entry.failure.is_some();
        match (entry.age(now), entry.settings.max_age) {
            (None, _) => Self { stale_since: None, failing, without: true },
            // What is asked for anew each time is only stale when that fails.
            (Some(age), Span::Finite(fresh)) if age >= fresh && (!fresh.is_zero() || failing) => {
                let stale_for = u64::try_from((age - fresh).as_millis()).unwrap_or(u64::MAX);
                Self { stale_since: Some(now.saturating_sub(stale_for)), failing, without: false }
            }
            (Some(_), _) => Self { stale_since: None, failing, without: false },
        }
    }

    /// What there is to say against one of its parts is said against the whole.
    fn add(&mut self, part: Self) {
        self.stale_since = self.stale_since.into_iter().chain(part.stale_since).min();
        self.failing |= part.failing;
        self.without |= part.without;
    }
}

impl Health {
    fn count(&mut self, key: Ailing) {
        self.keys += 1;
        self.failing += usize::from(key.failing);
        self.without += usize::from(key.without);
        if let Some(since) = key.stale_since.filter(|_| !key.without) {
            self.stale += 1;
            self.stale_since = Some(self.stale_since.map_or(since, |first| first.min(since)));
        }
    }
}

impl Engine {
    pub(in crate::parent) fn health(&self) -> Health {
        let now = self.clock.now();
        let mut health = Health { keys: 0, stale: 0, stale_since: None, failing: 0, without: 0 };
        let entries = self.entries.borrow();
        let mut wholes: HashMap<KeyPath, Ailing> = HashMap::new();
        for (key, entry) in entries.iter().filter(|(_, entry)| entry.is_listed()) {
            let ailing = Ailing::of(entry, now);
            match key.part_name() {
                None => health.count(ailing),
                Some(_) => wholes.entry(key.whole()).or_default().add(ailing),
            }
        }
        wholes.into_values().for_each(|whole| health.count(whole));
        health
    }

    /// Keys, keys with parameters, origins, tokens, sessions, the drill. Times in seconds.
    ///
    /// Answers come between: each key is told as it is when it is its turn.
    pub(in crate::parent) async fn status(&self) -> Value {
        let mut listed: Vec<KeyPath> = {
            let entries = self.entries.borrow();
            entries.iter().filter(|(_, entry)| entry.is_listed()).map(|(key, _)| key.clone()).collect()
        };
        listed.sort_unstable();
        let mut keys = Vec::with_capacity(listed.len());
        for some in listed.chunks(AT_ONCE) {
            let entry_of = |key: &KeyPath| Some(self.status_of_key(key, self.entries.borrow().get(key)?));
            keys.extend(some.iter().filter_map(entry_of));
            tokio::task::yield_now().await;
        }
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "uptime": seconds_since(self.counters.started),
            "keys": keys,
            "templates": self.status_of_templates(),
            "origins": self.status_of_origins(),
            "tokens": self.status_of_tokens(),
            "sessions": self.status_of_sessions(),
            "drill": self.status_of_drill(),
        })
    }

    fn status_of_key(&self, key: &KeyPath, entry: &Entry) -> Value {
        let documents = self.documents.borrow();
        let document = documents.get(entry.document);
        let failure = entry.failure;
        let outcome = entry.ended.map(|at| {
            json!({
                "class": failure.map_or("answered", |failure| failure.class.name()),
                "reason": failure.map(|failure| failure.reason.to_string()),
                "status": failure.map_or(entry.status, |failure| failure.status()),
                "ago": seconds_since(at),
            })
        });
        let due = self.next_attempt(entry, document).filter(|due| *due > Instant::now());
        let mut line = json!({
            "key": key,
            "state": entry.state(self.clock.now()),
            "age": entry.age(self.clock.now()).map(|age| age.as_secs()),
            "last-outcome": outcome,
            "next-attempt-in": due.map(seconds_until),
            "serves": entry.serves,
            "origin": document.map(|state| state.origin.0.as_str()),
            "token": document.and_then(|state| documents::told(&state.origin.1)),
            "asked-each-time": entry.settings.max_age == Span::Finite(std::time::Duration::ZERO),
            "fetching": document.is_some_and(|state| state.flight.is_some()),
            "drill": document.is_some_and(|state| self.is_covered(key, &state.document)),
        });
        if let Some(digest) = key.arguments() {
            line["arguments"] = json!(digest);
        }
        line
    }

    fn status_of_templates(&self) -> Vec<Value> {
        let serves = self.counters.of_templates.borrow();
        let line = |(number, table): (usize, &Table)| {
            json!({
                "key": table.key.template.to_string(),
                "entries": table.lasting.len(),
                "max-entries": table.key.max_entries,
                "eviction": table.key.eviction.name(),
                "failing": table.passing.len(),
                "serves": serves.get(number),
            })
        };
        self.expanded.borrow().iter().enumerate().map(line).collect()
    }

    fn status_of_origins(&self) -> Vec<Value> {
        let paces = self.origins.borrow();
        let lines = self.counters.origins().into_iter().map(|origin| {
            let pace = paces.get(&origin).copied().unwrap_or_default();
            let due = pace.due().filter(|due| *due > Instant::now());
            json!({
                "origin": origin.0,
                "token": documents::told(&origin.1),
                "failures": pace.failures(),
                "back-off": due.map(seconds_until),
            })
        });
        lines.collect()
    }

    fn status_of_tokens(&self) -> Vec<Value> {
        let (mut lines, vault) = (Vec::new(), self.vault());
        self.counters.for_each_token(|name, proof| {
            let state = match proof {
                _ if vault.get(name).is_none() => "missing",
                _ if vault.is_unproven(name) => "unproven",
                None => "untried",
                Some(proof) if proof.accepted => "proven",
                Some(_) => "refused",
            };
            lines.push(json!({ "token": name.0, "state": state, "ago": proof.map(|proof| seconds_since(proof.at)) }));
        });
        lines
    }

    fn status_of_sessions(&self) -> Vec<Value> {
        let line = |session: SessionStanding| {
            json!({
                "origin": session.origin,
                "tokens": session.tokens,
                "state": session.state,
                "ends-in": session.ends.map(seconds_until),
                "reason": session.failure.map(|failure| failure.reason.to_string()),
                "next-attempt-in": session.due.filter(|due| *due > Instant::now()).map(seconds_until),
            })
        };
        self.sources.borrow().sessions().into_iter().map(line).collect()
    }

    pub(in crate::parent) fn has_token(&self, name: &TokenName) -> bool {
        self.counters.has_token(name)
    }
}
