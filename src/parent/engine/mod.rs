//! Answers a judged fetch: the value held, a fetch shared by all who ask, or the last known good.
//!
//! Never judges who may read: whoever calls has done so. Never fetches faster than back-off allows.

mod actions;
mod ahead;
mod answer;
mod budget;
mod composed;
mod counters;
mod documents;
mod drill;
mod entry;
mod expanded;
mod fetched;
mod flight;
mod given_up;
mod memory;
mod metrics;
mod open;
mod ranking;
mod reconfigure;
mod removal;
mod scribe;
mod state;
mod status;
mod steps;
mod storage;
#[cfg(test)]
mod tests;
mod tidy;
mod tokens;

pub(super) use self::reconfigure::{NewTokens, Reconfigured};
pub(super) use self::tokens::Trial;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Instant, timeout_at};

pub(super) use self::actions::{PurgeError, Refreshed, Unselectable};
use self::budget::Budget;
pub(super) use self::composed::worse_state;
use self::composed::{Compositions, compositions};
use self::counters::{Counters, Names};
use self::documents::{DocumentId, Documents, Origin};
use self::drill::Drill;
pub(super) use self::drill::{Covers, Fail, LONGEST as LONGEST_DRILL, NoDrill, Over, Running as RunningDrill};
use self::entry::Entry;
use self::expanded::Table;
use self::flight::Origins;
use self::memory::Memory;
use self::scribe::{Scribe, Wanted};
pub(super) use self::status::Health;
use super::cache::{Lane, Ledger, Sealed, Store};
use super::clock::Clock;
use super::outbox::Recalling;
use super::repeats::Repeats;
use super::upstream::Sources;
use super::vault::Vault;
use crate::arguments::Arguments;
use crate::config::{Config, Document};
use crate::ipc::wire::{Detail, Forward, Reply, RequestId, Verdict};
use crate::outcome::{Failure, Reason};
use crate::secret::{KeyPath, WireBytes};
use crate::staleness::{Decision, View, decide};
use crate::sys::clock::BootId;

/// A document is asked again for the sake of `no-cache` no more often than this.
const REVALIDATED_AT_MOST_EVERY: Duration = Duration::from_secs(1);

pub(super) struct Engine {
    entries: RefCell<HashMap<KeyPath, Entry>>,
    documents: RefCell<Documents>,
    compositions: RefCell<Compositions>,
    expanded: RefCell<Vec<Table>>,
    origins: RefCell<Origins>,
    budget: RefCell<Budget>,
    /// When a peer last got nothing because the upstream was unavailable.
    wanted: Cell<Option<Instant>>,
    store: Arc<Store>,
    scribe: Scribe,
    memory: Memory,
    reader: Lane,
    /// Whose turn it is to read a value.
    reading: Arc<Semaphore>,
    ledger: RefCell<Ledger>,
    /// What is to be sealed anew.
    outdated: RefCell<Vec<Sealed>>,
    clock: Clock,
    sources: RefCell<Rc<Sources>>,
    vault: RefCell<Rc<Vault>>,
    /// Counts what has been put in the place of the configuration of the start.
    reloads: watch::Sender<u64>,
    value_size: u64,
    repeats: Repeats,
    recalls: mpsc::UnboundedSender<Recalling>,
    counters: Counters,
    drill: RefCell<Option<Drill>>,
}

/// So often a request begins anew because the fetch that it joined was no use to it.
const ATTEMPTS: usize = 3;

impl Engine {
    /// Opens what is sealed for every key of the configuration.
    pub(super) fn new(
        config: &Config,
        store: Store,
        boot: Option<BootId>,
        sources: Sources,
        vault: Vault,
        recalls: mpsc::UnboundedSender<Recalling>,
    ) -> std::io::Result<Self> {
        let mut documents = Documents::default();
        let of_key = documents.arrange(&config.keys);
        let store = Arc::new(store);
        let memory = Memory::new(config.limits.memory);
        let opened = open::open(config, &store, &memory, boot);
        let mut held = opened.held;
        let entry = |key: &crate::config::Key| {
            let (held, definition) = (held.remove(&key.path), opened.definitions[&key.path]);
            let projection = key.source.projection.clone();
            let mut entry = Entry::new(of_key[&key.path], projection, definition, key.settings.clone(), None);
            entry.find(held, opened.ledger.is_withheld(&key.path));
            (key.path.clone(), entry)
        };
        let mut entries: HashMap<KeyPath, Entry> = config.keys.iter().map(entry).collect();
        let mut tables = expanded::tables(&config.templates);
        for found in opened.expanded {
            let held = held.remove(&found.key);
            expanded::restore(found, held, &opened.ledger, &mut tables, &mut documents, &mut entries);
        }
        let scribe = Scribe::start(store.clone())?;
        opened.surplus.into_iter().for_each(|key| scribe.remove_behind(key));
        let tombstones = opened.overruled.into_iter();
        scribe.write_behind(tombstones.map(|tombstone| (tombstone.key.clone(), Wanted::Tombstone(tombstone))));
        Ok(Self {
            entries: RefCell::new(entries),
            documents: RefCell::new(documents),
            compositions: RefCell::new(compositions(config.keys.iter().map(|key| &key.path))),
            expanded: RefCell::new(tables),
            origins: RefCell::default(),
            budget: RefCell::new(Budget::new(config.limits.fetches_per_user)),
            wanted: Cell::new(None),
            clock: opened.clock,
            memory,
            reader: Lane::start("read", store.clone())?,
            reading: Arc::new(Semaphore::new(1)),
            ledger: RefCell::new(opened.ledger),
            outdated: RefCell::new(opened.outdated),
            scribe,
            store,
            sources: RefCell::new(Rc::new(sources)),
            vault: RefCell::new(Rc::new(vault)),
            reloads: watch::Sender::new(0),
            value_size: config.limits.value_size,
            repeats: Repeats::default(),
            recalls,
            counters: Counters::new(Names::of(&config.keys, &config.templates, &config.acl, config.tokens.keys())),
            drill: RefCell::default(),
        })
    }

    /// What peers repeat, for the log.
    pub(super) fn repeats(&self) -> &Repeats {
        &self.repeats
    }

    /// Takes one from the budget of this user, or says how long to wait for it.
    pub(super) fn charge(&self, uid: u32) -> Result<(), Duration> {
        self.budget.borrow_mut().take(uid, Instant::now())
    }

    /// Changes when the configuration does: who waits is to begin anew.
    pub(super) fn reloads(&self) -> watch::Receiver<u64> {
        self.reloads.subscribe()
    }

    /// How many there have been.
    pub(super) fn reloaded(&self) -> u64 {
        *self.reloads.borrow()
    }

    /// The answer for a peer that may read `key`. Can be dropped at any moment.
    pub(super) async fn ask(self: &Rc<Self>, key: &KeyPath, asker: Asker, revalidate: bool) -> Reply {
        match self.parts_of(key) {
            Some(parts) => self.ask_composed(key, &parts, asker, revalidate).await,
            None => self.ask_one(key, asker, revalidate).await,
        }
    }

    /// The same for a key with one source, or one of several.
    async fn ask_one(self: &Rc<Self>, key: &KeyPath, asker: Asker, revalidate: bool) -> Reply {
        for _ in 0..ATTEMPTS {
            let in_hand = match self.enter(key, asker.uid) {
                Ok(in_hand) => in_hand,
                Err(refused) => return refused,
            };
            let reply = self.try_to_ask(key, &asker, revalidate).await;
            drop(in_hand);
            if let Some(reply) = reply {
                return reply;
            }
        }
        Reply::Busy
    }

    /// `None` when there is neither a value nor a reason why not: a fetch that the upstream was asked to shorten, for the
    /// sake of other keys, says nothing of one without a value.
    async fn try_to_ask(self: &Rc<Self>, key: &KeyPath, asker: &Asker, revalidate: bool) -> Option<Reply> {
        self.recollect(key).await;
        if let Some(reply) = self.ask_drilled(key, revalidate).await {
            return Some(reply);
        }
        let considered = self.consider(key, revalidate)?;
        let hit = |detail| Verdict { forward: Forward::Hit, fwd_status: None, stored: false, collapsed: false, detail };
        let starts = matches!(considered.decision, Decision::Wait { .. } | Decision::StaleAndRefresh);
        if starts
            && !considered.in_flight
            && let Err(retry_after) = self.charge(asker.uid)
        {
            let usable = self.entries.borrow().get(key).is_some_and(|entry| entry.is_usable(self.clock.now()));
            if self.repeats.is_first(asker.uid, key, "over its budget of fetches") {
                let Asker { uid, pid, request, .. } = asker;
                tracing::warn!(uid, pid, %key, %request, "over its budget of fetches");
            }
            let stale = usable.then(|| self.value(key, hit(Some(Detail::OverBudget))));
            return Some(stale.unwrap_or(Reply::OverBudget { retry_after }));
        }
        let up_to = match considered.decision {
            Decision::Fresh => return Some(self.value(key, hit(None))),
            Decision::Stale => {
                let late = considered.in_flight;
                let detail = if late { Detail::FailoverTimeout } else { Detail::BreakerOpen };
                return Some(self.value(key, hit(Some(detail))));
            }
            Decision::Fail => return Some(self.failure(key, None, hit(Some(Detail::BreakerOpen)))),
            Decision::StaleAndRefresh => {
                self.join(considered.document, Some(key), Some(asker.clone()));
                return Some(self.value(key, hit(Some(Detail::Revalidating))));
            }
            Decision::Wait { up_to } => up_to,
        };
        let (mut flight, collapsed) = self.join(considered.document, Some(key), Some(asker.clone()))?;
        let forward = match (considered.revalidate, considered.had_value) {
            (true, _) => Forward::Request,
            (false, true) => Forward::Stale,
            (false, false) => Forward::UriMiss,
        };
        let verdict = Verdict { forward, fwd_status: None, stored: false, collapsed, detail: None };
        let landed = timeout_at(flight.started + up_to, flight.landed.wait_for(|landed| *landed)).await;
        // Others may have needed the room meanwhile.
        self.recollect(key).await;
        if landed.is_err() {
            let document = self.documents.borrow().get(considered.document).map(|state| state.document.clone());
            let unanswered = |document: Rc<Document>| self.sources.borrow().unanswered(&document);
            let late = document.map_or(Failure::unavailable(Reason::Timeout), unanswered);
            let verdict = Verdict { detail: Some(Detail::FailoverTimeout), ..verdict };
            return Some(self.fall_back(key, late, verdict));
        }
        if let Some(exception) = flight.raised.get() {
            return Some(Reply::Raised { exception: WireBytes(exception.to_vec()), verdict });
        }
        let ended = self.entries.borrow().get(key).map(|entry| (entry.failure, entry.status, entry.is_blank()));
        let (failure, fwd_status, blank) = ended?;
        match failure {
            None if blank => None,
            None => Some(self.value(key, Verdict { fwd_status, stored: fwd_status != Some(304), ..verdict })),
            Some(failure) => {
                let detail = Some(Detail::Failed(failure.reason));
                Some(self.fall_back(key, failure, Verdict { fwd_status: failure.status(), detail, ..verdict }))
            }
        }
    }

    fn consider(&self, key: &KeyPath, revalidate: bool) -> Option<Considered> {
        let entries = self.entries.borrow();
        let entry = entries.get(key)?;
        let documents = self.documents.borrow();
        let state = documents.get(entry.document)?;
        let recent = state.last_started.is_some_and(|at| at.elapsed() < REVALIDATED_AT_MOST_EVERY);
        let revalidate = revalidate && !(recent && state.flight.is_none());
        let view = View {
            age: entry.age(self.clock.now()).filter(|_| entry.has_bytes()),
            in_flight: state.flight.as_ref().map(|flight| flight.started.elapsed()),
            attempt_due: self.attempt_due(entry, state),
            revalidate,
        };
        Some(Considered {
            decision: decide(&entry.settings, &view),
            document: entry.document,
            in_flight: view.in_flight.is_some(),
            had_value: view.age.is_some(),
            revalidate,
        })
    }
}

/// Who a fetch is for, as the parent has judged it; for the log and the budget.
#[derive(Clone)]
pub(super) struct Asker {
    pub(super) uid: u32,
    pub(super) pid: i32,
    pub(super) request: RequestId,
    /// Of a call: what its key has the digest of.
    pub(super) arguments: Option<Arc<Arguments>>,
}

/// What is to be done for one request, and on what grounds.
struct Considered {
    decision: Decision,
    document: DocumentId,
    in_flight: bool,
    had_value: bool,
    revalidate: bool,
}
