//! Steps through what upstreams send, and the rules that look into it.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use hyper::header::HeaderMap;
use serde_json::Value;

use super::super::outcomes::{judge, of_head};
use super::super::project::raw;
use super::{At, extract};
use crate::config::{Coding, OutcomeClass, OutcomeRule, Step, Test};
use crate::fuzz::{self, Start};
use crate::outcome::Reason;
use crate::template::Whole;

/// Words with spaces between them: `/a/b`, `,a,b`, `=value` of the member `a`, `b`, `j`, `e`.
fn steps(spec: &str) -> Vec<Step> {
    let parts = |of: &str, by| of.split(by).map(str::to_owned).collect::<Vec<_>>();
    let step = |word: &str| match word.split_at_checked(1) {
        Some(("/", tokens)) => Step::Pointer(parts(tokens, '/')),
        Some((",", names)) => Step::Fields(parts(names, ',')),
        Some(("=", value)) => Step::Where { member: "a".into(), value: value.into() },
        Some(("b", _)) => Step::Decode(Coding::Base64),
        Some(("e", _)) => Step::DecodeEach,
        _ => Step::Decode(Coding::Json),
    };
    spec.split(' ').take(4).map(step).collect()
}

/// Input: steps; a size; then the document.
#[test]
fn steps_of_extract() {
    let words = &[
        "/a",
        ",a",
        " b",
        " j",
        " e",
        " =b",
        " =true",
        "\"a\":",
        "\"b\"",
        "[",
        "]",
        "{",
        "}",
        "\"e30=\"",
        "\"Yg\"",
        "\"{}\"",
        "\\\"",
        "\\u0061",
        "\\ud83d\\ude00",
        "null",
    ];
    fuzz::run("extract", Start { words, ..Start::default() }, |input| {
        let mut lines = input.splitn(3, |byte| *byte == b'\n');
        let mut line = || String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
        let (steps, limit) = (steps(&line()), line().parse::<u64>().unwrap_or(16));
        let document = lines.next().unwrap_or_default();
        let Ok(json) = raw(document) else { return vec![0] };
        let found = extract(At::Json(json), &steps, u64::MAX);
        match (&found, extract(At::Json(json), &steps, limit)) {
            (Ok(found), Ok(limited)) => assert_eq!(found.json(), limited.json()),
            (Ok(_), Err(why)) => assert_eq!(why.reason, Reason::ValueTooLarge),
            (Err(why), limited) => assert_eq!(limited.err(), Some(*why)),
        }
        // A full parse forgets how numbers are written and what equal names before the last one had, and ends at a depth.
        let number = |step: &Step| matches!(step, Step::Where { value, .. } if value.parse::<f64>().is_ok());
        let each = steps.contains(&Step::DecodeEach) && found.is_err();
        let comparable = document.len() < 170 && !each && !steps.iter().any(number);
        let full = serde_json::from_str::<Value>(json).ok().filter(|_| comparable && !json.contains("$serde_json"));
        if let Some(full) = full {
            let got = found.as_ref().ok().map(|found| serde_json::from_slice::<Value>(found.json()).unwrap());
            let wanted = steps.iter().try_fold(full.clone(), stepped).filter(|value| !value.is_null());
            assert_eq!(got, wanted, "{steps:?} of {full}");
        }
        vec![1 + u8::from(found.is_ok()), 3 + found.map_or(9, |found| found.json()[0])]
    });
}

/// One step, by a full parse.
fn stepped(document: Value, step: &Step) -> Option<Value> {
    let decode = |text: &str| {
        let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
        let bytes = GeneralPurpose::new(&STANDARD, config).decode(text).ok()?;
        String::from_utf8(bytes).ok().map(Value::String)
    };
    let there = |value: &Value| (!value.is_null()).then(|| value.clone());
    match step {
        Step::Pointer(tokens) => {
            let escaped = tokens.iter().map(|token| format!("/{}", token.replace('~', "~0")));
            document.pointer(&escaped.collect::<String>()).and_then(there)
        }
        Step::Fields(names) => {
            let pairs = names.iter().map(|name| Some((name.clone(), there(document.as_object()?.get(name)?)?)));
            Some(Value::Object(pairs.collect::<Option<_>>()?))
        }
        Step::Where { member, value } => {
            let is_it = |element: &&Value| match element.get(member) {
                Some(Value::String(text)) => text == value,
                Some(Value::Bool(truth)) => truth.to_string() == *value,
                _ => false,
            };
            document.as_array()?.iter().find(is_it).cloned()
        }
        Step::Decode(Coding::Base64) => decode(document.as_str()?),
        Step::Decode(Coding::Json) => serde_json::from_str(document.as_str()?).ok(),
        Step::DecodeEach => {
            let pairs =
                document.as_object()?.iter().map(|(name, value)| Some((name.clone(), decode(value.as_str()?)?)));
            Some(Value::Object(pairs.collect::<Option<_>>()?))
        }
    }
}

/// Input: a status; a pointer; a regular expression; then the body.
#[test]
fn rules_of_outcomes() {
    let words =
        &["200", "400", "/a", "/0", ".*", "(", "{", "\"a\":", "\"b\"", "[", "]", "}", "null", "\\u0062", "true", "1.0"];
    fuzz::run("outcomes", Start { words, ..Start::default() }, |input| {
        let mut lines = input.splitn(4, |byte| *byte == b'\n');
        let mut line = || String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
        let (status, pointer, pattern) = (line().parse::<u16>().unwrap_or(400), line(), line());
        let body = lines.next().unwrap_or_default();
        let tokens: Vec<String> = pointer.split('/').skip(1).map(str::to_owned).collect();
        let rule = |test, class| OutcomeRule {
            statuses: vec![status],
            header: None,
            pointer: Some(tokens.clone()),
            test,
            class,
        };
        let mut rules = vec![rule(Test::OneOf(vec![pattern.clone()]), OutcomeClass::Gone)];
        rules.extend(Whole::new(&pattern).ok().map(|whole| rule(Test::Matches(whole), OutcomeClass::Refused)));
        rules.push(rule(Test::There, OutcomeClass::RateLimited));
        let judged = judge(of_head(&rules, status, &HeaderMap::new(), status == 200), Some(body));
        let full = serde_json::from_slice::<Value>(body).ok();
        if let Some(full) = full.filter(|_| !body.windows(11).any(|part| part == b"$serde_json")) {
            let escaped = tokens.iter().map(|token| format!("/{}", token.replace('~', "~0")));
            let there = full.pointer(&escaped.collect::<String>()).is_some_and(|value| !value.is_null());
            assert_eq!(judged.is_some(), there, "{pointer} in {full}");
        }
        vec![judged.map_or(0, |class| 1 + class as u8)]
    });
}
