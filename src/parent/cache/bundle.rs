//! Many values in one file: durable at the cost of one, and put into their places afterwards.
//!
//! A document of two hundred keys is answered when one file is on disk, not two hundred. What a crash leaves in a bundle
//! is put into its place at the next start, unless something newer is there.

use std::collections::HashMap;
use std::os::fd::AsFd;

use super::archive::{Listing, Problem};
use super::format::{self, Label, State};
use super::seal::OVERHEAD;
use super::store::{Store, StoreError};
use crate::secret::KeyPath;
use crate::sys::file;

/// The bytes of values in one bundle, and its values, at most.
pub const BUNDLE_SIZE: u64 = 8 << 20;
pub const BUNDLE_FILES: usize = 4096;
/// The longest file of a bundle, in bytes: each value behind its length, its header and label, and in its seal.
pub(super) const LARGEST: u64 = BUNDLE_SIZE + (BUNDLE_FILES as u64 + 1) * (4 + (format::HEAD_LEN + OVERHEAD) as u64);

/// Sealed files one after the other, each behind its length.
pub(super) fn pack(files: &[Vec<u8>]) -> Option<Vec<u8>> {
    let mut packed = Vec::with_capacity(files.iter().map(|file| file.len() + 4).sum());
    for file in files {
        packed.extend(u32::try_from(file.len()).ok()?.to_le_bytes());
        packed.extend(file);
    }
    Some(packed)
}

pub(super) fn unpack(mut packed: &[u8]) -> Vec<&[u8]> {
    let mut files = Vec::new();
    while let Some((length, rest)) = packed.split_first_chunk() {
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        let Some((file, rest)) = rest.split_at_checked(length) else { break };
        files.push(file);
        packed = rest;
    }
    files
}

/// When what a file says of its key became true.
fn instant(label: &Label) -> Option<(&KeyPath, u64)> {
    match label {
        Label::Value(label) | Label::Withheld(label) => Some((&label.key, label.fetched_at)),
        Label::Tombstone(tombstone) => Some((&tombstone.key, tombstone.buried_at)),
        Label::State(_) => None,
    }
}

impl Store {
    /// The name of a bundle's file.
    pub fn bundle_name(&self, number: u64) -> String {
        self.keys.first().name_of(&State::Bundle(number).name())
    }

    /// Puts what is in the bundles of this listing into its place, removes them, and lists again if there were any. Gives the
    /// files that gave nothing: one that could not be read now is left where it is, all others are removed, too.
    ///
    /// # Errors
    /// Not all could be put there: the bundles stay.
    pub fn unbundle(&self, listing: Listing) -> (Listing, Result<Vec<(String, Problem)>, StoreError>) {
        if listing.bundles().next().is_none() {
            return (listing, Ok(Vec::new()));
        }
        let done = self.place(&listing).and_then(|strange| {
            let kept = |name: &str| strange.iter().any(|(of, why)| of == name && matches!(why, Problem::Io(_)));
            let names = listing.bundles().map(|(name, _)| name).filter(|name| !kept(name));
            let names: Vec<String> = names.map(str::to_owned).collect();
            self.remove(&names).into_iter().try_for_each(|(_, removed)| removed).map(|()| strange)
        });
        (self.list().unwrap_or(listing), done)
    }

    /// Gives the bundles that cannot be opened.
    fn place(&self, listing: &Listing) -> Result<Vec<(String, Problem)>, StoreError> {
        let mut newest: HashMap<KeyPath, u64> = HashMap::new();
        for (key, at) in listing.sealed.iter().filter_map(|sealed| instant(&sealed.label)) {
            let known = newest.entry(key.clone()).or_default();
            *known = at.max(*known);
        }
        let mut files: HashMap<String, Vec<u8>> = HashMap::new();
        let mut strange = Vec::new();
        for (name, state) in listing.bundles() {
            let packed = match self.state(name, state) {
                Ok(Some(packed)) => packed,
                Ok(None) => continue,
                Err(problem) => {
                    strange.push((name.to_owned(), problem));
                    continue;
                }
            };
            for bytes in unpack(&packed) {
                let start = &bytes[..bytes.len().min(format::HEAD_LEN)];
                let Ok(head) = format::open_head(&self.keys, start, bytes.len() as u64) else { continue };
                let Some((key, at)) = instant(&head.label) else { continue };
                if newest.get(key).is_none_or(|known| *known < at) {
                    newest.insert(key.clone(), at);
                    files.insert(head.label.file_name(&self.keys.all()[head.keyed]), bytes.to_vec());
                }
            }
        }
        let files: Vec<(String, Vec<u8>)> = files.into_iter().collect();
        for some in files.chunks(super::store::BATCH) {
            let written = file::replace_unsynced_at(self.directory.as_fd(), some).into_iter();
            written.collect::<Result<(), _>>().map_err(StoreError::Io)?;
        }
        // All of them at once; the bundles are there until then.
        file::sync_file_system(self.directory.as_fd()).map_err(StoreError::Io)?;
        Ok(strange)
    }
}

#[cfg(test)]
mod tests {
    use super::super::store::tests::{key, load, open, record, save};
    use super::super::{Definition, Item, Tombstone, Unreadable, new_seal_key_text};
    use super::*;

    #[test]
    fn what_a_crash_left_in_a_bundle_takes_its_place_unless_something_newer_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let text = new_seal_key_text().unwrap();
        let store = open(directory.path(), &[&text]);
        let bundle = |number, at| {
            let items = ["/a", "/b", "/c", "/d"].map(|path| record(&store, path, &format!("bundled {number}"), at));
            store.write(&[Item::Bundle(number, items.into())]).remove(0).unwrap();
        };
        // The order of the names is any order: the numbers tell which is later.
        bundle(2, 20);
        bundle(1, 10);
        save(&store, "/a", "older", 15);
        save(&store, "/b", "newer", 25);
        let (definition, forget_after) = (Definition::of("definition"), 7);
        let tombstone = Tombstone { key: key("/c"), definition, buried_at: 20, forget_after };
        store.write(&[Item::Tombstone(tombstone)]).remove(0).unwrap();

        let (listing, done) = store.unbundle(store.list().unwrap());
        done.unwrap();
        assert_eq!((listing.sealed.len(), listing.bundles().count()), (4, 0));
        let found = ["/a", "/b", "/c", "/d"].map(|path| load(&store, path).unwrap());
        let value = |text: &str, at| Some((text.to_owned(), at));
        assert_eq!(found, [value("bundled 2", 20), value("newer", 25), None, value("bundled 2", 20)]);
    }

    #[test]
    fn a_damaged_bundle_is_named_and_goes_and_the_others_take_their_places() {
        let directory = tempfile::tempdir().unwrap();
        let text = new_seal_key_text().unwrap();
        let store = open(directory.path(), &[&text]);
        for (number, path) in [(1, "/a"), (2, "/b"), (3, "/a")] {
            store.write(&[Item::Bundle(number, vec![record(&store, path, "bundled", 20)])]).remove(0).unwrap();
        }
        save(&store, "/a", "older", 15);
        let damaged = [1, 3].map(|number| store.bundle_name(number));
        let path = directory.path().join(&damaged[0]);
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let long = std::fs::File::options().write(true).open(directory.path().join(&damaged[1])).unwrap();
        long.set_len(LARGEST + 1).unwrap();

        let (listing, done) = store.unbundle(store.list().unwrap());
        let strange = done.unwrap();
        assert!(strange.iter().map(|(name, _)| name).eq(&damaged) && listing.bundles().next().is_none());
        let damaged = |why: &Problem| matches!(why, Problem::Unreadable(Unreadable::Damaged));
        assert!(strange.iter().all(|(_, why)| damaged(why)), "{strange:?}");
        let found = ["/a", "/b"].map(|path| load(&store, path).unwrap().unwrap());
        assert_eq!(found, [("older".to_owned(), 15), ("bundled".to_owned(), 20)]);
        let (_, again) = store.unbundle(store.list().unwrap());
        assert!(again.unwrap().is_empty(), "said once");
    }

    #[test]
    fn what_is_packed_comes_out_again() {
        let files = [b"one".to_vec(), Vec::new(), b"three".to_vec()];
        let packed = pack(&files).unwrap();
        assert_eq!(unpack(&packed), [&b"one"[..], b"", b"three"]);
        assert_eq!(unpack(&packed[..packed.len() - 1]), [&b"one"[..], b""]);
        assert!(unpack(b"").is_empty());
    }
}
