//! The sealed file: a header in clear, a sealed label that says whose it is, and the sealed content.
//!
//! ```text
//! "KHSV"  version  id of the seal key  length of the label   label           content
//! 4       1 byte   8                   2, little endian      nonce text tag  nonce text tag
//! ```
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
/// Version 1 was never released.
const VERSION: u8 = 2;
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
            Self::Value(label) => Some((&label.key, label.forget_after)),
            Self::Tombstone(tombstone) => Some((&tombstone.key, tombstone.forget_after)),
            Self::State(_) => None,
        }
    }

    /// The name of the file with this label.
    pub(super) fn file_name(&self, key: &SealKey) -> String {
        match self {
            Self::Value(label) => key.file_name(&label.key),
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
    file.push(VERSION);
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
        VERSION => {}
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
        Label::Value(value) => value.size > 0 && (content + OVERHEAD) as u64 == length.saturating_sub(value.size),
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
mod tests {
    use super::super::new_seal_key_text;
    use super::*;

    fn ring() -> KeyRing {
        KeyRing::new(vec![SealKey::parse(new_seal_key_text().unwrap().as_bytes()).unwrap()]).unwrap()
    }

    fn label(key: &str, definition: &str, size: u64) -> Label {
        Label::Value(ValueLabel {
            key: KeyPath::parse(key).unwrap(),
            definition: Definition::of(definition),
            fetched_at: 42,
            size,
            forget_after: 7,
            tag: Tag([7; 16]),
            tag_text: None,
            validators: Validators { etag: Some("\"x\"".into()), last_modified: None },
        })
    }

    fn open(keys: &KeyRing, file: &[u8]) -> Result<(Label, Zeroizing<Vec<u8>>), Unreadable> {
        let start = &file[..file.len().min(HEAD_LEN)];
        let head = open_head(keys, start, file.len() as u64)?;
        let content = open_content(keys, &head, b"bound", file)?;
        Ok((head.label, content))
    }

    #[test]
    fn what_is_sealed_comes_back_and_cannot_be_read_without_the_key() {
        let keys = ring();
        let label = label("/a", "definition", 7);
        let file = seal(keys.first(), &label, b"bound", b"planted").unwrap();
        let (found, content) = open(&keys, &file).unwrap();
        assert_eq!((found, content.as_slice()), (label, &b"planted"[..]));
        assert!(!file.windows(7).any(|part| part == b"planted") && !file.windows(2).any(|part| part == b"/a"));
        assert_eq!(open(&ring(), &file).err(), Some(Unreadable::OtherSealKey));
        let head = open_head(&keys, &file, file.len() as u64).unwrap();
        assert_eq!(open_content(&keys, &head, b"other", &file).err(), Some(Unreadable::Damaged));
    }

    #[test]
    fn a_file_cut_or_changed_anywhere_gives_nothing_and_says_why() {
        let keys = ring();
        let whole = seal(keys.first(), &label("/a", "definition", 7), b"bound", b"planted").unwrap();
        for at in 0..whole.len() {
            let cut = open(&keys, &whole[..at]).err();
            assert_eq!(cut, Some(if at < 5 { Unreadable::NotOurs } else { Unreadable::Damaged }), "cut at {at}");
            let mut changed = whole.clone();
            changed[at] ^= 1;
            let expected = match at {
                0..4 => Unreadable::NotOurs,
                4 => Unreadable::NewerFormat { version: 3 },
                5..13 => Unreadable::OtherSealKey,
                _ => Unreadable::Damaged,
            };
            assert_eq!(open(&keys, &changed).err(), Some(expected), "changed at {at}");
        }
        let longer = [whole.as_slice(), b"x"].concat();
        assert_eq!(open(&keys, &longer).err(), Some(Unreadable::Damaged));
    }

    #[test]
    fn the_parts_of_two_files_are_no_file() {
        let keys = ring();
        let file = |definition| seal(keys.first(), &label("/a", definition, 7), b"bound", b"planted").unwrap();
        let (one, other) = (file("one"), file("other"));
        let content = one.len() - 7 - OVERHEAD;
        let mixed = [&one[..content], &other[content..]].concat();
        assert_eq!(open(&keys, &mixed).err(), Some(Unreadable::Damaged));
    }

    #[test]
    fn an_older_key_opens_and_is_told_apart() {
        let (old, new) = (new_seal_key_text().unwrap(), new_seal_key_text().unwrap());
        let key = |text: &str| SealKey::parse(text.as_bytes()).unwrap();
        let file = seal(&key(&old), &label("/a", "d", 1), b"bound", b"1").unwrap();
        let both = KeyRing::new(vec![key(&new), key(&old)]).unwrap();
        assert_eq!(open_head(&both, &file, file.len() as u64).unwrap().keyed, 1);
    }

    #[test]
    fn an_empty_value_is_none() {
        let keys = ring();
        let file = seal(keys.first(), &label("/a", "d", 0), b"bound", b"").unwrap();
        assert_eq!(open(&keys, &file).err(), Some(Unreadable::Damaged));
    }

    #[test]
    fn the_largest_label_fits_into_the_head() {
        let keys = ring();
        let long = |length| Some("x".repeat(length));
        let Label::Value(mut largest) = label(&format!("/{}", "a".repeat(511)), "d", u64::MAX) else { unreachable!() };
        largest.tag_text = Some(Tag([1; 16]));
        largest.validators = Validators { etag: long(1024), last_modified: long(1024) };
        (largest.fetched_at, largest.forget_after) = (u64::MAX, u64::MAX);
        assert!(seal(keys.first(), &Label::Value(largest.clone()), b"", b"").is_some());
        largest.validators.etag = long(HEAD_LEN);
        assert!(seal(keys.first(), &Label::Value(largest), b"", b"").is_none());
    }
}
