//! Fetches: one for each document at a time, shared by all who ask, paced by back-off, and stored however late they land.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::entry::{Entry, GivenUp};
use super::pace::{Circumstances, Pace};
use super::{DocumentId, DocumentState, Engine, Origin};
use crate::config::Document;
use crate::ipc::wire::Recall;
use crate::outcome::{Class, Failure, Reason};
use crate::parent::upstream::{DocumentBody, project};
use crate::secret::KeyPath;
use crate::sys::clock::boot_nanos;

/// How long a peer that got nothing counts as wanting the value.
const WANTED_FOR: Duration = Duration::from_secs(60);

#[derive(Clone)]
pub(super) struct Flight {
    pub(super) started: Instant,
    pub(super) landed: watch::Receiver<bool>,
}

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
        let (document, keys, limit, late_after) = {
            let documents = self.documents.borrow();
            let state = &documents[id.0];
            (state.document.clone(), state.keys.clone(), state.fetch_timeout, self.late_after(state))
        };
        let started = Instant::now();
        let mut late = false;
        let call = timeout(limit, self.call(&document));
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
        let fetched = fetched.unwrap_or(Err(Failure::unavailable(Reason::Timeout)));
        let fetched = fetched.map_err(|failure| self.classify(id, failure));
        let millis = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        match &fetched {
            Ok(_) => tracing::info!(origin = document.origin(), millis, outcome = "answered", "fetch"),
            Err(failure) => tracing::warn!(
                origin = document.origin(), millis, outcome = failure.class.name(), reason = %failure.reason, "fetch"
            ),
        }
        self.settle(id, fetched.as_ref().err().copied(), late);
        let mut values = Vec::new();
        for key in keys.iter() {
            let projection = self.entries.borrow().get(key).map(|entry| entry.projection.clone());
            let Some(projection) = projection else { continue };
            let projected = match &fetched {
                Ok(body) => project(body, &projection, self.value_size),
                Err(failure) => Err(*failure),
            };
            match projected {
                Ok(value) => values.push((key.clone(), value)),
                Err(failure) => self.refuse(key, failure, fetched.is_ok()).await,
            }
        }
        self.accept(values).await;
        if fetched.is_ok() {
            self.restore_withheld(&document).await;
        }
        self.documents.borrow_mut()[id.0].flight = None;
    }

    async fn call(&self, document: &Document) -> Result<DocumentBody, Failure> {
        match document {
            Document::Http(http) => self.http.fetch(http, &self.vault).await,
            Document::File(_) => Err(Failure::unavailable(Reason::SourceUnreadable)),
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
    fn settle(&self, id: DocumentId, failure: Option<Failure>, late: bool) {
        let mut documents = self.documents.borrow_mut();
        let state = &mut documents[id.0];
        let mut origins = self.origins.borrow_mut();
        let origin = origins.entry(state.origin.clone()).or_default();
        state.refused = failure.is_some_and(|failure| matches!(failure.class, Class::TokenRefused | Class::Refused));
        let Some(failure) = failure else {
            state.pace.succeed();
            origin.succeed();
            return;
        };
        let why = self.circumstances(failure.retry_after);
        match (late, failure.is_of_origin()) {
            (false, true) => origin.fail(why),
            (true, true) => origin.again(why),
            // It answered, if only to refuse.
            (_, false) => origin.succeed(),
        }
        if late { state.pace.again(why) } else { state.pace.fail(why) }
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

    pub(super) async fn refuse(&self, key: &KeyPath, failure: Failure, document_is_good: bool) {
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
            }
            given_up
        };
        match given_up {
            None => {}
            Some(GivenUp::Withheld) => tracing::error!(%key, "the token is refused: the value is withheld"),
            Some(GivenUp::Shredded) => {
                tracing::error!(%key, outcome = failure.class.name(), "revoked: the value is shredded");
                self.bury(key).await;
            }
        }
    }

    /// The worker may hold this value under a lease: it must not any more.
    pub(super) fn recall(&self, key: &KeyPath, entry: &mut Entry) {
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
    let _ = aws_lc_rs::rand::fill(&mut byte);
    byte[0]
}

/// Back-off of all origins, each with its token.
pub(super) type Origins = HashMap<Origin, Pace>;
