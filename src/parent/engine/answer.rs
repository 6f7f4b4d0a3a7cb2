//! Replies: a value with its lease, or why there is none.

use std::time::Duration;

use tokio::time::Instant;

use super::Engine;
use super::entry::{Entry, Held};
use crate::config::expand;
use crate::ipc::wire::{Body, BootInstant, Detail, FailureReply, KeyState, Lease, Reply, ValueReply, Verdict};
use crate::outcome::{Class, Failure, Reason};
use crate::secret::{KeyPath, WireBytes};
use crate::staleness::{OnMissing, Span};
use crate::sys::clock::boot_nanos;

fn nanos(length: Duration) -> i64 {
    i64::try_from(length.as_nanos()).unwrap_or(i64::MAX)
}

impl Engine {
    /// How this key is; `None` if there is no such key, or nothing to say of it.
    pub(in crate::parent) fn state_of(&self, key: &KeyPath) -> Option<KeyState> {
        let now = self.clock.now();
        let entries = self.entries.borrow();
        let Some(entry) = entries.get(key).filter(|entry| entry.is_listed()) else {
            drop(entries);
            return self.state_of_composed(key);
        };
        Some(KeyState { key: key.clone(), state: entry.state(now), age: entry.age(now) })
    }

    /// Whether a credential of this key is waited for.
    pub(in crate::parent) fn waits_for(&self, key: &KeyPath) -> bool {
        let parts = self.parts_of(key);
        // All parts have the settings of the whole.
        let of = parts.as_ref().and_then(|parts| parts.first()).unwrap_or(key);
        let of_entry = self.entries.borrow().get(of).map(|entry| entry.settings.on_missing);
        let on_missing = of_entry.or_else(|| {
            let tables = self.expanded.borrow();
            let (template, _) = expand(tables.iter().map(|table| &table.key), key)?;
            Some(tables.get(template)?.key.settings.on_missing)
        });
        on_missing == Some(OnMissing::Wait)
    }

    /// The paths of keys with parameters that have a value.
    pub(in crate::parent) fn lasting(&self) -> Vec<KeyPath> {
        let entries = self.entries.borrow();
        entries.iter().filter(|(_, entry)| entry.is_lasting()).map(|(key, _)| key.clone()).collect()
    }

    /// The value if it may be served, else this failure.
    pub(super) fn fall_back(&self, key: &KeyPath, failure: Failure, verdict: Verdict) -> Reply {
        let usable = self.entries.borrow().get(key).is_some_and(|entry| entry.is_usable(self.clock.now()));
        if !usable {
            return self.failure(key, Some(failure), verdict);
        }
        // A refused or wrong answer is told apart by its `fwd-status`; 429 has a word of its own.
        let status = matches!(failure.reason, Reason::Status(status) if status != 429);
        let detail = if status { Some(Detail::StaleIfError) } else { verdict.detail };
        self.value(key, Verdict { detail, ..verdict })
    }

    pub(super) fn value(&self, key: &KeyPath, verdict: Verdict) -> Reply {
        let mut entries = self.entries.borrow_mut();
        let Some(entry) = entries.get_mut(key) else { return Reply::Denied };
        let held = entry.held.as_ref();
        let Some((held, value)) = held.and_then(|held| Some((held, held.value.as_ref()?))) else {
            drop(entries);
            return self.failure(key, None, verdict);
        };
        self.memory.touch(value);
        let lease = self.lease(entry, held, verdict);
        let reply = ValueReply {
            verdict,
            lease,
            etag: held.tag,
            etag_text: held.tag_text,
            body: Body::Inline(WireBytes(value.get().json().to_vec())),
        };
        entry.leased_until = entry.leased_until.max(lease.usable_until.0);
        entry.leased_stale = lease.fresh_until.0 <= boot_nanos();
        Reply::Value(reply)
    }

    /// A fresh value until it is not; a stale one until the next attempt is due, or the one under way has ended.
    fn lease(&self, entry: &Entry, held: &Held, verdict: Verdict) -> Lease {
        let now = boot_nanos();
        let age = Duration::from_millis(self.clock.now().saturating_sub(held.fetched_at));
        let born = now.saturating_sub(nanos(age));
        let end = |span: Span| match span {
            Span::Finite(length) => born.saturating_add(nanos(length)),
            Span::Forever => i64::MAX,
        };
        let drilled = verdict.detail == Some(Detail::Drill);
        let fresh_until = end(entry.settings.max_age);
        let legal_until = end(entry.settings.max_age.plus(entry.settings.stale_if_error));
        let pause = match verdict.detail {
            // What the next peer gets may be another thing.
            Some(Detail::OverBudget) => Duration::ZERO,
            _ => self.quiet_for(entry),
        };
        let usable_until = fresh_until.max(now.saturating_add(nanos(pause)).min(legal_until));
        Lease {
            born: BootInstant(born),
            fresh_until: BootInstant(fresh_until),
            // What is evicted nobody keeps; and whoever asks during a drill is to be seen in its report.
            usable_until: BootInstant(if entry.is_listed() && !drilled { usable_until } else { now }),
            stale_detail: match verdict.detail {
                Some(detail @ (Detail::FailoverTimeout | Detail::Revalidating)) => detail,
                _ => Detail::BreakerOpen,
            },
        }
    }

    /// How long asking again would bring nothing new.
    fn quiet_for(&self, entry: &Entry) -> Duration {
        let documents = self.documents.borrow();
        let document = documents.get(entry.document);
        if let Some(document) = document
            && let Some(flight) = &document.flight
        {
            // Who lands recalls the lease.
            return document.fetch_timeout.saturating_sub(flight.started.elapsed());
        }
        let due = self.next_attempt(entry, document);
        due.map_or(Duration::ZERO, |due| due.saturating_duration_since(Instant::now()))
    }

    pub(super) fn failure(&self, key: &KeyPath, failure: Option<Failure>, verdict: Verdict) -> Reply {
        let entries = self.entries.borrow();
        let Some(entry) = entries.get(key) else { return Reply::Denied };
        let documents = self.documents.borrow();
        let document = documents.get(entry.document);
        // A key that was purged, or is new, may never have been asked for itself.
        let known = failure.or(entry.failure).or_else(|| document?.failed);
        let known = known.unwrap_or(Failure::unavailable(Reason::Timeout));
        // A drill changes nothing of what is asked in earnest.
        if known.class == Class::Unavailable && verdict.detail != Some(Detail::Drill) {
            self.wanted.set(Some(Instant::now()));
        }
        let due = self.next_attempt(entry, document);
        let wait = due.map_or(Duration::ZERO, |due| due.saturating_duration_since(Instant::now()));
        Reply::Failure(FailureReply {
            class: known.class,
            reason: known.reason,
            verdict,
            retry_after: wait.max(Duration::from_secs(1)),
        })
    }
}
