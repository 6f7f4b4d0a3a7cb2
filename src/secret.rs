//! What crosses the wall: the path a value is asked by, and the value itself.
//!
//! Never holds a token: those live in `parent::token` alone.
#![forbid(unsafe_code)]

use std::fmt;
use std::sync::Arc;

use secrecy::{ExposeSecret, SecretBox};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::{Zeroize, Zeroizing};

/// The longest key path, in bytes.
pub const MAX_KEY_LEN: usize = 512;

/// The path of a key: `/` and segments of `[A-Za-z0-9._~@:+-]`, none empty, `.` or `..`.
///
/// Cheap to clone. Not a secret, but whether a key exists is told only to peers that may read it.
///
/// That of a call has a digest of its arguments beside it, which no peer can write and no text shows: each set of arguments
/// has an entry of its own, and the path alone says who may read it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyPath(Arc<str>);

/// Between a path and the digest of arguments: no path has it.
const MARK: char = '?';
/// Hex digits of a SHA-256.
const DIGEST_LEN: usize = 64;
/// Between a key and the name of one of its sources: no key has it.
const PART: char = '#';

/// The longest name of a part, in bytes.
pub const MAX_PART_LEN: usize = 64;

/// Whether a text can be the name of one of the sources of a key, which is a member of the object that they become.
pub fn is_part_name(name: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=MAX_PART_LEN).contains(&name.len()) && name.bytes().all(legal)
}

/// Why a text is no key path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyPathError {
    NoLeadingSlash,
    TrailingSlash,
    EmptySegment,
    DotSegment,
    TooLong { len: usize },
    Character { found: char },
    Reserved,
}

impl fmt::Display for KeyPathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoLeadingSlash => write!(f, "a key begins with `/`"),
            Self::TrailingSlash => write!(f, "a key does not end with `/`"),
            Self::EmptySegment => write!(f, "a key has no empty segment (`//`)"),
            Self::DotSegment => write!(f, "a key has no `.` or `..` segment"),
            Self::TooLong { len } => write!(f, "a key has at most {MAX_KEY_LEN} bytes, this one has {len}"),
            Self::Character { found } => {
                write!(f, "{found:?} is not legal in a key; a segment is made of A-Z a-z 0-9 . _ ~ @ : + -")
            }
            Self::Reserved => write!(f, "keys may not begin with `/-/`: those are keyhatch's own"),
        }
    }
}

impl std::error::Error for KeyPathError {}

/// Whether a byte may stand in a segment of a key.
pub fn is_segment_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"._~@:+-".contains(&byte)
}

impl KeyPath {
    /// Checks the grammar of design-level key paths.
    pub fn parse(text: &str) -> Result<Self, KeyPathError> {
        let rest = text.strip_prefix('/').ok_or(KeyPathError::NoLeadingSlash)?;
        if text.len() > MAX_KEY_LEN {
            return Err(KeyPathError::TooLong { len: text.len() });
        }
        if rest.ends_with('/') || rest.is_empty() {
            return Err(KeyPathError::TrailingSlash);
        }
        for segment in rest.split('/') {
            match segment {
                "" => return Err(KeyPathError::EmptySegment),
                "." | ".." => return Err(KeyPathError::DotSegment),
                _ => {}
            }
            if let Some(found) = segment.chars().find(|c| !u8::try_from(*c).is_ok_and(is_segment_byte)) {
                return Err(KeyPathError::Character { found });
            }
        }
        if rest.starts_with("-/") || rest == "-" {
            return Err(KeyPathError::Reserved);
        }
        Ok(Self(Arc::from(text)))
    }

    /// All that tells it from others: for a call, with the digest.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Without the digest of a call.
    pub fn path(&self) -> &str {
        self.0.split_once(MARK).map_or(&*self.0, |(path, _)| path)
    }

    /// One of the sources of a key that is composed of several: `/a#name`. What peers ask for is never such a path, and
    /// [`parse`](Self::parse) takes none.
    pub fn part(&self, name: &str) -> Self {
        Self(Arc::from(format!("{}{PART}{name}", self.0)))
    }

    /// The name of the source that this is, if it is one of several.
    pub fn part_name(&self) -> Option<&str> {
        self.0.split_once(PART).map(|(_, name)| name)
    }

    /// The key that this is a part of, or itself.
    pub fn whole(&self) -> Self {
        match self.0.split_once(PART) {
            Some((whole, _)) => Self(Arc::from(whole)),
            None => self.clone(),
        }
    }

    /// The segments, without slashes.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.path()[1..].split('/')
    }

    /// That of a call: this path, with the SHA-256 of its arguments.
    pub fn of_call(&self, digest: &[u8; 32]) -> Self {
        use fmt::Write;
        let mut text = String::with_capacity(self.path().len() + 1 + DIGEST_LEN);
        text.push_str(self.path());
        text.push(MARK);
        for byte in digest {
            // Writing to a String does not fail.
            let _ = write!(text, "{byte:02x}");
        }
        Self(text.into())
    }

    /// The digest of a call's arguments, as hex digits: for no log and no answer.
    pub fn arguments(&self) -> Option<&str> {
        self.0.split_once(MARK).map(|(_, digest)| digest)
    }

    /// Without arguments.
    pub fn alone(&self) -> Self {
        if self.arguments().is_some() { Self(self.path().into()) } else { self.clone() }
    }

    /// What [`as_str`](Self::as_str) gave: a path, one of its parts, or a call of it.
    fn parse_any(text: &str) -> Result<Self, KeyPathError> {
        let Some(at) = text.find([PART, MARK]) else { return Self::parse(text) };
        let (path, rest) = text.split_at(at);
        Self::parse(path)?;
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let legal = match rest.split_at(1) {
            ("#", name) => is_part_name(name),
            (_, digest) => digest.len() == DIGEST_LEN && digest.bytes().all(hex),
        };
        let found = if rest.starts_with(PART) { PART } else { MARK };
        if legal { Ok(Self(text.into())) } else { Err(KeyPathError::Character { found }) }
    }
}

/// The path alone: a digest of arguments that can be guessed tells them, and this goes into logs.
impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.path())
    }
}

impl fmt::Debug for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.path())
    }
}

impl std::borrow::Borrow<str> for KeyPath {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Serialize for KeyPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // What a person may read is the path alone.
        let text = if serializer.is_human_readable() { self.path() } else { &self.0 };
        serializer.serialize_str(text)
    }
}

impl<'de> Deserialize<'de> for KeyPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <&str>::deserialize(deserializer)?;
        Self::parse_any(text).map_err(serde::de::Error::custom)
    }
}

/// A value: UTF-8 JSON as the upstream wrote it. Wiped when dropped; shared by `Arc`, never copied.
///
/// It cannot be printed, copied or encoded by mistake:
///
/// ```compile_fail,E0277
/// println!("{}", keyhatch::secret::SecretValue::from_text("x"));
/// ```
/// ```compile_fail,E0277
/// println!("{:?}", keyhatch::secret::SecretValue::from_text("x"));
/// ```
/// ```compile_fail,E0599
/// keyhatch::secret::SecretValue::from_text("x").clone();
/// ```
/// ```compile_fail,E0277
/// let _ = serde_json::to_string(&keyhatch::secret::SecretValue::from_text("x"));
/// ```
/// ```
/// assert_eq!(keyhatch::secret::SecretValue::from_text("x").json(), b"\"x\"");
/// ```
pub struct SecretValue(SecretBox<[u8]>);

impl SecretValue {
    /// Takes JSON text. The buffer given is wiped; the copy kept has exactly its length.
    pub fn from_json(json: Zeroizing<Vec<u8>>) -> Self {
        Self(SecretBox::new(Box::from(json.as_slice())))
    }

    /// The JSON encoding of a text.
    pub fn from_text(text: &str) -> Self {
        // Twice the length holds most escapes, so that the buffer seldom moves and leaves a copy.
        let mut json = Zeroizing::new(Vec::with_capacity(text.len() * 2 + 2));
        serde_json::to_writer(&mut *json, text).unwrap_or_default();
        Self::from_json(json)
    }

    /// The JSON bytes.
    pub fn json(&self) -> &[u8] {
        self.0.expose_secret()
    }

    pub fn len(&self) -> usize {
        self.json().len()
    }

    pub fn is_empty(&self) -> bool {
        self.json().is_empty()
    }

    /// The raw text of a scalar: a string, number or boolean, or an object with one such field.
    ///
    /// `None` when the value is anything else.
    pub fn text(&self) -> Option<Zeroizing<String>> {
        let raw: &serde_json::value::RawValue = serde_json::from_slice(self.json()).ok()?;
        scalar_text(raw.get()).or_else(|| {
            let fields: OnlyField<'_> = serde_json::from_str(raw.get()).ok()?;
            scalar_text(fields.0.get())
        })
    }
}

/// The text of one JSON scalar, `None` for null, objects and arrays.
fn scalar_text(json: &str) -> Option<Zeroizing<String>> {
    let json = json.trim();
    match json.as_bytes().first()? {
        b'"' => serde_json::from_str::<String>(json).ok().map(Zeroizing::new),
        b't' | b'f' | b'-' | b'0'..=b'9' => Some(Zeroizing::new(json.to_owned())),
        _ => None,
    }
}

/// An object with exactly one field.
struct OnlyField<'a>(&'a serde_json::value::RawValue);

impl<'de: 'a, 'a> Deserialize<'de> for OnlyField<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = OnlyField<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with one field")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let first = map.next_entry::<serde::de::IgnoredAny, &'de serde_json::value::RawValue>()?;
                let (_, value) = first.ok_or_else(|| serde::de::Error::custom("no field"))?;
                match map.next_key::<serde::de::IgnoredAny>()? {
                    None => Ok(OnlyField(value)),
                    Some(_) => Err(serde::de::Error::custom("several fields")),
                }
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

/// A buffer on its way through the channel, wiped when dropped.
#[derive(Serialize, Deserialize, Zeroize)]
#[zeroize(drop)]
pub struct WireBytes(pub Vec<u8>);
