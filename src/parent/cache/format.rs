//! The sealed file: a header in clear, a sealed label that says whose it is, and the sealed content.
//!
//! ```text
//! "KHSV"  version  id of the seal key  length of the label   label           content
//! 4       1 byte   8                   2, little endian      nonce text tag  nonce text tag
//! ```
//!
//! The version is 3 for a value that is withheld, else 2.
//!
//! Bytes in, bytes out; no I/O. The label is bound to the header, the content to header, label, key path and source
//! definition: no part can be exchanged for that of another file, nor of an older state of the same one.

use std::fmt;

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::seal::{KeyId, KeyRing, OVERHEAD, SealKey};
use crate::ipc::wire::Tag;
use crate::secret::KeyPath;

const MAGIC: &[u8; 4] = b"KHSV";
/// Version 1 was never released. Versions that know 2 alone leave a file of 3 as it is: they could not know that its value
/// must not serve.
const VERSION: u8 = 3;
const WITHOUT_WITHHELD: u8 = 2;
const HEADER_LEN: usize = 4 + 1 + 8 + 2;

/// Enough to hold header and label of any file.
pub(super) const HEAD_LEN: usize = 4096;

/// SHA-256 of a source definition; a digest, so that a label is small and a file can be resealed when its key has left
/// the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition([u8; 32]);

impl Definition {
    pub fn of(text: &str) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest::digest(&digest::SHA256, text.as_bytes()).as_ref());
        Self(bytes)
    }
}

/// What an upstream gave to ask it by whether its document has changed (RFC 9110 section 8.8).
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Validators {
    pub etag: Option<String>,
    pub last_modified: Option<String>,
}

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Label {
    Value(ValueLabel),
    Tombstone(Tombstone),
    State(State),
    /// A value whose token was refused: not served before one is accepted. Its content cannot be taken for that of a `Value`.
    Withheld(ValueLabel),
}

/// Stands in the place of a value that was given up, and overrules every file of it that a backup brings back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    pub key: KeyPath,
    /// Of the source whose refusals led to this.
    pub definition: Definition,
    /// Milliseconds since the epoch: what was fetched until then is given up.
    pub buried_at: u64,
    /// As of a value.
    pub forget_after: u64,
}

/// What the broker keeps beside values, each as one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    Clock,
    Ledger,
    /// Values on the way to their own files; each has another number.
    Bundle(u64),
}

impl State {
    pub(super) fn name(self) -> String {
        match self {
            Self::Clock => "clock".into(),
            Self::Ledger => "ledger".into(),
            Self::Bundle(number) => format!("bundle {number}"),
        }
    }
}

/// Whose value it is, and all that is asked of it without its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValueLabel {
    pub key: KeyPath,
    pub definition: Definition,
    /// Milliseconds since the epoch: when the upstream gave it.
    pub fetched_at: u64,
    /// Bytes of JSON.
    pub size: u64,
    /// How long it is kept once its key has left the configuration, in milliseconds.
    pub forget_after: u64,
    /// Of the JSON form, by the first seal key.
    pub tag: Tag,
    /// Of the text form, if the value has one.
    pub tag_text: Option<Tag>,
    pub validators: Validators,
}

/// Why a file gives nothing. None of them is fatal: it is as if it were not there, and the log says why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreadable {
    /// Nothing that keyhatch wrote.
    NotOurs,
    NewerFormat {
        version: u8,
    },
    OtherSealKey,
    /// Sealed by a key of ours, and changed since: cut, overwritten, or put together from several.
    Damaged,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotOurs => write!(f, "no sealed file of keyhatch"),
            Self::NewerFormat { version } => {
                write!(f, "of format {version}; this version of keyhatch knows {VERSION}")
            }
            Self::OtherSealKey => write!(f, "sealed by another seal key"),
            Self::Damaged => write!(f, "damaged"),
        }
    }
}

/// A file whose label was opened.
pub(super) struct Head {
    /// The place of its seal key in the list.
    pub(super) keyed: usize,
    pub(super) label: Label,
    /// Where the content begins.
    content: usize,
}

impl Label {
    /// The key that it is of, and how long it is kept once that has left the configuration.
    pub fn of_key(&self) -> Option<(&KeyPath, u64)> {
        match self {
            Self::Value(label) | Self::Withheld(label) => Some((&label.key, label.forget_after)),
            Self::Tombstone(tombstone) => Some((&tombstone.key, tombstone.forget_after)),
            Self::State(_) => None,
        }
    }

    /// Of a value, and whether it is withheld.
    pub fn of_value(&self) -> Option<(&ValueLabel, bool)> {
        match self {
            Self::Value(label) => Some((label, false)),
            Self::Withheld(label) => Some((label, true)),
            Self::Tombstone(_) | Self::State(_) => None,
        }
    }

    fn version(&self) -> u8 {
        if matches!(self, Self::Withheld(_)) { VERSION } else { WITHOUT_WITHHELD }
    }

    /// The name of the file with this label.
    pub(super) fn file_name(&self, key: &SealKey) -> String {
        match self {
            Self::Value(label) | Self::Withheld(label) => key.file_name(&label.key),
            Self::Tombstone(tombstone) => key.file_name(&tombstone.key),
            Self::State(state) => key.name_of(&state.name()),
        }
    }
}

/// What the content of a value's file is bound to, beside its header and its label.
pub(super) fn binding(key: &KeyPath, definition: &Definition) -> Vec<u8> {
    [key.as_str().as_bytes(), b"\0", &definition.0].concat()
}

/// The whole file. `None` if the cipher has no randomness, or the label is longer than any can be.
pub(super) fn seal(key: &SealKey, label: &Label, binding: &[u8], content: &[u8]) -> Option<Vec<u8>> {
    let plain = postcard::to_stdvec(label).ok()?;
    let length = u16::try_from(plain.len() + OVERHEAD).ok()?;
    let mut file = Vec::with_capacity(HEAD_LEN + content.len());
    file.extend_from_slice(MAGIC);
    file.push(label.version());
    file.extend_from_slice(&key.id().0);
    file.extend_from_slice(&length.to_le_bytes());
    file.extend(key.seal(&file, &plain)?);
    if file.len() > HEAD_LEN {
        return None;
    }
    let sealed = key.seal(&[&file, binding].concat(), content)?;
    file.extend(sealed);
    Some(file)
}

/// Opens the label. `start` is the first [`HEAD_LEN`] bytes of the file, or all of them; `length` is of the whole file.
pub(super) fn open_head(keys: &KeyRing, start: &[u8], length: u64) -> Result<Head, Unreadable> {
    let Some((magic, rest)) = start.split_at_checked(MAGIC.len()) else { return Err(Unreadable::NotOurs) };
    let version = rest.first().copied().filter(|_| magic == MAGIC).ok_or(Unreadable::NotOurs)?;
    match version {
        WITHOUT_WITHHELD..=VERSION => {}
        version if version > VERSION => return Err(Unreadable::NewerFormat { version }),
        _ => return Err(Unreadable::NotOurs),
    }
    let (header, rest) = start.split_at_checked(HEADER_LEN).ok_or(Unreadable::Damaged)?;
    let mut id = KeyId([0; 8]);
    id.0.copy_from_slice(&header[5..13]);
    let keyed = keys.position(id).ok_or(Unreadable::OtherSealKey)?;
    let sealed = rest.get(..usize::from(u16::from_le_bytes([header[13], header[14]]))).ok_or(Unreadable::Damaged)?;
    let plain = keys.all()[keyed].open(header, sealed).ok_or(Unreadable::Damaged)?;
    let label: Label = postcard::from_bytes(&plain).map_err(|_| Unreadable::Damaged)?;
    let content = HEADER_LEN + sealed.len();
    // Only what was sealed as a whole has the length that its label says.
    let whole = match &label {
        Label::Value(value) | Label::Withheld(value) => {
            value.size > 0 && (content + OVERHEAD) as u64 == length.saturating_sub(value.size)
        }
        Label::Tombstone(_) => (content + OVERHEAD) as u64 == length,
        Label::State(_) => (content + OVERHEAD) as u64 <= length,
    };
    if whole { Ok(Head { keyed, label, content }) } else { Err(Unreadable::Damaged) }
}

/// Opens the content of a whole file whose head is `head`.
pub(super) fn open_content(
    keys: &KeyRing,
    head: &Head,
    binding: &[u8],
    file: &[u8],
) -> Result<Zeroizing<Vec<u8>>, Unreadable> {
    let (start, sealed) = file.split_at_checked(head.content).ok_or(Unreadable::Damaged)?;
    keys.all()[head.keyed].open(&[start, binding].concat(), sealed).ok_or(Unreadable::Damaged)
}

impl Validators {
    pub fn is_empty(&self) -> bool {
        self.etag.is_none() && self.last_modified.is_none()
    }
}

#[cfg(test)]
mod tests;
