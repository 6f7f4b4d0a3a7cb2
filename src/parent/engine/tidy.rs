//! What is done to the sealed files besides: sealing them anew by the first seal key, forgetting what left the configuration.

use std::collections::{BTreeMap, HashSet};
use std::rc::Rc;
use std::time::Duration;

use super::Engine;
use super::entry::Entry;
use crate::parent::cache::{Sealed, Store};
use crate::secret::KeyPath;
use crate::sys::process;

const FORGET_EVERY: Duration = Duration::from_secs(24 * 60 * 60);

impl Engine {
    /// What there is time for after the start, and every day. Does not end.
    pub(in crate::parent) async fn tidy(self: Rc<Self>) {
        self.mark_all_withheld().await;
        self.read_ahead().await;
        self.reseal_outdated().await;
        loop {
            self.forget_left().await;
            // Lists of all keys are large, and are not needed for a day.
            process::release_free_memory();
            tokio::time::sleep(FORGET_EVERY).await;
        }
    }

    /// Moves what an older seal key has sealed to the first one, a few files at a time: answers come between.
    pub(super) async fn reseal_outdated(&self) {
        let outdated = std::mem::take(&mut *self.outdated.borrow_mut());
        let (all, mut failed) = (outdated.len(), 0);
        for some in outdated.chunks(16) {
            let files = some.to_vec();
            let resealed = self.scribe.lane.run(move |store| store.reseal(&files)).await.unwrap_or_default();
            for (file, error) in some.iter().zip(resealed).filter_map(|(file, done)| Some((&file.name, done.err()?))) {
                tracing::warn!(file, %error, "still sealed by an older seal key");
                failed += 1;
            }
        }
        if all > failed {
            tracing::info!(files = all - failed, "sealed anew by the first seal key");
        }
    }

    /// Forgets what belongs to keys that left the configuration long ago.
    pub(super) async fn forget_left(&self) {
        let Some(Ok(listing)) = self.scribe.lane.run(|store| store.list()).await else { return };
        let of_keys = listing.sealed.iter().filter_map(|sealed| sealed.label.of_key());
        let sealed: BTreeMap<KeyPath, u64> = of_keys.map(|(key, forget_after)| (key.clone(), forget_after)).collect();
        let now = self.clock.now();
        let forgotten: HashSet<KeyPath> = {
            let entries = self.entries.borrow();
            let configured = |key: &KeyPath| entries.get(key).map(Entry::forget_after);
            self.ledger.borrow_mut().sweep(&sealed, configured, now).into_iter().collect()
        };
        self.settle_ledger();
        let is_forgotten = |sealed: &&Sealed| sealed.label.of_key().is_some_and(|(key, _)| forgotten.contains(key));
        let files: Vec<String> = listing.sealed.iter().filter(is_forgotten).map(|sealed| sealed.name.clone()).collect();
        forgotten.iter().for_each(|key| tracing::info!(%key, "left the configuration long ago: forgotten"));
        let failed = move |store: &Store| {
            let removed = store.remove(&files).into_iter();
            removed.filter_map(|(file, done)| Some((file.to_owned(), done.err()?))).collect::<Vec<_>>()
        };
        for (file, error) in self.scribe.lane.run(failed).await.unwrap_or_default() {
            tracing::error!(file, %error, "a sealed file that is to be forgotten could not be removed");
        }
    }
}
