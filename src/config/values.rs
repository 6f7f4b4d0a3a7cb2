//! The small grammars of values: durations, sizes, modes, paths, names, header fields.
//!
//! Pure functions from the name of a setting and its text to a value or to what is wrong with it.

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use super::diagnostic::{Report, quoted};
use super::table::{Bad, Node};
use crate::staleness::Span;

/// Longer than anybody means, and far from where arithmetic on instants overflows.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

const DURATION_HELP: &str = "a duration is a number with a unit: \"300ms\", \"5s\", \"10m\", \"2h\", \"7d\"";
const SPAN_HELP: &str =
    "a duration is a number with a unit: \"300ms\", \"5s\", \"10m\", \"2h\", \"7d\", or \"forever\"";
const SIZE_HELP: &str = "a size is a number with a unit: \"512B\", \"16KiB\", \"1MiB\", \"1GiB\"";

/// The longest path that fits into `sun_path` with its NUL (unix(7)).
pub(super) const MAX_SOCKET_PATH: usize = 107;

/// A length of time that ends.
pub(super) fn duration(node: &Node<'_>, report: &mut Report<'_>) -> Option<Duration> {
    with_unit(node, report, "s", DURATION_HELP, |name, text| match text {
        "forever" => Err(Bad::new(format!("`{name}` cannot be \"forever\"")).help(DURATION_HELP)),
        _ => parse_duration(name, text, DURATION_HELP),
    })
}

/// A length of time, or `"forever"`.
pub(super) fn span(node: &Node<'_>, report: &mut Report<'_>) -> Option<Span> {
    with_unit(node, report, "s", SPAN_HELP, |name, text| match text {
        "forever" => Ok(Span::Forever),
        _ => parse_duration(name, text, SPAN_HELP).map(Span::Finite),
    })
}

/// A length of time that is not zero.
pub(super) fn positive_duration(node: &Node<'_>, report: &mut Report<'_>) -> Option<Duration> {
    let length = duration(node, report)?;
    if length.is_zero() {
        report.error(node.error(format!("`{}` cannot be zero", node.name)));
        return None;
    }
    Some(length)
}

/// Bytes.
pub(super) fn size(node: &Node<'_>, report: &mut Report<'_>, least: u64, most: u64) -> Option<u64> {
    let size = with_unit(node, report, "B", SIZE_HELP, parse_size)?;
    if !(least..=most).contains(&size) {
        let legal = format!("legal is \"{}\" to \"{}\"", shown_size(least), shown_size(most));
        report.error(node.error(format!("`{}` is out of range", node.name)).help(legal));
        return None;
    }
    Some(size)
}

/// A quantity with a unit; a bare number gets the advice to write one.
fn with_unit<T>(
    node: &Node<'_>,
    report: &mut Report<'_>,
    unit: &str,
    help: &str,
    parse: impl FnOnce(&str, &str) -> Result<T, Bad>,
) -> Option<T> {
    let bare = match node.as_integer() {
        Some(number) => Some(number.to_string()),
        None => {
            node.as_str().filter(|text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).map(str::to_owned)
        }
    };
    if let Some(number) = bare {
        let error = node.error(format!("`{}` has no unit", node.name));
        report.error(error.label(format!("write \"{}{unit}\"", quoted(&number).trim_matches('`'))).help(help));
        return None;
    }
    if node.as_str().is_none() {
        report.error(node.expected("a string with a unit").help(help));
        return None;
    }
    node.parsed(report, parse)
}

/// `1h30m`: numbers with units, largest first or not, without spaces.
fn parse_duration(name: &str, text: &str, help: &str) -> Result<Duration, Bad> {
    let bad = || Bad::new(format!("`{name}` is not a duration: {}", quoted(text))).help(help);
    let too_long = || Bad::new(format!("`{name}` is too long")).help("the longest duration is \"36500d\"");
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at(digits);
        let letters = tail.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, tail) = tail.split_at(letters);
        let milliseconds: u64 = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "w" => 604_800_000,
            _ => return Err(bad()),
        };
        if number.is_empty() {
            return Err(bad());
        }
        let number: u64 = number.parse().map_err(|_| too_long())?;
        let part = number.checked_mul(milliseconds).map(Duration::from_millis).ok_or_else(too_long)?;
        total = total.checked_add(part).filter(|total| *total <= LONGEST).ok_or_else(too_long)?;
        rest = tail;
    }
    if text.is_empty() { Err(bad()) } else { Ok(total) }
}

fn parse_size(name: &str, text: &str) -> Result<u64, Bad> {
    let bad = || Bad::new(format!("`{name}` is not a size: {}", quoted(text))).help(SIZE_HELP);
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(bad()),
    };
    if number.is_empty() {
        return Err(bad());
    }
    let number: Option<u64> = number.parse().ok();
    number.and_then(|number| number.checked_mul(factor)).ok_or_else(|| Bad::new(format!("`{name}` is too large")))
}

fn shown_size(bytes: u64) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let exact = units.iter().find(|(factor, _)| bytes != 0 && bytes.is_multiple_of(*factor));
    exact.map_or_else(|| format!("{bytes}B"), |(factor, unit)| format!("{}{unit}", bytes / factor))
}

/// Permission bits, in octal.
pub(super) fn mode(node: &Node<'_>, report: &mut Report<'_>) -> Option<u32> {
    const HELP: &str = "write the mode as chmod(1) takes it, in quotes: \"0666\"";
    if node.is_integer() {
        report.error(node.expected("a string").help(HELP));
        return None;
    }
    node.parsed(report, |name, text| {
        let octal = (3..=4).contains(&text.len()) && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
        let bits = u32::from_str_radix(text, 8).ok().filter(|bits| octal && *bits <= 0o777);
        bits.ok_or_else(|| Bad::new(format!("`{name}` is not a mode: {}", quoted(text))).help(HELP))
    })
}

/// An absolute path without `..`.
pub(super) fn path(name: &str, text: &str) -> Result<PathBuf, Bad> {
    let path = Path::new(text);
    if text.contains('\0') {
        return Err(Bad::new(format!("`{name}` holds a NUL character")));
    }
    if !path.is_absolute() {
        return Err(Bad::new(format!("`{name}` is not an absolute path")).help("a path begins with `/`"));
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(Bad::new(format!("`{name}` goes up with `..`")).help("write the path that is meant"));
    }
    Ok(path.to_owned())
}

/// The path of a socket: absolute, and short enough for the kernel.
pub(super) fn socket_path(name: &str, text: &str) -> Result<PathBuf, Bad> {
    let path = path(name, text)?;
    if path.file_name().is_none() || text.ends_with('/') {
        return Err(Bad::new(format!("`{name}` is a directory, not a path for a socket")));
    }
    if text.len() > MAX_SOCKET_PATH {
        return Err(Bad::new(format!("`{name}` has {} bytes", text.len()))
            .help(format!("the kernel takes at most {MAX_SOCKET_PATH} bytes for the path of a socket (unix(7))")));
    }
    Ok(path)
}

/// The name of a token or client: what can stand in a log line without quotes.
pub(super) fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        && text.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric)
}

/// The name of a systemd credential (systemd.exec(5)): a file name without a colon.
pub(super) fn credential(name: &str, text: &str) -> Result<String, Bad> {
    let legal = (1..=255).contains(&text.len())
        && !matches!(text, "." | "..")
        && text.bytes().all(|b| b.is_ascii_graphic() && !b"/:".contains(&b));
    if legal {
        Ok(text.to_owned())
    } else {
        Err(Bad::new(format!("`{name}` is not the name of a credential"))
            .help("a credential is named by what stands before the colon in LoadCredential=, without `/`"))
    }
}

/// Whether a text is a field name of HTTP (RFC 9110 section 5.1).
pub(super) fn is_header_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// Whether a text is a field value of HTTP (RFC 9110 section 5.5), in ASCII.
pub(super) fn is_header_value(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_graphic() || b == b' ' || b == b'\t') && text.trim() == text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(text: &str) -> Option<u128> {
        parse_duration("x", text, "").ok().map(|length| length.as_millis())
    }

    #[test]
    fn durations_add_up() {
        assert_eq!(millis("300ms"), Some(300));
        assert_eq!(millis("1h30m"), Some(5_400_000));
        assert_eq!(millis("2w"), Some(14 * 86_400_000));
        assert_eq!(millis("0s"), Some(0));
        assert_eq!(millis("36500d"), Some(36_500 * 86_400_000));
    }

    #[test]
    fn what_is_no_duration() {
        for text in ["", "s", "5 s", "-5s", "1.5h", "5M", "5sec", "36501d", "99999999999999999999s", "5s5", "５s"] {
            assert_eq!(millis(text), None, "{text:?}");
        }
    }

    #[test]
    fn sizes_are_binary() {
        let size = |text| parse_size("x", text).ok();
        assert_eq!(size("16KiB"), Some(16_384));
        assert_eq!(size("512B"), Some(512));
        for text in ["", "MiB", "1MB", "1 MiB", "-1B", "18446744073709551615GiB", "1k"] {
            assert_eq!(size(text), None, "{text:?}");
        }
        assert_eq!(shown_size(64 << 20), "64MiB");
        assert_eq!(shown_size(1000), "1000B");
    }

    #[test]
    fn a_socket_path_fits_the_kernel() {
        let longest = format!("/{}", "a".repeat(MAX_SOCKET_PATH - 1));
        assert!(socket_path("socket", &longest).is_ok());
        assert!(socket_path("socket", &format!("{longest}a")).is_err());
        for text in ["run/x.sock", "/run/", "/", "", "/run/../x", "/a\0b"] {
            assert!(socket_path("socket", text).is_err(), "{text:?}");
        }
    }
}
