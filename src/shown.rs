//! How texts and counts are shown to people. What is shown may come from a broker that was taken over, and whoever asks it is
//! often root.
//!
//! Never lets a character through that a terminal obeys instead of showing it.
#![forbid(unsafe_code)]

use std::fmt::Write;

/// Control characters, C0 and C1 (ECMA-48), and those that change the direction of what follows (Unicode Standard Annex #9).
fn is_obeyed(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn escaped(text: &str, stays: impl Fn(char) -> bool, escape: impl Fn(&mut String, char)) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_obeyed(c) && !stays(c) { escape(&mut shown, c) } else { shown.push(c) }
    }
    shown
}

/// A part of a line: it begins no other one.
pub(crate) fn part(text: &str) -> String {
    escaped(text, |_| false, |shown, c| shown.extend(c.escape_default()))
}

/// Lines of ours, whatever is in them.
pub(crate) fn lines(text: &str) -> String {
    escaped(text, |c| matches!(c, '\n' | '\t'), |shown, c| shown.extend(c.escape_default()))
}

/// The same JSON; `None` if it is none. Such characters are legal between its parts, and partly in strings (RFC 8259 section 7).
pub(crate) fn json(text: &str) -> Option<String> {
    serde_json::from_str::<serde::de::IgnoredAny>(text).ok()?;
    let escape = |shown: &mut String, c: char| {
        if c.is_ascii_whitespace() {
            shown.push(' ');
        } else {
            // All of them are below U+10000. To write to a string does not fail.
            let _ = write!(shown, "\\u{:04x}", u32::from(c));
        }
    };
    Some(escaped(text, |c| c == '\n', escape))
}

/// So many of these: `1 key`, `2 keys`.
pub(crate) fn counted(count: impl TryInto<u64>, what: &str) -> String {
    match count.try_into().unwrap_or(u64::MAX) {
        1 => format!("1 {what}"),
        count => format!("{count} {what}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_gets_through() {
        assert_eq!(part("a\x1b[2J\n\u{9b}b\u{202e}\x7f é\\"), "a\\u{1b}[2J\\n\\u{9b}b\\u{202e}\\u{7f} é\\");
        assert_eq!(part("the upstream's `\"`"), "the upstream's `\"`");
        assert_eq!(lines("a\n\tb\r\x07"), "a\n\tb\\r\\u{7}");
    }

    #[test]
    fn one_is_not_many() {
        assert_eq!([0_usize, 1, 2].map(|count| counted(count, "key")), ["0 keys", "1 key", "2 keys"]);
    }

    #[test]
    fn json_says_the_same() {
        let told = "{\"b\":\t\"\u{9b}2J\u{7f}\u{202e}\\n\",\r\n\"a\": 1}";
        let shown = json(told).unwrap();
        assert!(!shown.chars().any(|c| c != '\n' && is_obeyed(c)), "{shown:?}");
        let read = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(read(&shown), read(told));
        assert_eq!(json("{\"a\": \"\x1b\"}"), None);
        assert_eq!(json("\x1b[2J"), None);
    }
}
