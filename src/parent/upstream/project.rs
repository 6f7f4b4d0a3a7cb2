//! From a document to the values of its keys. Pure, and never a rewrite: what is projected is the upstream's own text
//! (`1.50` stays `1.50`, `é` stays an escape).

use serde_json::value::RawValue;
use zeroize::Zeroizing;

use crate::config::{Projection, Step};
use crate::outcome::{Class, Failure, Reason};
use crate::secret::SecretValue;

use super::DocumentBody;
use super::extract::{At, extract};
use super::select::Places;

/// The value that each projection selects, at most `value_size` bytes of JSON, in their order.
///
/// # Errors
/// - gone, `FieldMissing`: not there, or `null` (also when the whole document is);
/// - misconfigured, `ValueTooLarge`;
/// - unavailable, `InvalidBody`: a projection into what is no JSON.
pub(super) fn project(
    body: &DocumentBody,
    projections: &[Projection],
    value_size: u64,
) -> Vec<Result<SecretValue, Failure>> {
    if let Some(text) = body.as_text() {
        let of_text = |projection: &Projection| match projection {
            Projection::Whole | Projection::Returned => within(SecretValue::from_text(text), value_size),
            Projection::Steps(steps) => within(extract(At::Text(text), steps, value_size)?, value_size),
            _ => Err(Failure::unavailable(Reason::InvalidBody)),
        };
        return projections.iter().map(of_text).collect();
    }
    let mut places = Places::new();
    let selected: Vec<Selected<'_>> = projections.iter().map(|projection| select(&mut places, projection)).collect();
    let found = raw(body.bytes()).and_then(|json| places.find(json).map_err(invalid));
    let value = |selected: Selected<'_>| {
        let found = found.as_deref().map_err(|failure| *failure)?;
        let value = match selected {
            Selected::Place(place) => copy(present(found[place])?, value_size)?,
            Selected::Returned(place) => copy(found[place].unwrap_or("null"), value_size)?,
            Selected::Fields(names, places) => fields(found, names, &places, value_size)?,
            Selected::Steps(place, steps) => extract(At::Json(present(found[place])?), steps, value_size)?,
        };
        within(value, value_size)
    };
    selected.into_iter().map(value).collect()
}

/// What a projection selects, by the numbers of the places.
enum Selected<'p> {
    Place(usize),
    /// `null` is a value, too.
    Returned(usize),
    Fields(&'p [String], Vec<usize>),
    /// These, from that place on.
    Steps(usize, &'p [Step]),
}

fn select<'p>(places: &mut Places<'p>, projection: &'p Projection) -> Selected<'p> {
    match projection {
        Projection::Whole => Selected::Place(places.add([])),
        Projection::Returned => Selected::Returned(places.add([])),
        Projection::Pointer(tokens) => Selected::Place(places.add(tokens.iter().map(String::as_str))),
        Projection::Fields(names) => {
            Selected::Fields(names, names.iter().map(|name| places.add([name.as_str()])).collect())
        }
        // The first walk is through the whole document, and is one for all.
        Projection::Steps(steps) => match steps.split_first() {
            Some((Step::Pointer(tokens), rest)) => Selected::Steps(places.add(tokens.iter().map(String::as_str)), rest),
            _ => Selected::Steps(places.add([]), steps),
        },
    }
}

fn within(value: SecretValue, value_size: u64) -> Result<SecretValue, Failure> {
    if value.len() as u64 > value_size { Err(too_large()) } else { Ok(value) }
}

pub(super) fn too_large() -> Failure {
    Failure::misconfigured(Reason::ValueTooLarge)
}

pub(super) fn raw(json: &[u8]) -> Result<&str, Failure> {
    serde_json::from_slice::<&RawValue>(json).map(RawValue::get).map_err(invalid)
}

fn invalid(_: serde_json::Error) -> Failure {
    // The error's text may quote the document.
    Failure::unavailable(Reason::InvalidBody)
}

/// What is missing and what is null are one: there is no value.
pub(super) fn present(found: Option<&str>) -> Result<&str, Failure> {
    found.filter(|text| *text != "null").ok_or_else(missing)
}

pub(super) fn missing() -> Failure {
    Failure::new(Class::Gone, Reason::FieldMissing)
}

pub(super) fn copy(json: &str, value_size: u64) -> Result<SecretValue, Failure> {
    if json.len() as u64 > value_size {
        return Err(too_large());
    }
    Ok(SecretValue::from_json(Zeroizing::new(json.as_bytes().to_vec())))
}

/// The object with just these fields, in this order.
pub(super) fn fields(
    found: &[Option<&str>],
    names: &[String],
    places: &[usize],
    value_size: u64,
) -> Result<SecretValue, Failure> {
    if !found[0].is_some_and(|json| json.starts_with('{')) {
        return Err(missing());
    }
    let found: Vec<&str> = places.iter().map(|place| present(found[*place])).collect::<Result<_, _>>()?;

    let members = found.iter().zip(names).map(|(value, name)| value.len() + name.len() * 6 + 4).sum::<usize>();
    if found.iter().map(|value| value.len() as u64).sum::<u64>() > value_size {
        return Err(too_large());
    }
    // Room for the worst escaping of the names: the buffer never moves, and so never leaves a copy.
    let mut object = Zeroizing::new(Vec::with_capacity(members + 2));
    object.push(b'{');
    for (index, (value, name)) in found.iter().zip(names).enumerate() {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Format;

    const LIMIT: u64 = 1 << 20;

    fn run(body: &str, format: Format, projection: &Projection, limit: u64) -> Result<String, Failure> {
        let body = DocumentBody::parse(Zeroizing::new(body.as_bytes().to_vec()), format)?;
        let value = project(&body, std::slice::from_ref(projection), limit).pop().unwrap()?;
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

    #[test]
    fn many_are_found_together_as_each_is_alone() {
        let doc = r#"{"a":{"b":[1,{"c":null},"x"],"a":1},"n":null,"a":{"b":[10,{"c":2}],"0":3},"list":[[0],[1,2]]}"#;
        let pointer = |text: &str| Projection::Pointer(text.split('/').skip(1).map(str::to_owned).collect());
        let mut all: Vec<Projection> = ["", "/a", "/a/b", "/a/b/0", "/a/b/1/c", "/a/b/2", "/a/a", "/a/0", "/n", "/n/x"]
            .into_iter()
            .chain(["/list/1/0", "/list/1/1", "/list/0/0", "/list/2", "/list/1/1", "/absent/deep/er"])
            .map(pointer)
            .collect();
        all.extend([Projection::Whole, Projection::Fields(vec!["list".into(), "a".into()]), Projection::Whole]);
        all.push(Projection::Fields(vec!["a".into(), "n".into()]));
        let body = DocumentBody::parse(Zeroizing::new(doc.as_bytes().to_vec()), Format::Json).unwrap();
        let together = project(&body, &all, LIMIT);
        assert_eq!(together.len(), all.len());
        for (projection, found) in all.iter().zip(together) {
            let found = found.map(|value| String::from_utf8(value.json().to_vec()).unwrap());
            assert_eq!(found, run(doc, Format::Json, projection, LIMIT), "{projection:?}");
        }
        assert_eq!(run(doc, Format::Json, &pointer("/a/b/1/c"), LIMIT).unwrap(), "2");
        assert_eq!(run(doc, Format::Json, &pointer("/list/1/1"), LIMIT).unwrap(), "2");
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
