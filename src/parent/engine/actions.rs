//! What an operator does to keys: fetch them now, or have them forgotten.
//!
//! Whoever calls has made sure that it is an operator.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::Engine;
use super::entry::{Entry, Standing};
use crate::acl::Pattern;
use crate::config::expand;
use crate::ipc::wire::{Recall, Tag};
use crate::parent::outbox::Recalling;
use crate::secret::KeyPath;
use crate::sys::clock::boot_nanos;

/// How long the worker may take to forget.
const PATIENCE: Duration = Duration::from_secs(10);
/// How much longer than the call itself an operator waits for its end.
const LATER: Duration = Duration::from_secs(2);
/// Recalls that name more bytes of keys than this are of everything.
const NAMED: usize = 32 << 10;

/// Why a text selects no key.
#[derive(Debug)]
pub(in crate::parent) enum Unselectable {
    Malformed(String),
    Unknown,
}

/// How a refresh ended.
#[derive(serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(in crate::parent) struct Refreshed {
    pub(in crate::parent) key: KeyPath,
    /// `answered`, a class of failure, `timeout` while the call goes on, `drill` or `call` when none was made.
    pub(in crate::parent) outcome: &'static str,
    pub(in crate::parent) reason: Option<String>,
    /// The value is another one than before.
    pub(in crate::parent) changed: bool,
    /// Of the value that there is now, in seconds.
    pub(in crate::parent) age: Option<u64>,
    pub(in crate::parent) millis: u64,
}

/// What a purge has left undone.
#[derive(Debug)]
pub(in crate::parent) enum PurgeError {
    /// The worker has not said that it forgot.
    Worker,
    Disk(String),
}

impl Engine {
    /// The keys that a path or a pattern is about: those of the configuration, paths of keys with parameters that have a
    /// value, and a path of such a key that has none if it is given as it is. Of a key with several sources, its parts.
    ///
    /// # Errors
    /// The text is neither, or there is no such key.
    pub(in crate::parent) fn select(&self, text: &str) -> Result<Vec<KeyPath>, Unselectable> {
        if text.contains('*') {
            let pattern = Pattern::parse(text).map_err(|error| Unselectable::Malformed(error.to_string()))?;
            let entries = self.entries.borrow();
            let listed = entries.iter().filter(|(key, entry)| entry.is_listed() && pattern.matches(&key.whole()));
            let mut keys: Vec<KeyPath> = listed.map(|(key, _)| key.clone()).collect();
            keys.sort_unstable();
            return if keys.is_empty() { Err(Unselectable::Unknown) } else { Ok(keys) };
        }
        let key = KeyPath::parse(text).map_err(|error| Unselectable::Malformed(error.to_string()))?;
        if let Some(parts) = self.parts_of(&key) {
            return Ok(parts.to_vec());
        }
        let is_path = |key| expand(self.expanded.borrow().iter().map(|table| &table.key), key).is_some();
        if self.entries.borrow().contains_key(&key) || is_path(&key) {
            return Ok(vec![key]);
        }
        // Whatever it is called with.
        if is_path(&key.of_call(&[0; 32])) { Ok(self.calls_of(&key)) } else { Err(Unselectable::Unknown) }
    }

    /// The calls of a path that have a value, whatever their arguments.
    fn calls_of(&self, path: &KeyPath) -> Vec<KeyPath> {
        let entries = self.entries.borrow();
        let is_call = |key: &KeyPath| key.arguments().is_some() && key.path() == path.as_str();
        let listed = entries.iter().filter(|(key, entry)| entry.is_listed() && is_call(key));
        let mut calls: Vec<KeyPath> = listed.map(|(key, _)| key.clone()).collect();
        calls.sort_unstable();
        calls
    }

    /// Fetches a key now, whatever back-off says, or joins the fetch under way; waits for its end.
    pub(in crate::parent) async fn refresh(self: &Rc<Self>, key: KeyPath) -> Refreshed {
        let began = Instant::now();
        let told = |outcome, reason: Option<String>| Refreshed {
            key: key.clone(),
            outcome,
            reason,
            changed: false,
            age: self.entries.borrow().get(&key).and_then(|entry| entry.age(self.clock.now())).map(|age| age.as_secs()),
            millis: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        };
        if key.arguments().is_some() {
            // Who asks brings the arguments: here is only a digest of them.
            return told("call", Some("a call is made when somebody asks".into()));
        }
        let Ok(in_hand) = self.enter(&key, 0) else {
            return told(
                "misconfigured",
                Some("too many paths of its key are being fetched for the first time".into()),
            );
        };
        let done = if self.is_drilled(&key) {
            told("drill", Some("a drill covers it: nothing was asked".into()))
        } else {
            let (before, refreshed) = (self.tag(&key), self.fetch_now(&key).await);
            match refreshed {
                None => told("timeout", Some("the call goes on; what it brings is stored".into())),
                Some(Ok(())) => {
                    Refreshed { changed: before.is_some() && before != self.tag(&key), ..told("answered", None) }
                }
                Some(Err((class, reason))) => told(class, Some(reason)),
            }
        };
        drop(in_hand);
        done
    }

    fn tag(&self, key: &KeyPath) -> Option<Tag> {
        self.entries.borrow().get(key).and_then(|entry| entry.held.as_ref()).map(|held| held.tag)
    }

    /// `None` when it does not end in time.
    async fn fetch_now(self: &Rc<Self>, key: &KeyPath) -> Option<Result<(), (&'static str, String)>> {
        let document = self.entries.borrow().get(key)?.document;
        let longest = self.documents.borrow().get(document)?.fetch_timeout + LATER;
        if let Some(state) = self.documents.borrow().get(document) {
            self.sources.borrow().permit_login(&state.document);
        }
        let (mut flight, _) = self.join(document, Some(key), None)?;
        // The sender ends with the flight.
        let _ = timeout(longest, flight.landed.wait_for(|landed| *landed)).await.ok()?;
        let failure = self.entries.borrow().get(key)?.failure;
        Some(failure.map_or(Ok(()), |failure| Err((failure.class.name(), failure.reason.to_string()))))
    }

    /// Out of both memories and off the disk; what is being fetched now is not kept. Gives how many of them had a value.
    ///
    /// # Errors
    /// The worker or the disk does not do it; what could be done is done.
    pub(in crate::parent) async fn purge(&self, keys: &[KeyPath]) -> Result<usize, PurgeError> {
        let now = self.clock.now();
        let mut had = 0;
        for key in keys {
            self.scribe.remove_behind(key.clone());
            let mut entries = self.entries.borrow_mut();
            let Some(entry) = entries.get_mut(key) else { continue };
            had += usize::from(entry.held.is_some() || entry.is_withheld());
            // Of what a backup brings back, nothing until then counts. Not this very instant: the next value may be of it.
            let until = entry.held.as_ref().map_or(0, |held| held.fetched_at).max(now.saturating_sub(1));
            entry.purge(Instant::now());
            // Whoever purges wants the next request to ask.
            if let Some(document) = self.documents.borrow_mut().get_mut(entry.document) {
                document.pace.succeed();
            }
            let standing = entry.standing;
            drop(entries);
            self.ledger.borrow_mut().forget(key);
            if let Standing::Lasting(_) = standing {
                self.evict(key);
            }
            match standing {
                Standing::Fixed | Standing::Lasting(_) => self.ledger.borrow_mut().bury(key, until),
                Standing::Passing(_) | Standing::Leaving(..) => self.let_go(key),
            }
        }
        let forgotten = self.recall_all(keys);
        let files = self.until_removed().await;
        if timeout(PATIENCE, forgotten).await.is_err() {
            return Err(PurgeError::Worker);
        }
        files.map(|()| had)
    }

    /// All keys, and what is sealed of keys that are not in the configuration.
    ///
    /// # Errors
    /// As [`purge`](Self::purge).
    pub(in crate::parent) async fn purge_all(&self) -> Result<usize, PurgeError> {
        let keys: Vec<KeyPath> = self.entries.borrow().keys().cloned().collect();
        let had = self.purge(&keys).await?;
        let known: BTreeSet<KeyPath> = keys.into_iter().collect();
        let listed = self.scribe.lane.run(|store| store.list().map_err(|error| error.to_string())).await;
        let listing = listed.unwrap_or_else(|| Err("nothing is written any more".into())).map_err(PurgeError::Disk)?;
        let values = listing.sealed.iter().filter_map(|sealed| Some(&sealed.label.of_value()?.0.key));
        let left: BTreeSet<KeyPath> = values.filter(|key| !known.contains(*key)).cloned().collect();
        let left: Vec<KeyPath> = left.into_iter().collect();
        self.purge(&left).await?;
        Ok(had + left.len())
    }

    /// Takes back what leases there are of these keys, and waits until the worker has forgotten: not for ever.
    pub(super) async fn forget_leases(&self, keys: &[KeyPath]) {
        let leased: Vec<KeyPath> = {
            let entries = self.entries.borrow();
            let is_leased = |entry: &Entry| entry.leased_until > boot_nanos();
            keys.iter().filter(|key| entries.get(*key).is_some_and(is_leased)).cloned().collect()
        };
        if !leased.is_empty() && timeout(PATIENCE, self.recall_all(&leased)).await.is_err() {
            tracing::error!("the worker does not say that it has forgotten");
        }
    }

    /// Recalls these keys, leased or not. Resolves when the worker has forgotten them.
    pub(super) fn recall_all(&self, keys: &[KeyPath]) -> oneshot::Receiver<()> {
        for key in keys {
            if let Some(entry) = self.entries.borrow_mut().get_mut(key) {
                entry.leased_until = 0;
            }
        }
        let named: usize = keys.iter().map(|key| key.as_str().len() + 8).sum();
        let whole = || keys.iter().map(KeyPath::whole).collect();
        let recall = if named > NAMED { Recall::All } else { Recall::Keys(whole()) };
        let (done, forgotten) = oneshot::channel();
        self.counters.count_recall();
        // A closed queue means that the worker is gone, and its values with it.
        let _ = self.recalls.send(Recalling { keys: recall, done: Some(done) });
        forgotten
    }
}
