//! What is true of sealed values beside what is in their files. Sealed as one file of its own; no I/O here.
//!
//! A value that the upstream confirms is not written again: its new age stands here.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::secret::KeyPath;

#[derive(Default, Serialize, Deserialize)]
pub struct Ledger {
    /// Milliseconds since the epoch; of two ledgers the later one counts.
    pub written_at: u64,
    rows: BTreeMap<KeyPath, Row>,
    #[serde(skip)]
    changed: bool,
}

/// Of one key.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Row {
    confirmed: Option<Confirmed>,
    /// What was fetched until then is given up.
    buried_at: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Confirmed {
    /// The `fetched_at` in the file that is meant, and in no other one of this key.
    sealed: u64,
    at: u64,
}

impl Ledger {
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        postcard::from_bytes(bytes).ok()
    }

    /// What is to be sealed, if anything has changed since the last call.
    pub fn encode(&mut self, now: u64) -> Option<Vec<u8>> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        self.written_at = now;
        postcard::to_stdvec(self).ok()
    }

    /// Has it written although nothing has changed: what is on disk is not this.
    pub fn write_again(&mut self) {
        self.changed = true;
    }

    fn edit(&mut self, key: &KeyPath, edit: impl FnOnce(&mut Row)) {
        let mut row = self.rows.get(key).copied().unwrap_or_default();
        let before = row;
        edit(&mut row);
        if row == before {
            return;
        }
        self.changed = true;
        if row == Row::default() {
            self.rows.remove(key);
        } else {
            self.rows.insert(key.clone(), row);
        }
    }

    /// The upstream says that what was sealed with `sealed` is still the value.
    pub fn confirm(&mut self, key: &KeyPath, sealed: u64, at: u64) {
        self.edit(key, |row| row.confirmed = Some(Confirmed { sealed, at }).filter(|_| at > sealed));
    }

    /// A value that was fetched then is on disk.
    pub fn replaced(&mut self, key: &KeyPath, fetched_at: u64) {
        self.edit(key, |row| {
            row.confirmed = row.confirmed.filter(|confirmed| confirmed.sealed == fetched_at);
            row.buried_at = row.buried_at.filter(|buried_at| *buried_at >= fetched_at);
        });
    }

    /// What was fetched until `at` is given up.
    pub fn bury(&mut self, key: &KeyPath, at: u64) {
        self.edit(key, |row| row.buried_at = row.buried_at.max(Some(at)));
    }

    /// When the value was given up, if it is one that was fetched at `fetched_at`.
    pub fn buried(&self, key: &KeyPath, fetched_at: u64) -> Option<u64> {
        self.rows.get(key)?.buried_at.filter(|buried_at| *buried_at >= fetched_at)
    }

    /// When the upstream last gave the value whose file says `sealed`.
    pub fn fetched_at(&self, key: &KeyPath, sealed: u64) -> u64 {
        let confirmed = self.rows.get(key).and_then(|row| row.confirmed);
        confirmed.filter(|confirmed| confirmed.sealed == sealed).map_or(sealed, |confirmed| confirmed.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> KeyPath {
        KeyPath::parse("/a").unwrap()
    }

    #[test]
    fn a_confirmation_is_of_one_file_only() {
        let mut ledger = Ledger::default();
        ledger.confirm(&key(), 1000, 5000);
        let read = Ledger::decode(&ledger.encode(6000).unwrap()).unwrap();
        assert_eq!((read.fetched_at(&key(), 1000), read.written_at), (5000, 6000));
        assert_eq!(read.fetched_at(&key(), 900), 900, "an older file put back is as old as it is");
        assert_eq!(read.fetched_at(&KeyPath::parse("/b").unwrap(), 1000), 1000);
    }

    #[test]
    fn what_is_buried_stays_so_until_something_newer_is_on_disk() {
        let mut ledger = Ledger::default();
        ledger.bury(&key(), 5000);
        ledger.bury(&key(), 4000);
        ledger.replaced(&key(), 3000);
        assert_eq!(ledger.buried(&key(), 3000), Some(5000), "a write that came late");
        assert_eq!(ledger.buried(&key(), 5001), None);
        ledger.replaced(&key(), 5001);
        assert_eq!(ledger.buried(&key(), 3000), None);
    }

    #[test]
    fn only_what_changed_is_written() {
        let mut ledger = Ledger::default();
        assert!(ledger.encode(0).is_none());
        ledger.confirm(&key(), 1000, 5000);
        assert!(ledger.encode(0).is_some() && ledger.encode(0).is_none());
        ledger.confirm(&key(), 1000, 5000);
        assert!(ledger.encode(0).is_none());
        ledger.write_again();
        assert!(ledger.encode(0).is_some());
        ledger.replaced(&key(), 1000);
        assert!(ledger.encode(0).is_none(), "it is the file that was confirmed");
        ledger.replaced(&key(), 7000);
        ledger.encode(0).unwrap();
        assert!(ledger.rows.is_empty());
    }
}
