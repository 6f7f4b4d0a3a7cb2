//! What waits to be sealed, and the one task that has it written: all that waits in one go, the newest of each key.
//!
//! Holds up nobody: a disk that is full or hangs costs persistence, never an answer.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::Engine;
use crate::parent::cache::{Item, Lane, Record, State, Store, StoreError, Tombstone};
use crate::parent::clock::Mark;
use crate::secret::KeyPath;
use crate::sys::clock::boot_nanos;

/// How long an answer waits for its value to be on disk.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often ages and the clock are written, if there is something new: after a crash a value may be that much older.
const STATES_EVERY: Duration = Duration::from_secs(20);

pub(super) struct Scribe {
    pub(super) lane: Lane,
    pending: RefCell<Pending>,
    wake: Notify,
    /// The number of the round that was written last.
    written: watch::Sender<u64>,
    /// The round under way has lasted too long: nobody waits for it any more.
    slow: Cell<bool>,
}

#[derive(Default)]
struct Pending {
    files: BTreeMap<KeyPath, Wanted>,
    /// Nothing comes after: the state is written as it is now.
    last: bool,
    rounds_taken: u64,
}

/// What the file of a key is to be.
pub(super) enum Wanted {
    /// And where it is noted that it is.
    Value(Record, Rc<Cell<Option<u64>>>),
    Tombstone(Tombstone),
}

impl Scribe {
    pub(super) fn start(store: Arc<Store>) -> io::Result<Self> {
        Ok(Self {
            lane: Lane::start("seal", store)?,
            pending: RefCell::default(),
            wake: Notify::new(),
            written: watch::Sender::new(0),
            slow: Cell::new(false),
        })
    }

    /// Has these files written, and waits for that: not for ever.
    pub(super) async fn write(&self, wanted: Vec<(KeyPath, Wanted)>) {
        if wanted.is_empty() {
            return;
        }
        self.write_behind(wanted);
        if !self.slow.get() && !self.next_round(PATIENCE).await && !self.slow.replace(true) {
            tracing::error!("the disk is slow: values are served before they are sealed, which goes on behind");
        }
    }

    /// Has these files written some time.
    pub(super) fn write_behind(&self, wanted: impl IntoIterator<Item = (KeyPath, Wanted)>) {
        self.pending.borrow_mut().files.extend(wanted);
        self.wake.notify_one();
    }

    /// Whether all that is pending now was written, or tried, within this time.
    async fn next_round(&self, within: Duration) -> bool {
        let round = self.pending.borrow().rounds_taken + 1;
        self.wake.notify_one();
        timeout(within, self.written.subscribe().wait_for(|written| *written >= round)).await.is_ok()
    }
}

/// What one round writes, in the order of the items.
enum Written {
    Value { key: KeyPath, fetched_at: u64, on_disk: Rc<Cell<Option<u64>>> },
    Tombstone(KeyPath),
    Clock(Mark),
    Ledger,
}

/// How a round ended.
enum Round {
    Good,
    /// The state was to be written and was not.
    StateFailed,
    /// Nothing is written any more.
    Last,
}

impl Engine {
    /// Writes what is pending whenever there is something, and the state now and then, until it is closed.
    pub(in crate::parent) async fn keep_sealed(self: Rc<Self>) {
        let mut tick = interval(STATES_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut retry_state = Instant::now();
        loop {
            let state = tokio::select! {
                () = self.scribe.wake.notified() => false,
                () = self.clock.overrun(), if retry_state <= Instant::now() => true,
                _ = tick.tick() => true,
            };
            match self.write_round(state).await {
                Round::Good => {}
                Round::StateFailed => retry_state = Instant::now() + STATES_EVERY,
                Round::Last => return,
            }
        }
    }

    async fn write_round(&self, state: bool) -> Round {
        let (files, round, last) = {
            let mut pending = self.scribe.pending.borrow_mut();
            pending.rounds_taken += 1;
            (std::mem::take(&mut pending.files), pending.rounds_taken, pending.last)
        };
        let (mut items, mut expected) = (Vec::new(), Vec::new());
        // A tombstone stands twice: in its file, which a backup may replace, and in the ledger.
        let buries = files.values().any(|wanted| matches!(wanted, Wanted::Tombstone(_)));
        for (key, wanted) in files {
            match wanted {
                Wanted::Value(record, on_disk) => {
                    expected.push(Written::Value { key, fetched_at: record.label.fetched_at, on_disk });
                    items.push(Item::Value(record));
                }
                Wanted::Tombstone(tombstone) => {
                    expected.push(Written::Tombstone(key));
                    items.push(Item::Tombstone(tombstone));
                }
            }
        }
        if state || last || buries {
            self.add_state(last, &mut items, &mut expected);
        }
        let mut good = true;
        if !items.is_empty() {
            let results = self.scribe.lane.run(move |store| store.write(&items)).await.unwrap_or_default();
            for (written, result) in expected.into_iter().zip(results) {
                good &= self.note(written, result);
            }
        }
        self.scribe.written.send_replace(round);
        if self.scribe.slow.replace(false) {
            tracing::info!("the disk answers again");
        }
        match (last, good) {
            (true, _) => Round::Last,
            (false, true) => Round::Good,
            (false, false) => Round::StateFailed,
        }
    }

    fn add_state(&self, last: bool, items: &mut Vec<Item>, expected: &mut Vec<Written>) {
        let leased = self.entries.borrow().values().any(|entry| entry.leased_until > boot_nanos());
        // The worker tells ages by itself while its leases last.
        let now = if leased || last { Some(self.clock.now()) } else { None };
        if let Some(mark) = self.clock.mark(last)
            && let Ok(bytes) = postcard::to_stdvec(&mark)
        {
            items.push(Item::State(State::Clock, bytes));
            expected.push(Written::Clock(mark));
        }
        if let Some(bytes) = self.ledger.borrow_mut().encode(now.unwrap_or_else(|| self.clock.now())) {
            items.push(Item::State(State::Ledger, bytes));
            expected.push(Written::Ledger);
        }
    }

    /// `false` when the state was not written.
    fn note(&self, written: Written, result: Result<(), StoreError>) -> bool {
        match (written, result) {
            (Written::Value { key, fetched_at, on_disk }, Ok(())) => {
                on_disk.set(Some(fetched_at));
                self.ledger.borrow_mut().replaced(&key, fetched_at);
            }
            (Written::Value { key, .. }, Err(error)) => {
                tracing::error!(%key, %error, "not persisted; still served from memory");
            }
            (Written::Tombstone(_), Ok(())) => {}
            (Written::Tombstone(key), Err(error)) => {
                tracing::error!(%key, %error, "the sealed file of a revoked value could not be replaced");
            }
            (Written::Clock(mark), Ok(())) => self.clock.sealed(mark),
            (Written::Ledger, Ok(())) => {}
            (Written::Clock(_), Err(error)) => {
                tracing::error!(%error, "the clock is not persisted: after a crash ages may be too young");
                return false;
            }
            (Written::Ledger, Err(error)) => {
                tracing::error!(%error, "ages are not persisted: after a restart values may be too old");
                self.ledger.borrow_mut().write_again();
                return false;
            }
        }
        true
    }

    /// Writes all that is not on disk yet, and the state as the last one of this run.
    pub(in crate::parent) async fn close(&self) {
        self.scribe.pending.borrow_mut().last = true;
        if !self.scribe.next_round(PATIENCE).await {
            tracing::error!("the disk is slow: ended before all was sealed");
        }
    }
}
