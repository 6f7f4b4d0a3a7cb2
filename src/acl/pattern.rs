//! Key patterns: `*` is any characters within one segment, `**` any number of whole segments, also none.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::secret::{KeyPath, is_segment_byte};

/// A pattern over key paths, kept as its segments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pattern {
    segments: Vec<Segment>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Segment {
    /// `**`
    AnyDepth,
    Pieces(Pieces),
}

/// The pieces between the `*`s of one segment; one piece means no `*`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pieces(Vec<String>);

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PatternError {
    NoLeadingSlash,
    EmptySegment,
    /// `**` beside other characters in one segment.
    PartialDoubleStar {
        segment: String,
    },
    Character {
        found: char,
    },
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoLeadingSlash => write!(f, "a key pattern begins with `/`"),
            Self::EmptySegment => write!(f, "a key pattern has no empty segment and no trailing slash"),
            Self::PartialDoubleStar { segment } => {
                write!(
                    f,
                    "`**` stands alone between slashes, as in `/a/**`; `{segment}` mixes it with other characters"
                )
            }
            Self::Character { found } => {
                write!(f, "{found:?} is not legal in a key pattern; legal are A-Z a-z 0-9 . _ ~ @ : + - and the stars")
            }
        }
    }
}

impl std::error::Error for PatternError {}

impl Pattern {
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let rest = text.strip_prefix('/').ok_or(PatternError::NoLeadingSlash)?;
        let segments = rest.split('/').map(Segment::parse).collect::<Result<_, _>>()?;
        Ok(Self { segments })
    }

    pub fn matches(&self, key: &KeyPath) -> bool {
        let key: Vec<&str> = key.segments().collect();
        wildcard(&self.segments, &key, |s| matches!(s, Segment::AnyDepth), |s, text| s.matches(text))
    }

    /// Whether every path that matches the other one, which has no `**`, matches this one.
    pub fn covers(&self, other: &Self) -> bool {
        // No text has this byte: where it stands in the other one, only a star of this one is as wide.
        let text = |segment: &Segment| match segment {
            Segment::AnyDepth => None,
            Segment::Pieces(Pieces(pieces)) => Some(pieces.join("\0")),
        };
        let Some(texts) = other.segments.iter().map(text).collect::<Option<Vec<String>>>() else { return false };
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        wildcard(&self.segments, &texts, |s| matches!(s, Segment::AnyDepth), |s, text| s.matches(text))
    }

    /// Whether some path may match both.
    pub fn overlaps(&self, other: &Self) -> bool {
        let is_star = |segment: &Segment| matches!(segment, Segment::AnyDepth);
        meet(&self.segments, &other.segments, is_star, Segment::overlaps)
    }
}

impl Segment {
    fn parse(text: &str) -> Result<Self, PatternError> {
        match text {
            "" => return Err(PatternError::EmptySegment),
            "**" => return Ok(Self::AnyDepth),
            _ if text.contains("**") => return Err(PatternError::PartialDoubleStar { segment: text.to_owned() }),
            _ => {}
        }
        Pieces::parse(text, is_segment_byte).map(Self::Pieces)
    }

    fn matches(&self, text: &str) -> bool {
        let Self::Pieces(pieces) = self else { return false };
        pieces.matches(text)
    }

    fn overlaps(&self, other: &Self) -> bool {
        let (Self::Pieces(Pieces(a)), Self::Pieces(Pieces(b))) = (self, other) else { return true };
        let (a, b) = (a.join("*"), b.join("*"));
        meet(a.as_bytes(), b.as_bytes(), |byte| *byte == b'*', |a, b| a == b)
    }
}

impl Pieces {
    pub(super) fn parse(text: &str, is_legal: impl Fn(u8) -> bool) -> Result<Self, PatternError> {
        if let Some(found) = text.chars().find(|c| *c != '*' && !u8::try_from(*c).is_ok_and(&is_legal)) {
            return Err(PatternError::Character { found });
        }
        Ok(Self(text.split('*').map(str::to_owned).collect()))
    }

    pub(super) fn matches(&self, text: &str) -> bool {
        let Self(pieces) = self;
        let [first, middle @ .., last] = pieces.as_slice() else {
            return pieces.first().is_some_and(|only| only == text);
        };
        let Some(rest) = text.strip_prefix(first.as_str()) else { return false };
        let Some(mut rest) = rest.strip_suffix(last.as_str()) else { return false };
        for piece in middle {
            let Some(at) = rest.find(piece.as_str()) else { return false };
            rest = &rest[at + piece.len()..];
        }
        true
    }
}

impl fmt::Display for Pieces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("*"))
    }
}

/// Whether two sequences with stars have a sequence in common.
fn meet<T>(a: &[T], b: &[T], is_star: impl Fn(&T) -> bool, one: impl Fn(&T, &T) -> bool) -> bool {
    // For what is left of `a`, by what is left of `b`.
    let mut below = vec![false; b.len() + 1];
    for i in (0..=a.len()).rev() {
        let mut row = vec![false; b.len() + 1];
        for j in (0..=b.len()).rev() {
            let (x, y) = (a.get(i), b.get(j));
            row[j] = match (x, y) {
                (None, None) => true,
                _ if x.is_some_and(&is_star) && (below[j] || (j < b.len() && row[j + 1])) => true,
                _ if y.is_some_and(&is_star) && (row[j + 1] || (i < a.len() && below[j])) => true,
                (Some(x), Some(y)) => !is_star(x) && !is_star(y) && one(x, y) && below[j + 1],
                _ => false,
            };
        }
        below = row;
    }
    below[0]
}

/// Glob matching over sequences with one backtrack point: linear in practice, quadratic at worst.
fn wildcard<P, T: Copy>(pattern: &[P], text: &[T], is_star: impl Fn(&P) -> bool, one: impl Fn(&P, T) -> bool) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if p < pattern.len() && is_star(&pattern[p]) {
            star = Some((p, t));
            p += 1;
        } else if p < pattern.len() && one(&pattern[p], text[t]) {
            p += 1;
            t += 1;
        } else if let Some((at, consumed)) = star {
            p = at + 1;
            t = consumed + 1;
            star = Some((at, t));
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(is_star)
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for segment in &self.segments {
            match segment {
                Segment::AnyDepth => f.write_str("/**")?,
                Segment::Pieces(pieces) => write!(f, "/{pieces}")?,
            }
        }
        Ok(())
    }
}
