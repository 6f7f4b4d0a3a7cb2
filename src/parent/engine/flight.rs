//! Fetches: one for each document at a time, shared by all who ask, paced by back-off, and stored however late they land.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::entry::{Entry, GivenUp, Held};
use super::pace::{Circumstances, Pace};
use super::{DocumentId, DocumentState, Engine, Origin};
use crate::config::Document;
use crate::ipc::wire::Recall;
use crate::outcome::{Class, Failure, Reason};
use crate::parent::upstream::{Answer, Fetched, Validators, project};
use crate::secret::{KeyPath, SecretValue};
use crate::sys::clock::boot_nanos;

/// How long a value's sealed age may lag behind before it is written again although the value is the same.
const RESEAL_AFTER_MS: u64 = 60_000;
/// How long a peer that got nothing counts as wanting the value.
const WANTED_FOR: Duration = Duration::from_secs(60);

#[derive(Clone)]
pub(super) struct Flight {
    pub(super) started: Instant,
    pub(super) landed: watch::Receiver<bool>,
}

/// A value that the upstream vouches for now, and the status of its saying so.
type Fresh = (Arc<SecretValue>, Option<u16>);

impl Engine {
    /// When back-off of the document, of its origin or of the key itself lets the next attempt begin.
    pub(super) fn next_attempt(&self, entry: &Entry, document: &DocumentState) -> Option<Instant> {
        let origins = self.origins.borrow();
        let origin = origins.get(&document.origin).and_then(Pace::due);
        let negative = entry.negative_until.filter(|_| entry.held.is_none());
        [document.pace.due(), origin, entry.pace.due(), negative].into_iter().flatten().max()
    }

    pub(super) fn attempt_due(&self, entry: &Entry, document: &DocumentState) -> bool {
        let now = Instant::now();
        let origins = self.origins.borrow();
        origins.get(&document.origin).is_none_or(|pace| pace.permits(now))
            && self.next_attempt(entry, document).is_none_or(|due| due <= now)
    }

    /// The fetch of a document that is under way, or a new one; and whether it was under way.
    pub(super) fn join(self: &Rc<Self>, id: DocumentId) -> (Flight, bool) {
        let mut documents = self.documents.borrow_mut();
        let state = &mut documents[id.0];
        if let Some(flight) = &state.flight {
            return (flight.clone(), true);
        }
        let (land, landed) = watch::channel(false);
        let flight = Flight { started: Instant::now(), landed };
        state.flight = Some(flight.clone());
        state.last_started = Some(flight.started);
        self.origins.borrow_mut().entry(state.origin.clone()).or_default().begin();
        let engine = self.clone();
        tokio::task::spawn_local(async move {
            engine.fly(id).await;
            // Nobody may be waiting any more.
            let _ = land.send(true);
        });
        (flight, false)
    }

    /// Keeps documents with `refresh` fresh, each for itself.
    pub(in crate::parent) fn refresh_ahead(self: &Rc<Self>) {
        for (index, state) in self.documents.borrow().iter().enumerate() {
            let Some(every) = state.refresh else { continue };
            let (engine, id) = (self.clone(), DocumentId(index));
            tokio::task::spawn_local(async move {
                loop {
                    let permitted = {
                        let documents = engine.documents.borrow();
                        let state = &documents[id.0];
                        let now = Instant::now();
                        let origins = engine.origins.borrow();
                        state.pace.permits(now) && origins.get(&state.origin).is_none_or(|pace| pace.permits(now))
                    };
                    if permitted {
                        engine.join(id);
                    }
                    // Up to a tenth earlier, so that many documents do not stay in step.
                    tokio::time::sleep(every - every * u32::from(random()) / 2550).await;
                }
            });
        }
    }

    async fn fly(&self, id: DocumentId) {
        let (document, keys, known, limit, late_after) = {
            let documents = self.documents.borrow();
            let state = &documents[id.0];
            let (known, late_after) = (self.known(state), self.late_after(state));
            (state.document.clone(), state.keys.clone(), known, state.fetch_timeout, late_after)
        };
        let started = Instant::now();
        let mut late = false;
        let call = timeout(limit, self.sources.fetch(&document, &known, &self.vault));
        tokio::pin!(call);
        let fetched = loop {
            tokio::select! {
                fetched = &mut call => break fetched,
                () = sleep_until(started + late_after), if !late => {
                    late = true;
                    self.count_as_late(id);
                }
            }
        };
        let Fetched { answer, quota_spent } =
            fetched.unwrap_or_else(|_| Err(Failure::unavailable(Reason::Timeout)).into());
        let answer = answer.map_err(|failure| self.classify(id, failure));
        let millis = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let outcome = if matches!(answer, Ok(Answer::NotModified)) { "not-modified" } else { "answered" };
        match &answer {
            Ok(_) => tracing::info!(origin = document.origin(), millis, outcome, "fetch"),
            Err(failure) => tracing::warn!(
                origin = document.origin(), millis, outcome = failure.class.name(), reason = %failure.reason, "fetch"
            ),
        }
        self.settle(id, answer.as_ref().err().copied(), late, quota_spent);
        let mut all_accepted = answer.is_ok();
        for key in keys.iter() {
            match self.value_of(key, &answer) {
                Some(Ok((value, status))) => self.accept(key, value, status).await,
                Some(Err(failure)) => {
                    all_accepted = false;
                    self.refuse(id, key, failure, answer.is_ok()).await;
                }
                None => all_accepted = false,
            }
        }
        if answer.is_ok() {
            self.restore_withheld(&document).await;
        }
        let state = &mut self.documents.borrow_mut()[id.0];
        state.flight = None;
        match answer {
            // An answer that one of its keys has no value of must be had again, whole.
            Ok(Answer::Answered { .. } | Answer::NotModified) if !all_accepted => {
                state.validators = Validators::default()
            }
            Ok(Answer::Answered { validators, .. }) => state.validators = validators,
            Ok(Answer::NotModified) | Err(_) => {}
        }
    }

    /// What a request may show: only while every key of the document has the value that came with it.
    fn known(&self, state: &DocumentState) -> Validators {
        let entries = self.entries.borrow();
        let has_value = |key: &KeyPath| entries.get(key).is_some_and(|entry| entry.held.is_some());
        if state.keys.iter().all(has_value) { state.validators.clone() } else { Validators::default() }
    }

    /// The value of a key in an answer, with the status of that. `None` when there is no such key any more, or no
    /// value that could be as it was.
    fn value_of(&self, key: &KeyPath, answer: &Result<Answer, Failure>) -> Option<Result<Fresh, Failure>> {
        let entries = self.entries.borrow();
        let entry = entries.get(key)?;
        match answer {
            Err(failure) => Some(Err(*failure)),
            Ok(Answer::NotModified) => Some(Ok((entry.held.as_ref()?.value.clone(), Some(304)))),
            Ok(Answer::Answered { body, status, .. }) => {
                let value = project(body, &entry.projection, self.value_size);
                Some(value.map(|value| (Arc::new(value), *status)))
            }
        }
    }

    /// After how long a call counts as unavailable for back-off, although it may still succeed.
    fn late_after(&self, state: &DocumentState) -> Duration {
        let entries = self.entries.borrow();
        let now = self.clock.now();
        let waits =
            state.keys.iter().filter_map(|key| entries.get(key)).map(|entry| {
                if entry.is_usable(now) { entry.settings.failover_timeout } else { entry.settings.timeout }
            });
        waits.min().unwrap_or_default()
    }

    fn circumstances(&self, retry_after: Option<Duration>) -> Circumstances {
        let wanted = self.wanted.get().is_some_and(|since| since.elapsed() < WANTED_FOR);
        Circumstances { now: Instant::now(), retry_after, wanted, random: random() }
    }

    fn count_as_late(&self, id: DocumentId) {
        let mut documents = self.documents.borrow_mut();
        let state = &mut documents[id.0];
        state.pace.fail(self.circumstances(None));
        self.origins.borrow_mut().entry(state.origin.clone()).or_default().fail(self.circumstances(None));
    }

    /// Back-off after a call: of the document, and of its origin if that is what failed.
    fn settle(&self, id: DocumentId, failure: Option<Failure>, late: bool, quota_spent: Option<Duration>) {
        let mut documents = self.documents.borrow_mut();
        let state = &mut documents[id.0];
        let mut origins = self.origins.borrow_mut();
        let origin = origins.entry(state.origin.clone()).or_default();
        state.refused = failure.is_some_and(|failure| matches!(failure.class, Class::TokenRefused | Class::Refused));
        if let Some(failure) = failure {
            let why = self.circumstances(failure.retry_after);
            match (late, failure.is_of_origin()) {
                (false, true) => origin.fail(why),
                (true, true) => origin.again(why),
                // It answered, if only to refuse.
                (_, false) => origin.succeed(),
            }
            if late { state.pace.again(why) } else { state.pace.fail(why) }
        } else {
            state.pace.succeed();
            origin.succeed();
        }
        if let Some(wait) = quota_spent {
            origin.rest(Instant::now() + wait);
        }
    }

    /// A 403 is the token's when every document of the token that was asked is refused, and the document's own otherwise.
    fn classify(&self, id: DocumentId, failure: Failure) -> Failure {
        let documents = self.documents.borrow();
        let token = documents[id.0].document.token();
        if failure.class != Class::Refused || token.is_none() {
            return failure;
        }
        let asked = |(other, state): &(usize, &DocumentState)| {
            *other != id.0 && state.document.token() == token && state.last_started.is_some()
        };
        let mut others = documents.iter().enumerate().filter(asked);
        let class = if others.all(|(_, state)| state.refused) { Class::TokenRefused } else { Class::Refused };
        Failure { class, ..failure }
    }

    async fn accept(&self, key: &KeyPath, value: Arc<SecretValue>, status: Option<u16>) {
        let now = self.clock.now();
        let (definition, value) = {
            let mut entries = self.entries.borrow_mut();
            let Some(entry) = entries.get_mut(key) else { return };
            if entry.failure.is_some() {
                tracing::info!(%key, "answered again");
            }
            let sealed_at = entry.held.as_ref().map_or(0, |held| held.sealed_at);
            let held = Held::new(self.store.seal_key(), key, value, now, sealed_at);
            let value = held.value.clone();
            let changed = entry.accept(held);
            entry.status = status;
            if changed || entry.leased_stale {
                self.recall(key, entry);
            }
            if !changed && now.saturating_sub(sealed_at) < RESEAL_AFTER_MS {
                return;
            }
            (entry.definition.clone(), value)
        };
        let (store, path) = (self.store.clone(), key.clone());
        let saved = tokio::task::spawn_blocking(move || store.save(&path, &definition, &value, now)).await;
        match saved {
            Ok(Ok(())) => {
                if let Some(held) = self.entries.borrow_mut().get_mut(key).and_then(|entry| entry.held.as_mut()) {
                    held.sealed_at = now;
                }
            }
            Ok(Err(error)) => tracing::error!(%key, %error, "not persisted; still served from memory"),
            Err(error) => tracing::error!(%key, %error, "not persisted; still served from memory"),
        }
    }

    async fn refuse(&self, id: DocumentId, key: &KeyPath, failure: Failure, document_is_good: bool) {
        let given_up = {
            let mut entries = self.entries.borrow_mut();
            let Some(entry) = entries.get_mut(key) else { return };
            if entry.failure.is_none_or(|before| before.class != failure.class) {
                tracing::warn!(%key, outcome = failure.class.name(), reason = %failure.reason, "failing");
            }
            if document_is_good {
                entry.pace.fail(self.circumstances(None));
            }
            entry.negative_until = Some(Instant::now() + entry.settings.negative_max_age);
            let given_up = entry.refuse(failure, Instant::now());
            if given_up.is_some() {
                self.recall(key, entry);
                // What is restored from disk some day need not be what they came with.
                self.documents.borrow_mut()[id.0].validators = Validators::default();
            }
            given_up
        };
        match given_up {
            None => {}
            Some(GivenUp::Withheld) => tracing::error!(%key, "the token is refused: the value is withheld"),
            Some(GivenUp::Shredded) => {
                tracing::error!(%key, outcome = failure.class.name(), "revoked: the value is shredded");
                let (store, path) = (self.store.clone(), key.clone());
                if !matches!(tokio::task::spawn_blocking(move || store.shred(&path)).await, Ok(Ok(()))) {
                    tracing::error!(%key, "the sealed file of a revoked value could not be removed");
                }
            }
        }
    }

    /// A token was accepted: what was withheld for its sake serves again, from disk.
    async fn restore_withheld(&self, accepted: &Document) {
        let Some(token) = accepted.token() else { return };
        let withheld: Vec<(KeyPath, String)> = {
            let (entries, documents) = (self.entries.borrow(), self.documents.borrow());
            let of_token = |entry: &Entry| documents[entry.document.0].document.token() == Some(token);
            let withheld = entries.iter().filter(|(_, entry)| entry.is_withheld() && of_token(entry));
            withheld.map(|(key, entry)| (key.clone(), entry.definition.clone())).collect()
        };
        for (key, definition) in withheld {
            let (store, path) = (self.store.clone(), key.clone());
            let loaded = tokio::task::spawn_blocking(move || store.load(&path, &definition)).await;
            let loaded = loaded.ok().and_then(Result::ok).flatten();
            let held = loaded.map(|loaded| {
                let value = Arc::new(loaded.value);
                Held::new(self.store.seal_key(), &key, value, loaded.fetched_at, loaded.fetched_at)
            });
            if let Some(entry) = self.entries.borrow_mut().get_mut(&key).filter(|entry| entry.is_withheld()) {
                tracing::info!(%key, "the token is accepted: what was withheld serves again");
                entry.restore(held);
            }
        }
    }

    /// The worker may hold this value under a lease: it must not any more.
    fn recall(&self, key: &KeyPath, entry: &mut Entry) {
        if entry.leased_until > boot_nanos() {
            // A closed queue means that the worker is gone, and its values with it.
            let _ = self.recalls.send(Recall::Keys(vec![key.clone()]));
        }
        entry.leased_until = 0;
    }
}

/// For spreading only: without randomness, nothing is spread.
fn random() -> u8 {
    let mut byte = [0];
    let _ = crate::sys::random::fill(&mut byte);
    byte[0]
}

/// Back-off of all origins, each with its token.
pub(super) type Origins = HashMap<Origin, Pace>;
