//! Patterns against regular expressions. Input: lines, each a pattern or a path.

use regex::bytes::{Regex, RegexBuilder};

use super::Pattern;
use crate::fuzz::{self, Start};
use crate::secret::KeyPath;

/// The same as a regular expression.
fn expression(pattern: &str) -> Regex {
    let segment = |text: &str| match text {
        "**" => "(?:/[^/]+)*".to_owned(),
        text => format!("/{}", regex::escape(text).replace(r"\*", "[^/]*")),
    };
    let whole: String = pattern[1..].split('/').map(segment).collect();
    RegexBuilder::new(&format!(r"\A{whole}\z")).unicode(false).build().unwrap()
}

#[test]
fn acl() {
    let words = &["*", "**", "/", "/**", "/*", "/a", "a", "b", "-", "\n/", "\n/**/"];
    fuzz::run("acl", Start { words, ..Start::default() }, |input| {
        let text = String::from_utf8_lossy(input);
        let lines = text.lines().take(10);
        let patterns: Vec<(&str, Pattern)> =
            lines.clone().filter_map(|line| Some((line, Pattern::parse(line).ok()?))).collect();
        let paths: Vec<KeyPath> = lines.filter_map(|line| KeyPath::parse(line).ok()).collect();
        let mut saw = Vec::new();
        for (text, pattern) in &patterns {
            assert_eq!(pattern.to_string(), *text);
            let expression = expression(text);
            for path in &paths {
                assert_eq!(pattern.matches(path), expression.is_match(path.as_str().as_bytes()), "{text} and {path}");
            }
            for (other_text, other) in &patterns {
                let both = paths.iter().find(|path| pattern.matches(path) && other.matches(path));
                assert!(both.is_none() || pattern.overlaps(other), "{text} and {other_text} share {both:?}");
                assert_eq!(pattern.overlaps(other), other.overlaps(pattern), "{text} and {other_text}");
                if pattern.covers(other) {
                    let outside = paths.iter().find(|path| other.matches(path) && !pattern.matches(path));
                    assert_eq!(outside, None, "{text} covers {other_text}");
                }
                saw.push((text.split('/').count(), pattern.overlaps(other), pattern.covers(other), both.is_some()));
            }
        }
        saw
    });
}
