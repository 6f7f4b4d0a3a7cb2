//! What a parameter may be: one of several words, or what a regular expression matches as a whole.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;

use regex::bytes::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};

use super::MAX_VALUE;
use crate::secret::is_segment_byte;

/// The longest regular expression, in bytes of its text.
pub const MAX_PATTERN: usize = 1024;
/// And of what it is compiled to: both roles match by it for whoever asks.
const MAX_COMPILED: usize = 256 << 10;
const MAX_NESTING: u32 = 32;
const MAX_REMEMBERED: usize = 64;

/// What the values of a parameter have to be, beyond what all values have to be.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Constraint(Rule);

#[derive(Debug, Clone)]
enum Rule {
    /// Sorted.
    OneOf(Vec<String>),
    Matches(Whole),
}

/// A regular expression that has to match a whole text. Equal to others by its own text.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Whole {
    pattern: String,
    whole: Regex,
}

/// As it crosses from role to role.
#[derive(Serialize, Deserialize)]
enum Written {
    OneOf(Vec<String>),
    Matches(String),
}

/// Why a regular expression cannot be a constraint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConstraintError {
    TooLong,
    TooLarge,
    /// What is wrong with it, in a few words.
    Syntax(String),
}

impl fmt::Display for ConstraintError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => write!(f, "this regular expression has more than {MAX_PATTERN} bytes"),
            Self::TooLarge => write!(f, "this regular expression is too large"),
            Self::Syntax(what) => write!(f, "this is no regular expression: {what}"),
        }
    }
}

impl std::error::Error for ConstraintError {}

/// Why a text is no value, whatever a constraint says.
pub fn check_value(value: &str) -> Result<(), &'static str> {
    match value {
        "" => Err("it is empty"),
        "." | ".." => Err("it means a directory"),
        _ if value.len() > MAX_VALUE => Err("it has more than 256 bytes"),
        _ if !value.bytes().all(is_segment_byte) => {
            Err("a value is a part of a key, which is made of A-Z a-z 0-9 . _ ~ @ : + -")
        }
        _ => Ok(()),
    }
}

impl Constraint {
    pub fn one_of(mut values: Vec<String>) -> Self {
        values.sort_unstable();
        Self(Rule::OneOf(values))
    }

    /// A regular expression that has to match the whole value.
    pub fn matching(pattern: &str) -> Result<Self, ConstraintError> {
        Whole::new(pattern).map(|whole| Self(Rule::Matches(whole)))
    }

    /// Whether a parameter may have this value.
    pub fn admits(&self, value: &str) -> bool {
        check_value(value).is_ok()
            && match &self.0 {
                Rule::OneOf(values) => values.binary_search_by(|known| known.as_str().cmp(value)).is_ok(),
                Rule::Matches(whole) => whole.is_match(value),
            }
    }

    /// All values, if they are listed.
    pub(super) fn values(&self) -> Option<&[String]> {
        match &self.0 {
            Rule::OneOf(values) => Some(values),
            Rule::Matches(_) => None,
        }
    }

    /// The text of the regular expression, if it is one.
    pub(super) fn pattern(&self) -> Option<&str> {
        match &self.0 {
            Rule::OneOf(_) => None,
            Rule::Matches(whole) => Some(&whole.pattern),
        }
    }
}

impl Whole {
    /// # Errors
    /// It is no regular expression, or too large a one.
    pub fn new(pattern: &str) -> Result<Self, ConstraintError> {
        if pattern.len() > MAX_PATTERN {
            return Err(ConstraintError::TooLong);
        }
        if let Some(whole) = known(pattern) {
            return Ok(Self { pattern: pattern.to_owned(), whole });
        }
        // By itself first: what is whole only within the brackets around it would mean something else.
        compile(pattern)?;
        // A comment of the verbose syntax ends with its line.
        let end = if compile(&format!("(?:{pattern})")).is_ok() { "" } else { "\n" };
        let whole = compile(&format!(r"\A(?:{pattern}{end})\z"))?;
        remember(pattern, &whole);
        Ok(Self { pattern: pattern.to_owned(), whole })
    }

    pub fn is_match(&self, text: &str) -> bool {
        self.whole.is_match(text.as_bytes())
    }
}

/// What was compiled already: all keys of one preset have the same, which then share one program.
static COMPILED: Mutex<BTreeMap<String, Regex>> = Mutex::new(BTreeMap::new());

fn known(pattern: &str) -> Option<Regex> {
    COMPILED.lock().ok()?.get(pattern).cloned()
}

fn remember(pattern: &str, whole: &Regex) {
    let Ok(mut compiled) = COMPILED.lock() else { return };
    if compiled.len() >= MAX_REMEMBERED {
        compiled.clear();
    }
    compiled.insert(pattern.to_owned(), whole.clone());
}

impl PartialEq for Whole {
    fn eq(&self, other: &Self) -> bool {
        self.pattern == other.pattern
    }
}

impl Eq for Whole {}

impl std::hash::Hash for Whole {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.pattern.hash(state);
    }
}

impl From<Whole> for String {
    fn from(whole: Whole) -> Self {
        whole.pattern
    }
}

impl TryFrom<String> for Whole {
    type Error = ConstraintError;

    fn try_from(pattern: String) -> Result<Self, ConstraintError> {
        Self::new(&pattern)
    }
}

fn compile(pattern: &str) -> Result<Regex, ConstraintError> {
    // Values are ASCII: without Unicode, `\w` and `.` are small.
    let built = RegexBuilder::new(pattern).unicode(false).size_limit(MAX_COMPILED).nest_limit(MAX_NESTING).build();
    built.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => ConstraintError::TooLarge,
        other => {
            let text = other.to_string();
            let last = text.rsplit("error: ").next().unwrap_or_default().trim();
            ConstraintError::Syntax(last.to_owned())
        }
    })
}

impl From<Constraint> for Written {
    fn from(constraint: Constraint) -> Self {
        match constraint.0 {
            Rule::OneOf(values) => Self::OneOf(values),
            Rule::Matches(whole) => Self::Matches(whole.pattern),
        }
    }
}

impl TryFrom<Written> for Constraint {
    type Error = ConstraintError;

    fn try_from(written: Written) -> Result<Self, ConstraintError> {
        match written {
            Written::OneOf(values) => Ok(Self::one_of(values)),
            Written::Matches(pattern) => Self::matching(&pattern),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_and_large_patterns_are_refused() {
        let error = |pattern: &str| Constraint::matching(pattern).unwrap_err();
        assert_eq!(error("a)(b"), ConstraintError::Syntax("unopened group".into()));
        assert_eq!(error("[a-"), ConstraintError::Syntax("unclosed character class".into()));
        assert_eq!(error("a{1000}{1000}"), ConstraintError::TooLarge);
        assert!(matches!(error(r"\pL"), ConstraintError::Syntax(_)));
        assert!(matches!(error(&"(".repeat(400)), ConstraintError::Syntax(_)));
        assert!(matches!(error(&format!("{}a{}", "(".repeat(400), ")".repeat(400))), ConstraintError::Syntax(_)));
        assert_eq!(error(&"a".repeat(MAX_PATTERN + 1)), ConstraintError::TooLong);
    }

    #[test]
    fn no_pattern_admits_what_is_never_a_value() {
        let any = Constraint::matching("(?s).*").unwrap();
        for value in ["", ".", "..", "a/b", "a\0b", "a b", "a%2fb", "ä", "\n", &"a".repeat(257)] {
            assert!(!any.admits(value), "{value:?}");
        }
        assert!(any.admits("a") && any.admits("...") && any.admits("a@b:c+d"));
    }
}
