//! Texts of a source in which parameters stand, and how a value is put there: encoded, so that it stays in its place.

use std::cell::Cell;

use super::diagnostic::{quoted, similar};
use super::table::Bad;
use crate::template::is_parameter_name;

/// The parameters of a key while its source is read.
pub(super) struct Scope<'a> {
    names: &'a [String],
    used: Vec<Cell<bool>>,
}

/// Literal pieces and parameters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Text(Vec<Piece>);

/// A part of a text.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Piece {
    Literal(String),
    /// Its place among the parameters of the key, or among the secrets of a login.
    Parameter(usize),
}

/// How a value is written, so that it means itself there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Encoding {
    /// Nothing has a meaning there.
    Plain,
    /// Within a segment of a path, a query, or a form (RFC 3986 section 2.3).
    Percent,
    /// Within a string of JSON.
    Json,
}

impl<'a> Scope<'a> {
    pub(super) fn new(names: &'a [String]) -> Self {
        Self { names, used: vec![Cell::new(false); names.len()] }
    }

    pub(super) fn names(&self) -> &'a [String] {
        self.names
    }

    /// Those that no text has named so far.
    pub(super) fn unused(&self) -> impl Iterator<Item = &'a str> {
        self.names.iter().zip(&self.used).filter(|(_, used)| !used.get()).map(|(name, _)| name.as_str())
    }

    /// The first parameter that a text names where none may stand.
    pub(super) fn named_in(&self, text: &str) -> Option<&'a str> {
        self.names.iter().find(|name| text.contains(&format!("{{{name}}}"))).map(String::as_str)
    }

    fn find(&self, name: &str) -> Option<usize> {
        let at = self.names.iter().position(|known| known == name)?;
        self.used[at].set(true);
        Some(at)
    }

    fn unknown(&self, setting: &str, name: &str) -> Bad {
        let bad = Bad::new(format!("`{setting}` names a parameter that the key does not have: {}", quoted(name)));
        match similar(name, self.names.iter().map(String::as_str)) {
            Some(meant) => bad.help(format!("did you mean {{{meant}}}?")),
            None => bad.help(format!("the key has {}", shown(self.names))),
        }
    }
}

/// Names as they stand in a key.
pub(super) fn shown(names: &[String]) -> String {
    let braced: Vec<String> = names.iter().map(|name| format!("{{{name}}}")).collect();
    braced.join(", ")
}

impl Text {
    /// No parameter stands in it.
    pub(super) fn literal(text: &str) -> Self {
        Self(vec![Piece::Literal(text.to_owned())])
    }

    /// Every brace is of a parameter.
    pub(super) fn strict(setting: &str, text: &str, scope: &Scope<'_>) -> Result<Self, Bad> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let named = rest[at..].strip_prefix('{').and_then(|after| after.split_once('}'));
            let Some((name, after)) = named else {
                return Err(Bad::new(format!("`{setting}` has a brace without another one")));
            };
            let parameter = scope.find(name).ok_or_else(|| scope.unknown(setting, name))?;
            pieces.push(Piece::Literal(rest[..at].to_owned()));
            pieces.push(Piece::Parameter(parameter));
            rest = after;
        }
        pieces.push(Piece::Literal(rest.to_owned()));
        Ok(Self(pieces))
    }

    /// For texts where braces have a meaning of their own: only a parameter's name in them is one. What is much like
    /// one is a mistake.
    pub(super) fn lenient(setting: &str, text: &str, scope: &Scope<'_>) -> Result<Self, Bad> {
        let mut pieces = Vec::new();
        let (mut from, mut at) = (0, 0);
        while let Some(brace) = text[at..].find('{').map(|found| at + found) {
            at = brace + 1;
            let Some(name) = text[at..].split_once('}').map(|(name, _)| name) else { continue };
            if !is_parameter_name(name) || scope.names.is_empty() {
                continue;
            }
            match scope.find(name) {
                Some(parameter) => {
                    pieces.push(Piece::Literal(text[from..brace].to_owned()));
                    pieces.push(Piece::Parameter(parameter));
                    at += name.len() + 1;
                    from = at;
                }
                None if similar(name, scope.names.iter().map(String::as_str)).is_some() => {
                    let bad = scope.unknown(setting, name);
                    let help = bad.help.unwrap_or_default() + " or write the braces with a space inside";
                    return Err(Bad { title: bad.title, help: Some(help) });
                }
                None => {}
            }
        }
        pieces.push(Piece::Literal(text[from..].to_owned()));
        Ok(Self(pieces))
    }

    /// For who puts values into it that must leave no copy.
    pub fn pieces(&self) -> &[Piece] {
        &self.0
    }

    /// As it was written, if its parameters have these names.
    pub(super) fn named<T>(&self, names: &[(String, T)]) -> String {
        let names: Vec<String> = names.iter().map(|(name, _)| format!("{{{name}}}")).collect();
        self.fill(&names, Encoding::Plain)
    }

    pub(super) fn has_parameters(&self) -> bool {
        self.0.iter().any(|piece| matches!(piece, Piece::Parameter(_)))
    }

    pub(super) fn literals(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|piece| match piece {
            Piece::Literal(text) => Some(text.as_str()),
            Piece::Parameter(_) => None,
        })
    }

    /// The text again, with what is literal in it encoded and parameters as they stand in a key.
    pub(super) fn write(&self, names: &[String], encode: impl Fn(&str) -> String) -> String {
        let write = |piece: &Piece| match piece {
            Piece::Literal(text) => encode(text),
            Piece::Parameter(at) => format!("{{{}}}", names.get(*at).map_or("", String::as_str)),
        };
        self.0.iter().map(write).collect()
    }

    /// With a value in the place of each parameter.
    pub(super) fn fill(&self, values: &[String], encoding: Encoding) -> String {
        let mut filled = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Literal(text) => filled.push_str(text),
                Piece::Parameter(at) => encoding.write(values.get(*at).map_or("", String::as_str), &mut filled),
            }
        }
        filled
    }
}

impl Encoding {
    pub(super) fn write(self, value: &str, to: &mut String) {
        match self {
            Self::Plain => to.push_str(value),
            Self::Percent => value.bytes().for_each(|byte| match byte {
                b'-' | b'.' | b'_' | b'~' => to.push(char::from(byte)),
                _ if byte.is_ascii_alphanumeric() => to.push(char::from(byte)),
                _ => to.push_str(&format!("%{byte:02X}")),
            }),
            Self::Json => {
                // A string always serialises; without its quotes it is what stands between two.
                let quoted = serde_json::to_string(value).unwrap_or_default();
                to.push_str(quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn only_a_parameter_may_be_in_braces_where_none_have_a_meaning() {
        let names = names(&["app", "var"]);
        let scope = Scope::new(&names);
        let text = Text::strict("url", "/apps/{app}/x", &scope).ok().unwrap();
        assert_eq!(text.fill(&["a".into(), "b".into()], Encoding::Percent), "/apps/a/x");
        assert_eq!(scope.unused().collect::<Vec<_>>(), ["var"]);
        for bad in ["{", "}", "{}", "{ap}", "{app", "a}b{app}", "{{app}}"] {
            assert!(Text::strict("url", bad, &scope).is_err(), "{bad}");
        }
        let unknown = Text::strict("url", "/{ap}", &scope).err().unwrap();
        assert_eq!(unknown.help.as_deref(), Some("did you mean {app}?"));
    }

    #[test]
    fn other_braces_mean_themselves_where_braces_have_a_meaning() {
        let names = names(&["app"]);
        let scope = Scope::new(&names);
        let fill =
            |text: &str| Text::lenient("body", text, &scope).map(|text| text.fill(&["v".into()], Encoding::Json));
        assert_eq!(fill("{\"a\":{\"b\":\"{app}\"}}").ok().unwrap(), "{\"a\":{\"b\":\"v\"}}");
        assert_eq!(fill("{user} { app } {{app}").ok().unwrap(), "{user} { app } {v");
        assert!(fill("{apps}").is_err());
        let none = Scope::new(&[]);
        assert!(!Text::lenient("body", "{app}", &none).ok().unwrap().has_parameters());
    }

    /// The bytes that the form of a URL gives a meaning to, and what ends a string of JSON.
    const MEANING: &str = "/?#[]@!$&'()*+,;=:% \"\\{}";

    proptest! {
        #[test]
        fn a_percent_encoded_value_has_no_byte_with_a_meaning_and_comes_back(value in any::<String>()) {
            let mut encoded = String::new();
            Encoding::Percent.write(&value, &mut encoded);
            prop_assert!(encoded.replace('%', "").bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b)));
            prop_assert!(!encoded.contains(|c: char| c != '%' && MEANING.contains(c)));
            let mut decoded = Vec::new();
            let mut bytes = encoded.bytes();
            while let Some(byte) = bytes.next() {
                decoded.push(if byte == b'%' {
                    let hex: String = [bytes.next().unwrap(), bytes.next().unwrap()].map(char::from).iter().collect();
                    u8::from_str_radix(&hex, 16).unwrap()
                } else {
                    byte
                });
            }
            prop_assert_eq!(decoded, value.into_bytes());
        }

        #[test]
        fn a_value_in_a_string_of_json_is_that_string(value in any::<String>()) {
            let names = names(&["v"]);
            let text = Text::lenient("body", "{\"a\": \"<{v}>\", \"b\": 1}", &Scope::new(&names)).ok().unwrap();
            let body = text.fill(std::slice::from_ref(&value), Encoding::Json);
            let parsed: serde_json::Value = serde_json::from_str(&body).unwrap();
            prop_assert_eq!(parsed, serde_json::json!({ "a": format!("<{value}>"), "b": 1 }));
        }
    }
}
