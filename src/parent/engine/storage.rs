//! What of the engine concerns the sealed cache: what is opened at start, saved, restored and shredded.

use super::Engine;
use super::entry::{Entry, Held};
use crate::config::Document;
use crate::parent::cache::{Definition, Store};
use crate::secret::{KeyPath, SecretValue};

/// How long a value's sealed age may lag behind before it is written again although the value is the same.
const RESEAL_AFTER_MS: u64 = 60_000;

impl Engine {
    pub(super) async fn accept(&self, key: &KeyPath, value: SecretValue) {
        let now = self.clock.now();
        let record = {
            let mut entries = self.entries.borrow_mut();
            let Some(entry) = entries.get_mut(key) else { return };
            if entry.failure.is_some() {
                tracing::info!(%key, "answered again");
            }
            let sealed_at = entry.held.as_ref().map_or(0, |held| held.sealed_at);
            let held = Held::new(self.store.keys().first(), key, value, now, sealed_at);
            let record = held.record(key, entry.definition);
            let changed = entry.accept(held);
            if changed || entry.leased_stale {
                self.recall(key, entry);
            }
            if !changed && now.saturating_sub(sealed_at) < RESEAL_AFTER_MS {
                return;
            }
            record
        };
        let store = self.store.clone();
        let saved = tokio::task::spawn_blocking(move || store.save(&[record]).pop().unwrap_or(Ok(()))).await;
        match saved {
            Ok(Ok(())) => {
                if let Some(held) = self.entries.borrow_mut().get_mut(key).and_then(|entry| entry.held.as_mut()) {
                    held.sealed_at = now;
                }
            }
            Ok(Err(error)) => tracing::error!(%key, %error, "not persisted; still served from memory"),
            Err(error) => tracing::error!(%key, %error, "not persisted; still served from memory"),
        }
    }

    /// A token was accepted: what was withheld for its sake serves again, from disk.
    pub(super) async fn restore_withheld(&self, accepted: &Document) {
        let Some(token) = accepted.token() else { return };
        let withheld: Vec<(KeyPath, Definition)> = {
            let (entries, documents) = (self.entries.borrow(), self.documents.borrow());
            let of_token = |entry: &Entry| documents[entry.document.0].document.token() == Some(token);
            let withheld = entries.iter().filter(|(_, entry)| entry.is_withheld() && of_token(entry));
            withheld.map(|(key, entry)| (key.clone(), entry.definition)).collect()
        };
        for (key, definition) in withheld {
            let (store, path) = (self.store.clone(), key.clone());
            let loaded = tokio::task::spawn_blocking(move || store.load(&path, &definition)).await;
            let loaded = loaded.ok().and_then(Result::ok).flatten();
            let held = loaded.map(|loaded| Held::loaded(self.store.keys().first(), loaded));
            if let Some(entry) = self.entries.borrow_mut().get_mut(&key).filter(|entry| entry.is_withheld()) {
                tracing::info!(%key, "the token is accepted: what was withheld serves again");
                entry.restore(held);
            }
        }
    }
}

/// Names each file that gives nothing, once.
pub(super) fn tell_strange(store: &Store) {
    let listing = match store.list() {
        Ok(listing) => listing,
        Err(error) => return tracing::error!(%error, "the cache directory cannot be listed"),
    };
    for (file, problem) in listing.strange {
        if problem.is_foreign() {
            tracing::warn!(file, %problem, "left alone in the cache directory");
        } else {
            tracing::warn!(file, %problem, "ignored in the cache directory");
        }
    }
}
