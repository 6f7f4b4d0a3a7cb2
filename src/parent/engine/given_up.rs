//! What refusals lead to: what is given up, in memory and on disk, and how it comes to serve again.
//!
//! On disk it stands twice, in the file of the value and in the ledger: either is enough, whatever becomes of the other.

use tokio::time::{Instant, timeout};

use super::Engine;
use super::documents::{DocumentId, DocumentState};
use super::entry::{Entry, GivenUp, Held};
use super::scribe::{PATIENCE, Wanted};
use crate::config::TokenName;
use crate::outcome::{Class, Failure};
use crate::parent::cache::{Definition, Loaded, Tombstone, ValueLabel};
use crate::secret::KeyPath;

/// So many files of values that are withheld, or that serve again, are read and sealed in one go.
const MARKED_AT_ONCE: usize = 16;
const RESTORED_AT_ONCE: usize = 64;

/// What has gone out of memory, and is to be given up on disk.
pub(super) struct GaveUp {
    pub(super) key: KeyPath,
    pub(super) how: GivenUp,
    /// What was there.
    pub(super) held: Option<Held>,
}

impl Engine {
    /// A 403 is the token's when every document of the token that was asked is refused, and the document's own otherwise.
    pub(super) fn classify(&self, id: DocumentId, failure: Failure) -> Failure {
        let documents = self.documents.borrow();
        let tokens = documents.get(id).map(|state| &state.origin.1).filter(|tokens| !tokens.is_empty());
        if failure.class != Class::Refused || tokens.is_none() {
            return failure;
        }
        let asked = |(other, state): &(DocumentId, &DocumentState)| {
            *other != id && Some(&state.origin.1) == tokens && state.last_started.is_some()
        };
        let mut others = documents.iter().filter(asked);
        let class = if others.all(|(_, state)| state.refused) { Class::TokenRefused } else { Class::Refused };
        Failure { class, ..failure }
    }

    /// The upstream gave no value. Out of memory goes what this makes be given up; the disk is the caller's.
    pub(super) fn refuse(&self, key: &KeyPath, failure: Failure, document_is_good: bool) -> Option<GaveUp> {
        let mut entries = self.entries.borrow_mut();
        let entry = entries.get_mut(key)?;
        if entry.failure.is_none_or(|before| before.class != failure.class) {
            let (outcome, reason) = (failure.class.name(), failure.reason);
            if failure.class == Class::Misconfigured {
                tracing::error!(%key, outcome, %reason, "failing");
            } else {
                tracing::warn!(%key, outcome, %reason, "failing");
            }
        }
        if document_is_good {
            entry.pace.fail(self.circumstances(None));
        }
        entry.negative_until = Some(Instant::now() + entry.settings.negative_max_age);
        entry.ended = Some(Instant::now());
        let held = entry.held.clone();
        let given_up = entry.refuse(failure, Instant::now());
        // A lease that was given until this fetch landed ends, too: the next attempt may be due before that.
        if given_up.is_some() || entry.leased_stale {
            self.recall(key, entry);
        }
        let how = given_up?;
        match how {
            GivenUp::Withheld => tracing::error!(%key, "the token is refused: the value is withheld"),
            GivenUp::Shredded => {
                tracing::error!(%key, outcome = failure.class.name(), "revoked: the value is shredded");
            }
        }
        Some(GaveUp { key: key.clone(), how, held })
    }

    /// Has the files of these say so, and the ledger, all in one go: a tombstone takes the place of what is shredded, and what
    /// is withheld is sealed as such. Without room for that, the file goes.
    pub(super) async fn give_up(&self, given_up: Vec<GaveUp>) {
        let (mut wanted, mut on_disk_alone) = (Vec::new(), Vec::new());
        for GaveUp { key, how, held } in given_up {
            let (entries, mut ledger) = (self.entries.borrow(), self.ledger.borrow_mut());
            let Some(entry) = entries.get(&key) else { continue };
            match how {
                GivenUp::Shredded => {
                    let buried_at = self.clock.now();
                    ledger.bury(&key, buried_at);
                    let (definition, forget_after) = (entry.definition, entry.forget_after());
                    let tombstone = Tombstone { key: key.clone(), definition, buried_at, forget_after };
                    wanted.push((key, Wanted::Tombstone(tombstone)));
                }
                GivenUp::Withheld => {
                    ledger.withhold(&key, true);
                    match held.and_then(|held| Some(Wanted::Withheld(held.record(&key, entry)?, held.on_disk))) {
                        Some(withheld) => wanted.push((key, withheld)),
                        None => on_disk_alone.push(key),
                    }
                }
            }
        }
        if !wanted.is_empty() {
            self.scribe.write(wanted, true).await;
        }
        self.mark_withheld(on_disk_alone).await;
    }

    /// Has the files say it of what the ledger alone withholds: an older version, a backup or a crash has left it like that.
    pub(super) async fn mark_all_withheld(&self) {
        let withheld: Vec<KeyPath> = self.ledger.borrow().withheld().cloned().collect();
        self.mark_withheld(withheld).await;
    }

    /// Of what is on disk alone. A few at a time: answers come between, and so do values that serve again.
    async fn mark_withheld(&self, keys: Vec<KeyPath>) {
        for some in keys.chunks(MARKED_AT_ONCE) {
            let still = |key: &&KeyPath| self.ledger.borrow().is_withheld(key);
            let some: Vec<KeyPath> = some.iter().filter(still).cloned().collect();
            let marking = self.scribe.lane.run(move |store| {
                let marked = store.withhold(&some);
                some.into_iter().zip(marked).collect::<Vec<_>>()
            });
            let Ok(marked) = timeout(PATIENCE, marking).await else {
                tracing::error!("the disk is slow: not all files of withheld values say so yet; the ledger does");
                break;
            };
            for (key, done) in marked.unwrap_or_default() {
                if let Err(error) = done {
                    tracing::error!(%key, %error, "the sealed file of a withheld value does not say so; the ledger does");
                }
            }
        }
        self.settle_ledger();
    }

    /// This value is about to be written, and serves when both it and the ledger are on disk.
    pub(super) fn grant(&self, key: &KeyPath) {
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
