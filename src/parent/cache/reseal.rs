//! Seals anew what is sealed: by the seal key that seals now, so that an older one can be taken out of the configuration some
//! day, and as withheld where only the ledger says so.

use std::sync::Arc;

use super::archive::{Loaded, Sealed};
use super::format::{HEAD_LEN, Head, Label, ValueLabel};
use super::store::{Item, Record, Store, StoreError};
use super::{Problem, SealKey};
use crate::ipc::wire::Tag;
use crate::secret::{KeyPath, SecretValue};

/// Why a file stays as it is.
#[derive(Debug)]
pub enum ResealError {
    Unreadable(Problem),
    Unwritten(StoreError),
}

impl std::fmt::Display for ResealError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unreadable(problem) => write!(f, "{problem}"),
            Self::Unwritten(error) => write!(f, "{error}"),
        }
    }
}

/// The entity tags of a value: of its JSON, and of its text if it has one.
pub fn tags(seal: &SealKey, key: &KeyPath, value: &SecretValue) -> (Tag, Option<Tag>) {
    let text = value.text().map(|text| seal.tag(key, "text/plain", text.as_bytes()));
    (seal.tag(key, "application/json", value.json()), text)
}

impl Store {
    /// Seals these files anew. One that has been replaced meanwhile is left as it is. What comes back is in their order.
    pub fn reseal(&self, files: &[Sealed]) -> Vec<Result<(), ResealError>> {
        files.iter().map(|file| self.reseal_one(file)).collect()
    }

    /// Has the files of these keys say that their values are withheld, as far as they are there and do not. What comes back is
    /// in their order.
    pub fn withhold(&self, keys: &[KeyPath]) -> Vec<Result<(), ResealError>> {
        keys.iter().map(|key| self.withhold_one(key)).collect()
    }

    fn withhold_one(&self, key: &KeyPath) -> Result<(), ResealError> {
        for name in self.keys().file_names(key) {
            let label = match self.look(&name, &mut vec![0; HEAD_LEN]) {
                Ok(Some(Head { label: Label::Value(label), .. })) => label,
                // A disk that cannot read now may read again.
                Err(problem @ Problem::Io(_)) => return Err(ResealError::Unreadable(problem)),
                Ok(_) | Err(_) => continue,
            };
            let found = self.load(key, &label.definition).map_err(ResealError::Unreadable)?;
            let Some(found) = found.filter(|found| found.label.fetched_at == label.fetched_at) else { continue };
            let written = self.write(&[Item::Withheld(self.anew(found))]).pop();
            written.unwrap_or(Ok(())).map_err(ResealError::Unwritten)?;
        }
        Ok(())
    }

    /// What was found, with the tags of the key that seals now.
    fn anew(&self, found: Loaded) -> Record {
        let (tag, tag_text) = tags(self.keys().first(), &found.label.key, &found.value);
        Record { label: ValueLabel { tag, tag_text, ..found.label }, value: Arc::new(found.value) }
    }

    fn reseal_one(&self, file: &Sealed) -> Result<(), ResealError> {
        let item = match &file.label {
            Label::Value(label) | Label::Withheld(label) => {
                let found = self.load_even_withheld(&label.key, &label.definition);
                match found.map_err(ResealError::Unreadable)? {
                    Some(found) if found.label.fetched_at == label.fetched_at => {
                        let item = if found.withheld { Item::Withheld } else { Item::Value };
                        item(self.anew(found))
                    }
                    _ => return Ok(()),
                }
            }
            Label::Tombstone(tombstone) => Item::Tombstone(tombstone.clone()),
            // Written all the time, and always by the first key.
            Label::State(_) => return Ok(()),
        };
        self.write(&[item]).pop().unwrap_or(Ok(())).map_err(ResealError::Unwritten)
    }
}
