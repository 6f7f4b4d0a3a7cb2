//! The globs by which cachish grants paths, as key patterns.
//!
//! Theirs is Python's fnmatch: `*` and `?` are any characters, slashes too. What is made of one matches the same keys, and no more.

use regex::Regex;

/// The most patterns that one glob may become.
const MOST: usize = 16;

/// Patterns that together match just the keys that the glob does; `None` when there are none such, or too many.
pub(super) fn patterns(glob: &str) -> Option<Vec<String>> {
    // A path begins with a slash, so a star at the beginning matches it, and as much behind it.
    let glob = if glob.starts_with('*') { format!("/{glob}") } else { glob.to_owned() };
    let mut glob = glob.as_str().to_owned();
    while glob.contains("**") {
        glob = glob.replace("**", "*");
    }
    if !glob.starts_with('/') || glob.contains(['?', '[']) {
        return None;
    }
    let mut made = vec![String::new()];
    let characters: Vec<char> = glob.chars().collect();
    for (at, character) in characters.iter().enumerate() {
        if *character != '*' {
            made.iter_mut().for_each(|pattern| pattern.push(*character));
            continue;
        }
        // Where nothing stands beside the star it can begin, or end, with any segment.
        let begins = at == 0 || characters[at - 1] == '/';
        let ends = at + 1 == characters.len() || characters[at + 1] == '/';
        let (one, several) = match (begins, ends) {
            (_, true) => (None, "*/**"),
            (true, false) => (None, "**/*"),
            (false, false) => (Some("*"), "*/**/*"),
        };
        let more: Vec<String> = made.iter().map(|pattern| format!("{pattern}{several}")).collect();
        made = one.iter().flat_map(|one| made.iter().map(move |pattern| format!("{pattern}{one}"))).collect();
        made.extend(more);
        if made.len() > MOST {
            return None;
        }
    }
    Some(made)
}

/// Whether a glob matches a path, as Python's `fnmatch.fnmatchcase` has it.
pub(super) fn matches(glob: &str, path: &str) -> bool {
    Regex::new(&expression(glob)).is_ok_and(|expression| expression.is_match(path))
}

fn expression(glob: &str) -> String {
    let characters: Vec<char> = glob.chars().collect();
    let mut made = String::from("^(?s:");
    let mut at = 0;
    while at < characters.len() {
        match characters[at] {
            '*' => made.push_str(".*"),
            '?' => made.push('.'),
            '[' => match class(&characters[at + 1..]) {
                Some((class, length)) => {
                    made.push_str(&class);
                    at += length;
                }
                None => made.push_str("\\["),
            },
            other => made.push_str(&regex::escape(&other.to_string())),
        }
        at += 1;
    }
    made + ")$"
}

/// The class that begins behind a bracket, and its length with the closing one; `None` when it does not close.
fn class(rest: &[char]) -> Option<(String, usize)> {
    let negated = rest.first() == Some(&'!');
    let start = usize::from(negated);
    // A bracket that comes first is one of the characters.
    let close = (start + 1..rest.len()).find(|at| rest[*at] == ']')?;
    let members = &rest[start..close];
    let mut ranges = String::new();
    let mut at = 0;
    while at < members.len() {
        let (from, to) = match members.get(at + 1..at + 3) {
            Some(['-', to]) => (members[at], *to),
            _ => (members[at], members[at]),
        };
        at += if members.get(at + 1) == Some(&'-') && at + 2 < members.len() { 3 } else { 1 };
        if from <= to {
            ranges.push_str(&format!("\\x{{{:x}}}-\\x{{{:x}}}", u32::from(from), u32::from(to)));
        }
    }
    let made = match (ranges.is_empty(), negated) {
        (false, false) => format!("[{ranges}]"),
        (false, true) => format!("[^{ranges}]"),
        (true, true) => ".".to_owned(),
        (true, false) => "[^\\s\\S]".to_owned(),
    };
    Some((made, close + 1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::acl::Pattern;
    use crate::secret::KeyPath;

    fn granted(glob: &str, path: &str) -> Option<bool> {
        let key = KeyPath::parse(path).unwrap();
        let patterns = patterns(glob)?;
        Some(patterns.iter().any(|pattern| Pattern::parse(pattern).unwrap().matches(&key)))
    }

    #[test]
    fn a_star_becomes_what_it_meant() {
        assert_eq!(patterns("/database-url").unwrap(), ["/database-url"]);
        assert_eq!(patterns("/heroku/*").unwrap(), ["/heroku/*/**"]);
        assert_eq!(patterns("/her*").unwrap(), ["/her*/**"]);
        assert_eq!(patterns("*").unwrap(), ["/*/**"]);
        assert_eq!(patterns("/*-url").unwrap(), ["/**/*-url"]);
        assert_eq!(patterns("heroku/*"), None);
        assert_eq!(patterns("/a?"), None);
        assert_eq!(granted("/heroku/*", "/heroku"), Some(false), "that was never matched");
        assert_eq!(granted("/heroku/*", "/heroku/a/b"), Some(true));
    }

    #[test]
    fn classes_are_those_of_python() {
        for (glob, path, expected) in [
            ("/[ab]", "/a", true),
            ("/[!ab]", "/a", false),
            ("/[!ab]", "/c", true),
            ("/[]]", "/]", true),
            ("/[a-c]x", "/bx", true),
            ("/[c-a]x", "/bx", false),
            ("/[a", "/[a", true),
            ("/a?c", "/a/c", true),
            ("/[a-]", "/-", true),
        ] {
            assert_eq!(matches(glob, path), expected, "{glob} {path}");
        }
    }

    proptest! {
        #[test]
        fn patterns_match_just_what_the_glob_does(glob in "[ab/*]{0,7}", path in "(/[ab]{1,2}){1,4}") {
            let glob = format!("/{glob}");
            // Globs with an empty segment match no key in between.
            if let Some(granted) = patterns(&glob).filter(|made| made.iter().all(|p| Pattern::parse(p).is_ok())).and_then(|_| granted(&glob, &path)) {
                prop_assert_eq!(granted, matches(&glob, &path), "{} {}", glob, path);
            }
        }
    }
}
