//! Answers a judged fetch: the value held, a fetch shared by all who ask, or the last known good.
//!
//! Never judges who may read: whoever calls has done so. Never fetches faster than back-off allows.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout, timeout_at};

use super::cache::Store;
use super::clock::Clock;
use super::upstream::{HttpUpstream, project};
use super::vault::Vault;
use crate::config::{Config, Document, Source};
use crate::ipc::wire::{
    Body, BootInstant, Detail, FailureReply, Forward, KeyState, Lease, Recall, Reply, State, Survey, Tag, ValueReply,
    Verdict,
};
use crate::outcome::{Class, Failure, Reason};
use crate::secret::{KeyPath, SecretValue, WireBytes};
use crate::staleness::{Decision, Revocation, Settings, Span, View, back_off, decide};
use crate::sys::clock::boot_nanos;

/// How long a value's sealed age may lag behind before it is written again although the value is the same.
const RESEAL_AFTER_MS: u64 = 60_000;

pub(super) struct Engine {
    entries: RefCell<HashMap<KeyPath, Entry>>,
    documents: RefCell<HashMap<Document, DocumentState>>,
    store: Arc<Store>,
    clock: Clock,
    http: HttpUpstream,
    vault: Vault,
    value_size: u64,
    recalls: mpsc::UnboundedSender<Recall>,
}

struct Entry {
    source: Source,
    settings: Settings,
    held: Option<Held>,
    /// How the last fetch ended, if it brought no value.
    failure: Option<Failure>,
    /// Refusals in a row, and when the first of them was.
    refusals: Option<(u32, Instant)>,
    /// The token was refused for long enough: not served until it is accepted again.
    withheld: bool,
    /// Given up after refusals that were the value's own.
    shredded: bool,
}

struct Held {
    value: Arc<SecretValue>,
    fetched_at: u64,
    sealed_at: u64,
    tag: Tag,
    tag_text: Option<Tag>,
}

#[derive(Default)]
struct DocumentState {
    keys: Vec<KeyPath>,
    flight: Option<Flight>,
    failures: u32,
    next_attempt: Option<Instant>,
    /// The last answer was 401 or 403.
    refused: bool,
}

#[derive(Clone)]
struct Flight {
    started: Instant,
    landed: watch::Receiver<bool>,
}

impl Engine {
    /// Opens what is sealed for every key of the configuration.
    pub(super) fn new(
        config: &Config,
        store: Store,
        http: HttpUpstream,
        vault: Vault,
        recalls: mpsc::UnboundedSender<Recall>,
    ) -> Self {
        let mut entries = HashMap::new();
        let mut documents: HashMap<Document, DocumentState> = HashMap::new();
        for key in &config.keys {
            let held = match store.load(&key.path, &key.source.definition) {
                Ok(loaded) => {
                    loaded.map(|l| Held::new(&store, &key.path, Arc::new(l.value), l.fetched_at, l.fetched_at))
                }
                Err(problem) => {
                    tracing::warn!(key = %key.path, %problem, "no last known good");
                    None
                }
            };
            documents.entry(key.source.document.clone()).or_default().keys.push(key.path.clone());
            let entry = Entry {
                source: key.source.clone(),
                settings: key.settings.clone(),
                held,
                failure: None,
                refusals: None,
                withheld: false,
                shredded: false,
            };
            entries.insert(key.path.clone(), entry);
        }
        let held = entries.values().filter_map(|entry: &Entry| entry.held.as_ref());
        let reached = held.map(|held| held.fetched_at).max().unwrap_or(0);
        Self {
            clock: Clock::new(reached),
            entries: RefCell::new(entries),
            documents: RefCell::new(documents),
            store: Arc::new(store),
            http,
            vault,
            value_size: config.limits.value_size,
            recalls,
        }
    }

    /// The answer for a peer that may read `key`.
    pub(super) async fn ask(self: &Rc<Self>, key: &KeyPath, revalidate: bool) -> Reply {
        let Some((decision, document, had_value)) = self.consider(key, revalidate) else { return Reply::Denied };
        let hit = |detail| Verdict { forward: Forward::Hit, fwd_status: None, stored: false, collapsed: false, detail };
        let up_to = match decision {
            Decision::Fresh => return self.value(key, hit(None)),
            Decision::Stale => return self.value(key, hit(Some(Detail::BackingOff))),
            Decision::Fail => return self.failure(key, None, hit(None)),
            Decision::StaleAndRefresh => {
                self.join(&document);
                return self.value(key, hit(Some(Detail::Revalidating)));
            }
            Decision::Wait { up_to } => up_to,
        };
        let (mut flight, collapsed) = self.join(&document);
        let forward = match (revalidate, had_value) {
            (true, _) => Forward::Request,
            (false, true) => Forward::Stale,
            (false, false) => Forward::UriMiss,
        };
        let verdict = Verdict { forward, fwd_status: None, stored: false, collapsed, detail: None };
        let landed = timeout_at(flight.started + up_to, flight.landed.wait_for(|landed| *landed)).await;
        if landed.is_err() {
            let late = Failure::unavailable(Reason::Timeout);
            let verdict = Verdict { detail: Some(Detail::FailoverTimeout), ..verdict };
            return self.fall_back(key, late, verdict);
        }
        let failure = self.entries.borrow().get(key).and_then(|entry| entry.failure);
        match failure {
            None => self.value(key, Verdict { fwd_status: Some(200), stored: true, ..verdict }),
            Some(failure) => {
                let detail = Some(Detail::Failed(failure.reason));
                self.fall_back(key, failure, Verdict { fwd_status: failure.status(), detail, ..verdict })
            }
        }
    }

    /// How the keys that `may_read` lets through are, in the order of their paths.
    pub(super) fn survey(&self, may_read: impl Fn(&KeyPath) -> bool) -> Survey {
        let now = self.clock.now();
        let entries = self.entries.borrow();
        let readable = entries.iter().filter(|(key, _)| may_read(key));
        let state = |(key, entry): (&KeyPath, &Entry)| KeyState {
            key: key.clone(),
            state: entry.state(now),
            age: entry.age(now),
        };
        let mut keys: Vec<KeyState> = readable.map(state).collect();
        keys.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Survey { keys }
    }

    fn consider(&self, key: &KeyPath, revalidate: bool) -> Option<(Decision, Document, bool)> {
        let entries = self.entries.borrow();
        let entry = entries.get(key)?;
        let documents = self.documents.borrow();
        let state = documents.get(&entry.source.document)?;
        let view = View {
            age: entry.age(self.clock.now()),
            in_flight: state.flight.as_ref().map(|flight| flight.started.elapsed()),
            attempt_due: state.next_attempt.is_none_or(|at| at <= Instant::now()),
            revalidate,
        };
        Some((decide(&entry.settings, &view), entry.source.document.clone(), view.age.is_some()))
    }

    /// The fetch of a document that is under way, or a new one; and whether it was under way.
    fn join(self: &Rc<Self>, document: &Document) -> (Flight, bool) {
        let mut documents = self.documents.borrow_mut();
        let state = documents.entry(document.clone()).or_default();
        if let Some(flight) = &state.flight {
            return (flight.clone(), true);
        }
        let (land, landed) = watch::channel(false);
        let flight = Flight { started: Instant::now(), landed };
        state.flight = Some(flight.clone());
        let (engine, document) = (self.clone(), document.clone());
        tokio::task::spawn_local(async move {
            engine.fly(&document).await;
            // Nobody may be waiting any more.
            let _ = land.send(true);
        });
        (flight, false)
    }

    async fn fly(&self, document: &Document) {
        let limit = {
            let entries = self.entries.borrow();
            let users = entries.values().filter(|entry| entry.source.document == *document);
            users.map(|entry| entry.settings.fetch_timeout).max().unwrap_or_default()
        };
        let started = Instant::now();
        let fetched = match document {
            Document::Http(http) => timeout(limit, self.http.fetch(http, &self.vault)).await,
            Document::File(_) => Ok(Err(Failure::unavailable(Reason::SourceUnreadable))),
        };
        let fetched = fetched.unwrap_or(Err(Failure::unavailable(Reason::Timeout)));
        let fetched = fetched.map_err(|failure| self.classify(document, failure));
        let millis = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        match &fetched {
            Ok(_) => tracing::info!(origin = document.origin(), millis, outcome = "answered", "fetch"),
            Err(failure) => tracing::warn!(
                origin = document.origin(), millis, outcome = failure.class.name(), reason = %failure.reason, "fetch"
            ),
        }
        let keys = self.documents.borrow().get(document).map(|state| state.keys.clone()).unwrap_or_default();
        for key in keys {
            let projection = self.entries.borrow().get(&key).map(|entry| entry.source.projection.clone());
            let Some(projection) = projection else { continue };
            match fetched.as_ref().map_err(|failure| *failure).and_then(|b| project(b, &projection, self.value_size)) {
                Ok(value) => self.accept(&key, value).await,
                Err(failure) => self.refuse(&key, failure).await,
            }
        }
        let mut documents = self.documents.borrow_mut();
        let Some(state) = documents.get_mut(document) else { return };
        state.flight = None;
        let failure = fetched.err();
        state.refused = failure.is_some_and(|failure| matches!(failure.class, Class::TokenRefused | Class::Refused));
        match failure {
            None => (state.failures, state.next_attempt) = (0, None),
            Some(failure) => {
                state.failures = state.failures.saturating_add(1);
                state.next_attempt = Some(Instant::now() + back_off(state.failures, failure.retry_after));
            }
        }
    }

    /// A 403 is the token's when every document of the token that was asked is refused, and the document's own otherwise.
    fn classify(&self, document: &Document, failure: Failure) -> Failure {
        if failure.class != Class::Refused || document.token().is_none() {
            return failure;
        }
        let documents = self.documents.borrow();
        let mut others = documents.iter().filter(|(other, _)| *other != document && other.token() == document.token());
        let class = if others.all(|(_, state)| state.refused) { Class::TokenRefused } else { Class::Refused };
        Failure { class, ..failure }
    }

    async fn accept(&self, key: &KeyPath, value: SecretValue) {
        let now = self.clock.now();
        let (definition, value, changed) = {
            let mut entries = self.entries.borrow_mut();
            let Some(entry) = entries.get_mut(key) else { return };
            if entry.failure.is_some() || entry.withheld {
                tracing::info!(%key, "answered again");
            }
            (entry.failure, entry.refusals, entry.withheld) = (None, None, false);
            entry.shredded = false;
            let sealed_at = entry.held.as_ref().map_or(0, |held| held.sealed_at);
            let held = Held::new(&self.store, key, Arc::new(value), now, sealed_at);
            let changed = entry.held.as_ref().is_none_or(|before| before.tag != held.tag);
            if changed && entry.held.is_some() {
                self.recall(key);
            }
            let value = held.value.clone();
            entry.held = Some(held);
            if !changed && now.saturating_sub(sealed_at) < RESEAL_AFTER_MS {
                return;
            }
            (entry.source.definition.clone(), value, changed)
        };
        let (store, path) = (self.store.clone(), key.clone());
        let saved = tokio::task::spawn_blocking(move || store.save(&path, &definition, &value, now)).await;
        match saved {
            Ok(Ok(())) => {
                if let Some(held) = self.entries.borrow_mut().get_mut(key).and_then(|entry| entry.held.as_mut()) {
                    held.sealed_at = now;
                }
            }
            Ok(Err(error)) => tracing::error!(%key, %error, changed, "not persisted; still served from memory"),
            Err(error) => tracing::error!(%key, %error, "not persisted; still served from memory"),
        }
    }

    async fn refuse(&self, key: &KeyPath, failure: Failure) {
        let shred = {
            let mut entries = self.entries.borrow_mut();
            let Some(entry) = entries.get_mut(key) else { return };
            if entry.failure.is_none_or(|before| before.class != failure.class) {
                tracing::warn!(%key, outcome = failure.class.name(), reason = %failure.reason, "failing");
            }
            entry.failure = Some(failure);
            if !matches!(failure.class, Class::TokenRefused | Class::Refused | Class::Gone) {
                return;
            }
            let (count, since) = entry.refusals.map_or((1, Instant::now()), |(count, since)| (count + 1, since));
            entry.refusals = Some((count, since));
            let Revocation::After { refusals, over } = entry.settings.revocation else { return };
            if count < refusals || since.elapsed() < over || (entry.held.is_none() || entry.withheld) {
                return;
            }
            self.recall(key);
            if failure.class == Class::TokenRefused {
                entry.withheld = true;
                tracing::error!(%key, refusals = count, "the token was refused for too long: the value is withheld");
                return;
            }
            entry.held = None;
            entry.shredded = true;
            tracing::error!(%key, refusals = count, outcome = failure.class.name(), "revoked: the value is shredded");
            true
        };
        let (store, path) = (self.store.clone(), key.clone());
        if shred && !matches!(tokio::task::spawn_blocking(move || store.shred(&path)).await, Ok(Ok(()))) {
            tracing::error!(%key, "the sealed file of a revoked value could not be removed");
        }
    }

    /// The worker may hold this value under a lease: it must not any more.
    fn recall(&self, key: &KeyPath) {
        // A closed queue means that the worker is gone, and its values with it.
        let _ = self.recalls.send(Recall::Keys(vec![key.clone()]));
    }

    fn fall_back(&self, key: &KeyPath, failure: Failure, verdict: Verdict) -> Reply {
        let usable = self.entries.borrow().get(key).is_some_and(|entry| entry.is_usable(self.clock.now()));
        if usable { self.value(key, verdict) } else { self.failure(key, Some(failure), verdict) }
    }

    fn value(&self, key: &KeyPath, verdict: Verdict) -> Reply {
        let entries = self.entries.borrow();
        let Some(entry) = entries.get(key) else { return Reply::Denied };
        let Some(held) = entry.held.as_ref().filter(|_| !entry.withheld) else {
            drop(entries);
            return self.failure(key, None, verdict);
        };
        Reply::Value(ValueReply {
            verdict,
            lease: self.lease(entry, held, verdict),
            etag: held.tag,
            etag_text: held.tag_text,
            body: Body::Inline(WireBytes(held.value.json().to_vec())),
        })
    }

    /// Fresh values until they are not; a stale one until the next attempt is due.
    fn lease(&self, entry: &Entry, held: &Held, verdict: Verdict) -> Lease {
        let nanos = |length: Duration| i64::try_from(length.as_nanos()).unwrap_or(i64::MAX);
        let now = boot_nanos();
        let age = Duration::from_millis(self.clock.now().saturating_sub(held.fetched_at));
        let born = now.saturating_sub(nanos(age));
        let end = |span: Span| match span {
            Span::Finite(length) => born.saturating_add(nanos(length)),
            Span::Forever => i64::MAX,
        };
        let fresh_until = end(entry.settings.max_age);
        let documents = self.documents.borrow();
        let pause = documents.get(&entry.source.document).and_then(|state| state.next_attempt);
        let pause = pause.map_or(0, |at| nanos(at.saturating_duration_since(Instant::now())));
        let legal_until = end(entry.settings.max_age.plus(entry.settings.stale_if_error));
        let usable_until = fresh_until.max(now.saturating_add(pause).min(legal_until));
        Lease {
            born: BootInstant(born),
            fresh_until: BootInstant(fresh_until),
            usable_until: BootInstant(usable_until),
            stale_detail: verdict.detail.unwrap_or(Detail::BackingOff),
        }
    }

    fn failure(&self, key: &KeyPath, failure: Option<Failure>, verdict: Verdict) -> Reply {
        let entries = self.entries.borrow();
        let Some(entry) = entries.get(key) else { return Reply::Denied };
        let known = failure.or(entry.failure).unwrap_or(Failure::unavailable(Reason::Timeout));
        let documents = self.documents.borrow();
        let next = documents.get(&entry.source.document).and_then(|state| state.next_attempt);
        let retry_after = next.map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now()));
        Reply::Failure(FailureReply {
            class: known.class,
            reason: known.reason,
            verdict,
            retry_after: retry_after.max(Duration::from_secs(1)),
        })
    }
}

impl Held {
    fn new(store: &Store, key: &KeyPath, value: Arc<SecretValue>, fetched_at: u64, sealed_at: u64) -> Self {
        let tag = store.seal_key().tag(key, "application/json", value.json());
        let tag_text = value.text().map(|text| store.seal_key().tag(key, "text/plain", text.as_bytes()));
        Self { value, fetched_at, sealed_at, tag, tag_text }
    }
}

impl Entry {
    fn age(&self, now: u64) -> Option<Duration> {
        let held = self.held.as_ref().filter(|_| !self.withheld)?;
        Some(Duration::from_millis(now.saturating_sub(held.fetched_at)))
    }

    fn state(&self, now: u64) -> State {
        match (self.age(now), self.failure) {
            _ if self.withheld || self.shredded => State::Revoked,
            (_, Some(_)) => State::Failing,
            (Some(age), None) if self.settings.max_age.covers(age) => State::Fresh,
            (Some(_), None) => State::Stale,
            (None, None) => State::NeverFetched,
        }
    }

    fn is_usable(&self, now: u64) -> bool {
        self.age(now).is_some_and(|age| crate::staleness::is_usable(&self.settings, age))
    }
}
