//! Many values in one file: durable at the cost of one, and put into their places afterwards.
//!
//! A document of two hundred keys is answered when one file is on disk, not two hundred. What a crash leaves in a bundle
//! is put into its place at the next start, unless something newer is there.

use std::collections::HashMap;
use std::os::fd::AsFd;

use super::archive::Listing;
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

    /// Puts what is in the bundles of this listing into its place, and lists again if there were any.
    ///
    /// # Errors
    /// Not all could be put there: the bundles stay.
    pub fn unbundle(&self, listing: Listing) -> (Listing, Result<(), StoreError>) {
        let bundles: Vec<&str> = listing.bundles().map(|(name, _)| name).collect();
        if bundles.is_empty() {
            return (listing, Ok(()));
        }
        let names: Vec<String> = bundles.iter().map(|name| (*name).to_owned()).collect();
        let done = self.place(&listing).and_then(|()| {
            let removed = self.remove(&names).into_iter().map(|(_, removed)| removed);
            removed.collect()
        });
        (self.list().unwrap_or(listing), done)
    }

    fn place(&self, listing: &Listing) -> Result<(), StoreError> {
        let mut newest: HashMap<KeyPath, u64> = HashMap::new();
        for (key, at) in listing.sealed.iter().filter_map(|sealed| instant(&sealed.label)) {
            let known = newest.entry(key.clone()).or_default();
            *known = at.max(*known);
        }
        let mut files: HashMap<String, Vec<u8>> = HashMap::new();
        for (name, state) in listing.bundles() {
            let Some(packed) = self.state(name, state) else { continue };
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
        file::sync_file_system(self.directory.as_fd()).map_err(StoreError::Io)
    }
}

#[cfg(test)]
mod tests {
    use super::super::store::tests::{key, load, open, record, save};
    use super::super::{Definition, Item, Tombstone, new_seal_key_text};
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
    fn what_is_packed_comes_out_again() {
        let files = [b"one".to_vec(), Vec::new(), b"three".to_vec()];
        let packed = pack(&files).unwrap();
        assert_eq!(unpack(&packed), [&b"one"[..], b"", b"three"]);
        assert_eq!(unpack(&packed[..packed.len() - 1]), [&b"one"[..], b""]);
        assert!(unpack(b"").is_empty());
    }
}
