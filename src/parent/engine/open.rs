//! What is on disk at the start: the labels of all sealed values, the ledger, the clock.
//!
//! Values themselves stay on disk until somebody asks or there is time: a start costs one small read for each key,
//! however large the values are.

use std::collections::HashMap;

use zeroize::Zeroizing;

use super::entry::Held;
use super::expanded::{self, OnDisk};
use super::memory::Memory;
use crate::config::Config;
use crate::parent::cache::{
    Definition, Label, Ledger, Listing, Problem, Sealed, State, Store, StoreError, Tombstone, ValueLabel,
};
use crate::parent::clock::{Clock, Mark};
use crate::secret::KeyPath;
use crate::sys::clock::BootId;

pub(super) struct Opened {
    pub(super) definitions: HashMap<KeyPath, Definition>,
    pub(super) held: HashMap<KeyPath, Held>,
    pub(super) ledger: Ledger,
    pub(super) clock: Clock,
    /// What a backup has brought back, and is to go again.
    pub(super) overruled: Vec<Tombstone>,
    /// What an older seal key has sealed.
    pub(super) outdated: Vec<Sealed>,
    /// The paths of keys with parameters that something is sealed for, and those that are too many.
    pub(super) expanded: Vec<OnDisk>,
    pub(super) surplus: Vec<KeyPath>,
}

pub(super) fn open(config: &Config, store: &Store, memory: &Memory, boot: Option<BootId>) -> Opened {
    let listing = store.list().unwrap_or_else(|error| {
        tracing::error!(%error, "the cache directory cannot be listed");
        Listing::default()
    });
    let (listing, unbundled) = store.unbundle(listing);
    tell_unbundled(unbundled);
    tell_strange(&listing);
    // What stays of them is read by nobody, and replaced when its file is written again.
    store.remove(&listing.temporary);
    let mut ledger = Ledger::newest(&states(store, State::Ledger));
    let overruled = overruled(&listing, &mut ledger);
    let definition = |key: &crate::config::Key| (key.path.clone(), Definition::of(&key.source.definition));
    let mut definitions: HashMap<KeyPath, Definition> = config.keys.iter().map(definition).collect();
    let (expanded, surplus) = expanded::on_disk(&config.templates, &definitions, &listing, &ledger);
    surplus.iter().for_each(|key| ledger.forget(key));
    definitions.extend(expanded.iter().map(|one| (one.key.clone(), Definition::of(&one.source.definition))));
    let values = values(&listing, &ledger, &definitions);
    let mut held = HashMap::with_capacity(values.len());
    for (key, found) in values {
        if found.as_ref().is_ok_and(|candidate| candidate.withheld) {
            ledger.withhold(key, true);
        }
        match found.and_then(|sealed| hold(config.limits.value_size, store, memory, &ledger, sealed)) {
            Ok(value) => drop(held.insert(key.clone(), value)),
            Err(problem) => tracing::warn!(%key, %problem, "no last known good"),
        }
    }
    tell_lost(config, store, &listing, &held);
    let marks: Vec<Mark> = states(store, State::Clock).iter().filter_map(|bytes| Mark::decode(bytes)).collect();
    let newest = held.values().map(|held| held.fetched_at).max().unwrap_or(0);
    let outdated: Vec<Sealed> = listing.sealed.into_iter().filter(|sealed| sealed.outdated).collect();
    if outdated.iter().any(|sealed| sealed.label == Label::State(State::Ledger)) {
        ledger.write_again();
    }
    let clock = Clock::resume(&marks, newest, boot);
    Opened { definitions, held, ledger, clock, overruled, outdated, expanded, surplus }
}

/// What there is of a state, and a line for what gives nothing.
fn states(store: &Store, state: State) -> Vec<Zeroizing<Vec<u8>>> {
    let told = |problem: &Problem| match state {
        State::Clock => {
            tracing::error!(%problem, "the clock's last mark: the time begins with the newest value and the wall clock")
        }
        _ => tracing::error!(%problem, "the ledger: ages and revocations are those that the files of the values say"),
    };
    store.states(state).into_iter().filter_map(|read| read.inspect_err(told).ok()).collect()
}

/// Says what has become of values of the last run that had no files of their own yet.
fn tell_unbundled(unbundled: Result<Vec<(String, Problem)>, StoreError>) {
    match unbundled {
        Ok(strange) => strange.into_iter().for_each(|(file, problem)| match problem {
            Problem::Io(error) => {
                tracing::error!(file, %error, "values of the last run stay in a bundle that cannot be read; the next start tries again");
            }
            problem => tracing::error!(
                file, %problem,
                "a bundle of values of the last run gives nothing, and is removed: until they are fetched, their keys have the value before that, or none"
            ),
        }),
        Err(error) => {
            tracing::error!(%error, "not all values of the last run are in their files; the next start tries again");
        }
    }
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
        if let Some((label, _)) = sealed.label.of_value()
            && let Some(buried_at) = ledger.buried(&label.key, label.fetched_at)
        {
            tracing::warn!(key = %label.key, file = sealed.name, "older than the revocation of its value: removed");
            let (key, definition, forget_after) = (label.key.clone(), label.definition, label.forget_after);
            overruled.push(Tombstone { key, definition, buried_at, forget_after });
        }
    }
    overruled
}

/// A value that a file holds.
#[derive(Clone, Copy)]
pub(super) struct Candidate<'l> {
    label: &'l ValueLabel,
    /// By an older seal key.
    outdated: bool,
    /// The file says that it is not to be served.
    pub(super) withheld: bool,
}

/// Of each key of the configuration that has a file: the newest value of its source.
pub(super) fn values<'l>(
    listing: &'l Listing,
    ledger: &Ledger,
    definitions: &HashMap<KeyPath, Definition>,
) -> HashMap<&'l KeyPath, Result<Candidate<'l>, Problem>> {
    let mut values: HashMap<&KeyPath, Result<Candidate<'l>, Problem>> = HashMap::new();
    for sealed in &listing.sealed {
        let Some((label, withheld)) = sealed.label.of_value() else { continue };
        let Some(definition) = definitions.get(&label.key) else { continue };
        if ledger.buried(&label.key, label.fetched_at).is_some() {
            continue;
        }
        let found = values.entry(&label.key).or_insert(Err(Problem::OtherDefinition));
        let rank = |of: &Candidate<'_>| (of.label.fetched_at, of.withheld);
        let candidate = Candidate { label, outdated: sealed.outdated, withheld };
        if label.definition == *definition && found.as_ref().map_or(true, |known| rank(known) < rank(&candidate)) {
            *found = Ok(candidate);
        }
    }
    values
}

pub(super) fn hold(
    largest: u64,
    store: &Store,
    memory: &Memory,
    ledger: &Ledger,
    Candidate { label, outdated, .. }: Candidate<'_>,
) -> Result<Held, Problem> {
    if label.size > largest {
        return Err(Problem::TooLarge);
    }
    let fetched_at = ledger.fetched_at(&label.key, label.fetched_at);
    let mut held = Held::sealed(label, fetched_at);
    if outdated && let Some(loaded) = store.load(&label.key, &label.definition)? {
        // Its tags are those of the older key.
        let (value, validators) = (memory.take(loaded.value), loaded.label.validators);
        let on_disk = held.on_disk;
        held = Held { on_disk, ..Held::new(store.keys().first(), &label.key, value, validators, fetched_at) };
    }
    Ok(held)
}

/// So many files of a kind are named.
const NAMED: usize = 10;

/// Names files that give nothing, once.
fn tell_strange(listing: &Listing) {
    let (foreign, ignored): (Vec<_>, Vec<_>) = listing.strange.iter().partition(|(_, problem)| problem.is_foreign());
    for (what, files) in [("left alone in the cache directory", foreign), ("ignored in the cache directory", ignored)] {
        for (file, problem) in files.iter().take(NAMED) {
            tracing::warn!(file, %problem, "{what}");
        }
        if let Some(more) = files.len().checked_sub(NAMED).filter(|more| *more > 0) {
            tracing::warn!(files = more, "more of them {what}; `keyhatch cache ls` names each");
        }
    }
}

/// Says which keys have lost their value with that: a file whose label cannot be read does not say it.
fn tell_lost(config: &Config, store: &Store, listing: &Listing, held: &HashMap<KeyPath, Held>) {
    if listing.strange.is_empty() {
        return;
    }
    let strange: HashMap<&str, &Problem> = listing.strange.iter().map(|(name, why)| (name.as_str(), why)).collect();
    for key in config.keys.iter().filter(|key| !held.contains_key(&key.path)) {
        for name in store.keys().file_names(&key.path) {
            if let Some(problem) = strange.get(name.as_str()) {
                tracing::warn!(key = %key.path, %problem, "no last known good");
            }
        }
    }
}
