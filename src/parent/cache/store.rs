//! One sealed file per value: `KHSV`, a format byte, then the sealed record, bound to key path and source definition.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::SealKey;
use crate::secret::{KeyPath, SecretValue, WireBytes};
use crate::sys::file::{self, DirectoryLock};

const MAGIC: &[u8; 5] = b"KHSV\x01";

/// The directory of sealed values, held by this process alone.
pub struct Store {
    directory: DirectoryLock,
    key: SealKey,
    cap: u64,
}

/// A value as it was when it was sealed.
pub struct Loaded {
    pub value: SecretValue,
    /// Milliseconds since the epoch: when the upstream gave it.
    pub fetched_at: u64,
}

#[derive(Serialize, Deserialize)]
struct Record {
    fetched_at: u64,
    value: WireBytes,
}

/// Why there is no value although there is a file. All of them mean: absent, and a line in the log.
#[derive(Debug)]
pub enum LoadProblem {
    Io(io::Error),
    /// Not one of our files, or of a newer format.
    Foreign,
    /// Does not open: another seal key, a changed source definition, a renamed or a damaged file.
    NotForThis,
}

impl fmt::Display for LoadProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "the sealed file cannot be read: {error}"),
            Self::Foreign => write!(f, "the file is no sealed value of this version"),
            Self::NotForThis => {
                write!(f, "the sealed file does not open: another seal key or source definition, or it is damaged")
            }
        }
    }
}

#[derive(Debug)]
pub enum StoreError {
    /// Another process has the directory.
    Locked,
    Seal,
    Io(io::Error),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Locked => write!(f, "another broker has this cache directory"),
            Self::Seal => write!(f, "the value cannot be sealed"),
            Self::Io(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for StoreError {}

impl Store {
    /// `cap` is the longest value, in bytes.
    pub fn open(directory: OwnedFd, key: SealKey, cap: u64) -> Result<Self, StoreError> {
        let directory = file::lock(directory).ok_or(StoreError::Locked)?;
        Ok(Self { directory, key, cap })
    }

    pub fn seal_key(&self) -> &SealKey {
        &self.key
    }

    fn context(key: &KeyPath, definition: &str) -> Vec<u8> {
        [MAGIC.as_slice(), key.as_str().as_bytes(), b"\0", definition.as_bytes()].concat()
    }

    /// The value that was sealed for exactly this key and this definition of its source.
    pub fn load(&self, key: &KeyPath, definition: &str) -> Result<Option<Loaded>, LoadProblem> {
        // 64 bytes are more than header, nonce, tag and record add.
        let read = file::read_at(self.directory.as_fd(), &self.key.file_name(key), self.cap.saturating_add(64));
        let Some(bytes) = read.map_err(LoadProblem::Io)? else { return Ok(None) };
        let sealed = bytes.strip_prefix(MAGIC).ok_or(LoadProblem::Foreign)?;
        let opened = self.key.open(&Self::context(key, definition), sealed).ok_or(LoadProblem::NotForThis)?;
        let mut record: Record = postcard::from_bytes(&opened).map_err(|_| LoadProblem::Foreign)?;
        let value = Zeroizing::new(std::mem::take(&mut record.value.0));
        if value.is_empty() {
            return Err(LoadProblem::Foreign);
        }
        Ok(Some(Loaded { value: SecretValue::from_json(value), fetched_at: record.fetched_at }))
    }

    /// Replaces what is sealed for this key; durable when it returns.
    pub fn save(
        &self,
        key: &KeyPath,
        definition: &str,
        value: &SecretValue,
        fetched_at: u64,
    ) -> Result<(), StoreError> {
        let record = Record { fetched_at, value: WireBytes(value.json().to_vec()) };
        let mut plain = Zeroizing::new(postcard::to_stdvec(&record).map_err(|_| StoreError::Seal)?);
        let sealed = self.key.seal(&Self::context(key, definition), &mut plain).ok_or(StoreError::Seal)?;
        let content = [MAGIC.as_slice(), &sealed].concat();
        file::replace_at(self.directory.as_fd(), &self.key.file_name(key), &content).map_err(StoreError::Io)
    }

    /// Removes what is sealed for this key.
    pub fn shred(&self, key: &KeyPath) -> Result<(), StoreError> {
        file::remove_at(self.directory.as_fd(), &self.key.file_name(key)).map_err(StoreError::Io)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::new_seal_key_text;
    use super::*;

    fn open(path: &Path, key: &str) -> Store {
        let directory = file::open_directory(path).unwrap();
        Store::open(directory, SealKey::parse(key.as_bytes()).unwrap(), 1 << 20).unwrap()
    }

    fn key(path: &str) -> KeyPath {
        KeyPath::parse(path).unwrap()
    }

    fn saved(path: &Path, seal: &str) -> String {
        let store = open(path, seal);
        store.save(&key("/a"), "definition", &SecretValue::from_text("planted"), 42).unwrap();
        store.seal_key().file_name(&key("/a"))
    }

    #[test]
    fn what_is_sealed_comes_back_with_its_time_and_is_not_readable_on_disk() {
        let directory = tempfile::tempdir().unwrap();
        let seal = new_seal_key_text().unwrap();
        let name = saved(directory.path(), &seal);
        let loaded = open(directory.path(), &seal).load(&key("/a"), "definition").unwrap().unwrap();
        assert_eq!((loaded.value.json(), loaded.fetched_at), (&b"\"planted\""[..], 42));
        let bytes = std::fs::read(directory.path().join(name)).unwrap();
        assert!(!bytes.windows(7).any(|part| part == b"planted"));
    }

    #[test]
    fn another_key_definition_or_seal_key_opens_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let seal = new_seal_key_text().unwrap();
        let name = saved(directory.path(), &seal);
        let store = open(directory.path(), &seal);
        assert!(matches!(store.load(&key("/a"), "changed"), Err(LoadProblem::NotForThis)));
        let other = store.seal_key().file_name(&key("/b"));
        std::fs::copy(directory.path().join(&name), directory.path().join(other)).unwrap();
        assert!(matches!(store.load(&key("/b"), "definition"), Err(LoadProblem::NotForThis)));
        drop(store);
        let foreign = new_seal_key_text().unwrap();
        let store = open(directory.path(), &foreign);
        let renamed = store.seal_key().file_name(&key("/a"));
        std::fs::copy(directory.path().join(name), directory.path().join(renamed)).unwrap();
        assert!(matches!(store.load(&key("/a"), "definition"), Err(LoadProblem::NotForThis)));
    }

    #[test]
    fn a_file_cut_or_changed_anywhere_is_absent_and_never_empty() {
        let directory = tempfile::tempdir().unwrap();
        let seal = new_seal_key_text().unwrap();
        let path = directory.path().join(saved(directory.path(), &seal));
        let whole = std::fs::read(&path).unwrap();
        let store = open(directory.path(), &seal);
        for at in 0..whole.len() {
            std::fs::write(&path, &whole[..at]).unwrap();
            assert!(store.load(&key("/a"), "definition").is_err(), "cut at {at}");
            let mut changed = whole.clone();
            changed[at] ^= 1;
            std::fs::write(&path, changed).unwrap();
            assert!(store.load(&key("/a"), "definition").is_err(), "changed at {at}");
        }
    }

    #[test]
    fn a_second_broker_is_refused_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        let seal = new_seal_key_text().unwrap();
        let _first = open(directory.path(), &seal);
        let second = file::open_directory(directory.path()).unwrap();
        let opened = Store::open(second, SealKey::parse(seal.as_bytes()).unwrap(), 1 << 20);
        assert!(matches!(opened.err(), Some(StoreError::Locked)));
    }

    #[test]
    fn what_is_no_seal_key_is_refused() {
        for text in ["", "keyhatch-seal-1:", "keyhatch-seal-1:AAAA\n", "keyhatch-seal-1:%%%\n", "hello\n"] {
            assert_eq!(SealKey::parse(text.as_bytes()).err(), Some(super::super::SealKeyError::NotASealKey), "{text}");
        }
    }
}
