//! The content of a JSON string, in a buffer that is wiped. Pure.
//!
//! `serde_json` would do it in buffers of its own, which are not.

use zeroize::Zeroizing;

/// `None` if it is no string of JSON, or holds half of a surrogate pair, which is no character (RFC 8259 section 8.2).
pub(super) fn unescape(json: &str) -> Option<Zeroizing<String>> {
    let inner = json.strip_prefix('"')?.strip_suffix('"')?;
    // Never longer than its source, so that it never moves and leaves a copy.
    let mut text = Zeroizing::new(String::with_capacity(inner.len()));
    let mut rest = inner;
    while let Some(at) = rest.find(['\\', '"']) {
        text.push_str(&rest[..at]);
        let escape = rest[at..].strip_prefix('\\')?;
        let kind = escape.bytes().next()?;
        rest = escape.get(1..)?;
        text.push(match kind {
            b'"' | b'\\' | b'/' => char::from(kind),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let (unit, after) = unit(rest)?;
                rest = after;
                if (0xd800..0xdc00).contains(&unit) {
                    let (low, after) = self::unit(rest.strip_prefix("\\u")?)?;
                    rest = after;
                    let low = low.checked_sub(0xdc00).filter(|low| *low < 0x400)?;
                    char::from_u32(0x10000 + ((unit - 0xd800) << 10) + low)?
                } else {
                    char::from_u32(unit)?
                }
            }
            _ => return None,
        });
    }
    text.push_str(rest);
    Some(text)
}

fn unit(text: &str) -> Option<(u32, &str)> {
    let (digits, rest) = text.split_at_checked(4)?;
    let legal = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    Some((u32::from_str_radix(digits, 16).ok().filter(|_| legal)?, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_string_is_none() {
        for bad in [
            "",
            "\"",
            "a",
            "1",
            "\"\\\"",
            "\"\\x\"",
            "\"\\u12\"",
            "\"\\ud800\"",
            "\"\\ud800\\u0041\"",
            "\"\\u+123\"",
            "\"a\"b\"",
        ] {
            assert!(unescape(bad).is_none(), "{bad}");
        }
        assert_eq!(unescape("\"\\ud83d\\ude00\\/\\u00e9\"").unwrap().as_str(), "😀/é");
    }

    proptest! {
        #[test]
        fn it_is_what_a_full_parse_finds(text in any::<String>(), json in "\"(\\\\[\"\\\\/bfnrtu]|\\\\u[0-9a-dD8]{4}|[a-z]){0,8}\"") {
            let written = serde_json::to_string(&text).unwrap();
            let same = unescape(&written).unwrap();
            prop_assert_eq!(same.as_str(), text);
            let (ours, parsed) = (unescape(&json), serde_json::from_str::<String>(&json).ok());
            prop_assert_eq!(ours.as_deref(), parsed.as_ref(), "{}", json);
        }
    }
}
