//! TOML and env files as JSON objects. Pure; the value is wiped where it passes through our hands.

use zeroize::{Zeroize, Zeroizing};

/// A TOML document as a JSON object: dates become strings; `nan` and `inf`, which JSON has not, are invalid.
pub(super) fn toml(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let mut table: toml::Table = text.parse().ok()?;
    let mut out = Zeroizing::new(Vec::with_capacity(text.len() * 2 + 2));
    let written = write_table(&mut out, &table);
    table.iter_mut().for_each(|(_, value)| wipe(value));
    written.map(|()| out)
}

// Recursion is bounded: the parser refuses deep nesting (80 levels).
fn write_table(out: &mut Vec<u8>, table: &toml::Table) -> Option<()> {
    out.push(b'{');
    for (index, (name, value)) in table.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        serde_json::to_writer(&mut *out, name).ok()?;
        out.push(b':');
        write_value(out, value)?;
    }
    out.push(b'}');
    Some(())
}

fn write_value(out: &mut Vec<u8>, value: &toml::Value) -> Option<()> {
    match value {
        toml::Value::String(text) => serde_json::to_writer(out, text).ok(),
        toml::Value::Integer(number) => serde_json::to_writer(out, number).ok(),
        toml::Value::Float(number) if !number.is_finite() => None,
        toml::Value::Float(number) => serde_json::to_writer(out, number).ok(),
        toml::Value::Boolean(truth) => serde_json::to_writer(out, truth).ok(),
        toml::Value::Datetime(date) => serde_json::to_writer(out, &date.to_string()).ok(),
        toml::Value::Table(table) => write_table(out, table),
        toml::Value::Array(items) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_value(out, item)?;
            }
            out.push(b']');
            Some(())
        }
    }
}

fn wipe(value: &mut toml::Value) {
    match value {
        toml::Value::String(text) => text.zeroize(),
        toml::Value::Array(items) => items.iter_mut().for_each(wipe),
        toml::Value::Table(table) => table.iter_mut().for_each(|(_, value)| wipe(value)),
        _ => {}
    }
}

/// `NAME=value` lines as a JSON object of strings, as systemd.exec(5) reads an `EnvironmentFile=`, but each on one line.
///
/// Lines that are blank or begin with `#` or `;` are skipped. A value may stand in single quotes (taken as it is) or
/// double quotes (`\"`, `\\`, `` \` `` and `\$` are escapes); without quotes, a backslash takes the next character as it
/// is and white space around the value goes. The last of several equal names wins. Any other line is invalid.
pub(super) fn env(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let mut out = Zeroizing::new(Vec::with_capacity(text.len() * 2 + 2));
    let mut names: Vec<(&str, Zeroizing<String>)> = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        let (name, value) = line.split_once('=')?;
        let name = name.trim_end();
        let legal = |c: char| c == '_' || c.is_ascii_alphanumeric();
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(legal) {
            return None;
        }
        names.retain(|(earlier, _)| *earlier != name);
        names.push((name, env_value(value.trim_start())?));
    }
    out.push(b'{');
    for (index, (name, value)) in names.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        serde_json::to_writer(&mut *out, name).ok()?;
        out.push(b':');
        serde_json::to_writer(&mut *out, value.as_str()).ok()?;
    }
    out.push(b'}');
    Some(out)
}

fn env_value(text: &str) -> Option<Zeroizing<String>> {
    // Never longer than its source, so that it never moves and leaves a copy.
    let mut value = Zeroizing::new(String::with_capacity(text.len()));
    if let Some(quoted) = text.strip_prefix('\'') {
        let inner = quoted.strip_suffix('\'').filter(|inner| !inner.contains('\''))?;
        value.push_str(inner);
        return Some(value);
    }
    let quoted = text.strip_prefix('"');
    let mut characters = quoted.unwrap_or(text).chars();
    loop {
        match (characters.next(), quoted) {
            (Some('"'), Some(_)) => return characters.as_str().is_empty().then_some(value),
            (None, Some(_)) => return None,
            (None, None) => return Some(value),
            (Some('\\'), Some(_)) => match characters.next()? {
                escaped @ ('"' | '\\' | '`' | '$') => value.push(escaped),
                other => value.extend(['\\', other]),
            },
            (Some('\\'), None) => value.push(characters.next()?),
            (Some(plain), _) => value.push(plain),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(json: &[u8]) -> serde_json::Value {
        serde_json::from_slice(json).unwrap()
    }

    #[test]
    fn toml_becomes_json() {
        let text =
            "a = 'x\"y'\nn = 3\nf = 1.5\nb = true\nd = 2026-01-02T03:04:05Z\nl = [1, {k = 'v'}]\n[t.u]\ns = ''\n";
        let want = json!({
            "a": "x\"y", "n": 3, "f": 1.5, "b": true, "d": "2026-01-02T03:04:05Z", "l": [1, {"k": "v"}], "t": {"u": {"s": ""}},
        });
        assert_eq!(object(&toml(text).unwrap()), want);
        for bad in ["a", "a = nan", "a = 1\na = 2", "a = [inf]"] {
            assert!(toml(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn env_becomes_json() {
        let text = "# note\n; too\n\nA=1\nB= two words \nC=\"q\\\"\\n$\"\nD='$a\\b'\nE=\nF=a\\ b\\\\\nA=2\r\nG=x=y\n";
        let want = json!({
            "A": "2", "B": "two words", "C": "q\"\\n$", "D": "$a\\b", "E": "", "F": "a b\\", "G": "x=y",
        });
        assert_eq!(object(&env(text).unwrap()), want);
        for bad in ["A", "=x", "1A=x", "A B=x", "export A=x", "A=\"x", "A=\"x\"y", "A='x", "A='x'y'", "A=x\\"] {
            assert!(env(bad).is_none(), "{bad}");
        }
    }
}
