//! The engine's numbers as metrics. Labels are names of the configuration, so that peers cannot make more of them.

use tokio::time::Instant;

use super::entry::{Entry, Standing};
use super::{Engine, documents};
use crate::ipc::wire::State;
use crate::parent::openmetrics::{Exposition, Kind};
use crate::secret::KeyPath;

const STATES: [(State, &str); 5] = [
    (State::Fresh, "fresh"),
    (State::Stale, "stale"),
    (State::Failing, "failing"),
    (State::Revoked, "revoked"),
    (State::NeverFetched, "never-fetched"),
];

impl Engine {
    /// `dropped` are the lines that whoever reads the log was too slow for.
    pub(in crate::parent) fn metrics(&self, dropped: u64) -> String {
        let mut told = Exposition::default();
        told.family(Kind::Gauge, "keyhatch_build_info", "", "The version that runs.");
        told.sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
        told.family(Kind::Gauge, "keyhatch_uptime_seconds", "seconds", "Since the start.");
        told.sample(&[], self.counters.started.elapsed().as_secs());
        told.family(Kind::Gauge, "keyhatch_connections", "", "Connections of applications.");
        told.sample(&[], self.counters.connections());
        told.family(
            Kind::Counter,
            "keyhatch_requests",
            "",
            "Answered requests, by the client that grants (empty: none does) and the verdict.",
        );
        self.counters.for_each_request(|client, served, count| {
            told.sample(&[("client", client.unwrap_or_default()), ("verdict", served.name())], count);
        });
        self.tell_keys(&mut told);
        self.tell_templates(&mut told);
        self.tell_upstreams(&mut told);
        told.family(Kind::Counter, "keyhatch_recalls", "", "Times that the worker was told to forget values.");
        told.sample(&[], self.counters.recalls());
        told.family(Kind::Counter, "keyhatch_log_lines_dropped", "", "Log lines that nobody read in time.");
        told.sample(&[], dropped);
        told.family(Kind::Gauge, "keyhatch_drill", "", "Whether a drill is on.");
        told.sample(&[], u8::from(self.has_drill()));
        told.end()
    }

    fn tell_keys(&self, told: &mut Exposition) {
        let (entries, now) = (self.entries.borrow(), self.clock.now());
        let mut fixed: Vec<(&KeyPath, &Entry)> =
            entries.iter().filter(|(_, entry)| entry.standing == Standing::Fixed).collect();
        fixed.sort_unstable_by_key(|(key, _)| *key);
        told.family(Kind::Gauge, "keyhatch_key_age_seconds", "seconds", "Age of the value of a key that has one.");
        for (key, entry) in &fixed {
            if let Some(age) = entry.age(now) {
                told.sample(&[("key", key.as_str())], age.as_secs());
            }
        }
        told.family(Kind::Gauge, "keyhatch_key_state", "", "1 for the state that a key is in, 0 for the others.");
        for (key, entry) in &fixed {
            let state = entry.state(now);
            for (one, name) in STATES {
                told.sample(&[("key", key.as_str()), ("state", name)], u8::from(one == state));
            }
        }
        told.family(Kind::Counter, "keyhatch_key_serves", "", "Answers with the value of a key; of all paths of one.");
        for (key, entry) in &fixed {
            told.sample(&[("key", key.as_str())], entry.serves);
        }
        let serves = self.counters.of_templates.borrow();
        for (table, serves) in self.expanded.borrow().iter().zip(serves.iter()) {
            told.sample(&[("key", &table.key.template.to_string())], serves);
        }
    }

    fn tell_templates(&self, told: &mut Exposition) {
        told.family(Kind::Gauge, "keyhatch_key_entries", "", "Paths of a key with parameters that have a value.");
        for table in self.expanded.borrow().iter() {
            told.sample(&[("key", &table.key.template.to_string())], table.lasting.len());
        }
    }

    fn tell_upstreams(&self, told: &mut Exposition) {
        told.family(Kind::Counter, "keyhatch_fetches", "", "Calls to an origin, by how they ended.");
        self.counters.for_each_fetch(|origin, outcome, count| {
            told.sample(&[("origin", origin), ("outcome", outcome)], count);
        });
        let paces = self.origins.borrow();
        told.family(
            Kind::Gauge,
            "keyhatch_origin_backoff_seconds",
            "seconds",
            "Until an origin is asked again with this token (empty: without one); 0 when it may be asked.",
        );
        for origin in self.counters.origins() {
            let due = paces.get(&origin).and_then(|pace| pace.due());
            let left = due.map_or(0, |due| due.saturating_duration_since(Instant::now()).as_secs());
            let tokens = documents::told(&origin.1).unwrap_or_default();
            told.sample(&[("origin", &origin.0), ("token", &tokens)], left);
        }
    }
}
