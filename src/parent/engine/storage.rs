//! What of the engine concerns the sealed cache: what is accepted, given up and restored.

use tokio::time::{Instant, timeout};

use super::Engine;
use super::entry::{Entry, Held};
use super::flight::{Fresh, Landed};
use super::scribe::{PATIENCE, Wanted};
use crate::config::TokenName;
use crate::parent::cache::{Definition, Loaded, Tombstone, ValueLabel};
use crate::secret::KeyPath;

/// So many files of values that are withheld, or that serve again, are read and sealed in one go.
const MARKED_AT_ONCE: usize = 16;
const RESTORED_AT_ONCE: usize = 64;

impl Engine {
    /// Seals what is new, takes the age of what is not, and then lets both be seen.
    pub(super) async fn keep(&self, values: Vec<(KeyPath, Fresh)>, landed: &Landed) {
        let now = landed.answered_at;
        let (mut wanted, mut accepted) = (Vec::new(), Vec::new());
        for (key, fresh) in values {
            let entries = self.entries.borrow();
            let Some(entry) = entries.get(&key).filter(|entry| landed.is_of(&key, entry)) else { continue };
            let status = fresh.status;
            let Some(held) = self.renewed(&key, entry, fresh, now) else { continue };
            self.grant(&key);
            if let Some(sealed) = held.on_disk.sealed.get() {
                self.ledger.borrow_mut().confirm(&key, sealed, now);
            } else if let Some(record) = held.record(&key, entry) {
                wanted.push((key.clone(), Wanted::Value(record, held.on_disk.clone())));
            }
            accepted.push((key, held, status));
        }
        let owed = self.ledger.borrow().is_owed();
        self.scribe.write(wanted, owed).await;
        for (key, held, status) in accepted {
            let mut entries = self.entries.borrow_mut();
            let Some(entry) = entries.get_mut(&key).filter(|entry| landed.is_of(&key, entry)) else { continue };
            entry.ended = Some(Instant::now());
            if entry.failure.is_some() {
                tracing::info!(%key, "answered again");
            }
            entry.status = status;
            if entry.accept(held) || entry.leased_stale {
                self.recall(&key, entry);
            }
            drop(entries);
            self.take_place(&key);
            self.trim(&key);
        }
        self.settle_ledger();
    }

    /// What is held of a key from now on. A value that is the same keeps its file.
    fn renewed(&self, key: &KeyPath, entry: &Entry, fresh: Fresh, now: u64) -> Option<Held> {
        let before = entry.held.as_ref();
        let Some(value) = fresh.value else {
            return Some(Held { fetched_at: now, validators: fresh.validators, ..before?.clone() });
        };
        let value = self.memory.take(value);
        let held = Held::new(self.store.keys().first(), key, value, fresh.validators, now);
        let same = before.filter(|before| before.tag == held.tag && before.on_disk.sealed.get().is_some());
        let on_disk = same.map(|before| before.on_disk.clone());
        Some(Held { on_disk: on_disk.unwrap_or_default(), ..held })
    }

    /// Puts a tombstone in the place of what is sealed for this key.
    pub(super) async fn bury(&self, key: &KeyPath) {
        let buried_at = self.clock.now();
        let of_entry = |entry: &Entry| (entry.definition, entry.forget_after());
        let Some((definition, forget_after)) = self.entries.borrow().get(key).map(of_entry) else { return };
        self.ledger.borrow_mut().bury(key, buried_at);
        let tombstone = Tombstone { key: key.clone(), definition, buried_at, forget_after };
        self.scribe.write(vec![(key.clone(), Wanted::Tombstone(tombstone))], true).await;
    }

    /// Has the file of this value say that it is not to be served, beside the ledger. Without room for that, the file goes.
    pub(super) async fn withhold(&self, key: &KeyPath, held: Option<Held>) {
        self.ledger.borrow_mut().withhold(key, true);
        let wanted = {
            let entries = self.entries.borrow();
            let record = |held: Held| Some(Wanted::Withheld(held.record(key, entries.get(key)?)?, held.on_disk));
            held.and_then(record)
        };
        match wanted {
            Some(wanted) => self.scribe.write(vec![(key.clone(), wanted)], true).await,
            // Its bytes are in its file alone.
            None => _ = self.mark_withheld(vec![key.clone()]).await,
        }
    }

    /// The same of what the ledger alone says so of: an older version, a backup or a crash has left it like that.
    pub(super) async fn mark_all_withheld(&self) {
        let withheld: Vec<KeyPath> = self.ledger.borrow().withheld().cloned().collect();
        // A few at a time: answers come between, and so do values that serve again.
        for some in withheld.chunks(MARKED_AT_ONCE) {
            let still = |key: &&KeyPath| self.ledger.borrow().is_withheld(key);
            if !self.mark_withheld(some.iter().filter(still).cloned().collect()).await {
                return;
            }
        }
    }

    /// `false` when the disk takes too long; what it was given is done some time.
    async fn mark_withheld(&self, keys: Vec<KeyPath>) -> bool {
        self.settle_ledger();
        let marking = self.scribe.lane.run(move |store| {
            let marked = store.withhold(&keys);
            keys.into_iter().zip(marked).collect::<Vec<_>>()
        });
        let Ok(marked) = timeout(PATIENCE, marking).await else {
            tracing::error!("the disk is slow: not all files of withheld values say so yet; the ledger does");
            return false;
        };
        for (key, error) in marked.unwrap_or_default().into_iter().filter_map(|(key, done)| Some((key, done.err()?))) {
            tracing::error!(%key, %error, "the sealed file of a withheld value does not say so; the ledger does");
        }
        true
    }

    /// This value is about to be written, and serves when both it and the ledger are on disk.
    fn grant(&self, key: &KeyPath) {
        let mut ledger = self.ledger.borrow_mut();
        if ledger.is_withheld(key) {
            ledger.withhold(key, false);
            self.scribe.state.want_ledger();
        }
    }

    /// These tokens were accepted: what was withheld for the sake of some of them, and of no others, serves again, from disk.
    pub(super) async fn restore_withheld(&self, accepted: &[TokenName]) {
        let withheld: Vec<(KeyPath, Definition)> = {
            let (entries, documents) = (self.entries.borrow(), self.documents.borrow());
            let of_tokens = |entry: &Entry| {
                let tokens = documents.get(entry.document).map(|state| &state.origin.1);
                tokens.is_some_and(|tokens| !tokens.is_empty() && tokens.iter().all(|token| accepted.contains(token)))
            };
            let withheld = entries.iter().filter(|(_, entry)| entry.is_withheld() && of_tokens(entry));
            withheld.map(|(key, entry)| (key.clone(), entry.definition)).collect()
        };
        for some in withheld.chunks(RESTORED_AT_ONCE) {
            self.restore_some(some.to_vec()).await;
        }
        self.settle_ledger();
    }

    async fn restore_some(&self, withheld: Vec<(KeyPath, Definition)>) {
        let loading = self.reader.run(move |store| {
            let load = |(key, definition): (KeyPath, Definition)| {
                let loaded = store.load_even_withheld(&key, &definition);
                (key, definition, loaded)
            };
            withheld.into_iter().map(load).collect::<Vec<_>>()
        });
        let (mut wanted, mut restored) = (Vec::new(), Vec::new());
        for (key, definition, loaded) in loading.await.unwrap_or_default() {
            let (entries, ledger) = (self.entries.borrow(), self.ledger.borrow());
            let same = |entry: &&Entry| entry.is_withheld() && entry.definition == definition;
            // What is not withheld any more has a newer value on its way.
            let Some(entry) = entries.get(&key).filter(same).filter(|_| ledger.is_withheld(&key)) else { continue };
            drop(ledger);
            self.grant(&key);
            let ledger = self.ledger.borrow();
            let buried = |label: &ValueLabel| ledger.buried(&key, label.fetched_at).is_some();
            let loaded = loaded.ok().flatten().filter(|loaded| !buried(&loaded.label));
            let held = loaded.map(|Loaded { value, label, .. }| {
                let fetched_at = ledger.fetched_at(&key, label.fetched_at);
                Held::new(self.store.keys().first(), &key, self.memory.take(value), label.validators, fetched_at)
            });
            let record = held.as_ref().and_then(|held| Some((held.record(&key, entry)?, held.on_disk.clone())));
            wanted.extend(record.map(|(record, on_disk)| (key.clone(), Wanted::Value(record, on_disk))));
            restored.push((key.clone(), definition, held));
        }
        // Before it is seen, as every value: the file would withhold it after a crash.
        self.scribe.write(wanted, true).await;
        for (key, definition, held) in restored {
            let same = |entry: &&mut Entry| entry.is_withheld() && entry.definition == definition;
            if let Some(entry) = self.entries.borrow_mut().get_mut(&key).filter(same) {
                tracing::info!(%key, "the token is accepted: what was withheld serves again");
                entry.restore(held);
            }
            self.trim(&key);
        }
    }
}
