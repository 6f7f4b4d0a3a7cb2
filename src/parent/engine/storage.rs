//! What the upstream gave: sealed first, and then seen.

use tokio::time::Instant;

use super::Engine;
use super::entry::{Entry, Held};
use super::flight::{Fresh, Landed};
use super::scribe::Wanted;
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
}
