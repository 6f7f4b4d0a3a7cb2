//! What waits to be sealed, and the one task that has it written: all that waits in one go, the newest of each key.
//!
//! Holds up nobody: a disk that is full or hangs costs persistence, never an answer.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{sleep_until, timeout};

use super::Engine;
use super::state::StateDue;
use crate::parent::cache::{BUNDLE_FILES, BUNDLE_SIZE, Item, Lane, Record, State, Store, StoreError, Tombstone};
use crate::parent::clock::Mark;
use crate::secret::KeyPath;

/// How long an answer waits for its value to be on disk.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);
/// More files than this are written as one bundle first.
const FEW: usize = 2;
/// The bytes of the largest value that goes into a bundle.
const LARGE: u64 = 1 << 20;
/// So many files are taken out of their bundle in one go: what is new comes between.
const PLACED_AT_ONCE: usize = 8;

/// What was removed, round by round.
#[derive(Default)]
pub(super) struct Removed {
    pub(super) round: u64,
    /// The last one in which not all could be, and why.
    pub(super) failed: Option<(u64, String)>,
}

pub(super) struct Scribe {
    pub(super) lane: Lane,
    pub(super) pending: RefCell<Pending>,
    pub(super) wake: Notify,
    /// The number of the round that was written last.
    written: watch::Sender<u64>,
    /// The round whose removals were tried last.
    pub(super) removed: watch::Sender<Removed>,
    /// The round under way has lasted too long: nobody waits for it any more.
    slow: Cell<bool>,
    last_bundle: Cell<u64>,
    pub(super) state: StateDue,
}

#[derive(Default)]
pub(super) struct Pending {
    pub(super) files: BTreeMap<KeyPath, Wanted>,
    /// Whose files are to be removed, before what is to be written of the same keys.
    gone: BTreeSet<KeyPath>,
    /// Whose are being removed.
    pub(super) leaving: BTreeSet<KeyPath>,
    /// What is on disk, but only in the bundle of this number.
    pub(super) bundled: BTreeMap<KeyPath, (u64, Wanted)>,
    /// The bundles in the directory.
    pub(super) bundles: BTreeSet<u64>,
    /// Nothing comes after: the state is written as it is now.
    last: bool,
    pub(super) rounds_taken: u64,
}

/// Where a value is on disk.
#[derive(Default)]
pub(super) struct OnDisk {
    /// The `fetched_at` that it was sealed with, once it is safe there.
    pub(super) sealed: Cell<Option<u64>>,
    /// It is in its own file, and can be read again.
    pub(super) placed: Cell<bool>,
}

/// What the file of a key is to be.
pub(super) enum Wanted {
    /// And where it is noted that it is.
    Value(Record, Rc<OnDisk>),
    /// The same value, not to be served.
    Withheld(Record, Rc<OnDisk>),
    Tombstone(Tombstone),
}

impl Wanted {
    fn size(&self) -> u64 {
        match self {
            Self::Value(record, _) | Self::Withheld(record, _) => record.label.size,
            Self::Tombstone(_) => 0,
        }
    }

    fn item(&self) -> Item {
        match self {
            Self::Value(record, _) => Item::Value(record.clone()),
            Self::Withheld(record, _) => Item::Withheld(record.clone()),
            Self::Tombstone(tombstone) => Item::Tombstone(tombstone.clone()),
        }
    }
}

impl Scribe {
    pub(super) fn start(store: Arc<Store>) -> io::Result<Self> {
        Ok(Self {
            lane: Lane::start("seal", store)?,
            pending: RefCell::default(),
            wake: Notify::new(),
            written: watch::Sender::new(0),
            removed: watch::Sender::default(),
            slow: Cell::new(false),
            last_bundle: Cell::new(0),
            state: StateDue::new(),
        })
    }

    /// Has these files written, and the ledger if it is `owed`, and waits for that: not for ever.
    pub(super) async fn write(&self, wanted: Vec<(KeyPath, Wanted)>, owed: bool) {
        if wanted.is_empty() && !(owed && self.state.ledger_may()) {
            return;
        }
        self.write_behind(wanted);
        // After the last round nothing is written any more, and nobody is answered.
        if self.pending.borrow().last {
            return;
        }
        if !self.slow.get() && !self.next_round(PATIENCE).await && !self.slow.replace(true) {
            tracing::error!("the disk is slow: values are served before they are sealed, which goes on behind");
        }
    }

    /// Has these files written some time.
    pub(super) fn write_behind(&self, wanted: impl IntoIterator<Item = (KeyPath, Wanted)>) {
        let mut pending = self.pending.borrow_mut();
        for (key, wanted) in wanted {
            pending.files.insert(key, wanted);
        }
        self.wake.notify_one();
    }

    /// Has what is sealed of a key removed some time.
    pub(super) fn remove_behind(&self, key: KeyPath) {
        let mut pending = self.pending.borrow_mut();
        pending.files.remove(&key);
        pending.gone.insert(key);
        self.wake.notify_one();
    }

    /// Whether all that is pending now was written, or tried, within this time.
    pub(super) async fn next_round(&self, within: Duration) -> bool {
        let round = self.pending.borrow().rounds_taken + 1;
        self.wake.notify_one();
        timeout(within, self.written.subscribe().wait_for(|written| *written >= round)).await.is_ok()
    }

    /// All keys whose files are to go or are going.
    pub(super) fn leaving(&self) -> BTreeSet<KeyPath> {
        let pending = self.pending.borrow();
        pending.gone.union(&pending.leaving).cloned().collect()
    }

    /// A number that no bundle has had: numbers grow with time.
    fn next_bundle(&self, now: u64) -> u64 {
        self.last_bundle.set(now.max(self.last_bundle.get() + 1));
        self.last_bundle.get()
    }
}

/// What one item of a round is of.
pub(super) enum Written {
    File(KeyPath, Wanted),
    Bundle(u64, Vec<(KeyPath, Wanted)>),
    Clock(Mark),
    Ledger,
}

impl Written {
    pub(super) fn item(&self) -> Option<Item> {
        match self {
            Self::File(_, wanted) => Some(wanted.item()),
            Self::Bundle(number, files) => {
                Some(Item::Bundle(*number, files.iter().map(|(_, wanted)| wanted.item()).collect()))
            }
            Self::Clock(mark) => Some(Item::State(State::Clock, postcard::to_stdvec(mark).ok()?)),
            Self::Ledger => None,
        }
    }
}

/// How a round ended.
enum Round {
    Good,
    /// Something was not written.
    Failed,
    /// Nothing is written any more.
    Last,
}

impl Engine {
    /// Writes what is pending whenever there is something, until it is closed.
    pub(in crate::parent) async fn keep_sealed(self: Rc<Self>) {
        let state = &self.scribe.state;
        loop {
            let rests = state.rests();
            let to_place = !rests && !self.scribe.pending.borrow().bundled.is_empty();
            let owed = self.ledger.borrow().is_owed();
            let round = tokio::select! {
                biased;
                () = self.scribe.wake.notified() => self.write_round().await,
                () = self.clock.overrun(), if !rests => self.write_round().await,
                () = sleep_until(state.next(owed)) => {
                    self.tell_time_of_leases();
                    if owed { self.write_round().await } else { Round::Good }
                }
                () = std::future::ready(()), if to_place => self.place_some().await,
            };
            match round {
                Round::Good => {}
                Round::Failed => state.rest(),
                Round::Last => return,
            }
        }
    }

    async fn write_round(&self) -> Round {
        let (files, gone, round, last) = {
            let mut pending = self.scribe.pending.borrow_mut();
            pending.rounds_taken += 1;
            let (files, gone) = (std::mem::take(&mut pending.files), std::mem::take(&mut pending.gone));
            gone.iter().for_each(|key| drop(pending.bundled.remove(key)));
            pending.leaving.clone_from(&gone);
            (files, gone, pending.rounds_taken, pending.last)
        };
        let (first, gone): (BTreeSet<_>, BTreeSet<_>) = gone.into_iter().partition(|key| files.contains_key(key));
        self.remove_files(&first, round).await;
        // A tombstone stands twice: in its file, which a backup may replace, and in the ledger.
        let buries = files.values().any(|wanted| matches!(wanted, Wanted::Tombstone(_)));
        let mut all = self.bundled(files);
        let mut items: Vec<Item> = all.iter().filter_map(Written::item).collect();
        self.add_state(last, buries, &mut items, &mut all);
        let mut good = true;
        if !items.is_empty() {
            let results = self.scribe.lane.run(move |store| store.write(&items)).await.unwrap_or_default();
            for (written, result) in all.into_iter().zip(results) {
                good &= self.note(written, result);
            }
            self.remove_empty_bundles().await;
        }
        if last {
            self.remove_files(&gone, round).await;
        }
        self.scribe.written.send_replace(round);
        // No answer waits for what is evicted.
        if !last {
            self.remove_files(&gone, round).await;
        }
        self.scribe.pending.borrow_mut().leaving.clear();
        self.scribe.removed.send_modify(|removed| removed.round = round);
        if self.scribe.slow.replace(false) {
            tracing::info!("the disk answers again");
        }
        match (last, good) {
            (true, _) => Round::Last,
            (false, true) => Round::Good,
            (false, false) => Round::Failed,
        }
    }

    /// Few files as they are, many in bundles.
    fn bundled(&self, files: BTreeMap<KeyPath, Wanted>) -> Vec<Written> {
        let as_they_are = files.len() <= FEW;
        let (single, many): (Vec<_>, Vec<_>) = files.into_iter().partition(|(_, wanted)| {
            // What gives up a value goes through no bundle: where there is no room for it, the file is removed.
            as_they_are || wanted.size() > LARGE || !matches!(wanted, Wanted::Value(..))
        });
        let mut all: Vec<Written> = single.into_iter().map(|(key, wanted)| Written::File(key, wanted)).collect();
        let (mut bundle, mut size) = (Vec::new(), 0);
        for (key, wanted) in many {
            if size + wanted.size() > BUNDLE_SIZE || bundle.len() == BUNDLE_FILES {
                all.push(self.bundle(std::mem::take(&mut bundle)));
                size = 0;
            }
            size += wanted.size();
            bundle.push((key, wanted));
        }
        if !bundle.is_empty() {
            all.push(self.bundle(bundle));
        }
        all
    }

    fn bundle(&self, files: Vec<(KeyPath, Wanted)>) -> Written {
        Written::Bundle(self.scribe.next_bundle(self.clock.now()), files)
    }

    /// `false` when it was not written, and is worth another try.
    fn note(&self, written: Written, result: Result<(), StoreError>) -> bool {
        let done = result.is_ok();
        match (written, result) {
            (Written::File(key, wanted), Ok(())) => {
                self.scribe.pending.borrow_mut().bundled.remove(&key);
                self.note_file(&key, &wanted, true);
            }
            (Written::Bundle(number, files), Ok(())) => {
                let mut pending = self.scribe.pending.borrow_mut();
                pending.bundles.insert(number);
                for (key, wanted) in files {
                    self.note_file(&key, &wanted, false);
                    pending.bundled.insert(key, (number, wanted));
                }
            }
            (Written::Clock(mark), Ok(())) => {
                self.clock.sealed(mark);
                self.scribe.state.mark_is_sealed();
            }
            (Written::Ledger, Ok(())) => {}
            // The next answer of its source tries again.
            (Written::File(key, Wanted::Value(..)), Err(error)) => {
                tracing::error!(%key, %error, "not persisted; still served from memory");
                return true;
            }
            (Written::File(key, Wanted::Tombstone(_)), Err(error)) => {
                tracing::error!(%key, %error, "the sealed file of a revoked value could not be replaced");
            }
            (Written::File(key, Wanted::Withheld(..)), Err(error)) => {
                tracing::error!(%key, %error, "the sealed file of a withheld value could not be replaced");
            }
            (Written::Bundle(_, files), Err(error)) => {
                tracing::error!(values = files.len(), %error, "not persisted; still served from memory");
                return true;
            }
            (Written::Clock(_), Err(error)) => {
                tracing::error!(%error, "the clock is not persisted: after a crash ages may be too young");
            }
            (Written::Ledger, Err(error)) => {
                tracing::error!(%error, "ages are not persisted: after a restart values may be too old");
                self.ledger.borrow_mut().write_again();
            }
        }
        done
    }

    fn note_file(&self, key: &KeyPath, wanted: &Wanted, placed: bool) {
        if let Wanted::Value(record, on_disk) | Wanted::Withheld(record, on_disk) = wanted {
            on_disk.sealed.set(Some(record.label.fetched_at));
            on_disk.placed.set(placed);
            self.ledger.borrow_mut().replaced(key, record.label.fetched_at);
        }
    }

    /// Takes some of what is in bundles into its own files, and bundles away that have nothing else.
    async fn place_some(&self) -> Round {
        let some: Vec<(KeyPath, (u64, Wanted))> = {
            let mut pending = self.scribe.pending.borrow_mut();
            let some = std::iter::from_fn(|| pending.bundled.pop_first());
            some.take(PLACED_AT_ONCE).collect()
        };
        let items: Vec<Item> = some.iter().map(|(_, (_, wanted))| wanted.item()).collect();
        let results = self.scribe.lane.run(move |store| store.write(&items)).await.unwrap_or_default();
        let mut round = Round::Good;
        for ((key, (number, wanted)), result) in some.into_iter().zip(results) {
            match result {
                Ok(()) => self.note_file(&key, &wanted, true),
                Err(error) => {
                    tracing::error!(%key, %error, "not in its own file yet");
                    self.scribe.pending.borrow_mut().bundled.insert(key, (number, wanted));
                    round = Round::Failed;
                }
            }
        }
        self.remove_empty_bundles().await;
        round
    }

    /// Writes all that is not on disk yet, and the state as the last one of this run.
    pub(in crate::parent) async fn close(&self) {
        self.scribe.pending.borrow_mut().last = true;
        if !self.scribe.next_round(PATIENCE).await {
            tracing::error!("the disk is slow: ended before all was sealed");
        }
    }
}
