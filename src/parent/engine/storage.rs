//! What of the engine concerns the sealed cache: what is opened at start, accepted and restored.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;
use std::time::Duration;

use super::Engine;
use super::entry::{Entry, Held};
use super::flight::Fresh;
use super::scribe::Wanted;
use crate::config::{Config, Document};
use crate::parent::cache::{Definition, Label, Ledger, Listing, Sealed, State, Store, Tombstone, ValueLabel};
use crate::parent::clock::{Clock, Mark};
use crate::secret::KeyPath;
use crate::sys::clock::BootId;

const FORGET_EVERY: Duration = Duration::from_secs(24 * 60 * 60);

/// What is on disk at start.
pub(super) struct Opened {
    pub(super) held: HashMap<KeyPath, Held>,
    pub(super) ledger: Ledger,
    pub(super) clock: Clock,
    /// What a backup has brought back, and is to go again.
    pub(super) overruled: Vec<Tombstone>,
    /// What an older seal key has sealed.
    pub(super) outdated: Vec<Sealed>,
}

pub(super) fn open(config: &Config, store: &Store, boot: Option<BootId>) -> Opened {
    let listing = store.list().unwrap_or_else(|error| {
        tracing::error!(%error, "the cache directory cannot be listed");
        Listing::default()
    });
    tell_strange(&listing);
    // What stays of them is read by nobody, and replaced when its file is written again.
    store.remove(&listing.temporary);
    let mut ledger = store.ledger();
    let overruled = overruled(&listing, &mut ledger);
    let mut held = HashMap::new();
    for key in &config.keys {
        match store.load(&key.path, &Definition::of(&key.source.definition)) {
            Ok(Some(loaded)) if ledger.buried(&key.path, loaded.label.fetched_at).is_none() => {
                let fetched_at = ledger.fetched_at(&key.path, loaded.label.fetched_at);
                held.insert(key.path.clone(), Held::loaded(store.keys().first(), loaded, fetched_at));
            }
            Ok(_) => {}
            Err(problem) => tracing::warn!(key = %key.path, %problem, "no last known good"),
        }
    }
    let marks: Vec<Mark> = store.states(State::Clock).iter().filter_map(|bytes| Mark::decode(bytes)).collect();
    let newest = held.values().map(|held| held.fetched_at).max().unwrap_or(0);
    let outdated: Vec<Sealed> = listing.sealed.into_iter().filter(|sealed| sealed.outdated).collect();
    if outdated.iter().any(|sealed| sealed.label == Label::State(State::Ledger)) {
        ledger.write_again();
    }
    Opened { held, ledger, clock: Clock::resume(&marks, newest, boot), overruled, outdated }
}

/// The tombstones for files that are older than the revocation of their value.
fn overruled(listing: &Listing, ledger: &mut Ledger) -> Vec<Tombstone> {
    for sealed in &listing.sealed {
        if let Label::Tombstone(tombstone) = &sealed.label {
            ledger.bury(&tombstone.key, tombstone.buried_at);
        }
    }
    let mut overruled = Vec::new();
    for sealed in &listing.sealed {
        if let Label::Value(label) = &sealed.label
            && let Some(buried_at) = ledger.buried(&label.key, label.fetched_at)
        {
            tracing::warn!(key = %label.key, file = sealed.name, "older than the revocation of its value: removed");
            let (key, definition, forget_after) = (label.key.clone(), label.definition, label.forget_after);
            overruled.push(Tombstone { key, definition, buried_at, forget_after });
        }
    }
    overruled
}

/// Names each file that gives nothing, once.
fn tell_strange(listing: &Listing) {
    for (file, problem) in &listing.strange {
        if problem.is_foreign() {
            tracing::warn!(file, %problem, "left alone in the cache directory");
        } else {
            tracing::warn!(file, %problem, "ignored in the cache directory");
        }
    }
}

impl Engine {
    /// Seals what is new, takes the age of what is not, and then lets both be seen.
    pub(super) async fn accept(&self, values: Vec<(KeyPath, Fresh)>) {
        let now = self.clock.now();
        let (mut wanted, mut accepted) = (Vec::new(), Vec::new());
        for (key, fresh) in values {
            let entries = self.entries.borrow();
            let Some(entry) = entries.get(&key) else { continue };
            let held = Held::new(self.store.keys().first(), &key, fresh.value, fresh.validators, now);
            let same = entry.held.as_ref().filter(|before| before.tag == held.tag);
            let known = same.and_then(|before| Some((before.on_disk.get()?, before.on_disk.clone())));
            let held = match known {
                Some((sealed, on_disk)) => {
                    self.ledger.borrow_mut().confirm(&key, sealed, now);
                    Held { on_disk, ..held }
                }
                None => {
                    let record = held.record(&key, entry);
                    wanted.push((key.clone(), Wanted::Value(record, held.on_disk.clone())));
                    held
                }
            };
            accepted.push((key, held, fresh.status));
        }
        self.scribe.write(wanted).await;
        for (key, held, status) in accepted {
            let mut entries = self.entries.borrow_mut();
            let Some(entry) = entries.get_mut(&key) else { continue };
            if entry.failure.is_some() {
                tracing::info!(%key, "answered again");
            }
            entry.status = status;
            if entry.accept(held) || entry.leased_stale {
                self.recall(&key, entry);
            }
        }
    }

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

    /// Puts a tombstone in the place of what is sealed for this key.
    pub(super) async fn bury(&self, key: &KeyPath) {
        let buried_at = self.clock.now();
        let of_entry = |entry: &Entry| (entry.definition, entry.forget_after());
        let Some((definition, forget_after)) = self.entries.borrow().get(key).map(of_entry) else { return };
        self.ledger.borrow_mut().bury(key, buried_at);
        let tombstone = Tombstone { key: key.clone(), definition, buried_at, forget_after };
        self.scribe.write(vec![(key.clone(), Wanted::Tombstone(tombstone))]).await;
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
            let ledger = self.ledger.borrow();
            let buried = |label: &ValueLabel| ledger.buried(&key, label.fetched_at).is_some();
            let loaded = loaded.ok().and_then(Result::ok).flatten().filter(|loaded| !buried(&loaded.label));
            let held = loaded.map(|loaded| {
                let fetched_at = ledger.fetched_at(&key, loaded.label.fetched_at);
                Held::loaded(self.store.keys().first(), loaded, fetched_at)
            });
            if let Some(entry) = self.entries.borrow_mut().get_mut(&key).filter(|entry| entry.is_withheld()) {
                tracing::info!(%key, "the token is accepted: what was withheld serves again");
                entry.restore(held);
            }
        }
    }
}
