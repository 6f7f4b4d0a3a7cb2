//! Fetches: one for each document at a time, shared by all who ask, paced by back-off, and stored however late they land.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::documents::{DocumentId, DocumentState};
use super::entry::{Entry, Held};
use super::{Asker, Engine, Origin, fetched};
use crate::config::Projection;
use crate::ipc::wire::Recall;
use crate::outcome::{Class, Failure, Reason};
use crate::parent::cache::{Definition, Validators};
use crate::parent::outbox::Recalling;
use crate::parent::pace::{Circumstances, Pace, random};
use crate::parent::upstream::{Answer, Exception, Fetched, project_aside};
use crate::secret::{KeyPath, SecretValue};
use crate::sys::clock::boot_nanos;

/// How long a peer that got nothing counts as wanting the value.
const WANTED_FOR: Duration = Duration::from_secs(60);

#[derive(Clone)]
pub(super) struct Flight {
    pub(super) started: Instant,
    pub(super) landed: watch::Receiver<bool>,
    /// What the service raised, once it has landed.
    pub(super) raised: Rc<OnceCell<Exception>>,
}

/// A value that the upstream vouches for now.
pub(super) struct Fresh {
    /// `None`: the one that there is.
    pub(super) value: Option<SecretValue>,
    /// Of its saying so.
    pub(super) status: Option<u16>,
    pub(super) validators: Validators,
}

/// An answer, and what of its keys was so when it came: what has changed since is newer.
pub(super) struct Landed {
    pub(super) began: Instant,
    /// Milliseconds since the epoch.
    pub(super) answered_at: u64,
    pub(super) definitions: HashMap<KeyPath, Definition>,
}

impl Landed {
    /// Whether it is an answer to what this key is now.
    pub(super) fn is_of(&self, key: &KeyPath, entry: &Entry) -> bool {
        self.definitions.get(key) == Some(&entry.definition) && entry.purged.is_none_or(|at| at < self.began)
    }
}

/// How one attempt ended.
enum Flown {
    /// It is to begin anew.
    Overtaken,
    /// Perhaps with what the service raised.
    Landed(Option<Exception>),
}

/// How a call ended, for back-off.
struct Ended {
    began: Instant,
    /// It has been counted as a failure already.
    late: bool,
    failure: Option<Failure>,
    quota_spent: Option<Duration>,
}

impl Engine {
    /// When back-off of the document, of its origin or of the key itself lets the next attempt begin.
    pub(super) fn next_attempt(&self, entry: &Entry, document: Option<&DocumentState>) -> Option<Instant> {
        let origins = self.origins.borrow();
        let origin = document.and_then(|document| origins.get(&document.origin)).and_then(Pace::due);
        let negative = entry.negative_until.filter(|_| entry.held.is_none());
        let document = document.and_then(|document| document.pace.due());
        [document, origin, entry.pace.due(), negative].into_iter().flatten().max()
    }

    pub(super) fn attempt_due(&self, entry: &Entry, document: &DocumentState) -> bool {
        let now = Instant::now();
        let origins = self.origins.borrow();
        origins.get(&document.origin).is_none_or(|pace| pace.permits(now))
            && self.next_attempt(entry, Some(document)).is_none_or(|due| due <= now)
    }

    /// The fetch of a document that is under way, or a new one for this key; and whether it was under way.
    pub(super) fn join(
        self: &Rc<Self>,
        id: DocumentId,
        key: Option<&KeyPath>,
        asker: Option<Asker>,
    ) -> Option<(Flight, bool)> {
        let mut documents = self.documents.borrow_mut();
        let state = documents.get_mut(id)?;
        if let Some(flight) = &state.flight {
            return Some((flight.clone(), true));
        }
        let (land, landed) = watch::channel(false);
        let flight = Flight { started: Instant::now(), landed, raised: Rc::default() };
        state.flight = Some(flight.clone());
        state.last_started = Some(flight.started);
        self.origins.borrow_mut().entry(state.origin.clone()).or_default().begin();
        let (engine, key, raised) = (self.clone(), key.cloned(), flight.raised.clone());
        tokio::task::spawn_local(async move {
            if let Some(exception) = engine.fly(id, key, asker).await {
                // It is the only one who says so.
                let _ = raised.set(exception);
            }
            engine.land(id);
            // Nobody may be waiting any more.
            let _ = land.send(true);
        });
        Some((flight, false))
    }

    /// The end of a fetch.
    fn land(self: &Rc<Self>, id: DocumentId) {
        let landed = self.documents.borrow_mut().get_mut(id).map(|state| {
            state.flight = None;
            state.keys.clone()
        });
        landed.iter().flat_map(|keys| keys.iter()).for_each(|key| self.let_go(key));
        self.documents.borrow_mut().drop_if_idle(id);
        self.keep_refreshed(id, false);
    }

    /// Gives what the service raised, if it did.
    async fn fly(self: &Rc<Self>, id: DocumentId, key: Option<KeyPath>, asker: Option<Asker>) -> Option<Exception> {
        loop {
            // What an old token was given says nothing once another one is in its place.
            if let Flown::Landed(raised) = self.fly_once(id, key.as_ref(), asker.as_ref()).await {
                return raised;
            }
        }
    }

    async fn fly_once(self: &Rc<Self>, id: DocumentId, key: Option<&KeyPath>, asker: Option<&Asker>) -> Flown {
        let (document, keys, known, limit, late_after) = {
            let documents = self.documents.borrow();
            let Some(state) = documents.get(id) else { return Flown::Landed(None) };
            let (known, late_after) = (self.known(state, key), self.late_after(state));
            let arguments = asker.and_then(|asker| asker.arguments.clone());
            let carrying = |arguments| Rc::new(state.document.carrying(arguments));
            let document = arguments.map_or_else(|| state.document.clone(), carrying);
            (document, state.keys.clone(), known, state.fetch_timeout, late_after)
        };
        let started = Instant::now();
        let mut late = false;
        let call = timeout(limit, self.call(&document, &known));
        tokio::pin!(call);
        let fetched = loop {
            tokio::select! {
                fetched = &mut call => break fetched,
                () = sleep_until(started + late_after), if !late => {
                    late = true;
                    self.count_as_late(id, started);
                }
            }
        };
        let unanswered = |_| (Err(self.sources.borrow().unanswered(&document)).into(), Vec::new());
        let (Fetched { answer, quota_spent }, used) = fetched.unwrap_or_else(unanswered);
        if self.is_overtaken(&used) {
            return Flown::Overtaken;
        }
        let answer = answer.map_err(|failure| self.classify(id, failure));
        fetched::tell(&document, &keys, asker, started, &answer);
        self.counters.count_fetch(&document, &answer);
        let ended = Ended { began: started, late, failure: answer.as_ref().err().copied(), quota_spent };
        self.settle(id, ended);
        // Other paths may have come to need this document meanwhile.
        let keys = self.documents.borrow().get(id).map(|state| state.keys.clone()).unwrap_or_default();
        let landed = self.landed(&keys, started);
        let answered = answer.is_ok();
        let raised = if let Ok(Answer::Raised(exception)) = &answer { Some(exception.clone()) } else { None };
        if raised.is_some() {
            self.note_raised(&keys, &landed);
        }
        let (mut values, mut refusals) = (Vec::new(), Vec::new());
        for (key, value) in self.values_of(&keys, answer, &known).await {
            match value {
                Ok(fresh) => values.push((key, fresh)),
                Err(failure) => refusals.push((key, failure)),
            }
        }
        self.keep(values, &landed).await;
        let mut given_up = Vec::new();
        for (key, failure) in refusals {
            if self.entries.borrow().get(&key).is_some_and(|entry| landed.is_of(&key, entry)) {
                given_up.extend(self.refuse(&key, failure, answered));
            }
        }
        self.give_up(given_up).await;
        if answered {
            self.restore_withheld(&document.token_names()).await;
        }
        Flown::Landed(raised)
    }

    /// The service is there and gave no value: nothing that was known of its keys counts less, and no failure of theirs lasts.
    fn note_raised(&self, keys: &[KeyPath], landed: &Landed) {
        let mut entries = self.entries.borrow_mut();
        for key in keys {
            let Some(entry) = entries.get_mut(key).filter(|entry| landed.is_of(key, entry)) else { continue };
            entry.raise(Instant::now());
            // The next one is to ask the service, too.
            if entry.leased_stale {
                self.recall(key, entry);
            }
        }
    }

    pub(super) fn landed(&self, keys: &[KeyPath], began: Instant) -> Landed {
        let entries = self.entries.borrow();
        let definition = |key: &KeyPath| Some((key.clone(), entries.get(key)?.definition));
        Landed { began, answered_at: self.clock.now(), definitions: keys.iter().filter_map(definition).collect() }
    }

    /// What a request may show: only while every key of the document has a value, and all have theirs of one answer.
    /// Paths that never had one do not count, but for the one that it is for.
    fn known(&self, state: &DocumentState, of: Option<&KeyPath>) -> Validators {
        let entries = self.entries.borrow();
        let entry_of = |key: &KeyPath| entries.get(key).filter(|entry| of == Some(key) || entry.is_listed());
        let mut counting = state.keys.iter().filter_map(entry_of).map(|entry| entry.held.as_ref());
        let Some(Some(first)) = counting.next() else { return Validators::default() };
        let of_one_answer = |held: Option<&Held>| held.is_some_and(|held| held.validators == first.validators);
        if counting.all(of_one_answer) { first.validators.clone() } else { Validators::default() }
    }

    /// What an answer is to each of these keys as they were when it came: its value, with the status that came with it. A key
    /// without a value that could be as it was is left out.
    async fn values_of(
        &self,
        keys: &[KeyPath],
        answer: Result<Answer, Failure>,
        known: &Validators,
    ) -> Vec<(KeyPath, Result<Fresh, Failure>)> {
        let of_entries = |take: &dyn Fn(&Entry) -> bool| -> Vec<KeyPath> {
            let entries = self.entries.borrow();
            keys.iter().filter(|key| entries.get(*key).is_some_and(take)).cloned().collect()
        };
        let (body, fresh) = match answer {
            Err(failure) => return of_entries(&|_| true).into_iter().map(|key| (key, Err(failure))).collect(),
            // It says nothing of any value.
            Ok(Answer::Raised(_) | Answer::Reached) => return Vec::new(),
            Ok(Answer::NotModified) => {
                let fresh = || Fresh { value: None, status: Some(304), validators: known.clone() };
                // Only what the upstream was told that there is.
                let told = |entry: &Entry| entry.held.as_ref().is_some_and(|held| held.validators == *known);
                return of_entries(&told).into_iter().map(|key| (key, Ok(fresh()))).collect();
            }
            Ok(Answer::Answered { body, status, validators }) => {
                (body, move |value| Fresh { value: Some(value), status, validators: validators.clone() })
            }
        };
        let (wanted, projections): (Vec<KeyPath>, Vec<Projection>) = {
            let entries = self.entries.borrow();
            let of_key = |key: &KeyPath| Some((key.clone(), entries.get(key)?.projection.clone()));
            keys.iter().filter_map(of_key).unzip()
        };
        let values: Vec<Result<SecretValue, Failure>> = match project_aside(body, projections, self.value_size).await {
            Ok(values) => values,
            Err(failure) => wanted.iter().map(|_| Err(failure)).collect(),
        };
        wanted.into_iter().zip(values).map(|(key, value)| (key, value.map(&fresh))).collect()
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

    pub(super) fn circumstances(&self, retry_after: Option<Duration>) -> Circumstances {
        let wanted = self.wanted.get().is_some_and(|since| since.elapsed() < WANTED_FOR);
        Circumstances { now: Instant::now(), retry_after, wanted, random: random() }
    }

    fn count_as_late(&self, id: DocumentId, began: Instant) {
        let mut documents = self.documents.borrow_mut();
        let Some(state) = documents.get_mut(id) else { return };
        state.pace.fail(self.circumstances(None));
        let mut origins = self.origins.borrow_mut();
        let origin = origins.entry(state.origin.clone()).or_default();
        // Whoever asks has chosen this document, so that it is slow says nothing of others.
        if state.expanded { origin.release() } else { origin.fail_since(began, self.circumstances(None)) }
    }

    /// Back-off after a call: of the document, and of its origin if that is what failed.
    fn settle(&self, id: DocumentId, ended: Ended) {
        let Ended { began, late, failure, quota_spent } = ended;
        let mut documents = self.documents.borrow_mut();
        let Some(state) = documents.get_mut(id) else { return };
        let mut origins = self.origins.borrow_mut();
        let origin = origins.entry(state.origin.clone()).or_default();
        state.failed = failure;
        state.refused = failure.is_some_and(|failure| matches!(failure.class, Class::TokenRefused | Class::Refused));
        if let Some(failure) = failure {
            let why = self.circumstances(failure.retry_after);
            match (late, failure.is_of_origin()) {
                (_, true) if state.expanded && failure.reason == Reason::Timeout => origin.release(),
                (true, true) if !state.expanded => origin.again(why),
                (_, true) => origin.fail_since(began, why),
                // It answered, if only to refuse.
                (_, false) => origin.succeed_since(began, late),
            }
            if late { state.pace.again(why) } else { state.pace.fail(why) }
        } else {
            state.pace.succeed();
            origin.succeed_since(began, late);
        }
        if let Some(wait) = quota_spent {
            origin.rest(Instant::now(), wait);
        }
    }

    /// The worker may hold this value under a lease: it must not any more.
    pub(super) fn recall(&self, key: &KeyPath, entry: &mut Entry) {
        if entry.leased_until > boot_nanos() {
            // A closed queue means that the worker is gone, and its values with it.
            let _ = self.recalls.send(Recalling { keys: Recall::Keys(vec![key.whole()]), done: None });
            self.counters.count_recall();
        }
        entry.leased_until = 0;
    }
}

/// Back-off of all origins, each with its token.
pub(super) type Origins = HashMap<Origin, Pace>;
