//! `limits.memory`: how much of the values is in memory, and which bytes go when it is too much.
//!
//! Only what is safely on disk may go: its age and tags stay, and its file is read again when somebody asks.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::Engine;
use super::entry::{Entry, Held};
use crate::parent::cache::{Definition, Loaded, Problem};
use crate::secret::{KeyPath, SecretValue};

/// How long an answer waits for a file to be read.
const PATIENCE: Duration = Duration::from_secs(1);
/// So many values are read in one go after the start.
const AHEAD: usize = 16;

/// What all values in memory have in common.
pub(super) struct Memory {
    used: Rc<Cell<u64>>,
    limit: Cell<u64>,
    /// Counts uses: the clock of what was used last.
    uses: Cell<u64>,
}

/// The bytes of a value, counted while they are in memory.
pub(super) struct InMemory {
    value: Arc<SecretValue>,
    used: Rc<Cell<u64>>,
    last_use: Cell<u64>,
}

impl Memory {
    pub(super) fn new(limit: u64) -> Self {
        Self { used: Rc::default(), limit: Cell::new(limit), uses: Cell::new(0) }
    }

    pub(super) fn take(&self, value: SecretValue) -> Rc<InMemory> {
        self.used.set(self.used.get() + value.len() as u64);
        let taken = InMemory { value: Arc::new(value), used: self.used.clone(), last_use: Cell::new(0) };
        self.touch(&taken);
        Rc::new(taken)
    }

    pub(super) fn touch(&self, value: &InMemory) {
        self.uses.set(self.uses.get() + 1);
        value.last_use.set(self.uses.get());
    }

    /// A smaller limit makes the next answer trim.
    pub(super) fn set_limit(&self, limit: u64) {
        self.limit.set(limit);
    }

    fn is_over(&self) -> bool {
        self.used.get() > self.limit.get()
    }

    /// To go on dropping until there is this much, so that not every answer has to.
    fn enough(&self) -> u64 {
        self.limit.get() - self.limit.get() / 8
    }
}

impl InMemory {
    pub(super) fn get(&self) -> &Arc<SecretValue> {
        &self.value
    }
}

impl Drop for InMemory {
    fn drop(&mut self) {
        self.used.set(self.used.get().saturating_sub(self.value.len() as u64));
    }
}

/// What is to be read of a key: bytes that only its file has.
fn wanted(entry: &Entry) -> Option<Definition> {
    entry.held.as_ref().filter(|held| held.value.is_none()).map(|_| entry.definition)
}

type Read = (KeyPath, Result<Option<Loaded>, Problem>);

impl Engine {
    /// Has the bytes of this key in memory, if there is a value and its file can be read soon enough.
    pub(super) async fn recollect(&self, key: &KeyPath) {
        if self.entries.borrow().get(key).and_then(wanted).is_none() {
            return;
        }
        // One after the other: what many ask for at once is read once, and memory holds one value more at most.
        let reading = async {
            let Ok(turn) = self.reading.clone().acquire_owned().await else { return };
            let Some(definition) = self.entries.borrow().get(key).and_then(wanted) else { return };
            self.read(turn, vec![(key.clone(), definition)]).await;
        };
        if timeout(PATIENCE, reading).await.is_err() {
            tracing::error!(%key, "the disk is slow: the sealed value was not read in time");
        }
        self.trim(key);
    }

    /// Reads what there is room for, so that an outage does not find values on disk alone.
    pub(super) async fn read_ahead(&self) {
        let mut left: Vec<(KeyPath, Definition)> = {
            let entries = self.entries.borrow();
            entries.iter().filter_map(|(key, entry)| Some((key.clone(), wanted(entry)?))).collect()
        };
        while !left.is_empty() && self.memory.used.get() < self.memory.enough() {
            let some = left.split_off(left.len().saturating_sub(AHEAD));
            let Ok(turn) = self.reading.clone().acquire_owned().await else { return };
            self.read(turn, some).await;
            if self.memory.is_over() {
                self.drop_least_used(None);
            }
        }
    }

    /// The turn ends with the reading, even if nobody waits for that any more.
    async fn read(&self, turn: OwnedSemaphorePermit, wanted: Vec<(KeyPath, Definition)>) {
        let read = self.reader.run(move |store| {
            let _turn = turn;
            let load = |(key, definition): (KeyPath, Definition)| {
                let loaded = store.load(&key, &definition);
                (key, loaded)
            };
            wanted.into_iter().map(load).collect::<Vec<Read>>()
        });
        for (key, loaded) in read.await.unwrap_or_default() {
            self.note_read(&key, loaded);
        }
    }

    /// Takes the bytes if they are still those that are wanted; a value that is not there any more is none.
    fn note_read(&self, key: &KeyPath, loaded: Result<Option<Loaded>, Problem>) {
        let mut entries = self.entries.borrow_mut();
        let Some(entry) = entries.get_mut(key) else { return };
        let Some(held) = entry.held.as_mut().filter(|held| held.value.is_none()) else { return };
        match loaded {
            Ok(Some(loaded)) if held.is_only_in(loaded.label.fetched_at) => {
                held.value = Some(self.memory.take(loaded.value));
            }
            // A disk that cannot read now may read again.
            Err(problem @ Problem::Io(_)) => tracing::error!(%key, %problem, "the sealed value"),
            Ok(_) => {
                tracing::warn!(%key, "no last known good: the sealed file is gone, or another one");
                entry.held = None;
            }
            Err(problem) => {
                tracing::warn!(%key, %problem, "no last known good");
                entry.held = None;
            }
        }
    }

    /// Drops bytes beyond the limit, but not those of `key`.
    pub(super) fn trim(&self, key: &KeyPath) {
        if self.memory.is_over() {
            self.drop_least_used(Some(key));
        }
    }

    /// The same for all.
    pub(super) fn trim_all(&self) {
        if self.memory.is_over() {
            self.drop_least_used(None);
        }
    }

    fn drop_least_used(&self, except: Option<&KeyPath>) {
        let mut entries = self.entries.borrow_mut();
        let last_use = |held: &Held| Some(held.value.as_ref().filter(|_| held.on_disk.placed.get())?.last_use.get());
        let others = entries.iter().filter(|(key, _)| Some(*key) != except);
        let droppable = others.filter_map(|(key, entry)| Some((key.clone(), last_use(entry.held.as_ref()?)?)));
        let mut oldest: Vec<(KeyPath, u64)> = droppable.collect();
        oldest.sort_unstable_by_key(|(_, last_use)| *last_use);
        for (key, _) in oldest {
            if self.memory.used.get() <= self.memory.enough() {
                return;
            }
            if let Some(held) = entries.get_mut(&key).and_then(|entry| entry.held.as_mut()) {
                held.value = None;
            }
        }
    }
}
