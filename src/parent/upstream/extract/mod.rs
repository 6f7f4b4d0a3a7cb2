//! The steps of `extract`: from a place in a document through strings that hold base64 or JSON to the value. Pure.
//!
//! Recursion is as deep as the configuration has steps; nothing that an upstream sends makes it deeper. What is decoded on
//! the way is wiped.

#[cfg(test)]
mod fuzz;

use std::ops::ControlFlow;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::project::{copy, fields, missing, present, raw, too_large};
use super::select::Places;
use super::unescape::unescape;
use crate::config::{Coding, Step};
use crate::outcome::{Failure, Reason};
use crate::secret::SecretValue;

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What the steps have come to.
#[derive(Clone, Copy)]
pub(super) enum At<'d> {
    /// The text of some JSON.
    Json(&'d str),
    /// A string that has been taken out of JSON.
    Text(&'d str),
}

/// # Errors
/// Gone, `FieldMissing`: what a step selects is not there, or null. Unavailable, `InvalidBody`: what a step decodes is not
/// what it says. Misconfigured, `ValueTooLarge`.
pub(super) fn extract(at: At<'_>, steps: &[Step], value_size: u64) -> Result<SecretValue, Failure> {
    let Some((step, rest)) = steps.split_first() else { return finish(at, value_size) };
    match (step, at) {
        (Step::Decode(coding), at) => {
            let text = text(at)?;
            match coding {
                Coding::Base64 => extract(At::Text(&decode(&text)?), rest, value_size),
                Coding::Json => extract(At::Json(raw(text.as_bytes())?), rest, value_size),
            }
        }
        // A string has no parts.
        (_, At::Text(_)) => Err(missing()),
        (Step::Pointer(tokens), At::Json(json)) => {
            extract(At::Json(find(json, tokens.iter().map(String::as_str))?), rest, value_size)
        }
        (Step::Fields(names), At::Json(json)) => {
            let mut places = Places::new();
            let of: Vec<usize> = names.iter().map(|name| places.add([name.as_str()])).collect();
            let found = places.find(json).map_err(invalid)?;
            let limit = if rest.is_empty() { value_size } else { u64::MAX };
            let object = fields(&found, names, &of, limit)?;
            if rest.is_empty() {
                return Ok(object);
            }
            extract(At::Json(raw(object.json())?), rest, value_size)
        }
        (Step::Where { member, value }, At::Json(json)) => {
            extract(At::Json(element(json, member, value)?), rest, value_size)
        }
        (Step::DecodeEach, At::Json(json)) => {
            let object = decode_each(json)?;
            extract(At::Json(raw(&object)?), rest, value_size)
        }
    }
}

fn finish(at: At<'_>, value_size: u64) -> Result<SecretValue, Failure> {
    match at {
        At::Json(json) => copy(present(Some(json))?, value_size),
        At::Text(text) if text.len() as u64 + 2 > value_size => Err(too_large()),
        At::Text(text) => Ok(SecretValue::from_text(text)),
    }
}

fn invalid<E>(_: E) -> Failure {
    // The error's text may quote the document.
    Failure::unavailable(Reason::InvalidBody)
}

fn find<'d, 'p>(json: &'d str, tokens: impl IntoIterator<Item = &'p str>) -> Result<&'d str, Failure> {
    let mut places = Places::new();
    let place = places.add(tokens);
    present(places.find(json).map_err(invalid)?[place])
}

/// The content of a string.
fn text(at: At<'_>) -> Result<Zeroizing<String>, Failure> {
    match at {
        At::Text(text) => Ok(Zeroizing::new(text.to_owned())),
        At::Json(json) => unescape(present(Some(json))?).ok_or_else(|| invalid(())),
    }
}

/// What is no text in UTF-8 has no form in JSON: it is invalid.
fn decode(text: &str) -> Result<Zeroizing<String>, Failure> {
    let mut bytes = Zeroizing::new(vec![0; base64::decoded_len_estimate(text.len())]);
    let length = BASE64.decode_slice(text, &mut bytes).map_err(invalid)?;
    let decoded = std::str::from_utf8(bytes.get(..length).unwrap_or_default()).map_err(invalid)?;
    Ok(Zeroizing::new(decoded.to_owned()))
}

/// The first object in a list whose member has this value.
fn element<'d>(json: &'d str, member: &str, value: &str) -> Result<&'d str, Failure> {
    if !json.starts_with('[') {
        return Err(missing());
    }
    let mut found = None;
    let is_it = |element: &'d str| {
        let here = element.starts_with('{').then(|| find(element, [member]).ok()).flatten();
        let equal = here.is_some_and(|here| is_scalar(here, value));
        if equal {
            found = Some(element);
        }
        if equal { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    serde_json::Deserializer::from_str(json).deserialize_seq(Elements(is_it)).map_err(invalid)?;
    found.ok_or_else(missing)
}

/// Whether some JSON is this string, or a number or boolean that is written like it.
pub(super) fn is_scalar(json: &str, value: &str) -> bool {
    match json.as_bytes().first() {
        Some(b'"') => unescape(json).is_some_and(|text| text.as_str() == value),
        Some(b'{' | b'[') | None => false,
        Some(_) => json == value && json != "null",
    }
}

/// Shows each element until one is enough, and skips the others.
struct Elements<F>(F);

impl<'de, F: FnMut(&'de str) -> ControlFlow<()>> Visitor<'de> for Elements<F> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut array: A) -> Result<(), A::Error> {
        while let Some(element) = array.next_element::<&'de RawValue>()? {
            if (self.0)(element.get()).is_break() {
                break;
            }
        }
        while array.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }
}

/// The object with each of its members decoded.
fn decode_each(json: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
    if !json.starts_with('{') {
        return Err(missing());
    }
    let mut members = Vec::new();
    serde_json::Deserializer::from_str(json).deserialize_map(Members(&mut members)).map_err(invalid)?;
    // The longest that the text of what is decoded can become, so that the buffer never moves and leaves a copy.
    let room = members.iter().map(|(name, value)| name.len() + value.len() * 6 + 4).sum::<usize>() + 2;
    let mut object = Zeroizing::new(Vec::with_capacity(room));
    object.push(b'{');
    for (index, (name, value)) in members.iter().enumerate() {
        if index > 0 {
            object.push(b',');
        }
        object.extend_from_slice(name.as_bytes());
        object.push(b':');
        let decoded = decode(&unescape(value).ok_or_else(|| invalid(()))?)?;
        serde_json::to_writer(&mut *object, decoded.as_str()).map_err(invalid)?;
    }
    object.push(b'}');
    Ok(object)
}

/// Takes all members, as they are written.
struct Members<'m, 'd>(&'m mut Vec<(&'d str, &'d str)>);

impl<'de> Visitor<'de> for Members<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some((name, value)) = map.next_entry::<&'de RawValue, &'de RawValue>()? {
            self.0.push((name.get(), value.get()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u64 = 1 << 20;

    fn run(json: &str, steps: &[Step]) -> Result<String, Reason> {
        let value = extract(At::Json(json), steps, LIMIT).map_err(|failure| failure.reason)?;
        Ok(String::from_utf8(value.json().to_vec()).unwrap())
    }

    fn pointer(text: &str) -> Step {
        Step::Pointer(text.split('/').skip(1).map(str::to_owned).collect())
    }

    fn fields(names: &[&str]) -> Step {
        Step::Fields(names.iter().map(|name| (*name).to_owned()).collect())
    }

    fn element(member: &str, value: &str) -> Step {
        Step::Where { member: member.to_owned(), value: value.to_owned() }
    }

    const BASE64: Step = Step::Decode(Coding::Base64);
    const JSON: Step = Step::Decode(Coding::Json);

    #[test]
    fn json_in_a_string_keeps_its_own_text() {
        let document = r#"{"SecretString":"{\"user\":\"a\\u00e9\", \"port\": 1.50}"}"#;
        let at = pointer("/SecretString");
        assert_eq!(run(document, &[at.clone(), JSON, fields(&["port"])]).unwrap(), r#"{"port":1.50}"#);
        assert_eq!(run(document, &[at.clone(), JSON, pointer("/user")]).unwrap(), r#""a\u00e9""#);
        assert_eq!(run(document, &[at.clone(), JSON, pointer("/x")]), Err(Reason::FieldMissing));
        assert_eq!(run(document, &[at, pointer("/user")]), Err(Reason::FieldMissing), "a string has no parts");
        for bad in [r#""""#, r#""x""#, r#""{\"a\":1""#, r#""{} {}""#, "5", "{}", r#""\ud800""#] {
            assert_eq!(run(bad, &[JSON, fields(&["a"])]), Err(Reason::InvalidBody), "{bad}");
        }
        assert_eq!(run("null", &[JSON]), Err(Reason::FieldMissing));
        assert_eq!(run(r#""null""#, &[JSON]), Err(Reason::FieldMissing));
    }

    #[test]
    fn base64_is_text_or_invalid() {
        assert_eq!(run(r#""cGEiw6k=""#, &[BASE64]).unwrap(), r#""pa\"é""#);
        assert_eq!(run(r#""cGEiw6k""#, &[BASE64]).unwrap(), r#""pa\"é""#, "without its padding");
        assert_eq!(run(r#""cG\u0045iw6k=""#, &[BASE64]).unwrap(), r#""pa\"é""#);
        assert_eq!(run(r#""""#, &[BASE64]).unwrap(), r#""""#);
        assert_eq!(run(r#""eyJhIjoxfQ==""#, &[BASE64, JSON, fields(&["a"])]).unwrap(), r#"{"a":1}"#);
        for bad in [r#""cGE i""#, r#""_-8=""#, r#""/w==""#, r#""c""#, r#""cA==x""#, "5", "[]"] {
            assert_eq!(run(bad, &[BASE64]), Err(Reason::InvalidBody), "{bad}: no base64, or no UTF-8");
        }
    }

    #[test]
    fn the_first_element_with_the_member_counts() {
        let list = r#"[1, {"label":null,"value":0}, {"id":5,"label":"a","value":"x"}, {"label":"a","value":"y"}, {"label":true}]"#;
        let value = |member: &str, value: &str| run(list, &[element(member, value), pointer("/value")]);
        assert_eq!(value("label", "a").unwrap(), r#""x""#);
        assert_eq!(value("id", "5").unwrap(), r#""x""#);
        for (member, of) in [("label", "b"), ("label", "null"), ("label", "true"), ("id", "5.0"), ("none", "a")] {
            assert_eq!(value(member, of), Err(Reason::FieldMissing), "{member} {of}");
        }
        assert_eq!(run(r#"{"label":"a"}"#, &[element("label", "a")]), Err(Reason::FieldMissing), "no list");
        let escaped = r#"[{"\u0061":"\u0062","value":1}]"#;
        assert_eq!(run(escaped, &[element("a", "b"), pointer("/value")]).unwrap(), "1");
    }

    #[test]
    fn each_member_is_decoded() {
        let data = r#"{"user":"YQ==","password":"IiI=","tls.crt":"Yg"}"#;
        let each = || Step::DecodeEach;
        assert_eq!(run(data, &[each()]).unwrap(), r#"{"user":"a","password":"\"\"","tls.crt":"b"}"#);
        assert_eq!(run(data, &[fields(&["tls.crt"]), each()]).unwrap(), r#"{"tls.crt":"b"}"#);
        assert_eq!(run(r#"{"a":null}"#, &[each()]), Err(Reason::InvalidBody));
        assert_eq!(run("[]", &[each()]), Err(Reason::FieldMissing));
    }

    #[test]
    fn sizes_and_depth_are_bounded() {
        let long = format!("\"{}\"", "YWFh".repeat(400_000));
        assert_eq!(run(&long, &[BASE64]), Err(Reason::ValueTooLarge));
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        let inside = serde_json::to_string(&format!("{{\"a\":{deep}}}")).unwrap();
        assert_eq!(run(&inside, &[JSON, fields(&["a"])]).unwrap().len(), deep.len() + 6);
        assert_eq!(run(&deep, &[element("a", "b")]), Err(Reason::FieldMissing));
    }
}
