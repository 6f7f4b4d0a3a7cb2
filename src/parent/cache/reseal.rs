//! Moves files to the seal key that seals now, so that an older one can be taken out of the configuration some day.

use std::sync::Arc;

use super::archive::Sealed;
use super::format::{Label, ValueLabel};
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

    fn reseal_one(&self, file: &Sealed) -> Result<(), ResealError> {
        let item = match &file.label {
            Label::Value(label) => match self.load(&label.key, &label.definition).map_err(ResealError::Unreadable)? {
                Some(found) if found.label.fetched_at == label.fetched_at => {
                    let (tag, tag_text) = tags(self.keys().first(), &label.key, &found.value);
                    let label = ValueLabel { tag, tag_text, ..found.label };
                    Item::Value(Record { label, value: Arc::new(found.value) })
                }
                _ => return Ok(()),
            },
            Label::Tombstone(tombstone) => Item::Tombstone(tombstone.clone()),
            // Written all the time, and always by the first key.
            Label::State(_) => return Ok(()),
        };
        self.write(&[item]).pop().unwrap_or(Ok(())).map_err(ResealError::Unwritten)
    }
}
