//! Patterns against a slower way to match. Input: lines, each a pattern or a path.

use super::Pattern;
use crate::fuzz::{self, Start};
use crate::secret::KeyPath;

/// As long as keys are: to compare two patterns costs the product of their lengths.
const LONGEST: usize = 512;

/// Which beginnings of `text` match, one part of the pattern after the other: nothing is tried and taken back.
fn glob<P: PartialEq, T>(pattern: &[P], star: &P, text: &[T], one: impl Fn(&P, &T) -> bool) -> bool {
    let mut matched = vec![false; text.len() + 1];
    matched[0] = true;
    for part in pattern {
        let mut next = vec![false; text.len() + 1];
        next[0] = matched[0] && part == star;
        for (at, byte) in text.iter().enumerate() {
            next[at + 1] = if part == star { next[at] || matched[at + 1] } else { matched[at] && one(part, byte) };
        }
        matched = next;
    }
    matched[text.len()]
}

fn expected(pattern: &[&str], path: &[&str]) -> bool {
    glob(pattern, &"**", path, |part, text| glob(part.as_bytes(), &b'*', text.as_bytes(), |one, other| one == other))
}

#[test]
fn acl() {
    let words = &["*", "**", "/", "/**", "/*", "/a", "a", "b", "-", "\n/", "\n/**/"];
    fuzz::run("acl", Start { words, ..Start::default() }, |input| {
        let text = String::from_utf8_lossy(input);
        let lines = text.lines().filter(|line| line.len() <= LONGEST).take(10);
        let patterns: Vec<(&str, Pattern)> =
            lines.clone().filter_map(|line| Some((line, Pattern::parse(line).ok()?))).collect();
        let paths: Vec<KeyPath> = lines.filter_map(|line| KeyPath::parse(line).ok()).collect();
        let mut saw = Vec::new();
        for (text, pattern) in &patterns {
            assert_eq!(pattern.to_string(), *text);
            let parts: Vec<&str> = text[1..].split('/').collect();
            for path in &paths {
                let expected = expected(&parts, &path.segments().collect::<Vec<_>>());
                assert_eq!(pattern.matches(path), expected, "{text} and {path}");
            }
            for (other_text, other) in &patterns {
                let both = paths.iter().find(|path| pattern.matches(path) && other.matches(path));
                assert!(both.is_none() || pattern.overlaps(other), "{text} and {other_text} share {both:?}");
                assert_eq!(pattern.overlaps(other), other.overlaps(pattern), "{text} and {other_text}");
                if pattern.covers(other) {
                    let outside = paths.iter().find(|path| other.matches(path) && !pattern.matches(path));
                    assert_eq!(outside, None, "{text} covers {other_text}");
                }
                saw.push((parts.len(), pattern.overlaps(other), pattern.covers(other), both.is_some()));
            }
        }
        saw
    });
}
