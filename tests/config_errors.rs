//! What a person sees for a bad configuration, letter by letter.
//!
//! Each `tests/config/bad/NAME.toml` has its expected text in `NAME.txt`. A line `#=== NAME` begins another
//! file of the same configuration. `UPDATE_EXPECTED=1` writes the texts anew, to be read in the diff.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::{Path, PathBuf};

use common::{Names, sources};

fn cases() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config/bad");
    let mut cases: Vec<PathBuf> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    cases.sort();
    cases
}

fn rendered(case: &Path) -> String {
    let text = std::fs::read_to_string(case).unwrap();
    match keyhatch::config::parse(sources(&text), &Names) {
        Ok(_) => panic!("{} was accepted", case.display()),
        Err(error) => format!("{error}\n"),
    }
}

#[test]
fn errors_read_as_expected() {
    let cases = cases();
    assert!(cases.len() >= 15, "only {} cases found", cases.len());
    let mut wrong = Vec::new();
    for case in cases {
        let expected = case.with_extension("txt");
        let now = rendered(&case);
        if std::env::var_os("UPDATE_EXPECTED").is_some() {
            std::fs::write(&expected, &now).unwrap();
        } else if std::fs::read_to_string(&expected).unwrap_or_default() != now {
            wrong.push(format!("{}:\n{now}", case.display()));
        }
    }
    assert!(wrong.is_empty(), "not as expected:\n{}", wrong.join("\n"));
}

#[test]
fn no_error_shows_a_secret() {
    for case in cases() {
        let text = rendered(&case);
        for secret in ["hunter", "sk_live_4", "9f86d081"] {
            assert!(!text.contains(secret), "{} shows {secret}:\n{text}", case.display());
        }
    }
}

#[test]
fn no_error_moves_the_terminal() {
    for case in cases() {
        let text = rendered(&case);
        let strange = text.chars().find(|c| (c.is_control() && *c != '\n') || ('\u{202a}'..='\u{202e}').contains(c));
        assert_eq!(strange, None, "{}", case.display());
    }
}
