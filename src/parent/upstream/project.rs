//! From a document to a value. Pure, and never a rewrite: what is projected is the upstream's own text
//! (`1.50` stays `1.50`, `é` stays an escape).
//!
//! Each level is walked by skipping over its members, so neither nesting nor length costs stack.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use crate::config::Projection;
use crate::outcome::{Class, Failure, Reason};
use crate::secret::SecretValue;

use super::DocumentBody;

/// The value that `projection` selects, at most `value_size` bytes of JSON.
///
/// # Errors
/// - gone, `FieldMissing`: not there, or `null` (also when the whole document is);
/// - misconfigured, `ValueTooLarge`;
/// - unavailable, `InvalidBody`: a projection into what is no JSON.
pub fn project(body: &DocumentBody, projection: &Projection, value_size: u64) -> Result<SecretValue, Failure> {
    let value = match (body.as_text(), projection) {
        (Some(text), Projection::Whole) => SecretValue::from_text(text),
        (Some(_), _) => return Err(Failure::unavailable(Reason::InvalidBody)),
        (None, Projection::Whole) => copy(present(Some(raw(body.bytes())?))?, value_size)?,
        (None, Projection::Pointer(tokens)) => {
            let mut at = raw(body.bytes())?;
            for token in tokens {
                at = present(step(at, token)?)?;
            }
            copy(present(Some(at))?, value_size)?
        }
        (None, Projection::Fields(names)) => fields(raw(body.bytes())?, names, value_size)?,
    };
    if value.len() as u64 > value_size { Err(too_large()) } else { Ok(value) }
}

fn too_large() -> Failure {
    Failure::misconfigured(Reason::ValueTooLarge)
}

fn raw(json: &[u8]) -> Result<&str, Failure> {
    serde_json::from_slice::<&RawValue>(json).map(RawValue::get).map_err(invalid)
}

fn invalid(_: serde_json::Error) -> Failure {
    // The error's text may quote the document.
    Failure::unavailable(Reason::InvalidBody)
}

/// What is missing and what is null are one: there is no value.
fn present(found: Option<&str>) -> Result<&str, Failure> {
    found.filter(|text| *text != "null").ok_or(Failure::new(Class::Gone, Reason::FieldMissing))
}

fn copy(json: &str, value_size: u64) -> Result<SecretValue, Failure> {
    if json.len() as u64 > value_size {
        return Err(too_large());
    }
    Ok(SecretValue::from_json(Zeroizing::new(json.as_bytes().to_vec())))
}

/// One step of a JSON pointer (RFC 6901 section 4).
fn step<'a>(json: &'a str, token: &str) -> Result<Option<&'a str>, Failure> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    match json.as_bytes().first() {
        Some(b'{') => {
            let names = [token];
            let found = deserializer.deserialize_map(Members(&names)).map_err(invalid)?;
            Ok(found.into_iter().next().flatten())
        }
        Some(b'[') => match array_index(token) {
            Some(index) => deserializer.deserialize_seq(Element(index)).map_err(invalid),
            None => Ok(None),
        },
        _ => Ok(None),
    }
}

/// `0`, or digits without a leading zero. `-` is the element after the last: there is none.
fn array_index(token: &str) -> Option<usize> {
    let digits = !token.is_empty() && token.bytes().all(|b| b.is_ascii_digit());
    if !digits || (token.len() > 1 && token.starts_with('0')) { None } else { token.parse().ok() }
}

/// The object with just these fields, in this order.
fn fields(json: &str, names: &[String], value_size: u64) -> Result<SecretValue, Failure> {
    if !json.starts_with('{') {
        return Err(Failure::new(Class::Gone, Reason::FieldMissing));
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let found = serde_json::Deserializer::from_str(json).deserialize_map(Members(&names)).map_err(invalid)?;
    let found: Vec<&str> = found.into_iter().map(present).collect::<Result<_, _>>()?;

    let members = found.iter().zip(&names).map(|(value, name)| value.len() + name.len() * 6 + 4).sum::<usize>();
    if found.iter().map(|value| value.len() as u64).sum::<u64>() > value_size {
        return Err(too_large());
    }
    // Room for the worst escaping of the names: the buffer never moves, and so never leaves a copy.
    let mut object = Zeroizing::new(Vec::with_capacity(members + 2));
    object.push(b'{');
    for (index, (value, name)) in found.iter().zip(&names).enumerate() {
        if index > 0 {
            object.push(b',');
        }
        serde_json::to_writer(&mut *object, name).map_err(invalid)?;
        object.push(b':');
        object.extend_from_slice(value.as_bytes());
    }
    object.push(b'}');
    Ok(SecretValue::from_json(object))
}

/// Finds these members of an object; of equal names, the last.
struct Members<'n>(&'n [&'n str]);

impl<'de> Visitor<'de> for Members<'_> {
    type Value = Vec<Option<&'de str>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = vec![None; self.0.len()];
        while let Some(wanted) = map.next_key_seed(Position(self.0))? {
            match wanted {
                Some(position) => {
                    let value = map.next_value::<&'de RawValue>()?.get();
                    let name = self.0[position];
                    for (slot, _) in found.iter_mut().zip(self.0).filter(|(_, other)| **other == name) {
                        *slot = Some(value);
                    }
                }
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(found)
    }
}

/// Where a member's name stands in a list, if it does.
struct Position<'n>(&'n [&'n str]);

impl<'de> DeserializeSeed<'de> for Position<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        // As bytes: a name with a lone surrogate escape is legal JSON and no `str`; it matches nothing.
        deserializer.deserialize_bytes(self)
    }
}

impl Visitor<'_> for Position<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_bytes<E: serde::de::Error>(self, name: &[u8]) -> Result<Self::Value, E> {
        Ok(self.0.iter().position(|wanted| wanted.as_bytes() == name))
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Self::Value, E> {
        self.visit_bytes(name.as_bytes())
    }
}

/// Finds one element of an array.
struct Element(usize);

impl<'de> Visitor<'de> for Element {
    type Value = Option<&'de str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        let mut index = 0;
        loop {
            if index == self.0 {
                let Some(value) = array.next_element::<&'de RawValue>()? else { return Ok(None) };
                found = Some(value.get());
            } else if array.next_element::<IgnoredAny>()?.is_none() {
                return Ok(found);
            }
            index += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Format;

    const LIMIT: u64 = 1 << 20;

    fn run(body: &str, format: Format, projection: &Projection, limit: u64) -> Result<String, Failure> {
        let body = DocumentBody::parse(Zeroizing::new(body.as_bytes().to_vec()), format)?;
        let value = project(&body, projection, limit)?;
        Ok(String::from_utf8(value.json().to_vec()).unwrap())
    }

    fn whole(body: &str) -> Result<String, Failure> {
        run(body, Format::Json, &Projection::Whole, LIMIT)
    }

    fn picked(body: &str, names: &[&str]) -> Result<String, Failure> {
        let names = names.iter().map(|n| (*n).to_owned()).collect();
        run(body, Format::Json, &Projection::Fields(names), LIMIT)
    }

    fn at(body: &str, tokens: &[&str]) -> Result<String, Failure> {
        let tokens = tokens.iter().map(|n| (*n).to_owned()).collect();
        run(body, Format::Json, &Projection::Pointer(tokens), LIMIT)
    }

    fn missing() -> Failure {
        Failure::new(Class::Gone, Reason::FieldMissing)
    }

    #[test]
    fn json_passes_as_the_upstream_wrote_it() {
        let odd = r#"{"n":1.50,"e":1E+2,"u":"\u00e9\/","big":123456789012345678901234567890,"a" : [ 1 ]}"#;
        assert_eq!(whole(&format!("\n {odd} \n")).unwrap(), odd);
        assert_eq!(picked(odd, &["n"]).unwrap(), r#"{"n":1.50}"#);
        assert_eq!(at(odd, &["u"]).unwrap(), r#""\u00e9\/""#);
        assert_eq!(at(odd, &["big"]).unwrap(), "123456789012345678901234567890");
        assert_eq!(picked(odd, &["a", "e"]).unwrap(), r#"{"a":[ 1 ],"e":1E+2}"#);
    }

    #[test]
    fn the_last_of_equal_names_wins() {
        assert_eq!(at(r#"{"a":1,"a":2}"#, &["a"]).unwrap(), "2");
        assert_eq!(picked(r#"{"a":1,"\u0061":2}"#, &["a"]).unwrap(), r#"{"a":2}"#);
        assert_eq!(picked(r#"{"a":1,"a":null}"#, &["a"]).unwrap_err(), missing());
    }

    #[test]
    fn null_and_absent_are_missing() {
        assert_eq!(whole(" null ").unwrap_err(), missing());
        assert_eq!(picked(r#"{"a":null}"#, &["a"]).unwrap_err(), missing());
        assert_eq!(picked(r#"{"a":1}"#, &["a", "b"]).unwrap_err(), missing());
        assert_eq!(picked("[1]", &["a"]).unwrap_err(), missing());
        assert_eq!(picked("{}", &["a"]).unwrap_err(), missing());
        assert_eq!(at(r#"{"a":{"b":null}}"#, &["a", "b"]).unwrap_err(), missing());
        assert_eq!(at("null", &[]).unwrap_err(), missing());
        assert_eq!(at("3", &["a"]).unwrap_err(), missing());
    }

    #[test]
    fn pointers_follow_rfc_6901() {
        let doc = r#"{"foo":["bar","baz"],"":0,"a/b":1,"m~n":8,"x":{"0":"zero"}}"#;
        assert_eq!(at(doc, &["foo", "0"]).unwrap(), r#""bar""#);
        assert_eq!(at(doc, &["foo", "1"]).unwrap(), r#""baz""#);
        assert_eq!(at(doc, &[""]).unwrap(), "0");
        assert_eq!(at(doc, &["a/b"]).unwrap(), "1");
        assert_eq!(at(doc, &["m~n"]).unwrap(), "8");
        assert_eq!(at(doc, &["x", "0"]).unwrap(), r#""zero""#);
        assert_eq!(at(doc, &[]).unwrap(), doc);
        for index in ["2", "-", "-1", "00", "01", "+1", "", "1e0", "99999999999999999999999"] {
            assert_eq!(at(doc, &["foo", index]).unwrap_err(), missing(), "{index}");
        }
    }

    #[test]
    fn names_are_written_as_json() {
        assert_eq!(picked(r#"{"a\"b":1}"#, &["a\"b"]).unwrap(), r#"{"a\"b":1}"#);
        assert_eq!(picked(r#"{"\ud800":1,"k":2}"#, &["k"]).unwrap(), r#"{"k":2}"#);
    }

    #[test]
    fn text_becomes_one_string() {
        assert_eq!(run("a\"b\n", Format::Text, &Projection::Whole, LIMIT).unwrap(), r#""a\"b\n""#);
    }

    #[test]
    fn a_value_over_its_size_is_misconfigured() {
        let too_large = Failure::misconfigured(Reason::ValueTooLarge);
        let run = |projection| run(r#"{"a":"0123456789"}"#, Format::Json, &projection, 12);
        assert_eq!(run(Projection::Pointer(vec!["a".into()])).unwrap(), "\"0123456789\"");
        assert_eq!(run(Projection::Whole).unwrap_err(), too_large);
        assert_eq!(run(Projection::Fields(vec!["a".into()])).unwrap_err(), too_large);
    }

    #[test]
    fn depth_costs_no_stack() {
        let deep = 200_000;
        let nested = format!("{}1{}", "[".repeat(deep), "]".repeat(deep));
        let doc = format!(r#"{{"skip":{nested},"a":{nested}}}"#);
        assert_eq!(at(&doc, &["a"]).unwrap(), nested);
        assert_eq!(at(&nested, &["0"; 100]).unwrap().len(), nested.len() - 200);
    }

    proptest::proptest! {
        /// Whatever serde_json understands, the pointer finds the same value, and fields keep it equal.
        #[test]
        fn agrees_with_a_full_parse(text in "[a-c0-2:,\"{}\\[\\] ]{0,40}", key in "[a-c]") {
            if let Ok(parsed) = serde_json::from_str::<serde_json::Value>(&text) {
                let want = parsed.get(&key).filter(|v| !v.is_null());
                let got = at(&text, &[&key]).ok().map(|v| serde_json::from_str::<serde_json::Value>(&v).unwrap());
                proptest::prop_assert_eq!(got.as_ref(), want);
            }
        }
    }
}
