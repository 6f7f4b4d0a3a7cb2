//! Arguments as peers and the worker send them. Input: JSON, or a query behind a `?`.

use serde_json::{Map, Value};

use super::{Arguments, Fault};
use crate::fuzz::{self, Start};

/// What the arguments are to a full parse, with what is missing.
fn meant(full: Value) -> Option<Value> {
    let Value::Object(given) = full else { return None };
    let mut whole = Map::new();
    whole.insert("args".into(), given.get("args").cloned().unwrap_or(Value::Array(Vec::new())));
    whole.insert("kwargs".into(), given.get("kwargs").cloned().unwrap_or(Value::Object(Map::new())));
    Some(Value::Object(whole))
}

fn fault(fault: Fault) -> u8 {
    match fault {
        Fault::Syntax { .. } => 0,
        Fault::TooDeep => 1,
        Fault::Twice => 2,
        Fault::NoObject => 3,
        Fault::Member => 4,
        Fault::Args => 5,
        Fault::Kwargs => 6,
        Fault::Query => 7,
    }
}

#[test]
fn arguments() {
    let words = &[
        "{\"args\":[",
        "\"kwargs\":{",
        "]}",
        "}",
        ",",
        "\"a\":",
        "\"\\u0061\":",
        "\\ud83d\\ude00",
        "\\ud800",
        "1E+2",
        "-0",
        "1.50",
        "null",
        "true",
        "[[",
        "]]",
        " ",
        "?args=",
        "&kwargs=",
        "%5B",
        "%7D",
        "+",
    ];
    let seeds = [
        "{\"args\": [1, {\"b\": 2.50, \"a\": \"\\u00e9\\n\"}], \"kwargs\": {\"z\": null, \"a\": [true]}}",
        "{}",
        "?args=%5B1%5D&kwargs=%7B%22a%22%3A+2%7D",
    ];
    let seeds = seeds.iter().map(|text| text.as_bytes().to_vec()).collect();
    fuzz::run("arguments", Start { seeds, words }, |input| {
        let parsed = match input.strip_prefix(b"?") {
            Some(query) => Arguments::from_query(&String::from_utf8_lossy(query)),
            None => Arguments::parse(input),
        };
        let full = serde_json::from_slice::<Value>(input).ok();
        match parsed {
            Ok(arguments) => {
                let json = arguments.json();
                let again = Arguments::parse(json.as_bytes());
                assert!(again.is_ok_and(|again| again.json() == json), "not its own canonical form: {json}");
                // A number beyond its reach is none to the parser of the comparison.
                if let Some(meant) = full.and_then(meant) {
                    assert_eq!(serde_json::from_str::<Value>(json).ok(), Some(meant), "another meaning");
                }
                vec![10, json.as_bytes()[9]]
            }
            Err(why) => {
                let is_legal = full.is_some() && matches!(why, Fault::Syntax { .. });
                assert!(!is_legal, "legal JSON is refused");
                vec![fault(why)]
            }
        }
    });
}
