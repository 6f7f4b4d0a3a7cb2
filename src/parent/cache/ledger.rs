//! What is true of sealed values beside what is in their files. Sealed as one file of its own; no I/O here.
//!
//! A value that the upstream confirms is not written again: its new age stands here. On disk an age is at most a minute behind, and
//! so a key has this file written at most once a minute.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::secret::KeyPath;

/// Of a key without a file that says better: the default of the setting.
const FORGET_AFTER: u64 = 7 * 86_400_000;
/// How far an age on disk may be behind, in milliseconds: after a crash the value is as much older than it is.
const BEHIND: u64 = 60_000;

#[derive(Default, Serialize, Deserialize)]
pub struct Ledger {
    /// Milliseconds since the epoch; of two ledgers the later one counts.
    pub written_at: u64,
    rows: BTreeMap<KeyPath, Row>,
    #[serde(skip)]
    changed: bool,
    /// What has changed is to be on disk soon.
    #[serde(skip)]
    owed: bool,
}

/// Of one key.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Row {
    confirmed: Option<Confirmed>,
    /// What was fetched until then is given up.
    buried_at: Option<u64>,
    /// The token was refused: not to be served before one is accepted.
    withheld: bool,
    /// Since when the key is not in the configuration.
    left_at: Option<u64>,
    /// Where the label of the file says another time than the configuration did last.
    forget_after: Option<u64>,
    /// What is on disk of `confirmed`.
    #[serde(skip)]
    written: Option<Confirmed>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Confirmed {
    /// The `fetched_at` in the file that is meant, and in no other one of this key.
    sealed: u64,
    at: u64,
}

impl Ledger {
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut ledger: Self = postcard::from_bytes(bytes).ok()?;
        ledger.note_written();
        Some(ledger)
    }

    /// Of those that can be read, the one that was written last; else an empty one.
    pub fn newest<'b>(written: impl IntoIterator<Item = &'b Zeroizing<Vec<u8>>>) -> Self {
        let decoded = written.into_iter().filter_map(|bytes| Self::decode(bytes));
        decoded.max_by_key(|ledger| ledger.written_at).unwrap_or_default()
    }

    /// What is to be sealed, if anything has changed since the last call.
    pub fn encode(&mut self, now: u64) -> Option<Vec<u8>> {
        self.owed = false;
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        self.written_at = now;
        self.note_written();
        postcard::to_stdvec(self).ok()
    }

    fn note_written(&mut self) {
        self.rows.values_mut().for_each(|row| row.written = row.confirmed);
    }

    /// Has it written although nothing has changed: what is on disk is not this.
    pub fn write_again(&mut self) {
        (self.changed, self.owed) = (true, true);
    }

    /// Whether something is to be written that must not wait for something else to be.
    pub fn is_owed(&self) -> bool {
        self.owed
    }

    /// Says whether this changed something.
    fn edit(&mut self, key: &KeyPath, edit: impl FnOnce(&mut Row)) -> bool {
        let mut row = self.rows.get(key).copied().unwrap_or_default();
        let before = row;
        edit(&mut row);
        if row == before {
            return false;
        }
        self.changed = true;
        if row == (Row { written: row.written, ..Row::default() }) {
            self.rows.remove(key);
        } else {
            self.rows.insert(key.clone(), row);
        }
        true
    }

    fn edit_soon(&mut self, key: &KeyPath, edit: impl FnOnce(&mut Row)) {
        self.owed |= self.edit(key, edit);
    }

    /// The upstream says that what was sealed with `sealed` is still the value.
    pub fn confirm(&mut self, key: &KeyPath, sealed: u64, at: u64) {
        let mut behind = 0;
        self.edit(key, |row| {
            row.confirmed = Some(Confirmed { sealed, at }).filter(|_| at > sealed);
            let written = row.written.filter(|written| written.sealed == sealed).map_or(sealed, |written| written.at);
            behind = at.saturating_sub(written);
        });
        self.owed |= behind >= BEHIND;
    }

    /// A value that was fetched then is on disk.
    pub fn replaced(&mut self, key: &KeyPath, fetched_at: u64) {
        self.edit(key, |row| {
            row.confirmed = row.confirmed.filter(|confirmed| confirmed.sealed == fetched_at);
        });
    }

    /// What was fetched until `at` is given up.
    pub fn bury(&mut self, key: &KeyPath, at: u64) {
        self.edit_soon(key, |row| row.buried_at = row.buried_at.max(Some(at)));
    }

    /// Nothing of this key is on disk any more. What was given up stays so: a backup may have it.
    pub fn forget(&mut self, key: &KeyPath) {
        self.edit(key, |row| *row = Row { buried_at: row.buried_at, ..Row::default() });
    }

    /// Its token was refused, or (`false`) one is accepted.
    pub fn withhold(&mut self, key: &KeyPath, withheld: bool) {
        self.edit_soon(key, |row| row.withheld = withheld);
    }

    /// The keys whose value is.
    pub fn withheld(&self) -> impl Iterator<Item = &KeyPath> {
        self.rows.iter().filter(|(_, row)| row.withheld).map(|(key, _)| key)
    }

    pub fn is_withheld(&self, key: &KeyPath) -> bool {
        self.rows.get(key).is_some_and(|row| row.withheld)
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

impl Ledger {
    /// In how many milliseconds a key that is not in the configuration is forgotten. `of_label` is what its file says.
    pub fn forgotten_in(&self, key: &KeyPath, of_label: u64, now: u64) -> u64 {
        let row = self.rows.get(key).copied().unwrap_or_default();
        let since = now.saturating_sub(row.left_at.unwrap_or(now));
        row.forget_after.unwrap_or(of_label).saturating_sub(since)
    }

    /// Which keys are to be forgotten, and are in here: those that left the configuration long enough ago.
    ///
    /// `sealed` are the keys that have a file, with `forget-after` as its label says it; `configured` says it of those
    /// that are in the configuration.
    pub fn sweep(
        &mut self,
        sealed: &BTreeMap<KeyPath, u64>,
        configured: impl Fn(&KeyPath) -> Option<u64>,
        now: u64,
    ) -> Vec<KeyPath> {
        let keys: BTreeSet<KeyPath> = self.rows.keys().chain(sealed.keys()).cloned().collect();
        let mut forgotten = Vec::new();
        for key in keys {
            let of_label = sealed.get(&key).copied();
            if let Some(setting) = configured(&key) {
                let differs = of_label.is_some_and(|of_label| of_label != setting);
                self.edit_soon(&key, |row| (row.left_at, row.forget_after) = (None, differs.then_some(setting)));
                continue;
            }
            let left_at = self.rows.get(&key).and_then(|row| row.left_at).unwrap_or(now);
            let forget = self.forgotten_in(&key, of_label.unwrap_or(FORGET_AFTER), now) == 0;
            self.edit_soon(&key, |row| if forget { *row = Row::default() } else { row.left_at = Some(left_at) });
            if forget {
                forgotten.push(key);
            }
        }
        forgotten
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
    fn what_is_buried_stays_so_whatever_newer_comes() {
        let mut ledger = Ledger::default();
        ledger.bury(&key(), 5000);
        ledger.bury(&key(), 4000);
        ledger.replaced(&key(), 3000);
        assert_eq!(ledger.buried(&key(), 3000), Some(5000), "a write that came late");
        assert_eq!(ledger.buried(&key(), 5001), None);
        ledger.replaced(&key(), 5001);
        assert_eq!(ledger.buried(&key(), 3000), Some(5000), "a backup put back later");
    }

    #[test]
    fn what_left_the_configuration_is_forgotten_in_its_time() {
        let mut ledger = Ledger::default();
        let sealed = BTreeMap::from([(key(), 1000)]);
        let none = |_: &KeyPath| None;
        assert!(ledger.sweep(&sealed, |_| Some(1000), 5000).is_empty() && ledger.rows.is_empty());
        assert!(ledger.sweep(&sealed, none, 6000).is_empty());
        let mut ledger = Ledger::decode(&ledger.encode(0).unwrap()).unwrap();
        assert!(ledger.sweep(&sealed, none, 6999).is_empty());
        assert_eq!(ledger.sweep(&sealed, none, 7000), [key()]);
        assert!(ledger.rows.is_empty());
    }

    #[test]
    fn a_key_that_comes_back_begins_anew_and_its_newest_setting_counts() {
        let mut ledger = Ledger::default();
        let sealed = BTreeMap::from([(key(), 1000)]);
        let none = |_: &KeyPath| None;
        ledger.sweep(&sealed, none, 5000);
        ledger.sweep(&sealed, |_| Some(3000), 5500);
        assert!(ledger.sweep(&sealed, none, 7000).is_empty());
        assert!(ledger.sweep(&sealed, none, 9999).is_empty(), "3000 was its setting when it left");
        assert_eq!(ledger.sweep(&sealed, none, 10_000), [key()]);
    }

    #[test]
    fn the_tombstone_of_a_file_that_is_gone_is_forgotten_too() {
        let mut ledger = Ledger::default();
        ledger.bury(&key(), 5000);
        assert!(ledger.sweep(&BTreeMap::new(), |_| None, 6000).is_empty());
        assert_eq!(ledger.buried(&key(), 5000), Some(5000));
        assert_eq!(ledger.sweep(&BTreeMap::new(), |_| None, 6000 + FORGET_AFTER), [key()]);
        assert_eq!(ledger.buried(&key(), 5000), None);
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

    #[test]
    fn an_age_is_a_minute_behind_at_most_and_written_once_in_it() {
        let mut ledger = Ledger::default();
        let mut writes = 0;
        for second in 1..=600 {
            ledger.confirm(&key(), 1000, 1000 + second * 1000);
            if ledger.is_owed() {
                ledger.encode(0).unwrap();
                writes += 1;
            }
        }
        assert_eq!(writes, 10);
        ledger.write_again();
        let mut read = Ledger::decode(&ledger.encode(0).unwrap()).unwrap();
        read.confirm(&key(), 1000, 601_000 + BEHIND - 1);
        assert!(!read.is_owed(), "what was read is on disk");
        read.confirm(&key(), 1000, 601_000 + BEHIND);
        assert!(read.is_owed());
    }

    #[test]
    fn what_is_given_up_or_serves_again_does_not_wait() {
        let mut ledger = Ledger::default();
        let mut soon = |edit: &dyn Fn(&mut Ledger)| {
            edit(&mut ledger);
            let owed = ledger.is_owed();
            ledger.encode(0);
            owed
        };
        assert!(!soon(&|ledger| ledger.withhold(&key(), false)), "as it was");
        assert!(soon(&|ledger| ledger.withhold(&key(), true)));
        assert!(soon(&|ledger| ledger.withhold(&key(), false)));
        assert!(soon(&|ledger| ledger.bury(&key(), 5000)));
        assert!(soon(&|ledger| drop(ledger.sweep(&BTreeMap::new(), |_| None, 6000))), "since when it has left");
        assert!(soon(&|ledger| ledger.write_again()));
    }
}
