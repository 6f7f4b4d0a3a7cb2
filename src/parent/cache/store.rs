//! Writing the directory of sealed values: one file for each, replaced as a whole, durable when a call returns.

use std::fmt;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::archive::Archive;
use super::bundle;
use super::format::{self, Label, State, Tombstone, ValueLabel};
use super::seal::{KeyRing, SealKey};
use crate::secret::{KeyPath, SecretValue};
use crate::sys::file::{self, DirectoryLock};

/// So many files are open at once while they are replaced.
pub(super) const BATCH: usize = 64;

/// The directory of sealed values, held by this process alone.
pub struct Store {
    archive: Archive<DirectoryLock>,
}

/// A value to be sealed.
#[derive(Clone)]
pub struct Record {
    pub label: ValueLabel,
    pub value: Arc<SecretValue>,
}

/// What becomes one file.
pub enum Item {
    Value(Record),
    /// A value that is not to be served.
    Withheld(Record),
    Tombstone(Tombstone),
    State(State, Vec<u8>),
    /// All of these in one file, under a number that no bundle in the directory has.
    Bundle(u64, Vec<Item>),
}

impl Item {
    fn seal(&self, key: &SealKey) -> Option<(String, Vec<u8>)> {
        let (label, sealed) = match self {
            Self::Value(Record { label: of, value }) | Self::Withheld(Record { label: of, value }) => {
                let label = if matches!(self, Self::Value(_)) { Label::Value } else { Label::Withheld }(of.clone());
                let sealed = format::seal(key, &label, &format::binding(&of.key, &of.definition), value.json());
                (label, sealed)
            }
            Self::Tombstone(tombstone) => {
                let label = Label::Tombstone(tombstone.clone());
                let sealed = format::seal(key, &label, &[], &[]);
                (label, sealed)
            }
            Self::State(state, bytes) => {
                let label = Label::State(*state);
                let sealed = format::seal(key, &label, &[], bytes);
                (label, sealed)
            }
            Self::Bundle(number, items) => {
                let files: Vec<Vec<u8>> = items.iter().map(|item| Some(item.seal(key)?.1)).collect::<Option<_>>()?;
                let label = Label::State(State::Bundle(*number));
                let sealed = format::seal(key, &label, &[], &bundle::pack(&files)?);
                (label, sealed)
            }
        };
        Some((label.file_name(key), sealed?))
    }

    /// The name of its file under another seal key.
    fn name_under(&self, key: &SealKey) -> String {
        match self {
            Self::Value(record) | Self::Withheld(record) => key.file_name(&record.label.key),
            Self::Tombstone(tombstone) => key.file_name(&tombstone.key),
            Self::State(state, _) => key.name_of(&state.name()),
            Self::Bundle(number, _) => key.name_of(&State::Bundle(*number).name()),
        }
    }
}

#[derive(Debug)]
pub enum StoreError {
    /// Another process has the directory.
    Locked,
    /// Whether one has it cannot be found out.
    Unlockable(io::Error),
    Seal,
    Io(io::Error),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Locked => write!(f, "another broker has this cache directory"),
            Self::Unlockable(error) => write!(f, "the cache directory cannot be locked: {error}"),
            Self::Seal => write!(f, "the value cannot be sealed"),
            Self::Io(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for StoreError {}

impl Deref for Store {
    type Target = Archive<DirectoryLock>;

    fn deref(&self) -> &Self::Target {
        &self.archive
    }
}

impl Store {
    /// `cap` is the longest value, in bytes.
    pub fn open(directory: OwnedFd, keys: KeyRing, cap: u64) -> Result<Self, StoreError> {
        let directory = file::lock(directory).map_err(StoreError::Unlockable)?.ok_or(StoreError::Locked)?;
        Ok(Self { archive: Archive::new(directory, keys, cap) })
    }

    /// Replaces the files of these items. What comes back is in their order.
    pub fn write(&self, items: &[Item]) -> Vec<Result<(), StoreError>> {
        items.chunks(BATCH).flat_map(|batch| self.write_batch(batch)).collect()
    }

    /// Removes files by their names, and says which ones are gone.
    pub fn remove<'n>(&self, names: &'n [String]) -> Vec<(&'n str, Result<(), StoreError>)> {
        let remove = |name| file::remove_at(self.directory.as_fd(), name).map_err(StoreError::Io);
        names.iter().map(|name| (name.as_str(), remove(name))).collect()
    }

    /// Removes what is sealed of these keys, under each seal key.
    pub fn remove_keys(&self, keys: &[KeyPath]) -> Result<(), StoreError> {
        let names = keys.iter().flat_map(|key| self.keys.file_names(key));
        file::remove_all_at(self.directory.as_fd(), names).map_err(StoreError::Io)
    }

    fn write_batch(&self, batch: &[Item]) -> Vec<Result<(), StoreError>> {
        let sealed = batch.iter().map(|item| item.seal(self.keys.first()));
        let Some(files) = sealed.collect::<Option<Vec<_>>>() else {
            return batch.iter().map(|_| Err(StoreError::Seal)).collect();
        };
        let mut written = file::replace_at(self.directory.as_fd(), &files);
        for ((item, written), (name, _)) in batch.iter().zip(&mut written).zip(&files) {
            // To remove takes no room where there is none.
            if matches!(item, Item::Tombstone(_) | Item::Withheld(_)) && written.is_err() {
                *written = file::remove_at(self.directory.as_fd(), name);
            }
        }
        for (item, _) in batch.iter().zip(&written).filter(|(_, written)| written.is_ok()) {
            for older in &self.keys.all()[1..] {
                // What stays is older than what was just written: it loses at the next start, and is removed then.
                let _ = file::remove_at(self.directory.as_fd(), &item.name_under(older));
            }
        }
        written.into_iter().map(|written| written.map_err(StoreError::Io)).collect()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use super::super::{Definition, Problem, Unreadable, Validators, new_seal_key_text};
    use super::*;

    pub(in crate::parent::cache) fn seal(text: &str) -> SealKey {
        SealKey::parse(text.as_bytes()).unwrap()
    }

    pub(in crate::parent::cache) fn open(path: &Path, keys: &[&str]) -> Store {
        let keys = KeyRing::new(keys.iter().map(|text| seal(text)).collect()).unwrap();
        Store::open(file::open_directory(path).unwrap(), keys, 1 << 20).unwrap()
    }

    pub(in crate::parent::cache) fn key(path: &str) -> KeyPath {
        KeyPath::parse(path).unwrap()
    }

    pub(in crate::parent::cache) fn record(store: &Store, path: &str, text: &str, fetched_at: u64) -> Item {
        let value = Arc::new(SecretValue::from_text(text));
        let label = ValueLabel {
            key: key(path),
            definition: Definition::of("definition"),
            fetched_at,
            size: value.len() as u64,
            forget_after: 7,
            tag: store.keys().first().tag(&key(path), "application/json", value.json()),
            tag_text: None,
            validators: Validators::default(),
        };
        Item::Value(Record { label, value })
    }

    pub(in crate::parent::cache) fn save(store: &Store, path: &str, text: &str, fetched_at: u64) -> String {
        store.write(&[record(store, path, text, fetched_at)]).remove(0).unwrap();
        store.keys.first().file_name(&key(path))
    }

    pub(in crate::parent::cache) fn load(store: &Store, path: &str) -> Result<Option<(String, u64)>, Problem> {
        let loaded = store.load(&key(path), &Definition::of("definition"))?;
        Ok(loaded.map(|found| (found.value.text().unwrap().to_string(), found.label.fetched_at)))
    }

    #[test]
    fn what_is_sealed_comes_back_with_its_time() {
        let directory = tempfile::tempdir().unwrap();
        let text = new_seal_key_text().unwrap();
        let store = open(directory.path(), &[&text]);
        save(&store, "/a", "planted", 42);
        drop(store);
        let store = open(directory.path(), &[&text]);
        assert_eq!(load(&store, "/a").unwrap(), Some(("planted".into(), 42)));
        assert_eq!(load(&store, "/b").unwrap(), None);
    }

    #[test]
    fn another_definition_a_renamed_and_a_foreign_file_are_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let text = new_seal_key_text().unwrap();
        let store = open(directory.path(), &[&text]);
        let name = save(&store, "/a", "planted", 42);
        let changed = store.load(&key("/a"), &Definition::of("changed"));
        assert!(matches!(changed.err(), Some(Problem::OtherDefinition)));
        let other = store.keys.first().file_name(&key("/b"));
        std::fs::copy(directory.path().join(&name), directory.path().join(&other)).unwrap();
        assert!(matches!(load(&store, "/b"), Err(Problem::Renamed)));
        drop(store);

        std::fs::write(directory.path().join("notes"), "mine").unwrap();
        std::fs::write(directory.path().join(format!(".{name}.new")), "half").unwrap();
        let listing = open(directory.path(), &[&text]).list().unwrap();
        assert_eq!((listing.sealed.len(), listing.temporary.len()), (1, 1));
        let why = |wanted: &str| listing.strange.iter().find(|(name, _)| name == wanted).map(|(_, why)| why);
        assert!(matches!(why(&other), Some(Problem::Renamed)));
        assert!(why("notes").unwrap().is_foreign());

        let foreign = new_seal_key_text().unwrap();
        let listing = open(directory.path(), &[&foreign]).list().unwrap();
        assert!(listing.sealed.is_empty());
        let other_key = |(_, why): &&(String, Problem)| matches!(why, Problem::Unreadable(Unreadable::OtherSealKey));
        assert_eq!(listing.strange.iter().filter(other_key).count(), 2);
    }

    #[test]
    fn many_values_are_saved_in_one_go() {
        let directory = tempfile::tempdir().unwrap();
        let text = new_seal_key_text().unwrap();
        let store = open(directory.path(), &[&text]);
        let records: Vec<_> = (0..BATCH as u64 + 5).map(|n| record(&store, &format!("/k{n}"), "v", n)).collect();
        assert!(store.write(&records).iter().all(Result::is_ok));
        let listing = store.list().unwrap();
        assert_eq!((listing.sealed.len(), listing.strange.len(), listing.temporary.len()), (records.len(), 0, 0));
        assert_eq!(load(&store, "/k68").unwrap(), Some(("v".into(), 68)));
    }

    #[test]
    fn an_older_key_opens_and_the_first_one_takes_over() {
        let directory = tempfile::tempdir().unwrap();
        let (old, new) = (new_seal_key_text().unwrap(), new_seal_key_text().unwrap());
        let before = save(&open(directory.path(), &[&old]), "/a", "old", 1);
        let store = open(directory.path(), &[&new, &old]);
        assert_eq!(load(&store, "/a").unwrap(), Some(("old".into(), 1)));
        assert!(store.list().unwrap().sealed[0].outdated);
        save(&store, "/a", "new", 2);
        assert!(!directory.path().join(before).exists(), "no older state stays behind");
        drop(store);
        assert_eq!(load(&open(directory.path(), &[&new]), "/a").unwrap(), Some(("new".into(), 2)));
    }

    #[test]
    fn a_state_comes_back_and_moves_to_the_first_key() {
        let directory = tempfile::tempdir().unwrap();
        let (old, new) = (new_seal_key_text().unwrap(), new_seal_key_text().unwrap());
        let write = |store: &Store, text: &[u8]| store.write(&[Item::State(State::Clock, text.to_vec())]).remove(0);
        write(&open(directory.path(), &[&old]), b"one").unwrap();
        let store = open(directory.path(), &[&new, &old]);
        let read = |state| store.states(state).iter().flatten().map(|bytes| bytes.to_vec()).collect::<Vec<_>>();
        assert_eq!((read(State::Clock), read(State::Ledger)), (vec![b"one".to_vec()], vec![]));
        write(&store, b"two").unwrap();
        assert_eq!(read(State::Clock), [b"two"]);
    }

    #[test]
    fn a_tombstone_takes_the_place_of_a_value_under_every_key() {
        let directory = tempfile::tempdir().unwrap();
        let (old, new) = (new_seal_key_text().unwrap(), new_seal_key_text().unwrap());
        save(&open(directory.path(), &[&old]), "/a", "old", 1);
        let store = open(directory.path(), &[&new, &old]);
        let tombstone =
            Tombstone { key: key("/a"), definition: Definition::of("definition"), buried_at: 2, forget_after: 7 };
        store.write(&[Item::Tombstone(tombstone.clone())]).remove(0).unwrap();
        assert_eq!(load(&store, "/a").unwrap(), None);
        let listing = store.list().unwrap();
        assert_eq!(listing.sealed.len(), 1, "{listing:?}");
        assert_eq!(listing.sealed[0].label, Label::Tombstone(tombstone));
    }

    #[test]
    fn a_second_broker_is_refused_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        let text = new_seal_key_text().unwrap();
        let _first = open(directory.path(), &[&text]);
        let second = file::open_directory(directory.path()).unwrap();
        let opened = Store::open(second, KeyRing::new(vec![seal(&text)]).unwrap(), 1 << 20);
        assert!(matches!(opened.err(), Some(StoreError::Locked)));
    }

    #[test]
    fn what_is_no_seal_key_is_refused() {
        for text in ["", "keyhatch-seal-1:", "keyhatch-seal-1:AAAA\n", "keyhatch-seal-1:%%%\n", "hello\n"] {
            let refused = SealKey::parse(text.as_bytes()).err();
            assert_eq!(refused, Some(super::super::SealKeyError::NotASealKey), "{text}");
        }
    }
}
