//! The seal key and what is derived from it: file names, entity tags, and the sealing itself.

use std::fmt;
use std::fs::File;
use std::io::Read;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::ipc::wire::Tag;
use crate::secret::KeyPath;
use crate::sys::random;

const PREFIX: &str = "keyhatch-seal-1:";
const KEY_LEN: usize = 32;
/// Hex digits of a file's name.
pub(super) const NAME_LEN: usize = 40;
/// What sealing adds: the nonce before, the tag behind.
pub(super) const OVERHEAD: usize = NONCE_LEN + 16;

/// The content of a new seal key file: one line of text.
pub fn new_seal_key_text() -> Result<Zeroizing<String>, SealKeyError> {
    let mut key = Zeroizing::new([0; KEY_LEN]);
    random::fill(&mut *key).map_err(|_| SealKeyError::NoRandomness)?;
    let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + 48));
    text.push_str(PREFIX);
    STANDARD.encode_string(key.as_slice(), &mut text);
    text.push('\n');
    Ok(text)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SealKeyError {
    NotASealKey,
    CannotBeRead,
    NoRandomness,
}

impl fmt::Display for SealKeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotASealKey => write!(f, "not a seal key: one line, `{PREFIX}` and 32 bytes in base64"),
            Self::CannotBeRead => write!(f, "the file cannot be read"),
            Self::NoRandomness => write!(f, "the system gives no random bytes"),
        }
    }
}

impl std::error::Error for SealKeyError {}

/// Which seal key a file was sealed with; tells nothing of the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KeyId(pub(super) [u8; 8]);

/// Subkeys, one for each use, so that none of them tells anything of another.
pub struct SealKey {
    id: KeyId,
    seal: LessSafeKey,
    names: hmac::Key,
    tags: hmac::Key,
}

impl SealKey {
    /// From an open file.
    pub fn read(file: File) -> Result<Self, SealKeyError> {
        let mut text = Zeroizing::new(Vec::with_capacity(256));
        // One byte more than any seal key has is enough to refuse it.
        file.take(255).read_to_end(&mut text).map_err(|_| SealKeyError::CannotBeRead)?;
        Self::parse(&text)
    }

    pub fn parse(text: &[u8]) -> Result<Self, SealKeyError> {
        let encoded = text.strip_suffix(b"\n").unwrap_or(text).strip_prefix(PREFIX.as_bytes());
        let mut key = Zeroizing::new([0; KEY_LEN + 2]);
        let length = STANDARD
            .decode_slice(encoded.ok_or(SealKeyError::NotASealKey)?, &mut *key)
            .map_err(|_| SealKeyError::NotASealKey)?;
        if length != KEY_LEN {
            return Err(SealKeyError::NotASealKey);
        }
        let root = hmac::Key::new(hmac::HMAC_SHA256, &key[..KEY_LEN]);
        let subkey = |label: &str| hmac::sign(&root, label.as_bytes());
        let hmac_key = |label: &str| hmac::Key::new(hmac::HMAC_SHA256, subkey(label).as_ref());
        let mut id = KeyId([0; 8]);
        id.0.copy_from_slice(&subkey("keyhatch key id").as_ref()[..8]);
        Ok(Self {
            id,
            seal: UnboundKey::new(&AES_256_GCM_SIV, subkey("keyhatch seal").as_ref())
                .map(LessSafeKey::new)
                .map_err(|_| SealKeyError::NotASealKey)?,
            names: hmac_key("keyhatch file name"),
            tags: hmac_key("keyhatch entity tag"),
        })
    }

    pub(super) fn id(&self) -> KeyId {
        self.id
    }

    /// The name of the file of a key; says nothing of the key to who has not the seal key.
    pub(in crate::parent) fn file_name(&self, key: &KeyPath) -> String {
        self.name_of(key.as_str())
    }

    /// The same of anything; what does not begin with a slash is no key.
    pub(super) fn name_of(&self, what: &str) -> String {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let hash = hmac::sign(&self.names, what.as_bytes());
        let digits = hash.as_ref()[..NAME_LEN / 2].iter().flat_map(|byte| [byte >> 4, byte & 15]);
        digits.map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
    }

    /// The entity tag of one representation: the same over restarts.
    pub fn tag(&self, key: &KeyPath, media_type: &str, value: &[u8]) -> Tag {
        let mut context = hmac::Context::with_key(&self.tags);
        for part in [key.as_str().as_bytes(), b"\0", media_type.as_bytes(), b"\0", value] {
            context.update(part);
        }
        let mut tag = [0; 16];
        tag.copy_from_slice(&context.sign().as_ref()[..16]);
        Tag(tag)
    }

    /// nonce, ciphertext and its tag; `None` only if the cipher has no randomness.
    pub(super) fn seal(&self, context: &[u8], plain: &[u8]) -> Option<Vec<u8>> {
        // Room for the cipher's tag, so that the plain text does not move.
        let mut buffer = Zeroizing::new(Vec::with_capacity(plain.len() + 16));
        buffer.extend_from_slice(plain);
        // The kernel's random bytes: the library's own generator is not ready before 30 ms have passed.
        let mut nonce = [0; NONCE_LEN];
        random::fill(&mut nonce).ok()?;
        let unique = Nonce::assume_unique_for_key(nonce);
        self.seal.seal_in_place_append_tag(unique, Aad::from(context), &mut *buffer).ok()?;
        Some([nonce.as_slice(), buffer.as_slice()].concat())
    }

    pub(super) fn open(&self, context: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (nonce, ciphertext) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut buffer = Zeroizing::new(ciphertext.to_vec());
        let length = self.seal.open_in_place(nonce, Aad::from(context), &mut buffer).ok()?.len();
        buffer.truncate(length);
        Some(buffer)
    }
}

/// The seal keys of the configuration: the first seals, all open. Never empty.
pub struct KeyRing {
    keys: Vec<SealKey>,
}

impl KeyRing {
    /// From open files, each with what it is called in the configuration.
    ///
    /// # Errors
    /// The first that holds no seal key, as a message that names it.
    pub fn read<N: fmt::Display>(files: impl IntoIterator<Item = (N, File)>) -> Result<Self, String> {
        let read = |(name, file)| SealKey::read(file).map_err(|error| format!("seal key {name}: {error}"));
        let keys = files.into_iter().map(read).collect::<Result<_, _>>()?;
        Self::new(keys).ok_or_else(|| "there is no seal key".into())
    }

    /// `None` without any.
    pub fn new(keys: Vec<SealKey>) -> Option<Self> {
        if keys.is_empty() { None } else { Some(Self { keys }) }
    }

    /// The key that seals, and by which entity tags are made.
    pub fn first(&self) -> &SealKey {
        &self.keys[0]
    }

    /// The names that the file of a key may have.
    pub(in crate::parent) fn file_names(&self, key: &KeyPath) -> impl Iterator<Item = String> {
        self.keys.iter().map(|seal| seal.file_name(key))
    }

    pub(super) fn all(&self) -> &[SealKey] {
        &self.keys
    }

    /// The place in the list of the key with this id.
    pub(super) fn position(&self, id: KeyId) -> Option<usize> {
        self.keys.iter().position(|key| key.id == id)
    }
}

#[cfg(test)]
static_assertions::assert_not_impl_any!(SealKey: fmt::Debug, fmt::Display, Clone, serde::Serialize);
