//! Answers a judged fetch: the value held, a fetch shared by all who ask, or the last known good.
//!
//! Never judges who may read: whoever calls has done so. Never fetches faster than back-off allows.

mod answer;
mod budget;
mod entry;
mod flight;
mod memory;
mod open;
mod pace;
mod scribe;
mod storage;
#[cfg(test)]
mod tests;
mod tidy;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, timeout_at};

use self::budget::Budget;
use self::entry::Entry;
use self::flight::{Flight, Origins};
use self::memory::Memory;
use self::pace::Pace;
use self::scribe::{Scribe, Wanted};
use super::cache::{Lane, Ledger, Sealed, Store};
use super::clock::Clock;
use super::upstream::Sources;
use super::vault::Vault;
use crate::config::{Config, Document, TokenName};
use crate::ipc::wire::{Detail, Forward, Recall, Reply, RequestId, Verdict};
use crate::outcome::{Failure, Reason};
use crate::secret::KeyPath;
use crate::staleness::{Decision, View, decide};
use crate::sys::clock::BootId;

/// A document is asked again for the sake of `no-cache` no more often than this.
const REVALIDATED_AT_MOST_EVERY: Duration = Duration::from_secs(1);

pub(super) struct Engine {
    entries: RefCell<HashMap<KeyPath, Entry>>,
    documents: RefCell<Vec<DocumentState>>,
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
    sources: Sources,
    vault: Vault,
    value_size: u64,
    recalls: mpsc::UnboundedSender<Recall>,
}

/// An index into the documents of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct DocumentId(usize);

/// What one back-off is for: an origin, asked with a token.
type Origin = (String, Option<TokenName>);

struct DocumentState {
    document: Rc<Document>,
    origin: Origin,
    keys: Rc<Vec<KeyPath>>,
    /// The longest of its keys.
    fetch_timeout: Duration,
    /// The shortest of its keys.
    refresh: Option<Duration>,
    flight: Option<Flight>,
    last_started: Option<Instant>,
    pace: Pace,
    /// The last answer was 401 or 403.
    refused: bool,
}

/// The documents of the configuration and their keys.
fn documents(config: &Config) -> (Vec<DocumentState>, HashMap<KeyPath, DocumentId>) {
    let mut found: HashMap<&Document, DocumentId> = HashMap::new();
    let mut keys: Vec<Vec<&crate::config::Key>> = Vec::new();
    let mut of_key = HashMap::new();
    for key in &config.keys {
        let id = *found.entry(&key.source.document).or_insert_with(|| {
            keys.push(Vec::new());
            DocumentId(keys.len() - 1)
        });
        keys[id.0].push(key);
        of_key.insert(key.path.clone(), id);
    }
    let state = |keys: Vec<&crate::config::Key>| {
        let document = keys.first().map(|key| key.source.document.clone())?;
        Some(DocumentState {
            origin: (document.origin(), document.token().cloned()),
            document: Rc::new(document),
            fetch_timeout: keys.iter().map(|key| key.settings.fetch_timeout).max().unwrap_or_default(),
            refresh: keys.iter().filter_map(|key| key.settings.refresh).min(),
            keys: Rc::new(keys.iter().map(|key| key.path.clone()).collect()),
            flight: None,
            last_started: None,
            pace: Pace::default(),
            refused: false,
        })
    };
    (keys.into_iter().filter_map(state).collect(), of_key)
}

impl Engine {
    /// Opens what is sealed for every key of the configuration.
    pub(super) fn new(
        config: &Config,
        store: Store,
        boot: Option<BootId>,
        sources: Sources,
        vault: Vault,
        recalls: mpsc::UnboundedSender<Recall>,
    ) -> std::io::Result<Self> {
        let (documents, of_key) = documents(config);
        let store = Arc::new(store);
        let memory = Memory::new(config.limits.memory);
        let opened = open::open(config, &store, &memory, boot);
        let mut held = opened.held;
        let entry = |key: &crate::config::Key| {
            let (held, definition) = (held.remove(&key.path), opened.definitions[&key.path]);
            let projection = key.source.projection.clone();
            let withheld = held.is_some() && opened.ledger.is_withheld(&key.path);
            let mut entry = Entry::new(of_key[&key.path], projection, definition, key.settings.clone(), held);
            if withheld {
                entry.withhold();
            }
            (key.path.clone(), entry)
        };
        let scribe = Scribe::start(store.clone())?;
        let tombstones = opened.overruled.into_iter();
        scribe.write_behind(tombstones.map(|tombstone| (tombstone.key.clone(), Wanted::Tombstone(tombstone))));
        Ok(Self {
            entries: RefCell::new(config.keys.iter().map(entry).collect()),
            documents: RefCell::new(documents),
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
            sources,
            vault,
            value_size: config.limits.value_size,
            recalls,
        })
    }

    /// Takes one from the budget of this user, or says how long to wait for it.
    pub(super) fn charge(&self, uid: u32) -> Result<(), Duration> {
        self.budget.borrow_mut().take(uid, Instant::now())
    }

    /// The answer for a peer that may read `key`.
    pub(super) async fn ask(self: &Rc<Self>, key: &KeyPath, asker: Asker, revalidate: bool) -> Reply {
        self.recollect(key).await;
        let Some(considered) = self.consider(key, revalidate) else { return Reply::Denied };
        let hit = |detail| Verdict { forward: Forward::Hit, fwd_status: None, stored: false, collapsed: false, detail };
        let starts = matches!(considered.decision, Decision::Wait { .. } | Decision::StaleAndRefresh);
        if starts
            && !considered.in_flight
            && let Err(retry_after) = self.charge(asker.uid)
        {
            let usable = self.entries.borrow().get(key).is_some_and(|entry| entry.is_usable(self.clock.now()));
            tracing::warn!(uid = asker.uid, pid = asker.pid, %key, request = %asker.request, "over its budget of fetches");
            return if usable {
                self.value(key, hit(Some(Detail::OverBudget)))
            } else {
                Reply::OverBudget { retry_after }
            };
        }
        let up_to = match considered.decision {
            Decision::Fresh => return self.value(key, hit(None)),
            Decision::Stale => {
                let late = considered.in_flight;
                return self.value(key, hit(Some(if late { Detail::FailoverTimeout } else { Detail::BreakerOpen })));
            }
            Decision::Fail => return self.failure(key, None, hit(Some(Detail::BreakerOpen))),
            Decision::StaleAndRefresh => {
                self.join(considered.document, Some(asker));
                return self.value(key, hit(Some(Detail::Revalidating)));
            }
            Decision::Wait { up_to } => up_to,
        };
        let (mut flight, collapsed) = self.join(considered.document, Some(asker));
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
            let late = Failure::unavailable(Reason::Timeout);
            let verdict = Verdict { detail: Some(Detail::FailoverTimeout), ..verdict };
            return self.fall_back(key, late, verdict);
        }
        let ended = self.entries.borrow().get(key).map(|entry| (entry.failure, entry.status));
        let (failure, fwd_status) = ended.unwrap_or_default();
        match failure {
            None => self.value(key, Verdict { fwd_status, stored: fwd_status != Some(304), ..verdict }),
            Some(failure) => {
                let detail = Some(Detail::Failed(failure.reason));
                self.fall_back(key, failure, Verdict { fwd_status: failure.status(), detail, ..verdict })
            }
        }
    }

    fn consider(&self, key: &KeyPath, revalidate: bool) -> Option<Considered> {
        let entries = self.entries.borrow();
        let entry = entries.get(key)?;
        let documents = self.documents.borrow();
        let state = documents.get(entry.document.0)?;
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
#[derive(Clone, Copy)]
pub(super) struct Asker {
    pub(super) uid: u32,
    pub(super) pid: i32,
    pub(super) request: RequestId,
}

/// What is to be done for one request, and on what grounds.
struct Considered {
    decision: Decision,
    document: DocumentId,
    in_flight: bool,
    had_value: bool,
    revalidate: bool,
}
