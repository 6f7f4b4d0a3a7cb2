//! What is sealed on disk, for the operator: whose it is, how old, and what a broker with this configuration would make
//! of it. Takes no lock, writes nothing and shows no value, so that it may look while a broker runs.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use serde::Serialize;

use super::archive::{Archive, Listing, Problem, Sealed};
use super::format::{Definition, Label, State};
use super::{KeyRing, Ledger};
use crate::config::{Config, expand};
use crate::parent::clock::{Clock, Mark};
use crate::secret::KeyPath;
use crate::sys::{clock, file};

/// What a file is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// The last known good of its key.
    Good,
    /// Not served before a token is accepted: the last one was refused.
    Withheld,
    /// Of a key whose source is defined otherwise now: it does not serve.
    OtherDefinition,
    /// Of a key that is not in the configuration: kept for `forget-after`, unserved.
    Left,
    /// The value was given up; the file says so.
    Revoked,
    /// Older than the revocation of its value, or than another file of its key: gone after the next start.
    Overruled,
    /// The broker's own.
    State,
    /// Gives nothing, and is left alone.
    Foreign,
    /// Gives nothing: cut, changed or renamed.
    Damaged,
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Inspected {
    pub file: String,
    pub key: Option<KeyPath>,
    /// Of a call: SHA-256 of its arguments, as hex digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arguments: Option<String>,
    pub state: Standing,
    /// Seconds since the upstream gave the value, or since it was given up.
    pub age: Option<u64>,
    /// Bytes of the value.
    pub size: Option<u64>,
    /// Seconds until a left key is forgotten.
    pub forgotten_in: Option<u64>,
    /// What is wrong with the file.
    pub problem: Option<String>,
}

/// A cache directory and the configuration that it is seen by.
pub struct Inspection {
    archive: Archive<OwnedFd>,
    listing: Listing,
    ledger: Ledger,
    now: u64,
    configured: HashMap<KeyPath, Definition>,
}

impl Inspection {
    /// `None` when there is no directory.
    pub fn new(config: &Config, keys: KeyRing) -> io::Result<Option<Self>> {
        let directory = match file::open_directory(&config.cache.directory) {
            Ok(directory) => directory,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let archive = Archive::new(directory, keys, u64::MAX);
        let listing = archive.list()?;
        let ledger = archive.ledger();
        let marks: Vec<Mark> =
            archive.states(State::Clock).iter().flatten().filter_map(|bytes| Mark::decode(bytes)).collect();
        let now = Clock::resume(&marks, 0, clock::boot_id()).now();
        let definition = |key: &crate::config::Key| (key.path.clone(), Definition::of(&key.source.definition));
        let mut configured: HashMap<KeyPath, Definition> = config.keys.iter().map(definition).collect();
        for (key, _) in listing.sealed.iter().filter_map(|sealed| sealed.label.of_key()) {
            // A path of a key with parameters is configured as long as its values are within their constraints.
            if !configured.contains_key(key)
                && let Some((_, source)) = expand(config.templates.iter(), key)
            {
                configured.insert(key.clone(), Definition::of(&source.definition));
            }
        }
        Ok(Some(Self { archive, listing, ledger, now, configured }))
    }

    /// Every file, those of keys first and in the order of these.
    pub fn files(&self) -> Vec<Inspected> {
        let mut newest: BTreeMap<&KeyPath, u64> = BTreeMap::new();
        for sealed in &self.listing.sealed {
            if let Some((label, _)) = sealed.label.of_value() {
                let newest = newest.entry(&label.key).or_default();
                *newest = label.fetched_at.max(*newest);
            }
        }
        let sealed = self.listing.sealed.iter().map(|sealed| self.inspect(sealed, &newest));
        let strange = self.listing.strange.iter().map(|(name, problem)| of_problem(name, None, problem));
        let mut files: Vec<Inspected> = sealed.chain(strange).collect();
        files.sort_by(|a, b| (a.key.is_none(), &a.key, &a.file).cmp(&(b.key.is_none(), &b.key, &b.file)));
        files
    }

    fn inspect(&self, sealed: &Sealed, newest: &BTreeMap<&KeyPath, u64>) -> Inspected {
        let blank = Inspected {
            file: sealed.name.clone(),
            key: None,
            arguments: None,
            state: Standing::State,
            age: None,
            size: None,
            forgotten_in: None,
            problem: None,
        };
        let age = |since: u64| Some(Duration::from_millis(self.now.saturating_sub(since)).as_secs());
        let Some((key, forget_after)) = sealed.label.of_key() else { return blank };
        let definition = self.configured.get(key);
        let forgotten_in = match definition {
            Some(_) => None,
            None => Some(self.ledger.forgotten_in(key, forget_after, self.now) / 1000),
        };
        let blank =
            Inspected { key: Some(key.clone()), arguments: key.arguments().map(str::to_owned), forgotten_in, ..blank };
        match &sealed.label {
            Label::Value(label) | Label::Withheld(label) => {
                let withheld = matches!(sealed.label, Label::Withheld(_)) || self.ledger.is_withheld(key);
                let older = newest.get(key).is_some_and(|newest| *newest > label.fetched_at);
                let overruled = older || self.ledger.buried(key, label.fetched_at).is_some();
                let state = match definition {
                    _ if overruled => Standing::Overruled,
                    None => Standing::Left,
                    Some(definition) if *definition != label.definition => Standing::OtherDefinition,
                    Some(_) if withheld => Standing::Withheld,
                    Some(_) => Standing::Good,
                };
                let age = age(self.ledger.fetched_at(key, label.fetched_at));
                Inspected { state, age, size: Some(label.size), ..blank }
            }
            Label::Tombstone(tombstone) => {
                Inspected { state: Standing::Revoked, age: age(tombstone.buried_at), ..blank }
            }
            Label::State(_) => blank,
        }
    }

    /// The same, after every file was opened as a whole.
    pub fn verified(&self) -> Vec<Inspected> {
        let mut files = self.files();
        for inspected in &mut files {
            let sealed = self.listing.sealed.iter().find(|sealed| sealed.name == inspected.file);
            if let Some(Err(problem)) = sealed.map(|sealed| self.archive.verify(sealed)) {
                let what = sealed.and_then(|sealed| of_state(&sealed.label)).map(|what| format!("{problem}: {what}"));
                *inspected = of_problem(&inspected.file, inspected.key.take(), &problem);
                inspected.problem = what.or(inspected.problem.take());
            }
        }
        files
    }

    /// The keys whose value a broker with this configuration would not serve, because its source is defined otherwise.
    pub fn lost(&self) -> Vec<KeyPath> {
        self.keys_in(Standing::OtherDefinition)
    }

    /// The keys that have left the configuration, and still have a value.
    pub fn left(&self) -> Vec<KeyPath> {
        self.keys_in(Standing::Left)
    }

    fn keys_in(&self, state: Standing) -> Vec<KeyPath> {
        self.files().into_iter().filter(|file| file.state == state).filter_map(|file| file.key).collect()
    }
}

/// What is lost with a file of the broker's own.
fn of_state(label: &Label) -> Option<&'static str> {
    match label {
        Label::State(State::Clock) => Some("the clock's last mark"),
        Label::State(State::Ledger) => Some("the ledger of ages and revocations"),
        Label::State(State::Bundle(_)) => Some("values that had no files of their own yet; the next start removes it"),
        _ => None,
    }
}

fn of_problem(name: &str, key: Option<KeyPath>, problem: &Problem) -> Inspected {
    Inspected {
        file: name.to_owned(),
        arguments: key.as_ref().and_then(KeyPath::arguments).map(str::to_owned),
        key,
        state: if problem.is_foreign() { Standing::Foreign } else { Standing::Damaged },
        age: None,
        size: None,
        forgotten_in: None,
        problem: Some(problem.to_string()),
    }
}
