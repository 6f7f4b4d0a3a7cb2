//! The arguments of a call, in the one spelling that equal arguments share. Pure, and the same code in both roles.
//!
//! Never trusts that something is canonical already: whoever has bytes reads them here.
#![forbid(unsafe_code)]

mod canonical;
#[cfg(test)]
mod fuzz;
mod query;

pub use canonical::{Fault, MAX_DEPTH};
pub use query::percent_decoded;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::digest;
use zeroize::Zeroizing;

/// What a service method is called with: `{"args":[…],"kwargs":{…}}` without white space, names sorted. Wiped when dropped.
pub struct Arguments {
    json: Zeroizing<String>,
    counted: Vec<Arc<Tally>>,
}

/// Bytes of arguments in memory.
#[derive(Default)]
pub struct Tally(AtomicU64);

impl Tally {
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub fn add(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn take_off(&self, bytes: u64) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Arguments {
    fn drop(&mut self) {
        self.counted.iter().for_each(|tally| tally.take_off(self.json.len() as u64));
    }
}

/// Of no positional and no named arguments.
const NO_ARGS: &str = "[]";
const NO_KWARGS: &str = "{}";

impl Arguments {
    /// Reads an object of which `args`, a list, and `kwargs`, an object, may both be missing.
    ///
    /// # Errors
    /// It is something else, or no JSON that has one meaning.
    pub fn parse(json: &[u8]) -> Result<Self, Fault> {
        let text = std::str::from_utf8(json).map_err(|_| Fault::Syntax { at: 0 })?;
        let members = canonical::members(text)?;
        let (mut args, mut kwargs) = (None, None);
        for [name, value] in members {
            match name.as_str() {
                "\"args\"" => args = Some(value),
                "\"kwargs\"" => kwargs = Some(value),
                _ => return Err(Fault::Member),
            }
        }
        Self::of(args.as_ref().map(|args| args.as_str()), kwargs.as_ref().map(|kwargs| kwargs.as_str()))
    }

    /// The same from two texts.
    ///
    /// # Errors
    /// The same.
    pub fn from_parts(args: Option<&str>, kwargs: Option<&str>) -> Result<Self, Fault> {
        let args = args.map(canonical::value).transpose()?;
        let kwargs = kwargs.map(canonical::value).transpose()?;
        Self::of(args.as_ref().map(|args| args.as_str()), kwargs.as_ref().map(|kwargs| kwargs.as_str()))
    }

    /// From the query of a URL: `args` and `kwargs`, each percent-encoded and at most once.
    ///
    /// # Errors
    /// Another name, one of them twice, or a wrong encoding; else as [`parse`](Self::parse).
    pub fn from_query(query: &str) -> Result<Self, Fault> {
        let [args, kwargs] = query::parts(query)?;
        Self::from_parts(args.as_ref().map(|args| args.as_str()), kwargs.as_ref().map(|kwargs| kwargs.as_str()))
    }

    fn of(args: Option<&str>, kwargs: Option<&str>) -> Result<Self, Fault> {
        let (args, kwargs) = (args.unwrap_or(NO_ARGS), kwargs.unwrap_or(NO_KWARGS));
        if !args.starts_with('[') {
            return Err(Fault::Args);
        }
        if !kwargs.starts_with('{') {
            return Err(Fault::Kwargs);
        }
        // Exactly as long as it gets: a buffer that moves leaves a copy behind.
        let mut json = Zeroizing::new(String::with_capacity(args.len() + kwargs.len() + 19));
        for part in ["{\"args\":", args, ",\"kwargs\":", kwargs, "}"] {
            json.push_str(part);
        }
        Ok(Self { json, counted: Vec::new() })
    }

    /// Counts in these tallies until it is dropped.
    pub fn counted_in(mut self, tallies: &[&Arc<Tally>]) -> Self {
        for tally in tallies {
            tally.add(self.json.len() as u64);
            self.counted.push((*tally).clone());
        }
        self
    }

    /// The canonical JSON, as it goes to the service.
    pub fn json(&self) -> &str {
        &self.json
    }

    /// SHA-256 of the canonical JSON: what an entry is told by.
    pub fn digest(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest::digest(&digest::SHA256, self.json.as_bytes()).as_ref());
        bytes
    }
}

/// Arguments that go along with something that they are no part of: all of these are equal.
#[derive(Clone, Default)]
pub struct Carried(Option<Arc<Arguments>>);

impl Carried {
    pub fn new(arguments: Arc<Arguments>) -> Self {
        Self(Some(arguments))
    }

    pub fn get(&self) -> Option<&Arc<Arguments>> {
        self.0.as_ref()
    }
}

impl PartialEq for Carried {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Carried {}

impl Hash for Carried {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

impl fmt::Debug for Carried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static_assertions::assert_not_impl_any!(Arguments: std::fmt::Debug, std::fmt::Display, Clone, serde::Serialize);

    fn parsed(text: &str) -> Result<String, Fault> {
        Arguments::parse(text.as_bytes()).map(|arguments| arguments.json().to_owned())
    }

    #[test]
    fn equal_arguments_have_one_spelling() {
        let one = r#"{"args":[1,"a",{"x":null,"y":[true,false]}],"kwargs":{"a":1,"b":{"c":2,"d":3}}}"#;
        for other in [
            one,
            " {\"kwargs\" : {\"b\":{\"d\":3, \"c\":2},\"a\":1}, \"args\" :\n[1,\t\"a\", {\"y\": [true , false],\"x\":null}] }\r\n",
            r#"{"args":[1,"\u0061",{"\u0078":null,"y":[true,false]}],"kwargs":{"a":1,"b":{"c":2,"d":3}}}"#,
        ] {
            assert_eq!(parsed(other).as_deref(), Ok(one), "{other}");
        }
        let args = r#"[1,"a",{"y":[true,false],"x":null}]"#;
        let two = Arguments::from_parts(Some(args), Some(r#"{"b":{"d":3,"c":2},"a":1}"#)).unwrap();
        assert_eq!(two.json(), one);
        assert_eq!(two.digest(), Arguments::parse(one.as_bytes()).unwrap().digest());
    }

    #[test]
    fn what_is_missing_is_empty() {
        let nothing = r#"{"args":[],"kwargs":{}}"#;
        for text in ["{}", r#"{"args":[]}"#, r#"{"kwargs":{}}"#] {
            assert_eq!(parsed(text).as_deref(), Ok(nothing));
        }
        assert_eq!(Arguments::from_query("").unwrap().json(), nothing);
        assert_eq!(Arguments::from_query("args=%5B%22a+b%22%5D").unwrap().json(), r#"{"args":["a b"],"kwargs":{}}"#);
    }

    #[test]
    fn numbers_and_characters_stay_as_they_are_written() {
        let odd = r#"{"args":[1.50,1E+2,-0,123456789012345678901234567890,"é\"\\\n\u0001/"],"kwargs":{}}"#;
        assert_eq!(parsed(odd).as_deref(), Ok(odd));
        assert_ne!(parsed(r#"{"args":[1]}"#), parsed(r#"{"args":[1.0]}"#));
        assert_eq!(
            parsed(r#"{"args":["\u00e9\/\u000a\ud83d\ude00"]}"#).as_deref(),
            Ok(r#"{"args":["é/\n😀"],"kwargs":{}}"#)
        );
    }

    #[test]
    fn what_is_no_call_is_refused() {
        for (text, fault) in [
            ("", Fault::Syntax { at: 0 }),
            ("[]", Fault::NoObject),
            ("null", Fault::NoObject),
            (r#"{"args":{}}"#, Fault::Args),
            (r#"{"kwargs":[]}"#, Fault::Kwargs),
            (r#"{"args":[],"context":{}}"#, Fault::Member),
            (r#"{"args":[],"args":[]}"#, Fault::Twice),
            (r#"{"kwargs":{"a":1,"\u0061":2}}"#, Fault::Twice),
            (r#"{"args":["\ud800"]}"#, Fault::Syntax { at: 9 }),
            (r#"{"args":[NaN]}"#, Fault::Syntax { at: 9 }),
            (r#"{"args":[01]}"#, Fault::Syntax { at: 10 }),
            (r#"{"args":[1,]}"#, Fault::Syntax { at: 11 }),
            (r#"{"args":[1.]}"#, Fault::Syntax { at: 11 }),
            ("{\"args\":[\"a\nb\"]}", Fault::Syntax { at: 9 }),
            (r#"{"args":[]} x"#, Fault::Syntax { at: 12 }),
            (r#"{"args":["#, Fault::Syntax { at: 9 }),
        ] {
            assert_eq!(parsed(text), Err(fault), "{text}");
        }
        assert_eq!(Arguments::parse(b"{\"args\":[\"\xff\"]}").err(), Some(Fault::Syntax { at: 0 }));
        for query in ["args", "args=[]&args=[]", "x=1", "args=%5", "args=%ff", "args=", "&", "kwargs=[]"] {
            assert!(Arguments::from_query(query).is_err(), "{query}");
        }
    }

    #[test]
    fn nesting_has_an_end() {
        let nested = |depth: usize| format!("{{\"args\":[{}{}]}}", "[".repeat(depth), "]".repeat(depth));
        // The object and its list are levels, too.
        assert!(parsed(&nested(MAX_DEPTH - 2)).is_ok());
        assert_eq!(parsed(&nested(MAX_DEPTH - 1)), Err(Fault::TooDeep));
        assert_eq!(parsed(&nested(1_000_000)), Err(Fault::TooDeep));
    }
}
