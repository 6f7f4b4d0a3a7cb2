//! What of a configuration file may be shown in an error.
//!
//! A secret does not belong into the configuration, but it is the place where one ends up by mistake, and
//! errors go to the journal. So values of tokens, `auth`, `headers` and URLs with user info, and whatever
//! looks like a well-known kind of secret, become asterisks, one for each byte: spans stay where they are.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::names;

/// Settings whose values are not shown, also in the spelling of somebody who guesses. Parts of names.
const SENSITIVE: [&str; 13] = [
    "token",
    "auth",
    "header",
    "secret",
    "passw",
    "credential",
    "bearer",
    "apikey",
    "api-key",
    "api_key",
    "seal",
    "cookie",
    "private",
];

/// How secrets of well-known issuers begin.
const SECRET_PREFIXES: [&str; 16] = [
    "sk_live_",
    "sk_test_",
    "rk_live_",
    "sk-",
    "ghp_",
    "gho_",
    "ghs_",
    "github_pat_",
    "glpat-",
    "xoxb-",
    "xoxp-",
    "AKIA",
    "HRKU-",
    "hvs.",
    "eyJ",
    "dop_v1_",
];

/// Query parameters that carry a secret.
const SECRET_PARAMETERS: [&str; 11] = [
    "token",
    "access_token",
    "auth",
    "api_key",
    "apikey",
    "api-key",
    "secret",
    "client_secret",
    "password",
    "passwd",
    "signature",
];

/// The text with everything that may be secret replaced by asterisks. As long as the text, in bytes and lines.
pub(super) fn masked(text: &str) -> String {
    let (table, errors) = DeTable::parse_recoverable(text);
    let spans = if errors.is_empty() {
        let mut spans = Vec::new();
        in_table(table.get_ref(), Depth::Top, false, &mut spans);
        spans
    } else {
        by_line(text)
    };
    let mut bytes = text.as_bytes().to_vec();
    for byte in spans.into_iter().flat_map(|span| text.as_bytes().get(span.clone()).map(|_| span)).flatten() {
        if !matches!(bytes[byte], b'\n' | b'\r' | b'"' | b'\'') {
            bytes[byte] = b'*';
        }
    }
    // Spans begin and end between characters, so this holds; showing nothing would be safe too.
    String::from_utf8(bytes).unwrap_or_default()
}

/// Where in the document a table is: names that a person chose say nothing about what they hold.
#[derive(Clone, Copy, PartialEq)]
enum Depth {
    Top,
    /// Directly in `[keys]` or `[clients]`.
    Chosen,
    Inside,
}

fn in_table(table: &DeTable<'_>, depth: Depth, sensitive: bool, spans: &mut Vec<Range<usize>>) {
    for (key, value) in table {
        let name: &str = key.get_ref();
        let inner = match (depth, name) {
            (Depth::Top, "keys" | "clients") => Depth::Chosen,
            _ => Depth::Inside,
        };
        let sensitive = sensitive || (depth != Depth::Chosen && is_sensitive_name(name));
        in_value(value, inner, sensitive, spans);
    }
}

fn in_value(value: &Spanned<DeValue<'_>>, depth: Depth, sensitive: bool, spans: &mut Vec<Range<usize>>) {
    match value.get_ref() {
        DeValue::Table(table) => in_table(table, depth, sensitive, spans),
        DeValue::Array(array) => array.iter().for_each(|item| in_value(item, depth, sensitive, spans)),
        DeValue::Boolean(_) => {}
        DeValue::String(text) if (sensitive && !names::is_word(text)) || holds_secret(text) => spans.push(value.span()),
        DeValue::String(_) => {}
        _ if sensitive => spans.push(value.span()),
        _ => {}
    }
}

/// For a file that is no TOML, where nobody can tell what a value is: more is masked rather than less.
fn by_line(text: &str) -> Vec<Range<usize>> {
    let mut spans = Vec::new();
    let (mut section, mut depth, mut in_string) = (false, 0_i64, false);
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let from = start;
        start += line.len();
        let trimmed = line.trim_start();
        let named = words(line).any(|word| is_sensitive_name(&line[word]));
        if trimmed.starts_with('[') && !in_string {
            let header = trimmed.trim_start_matches('[').starts_with(|c: char| c.is_ascii_alphabetic());
            if header && !trimmed.contains('=') {
                (section, depth) = (is_sensitive_name(&without_paths(trimmed)), 0);
                continue;
            }
            section |= named;
        }
        if section || depth > 0 || in_string || named {
            let quiet = if depth > 0 || in_string { 0 } else { line.find('=').map_or(0, |at| at + 1) };
            spans.extend(words(line).filter(|word| word.start >= quiet).filter_map(|word| {
                (!names::is_word(&line[word.clone()])).then_some(from + word.start..from + word.end)
            }));
            let count = |set: &[char]| i64::try_from(line.matches(set).count()).unwrap_or(0);
            depth = (depth + count(&['[', '{']) - count(&[']', '}'])).max(0);
            in_string ^= (line.matches("\"\"\"").count() + line.matches("'''").count()) % 2 == 1;
        } else if let Some(at) = line.find("://").filter(|at| line[*at..].contains('@')) {
            spans.push(from + at + 3..from + line.len());
        } else if holds_secret(line) {
            spans.push(from..from + line.len());
        }
    }
    spans
}

/// A table header without its quoted key paths, whose words are chosen by a person.
fn without_paths(header: &str) -> String {
    header.split('"').filter(|piece| !piece.starts_with('/')).collect()
}

/// The runs of characters that are not structure.
fn words(line: &str) -> impl Iterator<Item = Range<usize>> {
    let structure = |c: char| c.is_whitespace() || "{}[],=\"'#".contains(c);
    let mut at = 0;
    line.split_inclusive(structure).map(move |piece| {
        let start = at;
        at += piece.len();
        start..start + piece.trim_end_matches(structure).len()
    })
}

fn is_sensitive_name(name: &str) -> bool {
    if matches!(name, "header-timeout" | "header-size") {
        return false;
    }
    let name = name.to_ascii_lowercase();
    SENSITIVE.iter().any(|word| name.contains(word))
}

/// Whether a value must not be shown wherever it stands: it is a secret, or a URL that carries one.
fn holds_secret(text: &str) -> bool {
    let user_info = text.find("://").is_some_and(|at| text[at..].contains('@'));
    user_info || is_secret(text) || has_secret_parameter(text)
}

/// Whether a text that should hold none seems to hold a secret: an `Authorization` value, a PEM block, or
/// a token of a well-known issuer.
pub(super) fn is_secret(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    let scheme = ["bearer ", "basic "].iter().any(|prefix| lower.starts_with(prefix) && text.len() > prefix.len());
    let issued = text
        .split(|c: char| !(c.is_ascii_alphanumeric() || "_-.".contains(c)))
        .any(|word| word.len() >= 20 && SECRET_PREFIXES.iter().any(|prefix| word.starts_with(prefix)));
    scheme || issued || text.contains("-----BEGIN")
}

/// Whether the query of a URL has a parameter that carries a secret.
pub(super) fn has_secret_parameter(url: &str) -> bool {
    let url = url.to_ascii_lowercase();
    let Some((_, query)) = url.split_once('?').filter(|(before, _)| before.contains("://")) else { return false };
    let mut parameters = query.split('&').filter_map(|pair| pair.split_once('='));
    parameters.any(|(name, value)| !value.is_empty() && SECRET_PARAMETERS.contains(&name))
}

/// Whether a text that should be the name of a token looks like the token itself.
pub(super) fn looks_like_token(name: &str) -> bool {
    let mixed = |run: &str| {
        run.len() >= 16 && run.bytes().any(|b| b.is_ascii_digit()) && run.bytes().any(|b| b.is_ascii_alphabetic())
    };
    let uuid = name.len() == 36
        && name.bytes().enumerate().all(|(at, b)| match at {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_hexdigit(),
        });
    uuid || is_secret(name) || name.split(|c: char| !c.is_ascii_alphanumeric()).any(mixed)
}
