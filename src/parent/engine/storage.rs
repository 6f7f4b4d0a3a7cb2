//! What of the engine concerns the sealed cache: what is accepted, given up and restored.

use tokio::time::Instant;

use super::Engine;
use super::entry::{Entry, Held};
use super::flight::{Fresh, Landed};
use super::scribe::Wanted;
use crate::config::TokenName;
use crate::parent::cache::{Definition, Tombstone, ValueLabel};
use crate::secret::KeyPath;

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
            self.ledger.borrow_mut().withhold(&key, false);
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
        for (key, definition) in withheld {
            let path = key.clone();
            let loaded = self.reader.run(move |store| store.load(&path, &definition)).await;
            self.ledger.borrow_mut().withhold(&key, false);
            let ledger = self.ledger.borrow();
            let buried = |label: &ValueLabel| ledger.buried(&key, label.fetched_at).is_some();
            let loaded = loaded.and_then(Result::ok).flatten().filter(|loaded| !buried(&loaded.label));
            let held = loaded.map(|loaded| {
                let fetched_at = ledger.fetched_at(&key, loaded.label.fetched_at);
                let value = Some(self.memory.take(loaded.value));
                Held { value, ..Held::sealed(&loaded.label, fetched_at) }
            });
            let same = |entry: &&mut Entry| entry.is_withheld() && entry.definition == definition;
            if let Some(entry) = self.entries.borrow_mut().get_mut(&key).filter(same) {
                tracing::info!(%key, "the token is accepted: what was withheld serves again");
                entry.restore(held);
            }
            self.trim(&key);
        }
        self.settle_ledger();
    }
}
