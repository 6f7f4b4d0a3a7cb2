//! The text of a template: literal text and parameters in braces, segment by segment.

use std::fmt;

use crate::secret::{KeyPath, KeyPathError};

/// The most parameters of one key.
const MAX_PARAMETERS: usize = 8;
/// The most in one segment: with three, how a path is read would cost the square of its length.
const MAX_IN_SEGMENT: usize = 2;
const LONGEST_NAME: usize = 64;

/// A path with parameters, without what they may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    segments: Vec<Segment>,
    parameters: Vec<String>,
}

/// Literal texts with a parameter between each two of them; one text alone has no parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment(pub(super) Vec<String>);

/// Why a text is no path with parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShapeError {
    /// What is left when each parameter is a letter is no key path.
    Path(KeyPathError),
    Unclosed,
    /// `}` without `{`.
    Unopened,
    Name(String),
    Twice(String),
    /// Nothing tells where the first one ends.
    Adjacent,
    TooManyInSegment,
    TooMany,
    /// There is not one constraint for each parameter.
    Unconstrained,
}

impl fmt::Display for ShapeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(error) => write!(f, "{error}"),
            Self::Unclosed => write!(f, "a parameter of this key has no `}}`"),
            Self::Unopened => write!(f, "there is a `}}` without `{{` before it"),
            Self::Name(name) => write!(
                f,
                "{name:?} is not a name for a parameter; one is made of A-Z a-z 0-9 _ -, begins with a letter and has at most {LONGEST_NAME} bytes"
            ),
            Self::Twice(name) => write!(f, "the parameter `{name}` stands twice in this key"),
            Self::Adjacent => write!(f, "two parameters of this key have nothing between them"),
            Self::TooManyInSegment => write!(f, "a segment of a key has at most {MAX_IN_SEGMENT} parameters"),
            Self::TooMany => write!(f, "a key has at most {MAX_PARAMETERS} parameters"),
            Self::Unconstrained => write!(f, "each parameter of a key has one constraint"),
        }
    }
}

impl std::error::Error for ShapeError {}

/// Whether a parameter may be called this.
pub fn is_parameter_name(text: &str) -> bool {
    text.len() <= LONGEST_NAME
        && text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

impl Shape {
    pub fn parse(text: &str) -> Result<Self, ShapeError> {
        let mut parameters = Vec::new();
        let rest = text.strip_prefix('/').ok_or(ShapeError::Path(KeyPathError::NoLeadingSlash))?;
        let segments = rest.split('/').map(|segment| Segment::parse(segment, &mut parameters));
        let shape = Self { segments: segments.collect::<Result<_, _>>()?, parameters };
        KeyPath::parse(&shape.with_each(|_| "x")).map_err(ShapeError::Path)?;
        if shape.parameters.len() > MAX_PARAMETERS {
            return Err(ShapeError::TooMany);
        }
        Ok(shape)
    }

    pub fn parameters(&self) -> &[String] {
        &self.parameters
    }

    /// Its text with a star for each parameter: what covers at least all of its paths.
    pub fn as_pattern(&self) -> String {
        self.with_each(|_| "*")
    }

    pub(super) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Whether the literal texts are there, each in its segment.
    pub(super) fn fits(&self, key: &KeyPath) -> bool {
        let mut segments = key.segments();
        let fit = self.segments.iter().all(|segment| segments.next().is_some_and(|text| segment.fits(text)));
        fit && segments.next().is_none()
    }

    /// The ways to read the parameters of one segment that fits, the shortest first value first.
    pub(super) fn readings<'k>(&self, at: usize, text: &'k str) -> Vec<Vec<&'k str>> {
        self.segments.get(at).map(|segment| segment.readings(text)).unwrap_or_default()
    }

    /// The text with something in the place of each parameter.
    pub(super) fn with_each<'s>(&'s self, mut with: impl FnMut(&'s str) -> &'s str) -> String {
        let mut names = self.parameters.iter();
        let mut path = String::new();
        for Segment(texts) in &self.segments {
            path.push('/');
            for (at, text) in texts.iter().enumerate() {
                if at > 0 {
                    path.push_str(names.next().map_or("", |name| with(name)));
                }
                path.push_str(text);
            }
        }
        path
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let braced: Vec<String> = self.parameters.iter().map(|name| format!("{{{name}}}")).collect();
        let mut braced = braced.iter();
        f.write_str(&self.with_each(|_| braced.next().map_or("", String::as_str)))
    }
}

impl Segment {
    fn parse(text: &str, parameters: &mut Vec<String>) -> Result<Self, ShapeError> {
        let mut texts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) = after.split_once('}').ok_or(ShapeError::Unclosed)?;
            if !is_parameter_name(name) {
                return Err(ShapeError::Name(name.to_owned()));
            }
            if parameters.iter().any(|known| known == name) {
                return Err(ShapeError::Twice(name.to_owned()));
            }
            if !texts.is_empty() && before.is_empty() {
                return Err(ShapeError::Adjacent);
            }
            parameters.push(name.to_owned());
            texts.push(literal(before)?);
            rest = after;
        }
        texts.push(literal(rest)?);
        if texts.len() > MAX_IN_SEGMENT + 1 {
            return Err(ShapeError::TooManyInSegment);
        }
        Ok(Self(texts))
    }

    fn fits(&self, text: &str) -> bool {
        match self.0.as_slice() {
            [only] => only == text,
            [first, .., last] => inner(text, first, last).is_some_and(|inner| match self.0.as_slice() {
                [_, between, _] => inner.contains(between.as_str()),
                _ => true,
            }),
            [] => false,
        }
    }

    fn readings<'k>(&self, text: &'k str) -> Vec<Vec<&'k str>> {
        match self.0.as_slice() {
            [first, last] => inner(text, first, last).into_iter().map(|value| vec![value]).collect(),
            [first, between, last] => {
                let inner = inner(text, first, last).unwrap_or_default();
                let mut readings = Vec::new();
                let mut from = 0;
                // One byte on each time: the text between may overlap itself.
                while let Some(at) = inner[from..].find(between.as_str()).map(|at| from + at) {
                    readings.push(vec![&inner[..at], &inner[at + between.len()..]]);
                    from = at + 1;
                }
                readings
            }
            _ => vec![Vec::new()],
        }
    }
}

fn inner<'k>(text: &'k str, first: &str, last: &str) -> Option<&'k str> {
    text.strip_prefix(first)?.strip_suffix(last)
}

fn literal(text: &str) -> Result<String, ShapeError> {
    if text.contains('}') { Err(ShapeError::Unopened) } else { Ok(text.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_path_with_parameters() {
        let error = |text: &str| Shape::parse(text).unwrap_err();
        assert_eq!(error("{a}"), ShapeError::Path(KeyPathError::NoLeadingSlash));
        assert_eq!(error("/{a}/"), ShapeError::Path(KeyPathError::TrailingSlash));
        assert_eq!(error("/a b/{x}"), ShapeError::Path(KeyPathError::Character { found: ' ' }));
        assert_eq!(error("/-/{x}"), ShapeError::Path(KeyPathError::Reserved));
        assert_eq!(error("/{a"), ShapeError::Unclosed);
        assert_eq!(error("/{a/b}"), ShapeError::Unclosed);
        assert_eq!(error("/a}"), ShapeError::Unopened);
        assert_eq!(error("/{a}}"), ShapeError::Unopened);
        assert_eq!(error("/{}"), ShapeError::Name(String::new()));
        assert_eq!(error("/{1a}"), ShapeError::Name("1a".into()));
        assert_eq!(error("/{a.b}"), ShapeError::Name("a.b".into()));
        assert_eq!(error("/{a}/{a}"), ShapeError::Twice("a".into()));
        assert_eq!(error("/{a}{b}"), ShapeError::Adjacent);
        assert_eq!(error("/{a}-{b}-{c}"), ShapeError::TooManyInSegment);
        assert_eq!(error("/{a}/{b}/{c}/{d}/{e}/{f}/{g}/{h}/{i}"), ShapeError::TooMany);
    }

    #[test]
    fn it_is_shown_as_it_was_written() {
        for text in ["/heroku/{app}/{var}", "/a/db-{name}.url", "/{a}-{b}/c"] {
            assert_eq!(Shape::parse(text).unwrap().to_string(), text);
        }
    }
}
