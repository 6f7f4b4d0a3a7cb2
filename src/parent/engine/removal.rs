//! What goes off the disk, by the one task that writes there: in order with the writes, so that no removal takes a later file.

use std::collections::BTreeSet;

use tokio::time::{Duration, sleep, timeout};

use super::Engine;
use super::actions::PurgeError;
use crate::parent::cache::Store;
use crate::secret::KeyPath;

/// How long a purge waits for the disk.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked whether a bundle is gone.
const LOOK: Duration = Duration::from_millis(20);

impl Engine {
    /// Removes what is sealed of these keys, also bundles that hold nothing else.
    pub(super) async fn remove_files(&self, gone: &BTreeSet<KeyPath>, round: u64) {
        if gone.is_empty() {
            return;
        }
        self.remove_empty_bundles().await;
        let keys: Vec<KeyPath> = gone.iter().cloned().collect();
        if let Some(Err(error)) = self.scribe.lane.run(move |store| store.remove_keys(&keys)).await {
            tracing::error!(%error, "not all sealed files of evicted values are removed: the next start does");
            self.scribe.removed.send_modify(|removed| removed.failed = Some((round, error.to_string())));
        }
    }

    /// Returns when no file, and no bundle, holds anything of what was removed behind until now.
    ///
    /// # Errors
    /// The disk does not do it, or not in time.
    pub(super) async fn until_removed(&self) -> Result<(), PurgeError> {
        self.scribe.state.want_ledger();
        let round = self.scribe.pending.borrow().rounds_taken + 1;
        self.scribe.wake.notify_one();
        let gone = async {
            let mut removed = self.scribe.removed.subscribe();
            let failed = removed.wait_for(|removed| removed.round >= round).await.map(|removed| removed.failed.clone());
            // What these keys had in a bundle is not placed any more.
            while !self.scribe.pending.borrow().bundles.is_empty() {
                sleep(LOOK).await;
            }
            failed.ok().flatten().filter(|(at, _)| *at >= round)
        };
        match timeout(PATIENCE, gone).await {
            Ok(None) => Ok(()),
            Ok(Some((_, error))) => Err(PurgeError::Disk(error)),
            Err(_) => Err(PurgeError::Disk("the disk is slow: it goes on behind".into())),
        }
    }

    pub(super) async fn remove_empty_bundles(&self) {
        let empty: Vec<u64> = {
            let mut pending = self.scribe.pending.borrow_mut();
            let used: BTreeSet<u64> = pending.bundled.values().map(|(number, _)| *number).collect();
            let empty = pending.bundles.difference(&used).copied().collect();
            pending.bundles = used;
            empty
        };
        if empty.is_empty() {
            return;
        }
        let remove = move |store: &Store| {
            let names: Vec<String> = empty.into_iter().map(|number| store.bundle_name(number)).collect();
            store.remove(&names).into_iter().all(|(_, removed)| removed.is_ok())
        };
        if self.scribe.lane.run(remove).await != Some(true) {
            tracing::warn!("a bundle of values could not be removed; the next start does");
        }
    }
}
