//! What is done to the sealed files besides: sealing them anew by the first seal key, forgetting what left the configuration.

use std::collections::{BTreeMap, HashSet};
use std::rc::Rc;
use std::time::Duration;

use super::Engine;
use super::entry::Entry;
use crate::parent::cache::{Sealed, Store};
use crate::secret::KeyPath;

const FORGET_EVERY: Duration = Duration::from_secs(24 * 60 * 60);

impl Engine {
    /// Moves what an older seal key has sealed to the first one, a few files at a time: answers come between.
    pub(in crate::parent) async fn reseal_outdated(self: Rc<Self>) {
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

    /// Forgets, at the start and every day, what belongs to keys that left the configuration long ago. Does not end.
    pub(in crate::parent) async fn forget_left(self: Rc<Self>) {
        loop {
            self.forget_left_once().await;
            tokio::time::sleep(FORGET_EVERY).await;
        }
    }

    pub(super) async fn forget_left_once(&self) {
        let Some(Ok(listing)) = self.scribe.lane.run(|store| store.list()).await else { return };
        let of_keys = listing.sealed.iter().filter_map(|sealed| sealed.label.of_key());
        let sealed: BTreeMap<KeyPath, u64> = of_keys.map(|(key, forget_after)| (key.clone(), forget_after)).collect();
        let now = self.clock.now();
        let forgotten: HashSet<KeyPath> = {
            let entries = self.entries.borrow();
            let configured = |key: &KeyPath| entries.get(key).map(Entry::forget_after);
            self.ledger.borrow_mut().sweep(&sealed, configured, now).into_iter().collect()
        };
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
