//! A Rust source file as the layering rules see it: without comments, literals and tests, imports written out.

/// The code alone: comments, the content of literals and the tests at the end are blank. Lines keep their numbers.
pub(crate) fn code(text: &str) -> String {
    let bytes: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let skip = literal(rest, out.chars().last());
        if skip == 0 {
            out.push(bytes[at]);
            at += 1;
        } else {
            out.extend(rest[..skip].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
            at += skip;
        }
    }
    match out.find("#[cfg(test)]\nmod tests {") {
        Some(tests) => out[..tests].to_owned(),
        None => out,
    }
}

/// How many characters at the start of `rest` are a comment or a literal.
fn literal(rest: &[char], before: Option<char>) -> usize {
    let starts = |text: &str| text.chars().enumerate().all(|(n, c)| rest.get(n) == Some(&c));
    if starts("//") {
        return rest.iter().position(|c| *c == '\n').unwrap_or(rest.len());
    }
    if starts("/*") {
        let end = (2..rest.len()).find(|n| rest[*n - 1] == '*' && rest[*n] == '/');
        return end.map_or(rest.len(), |end| end + 1);
    }
    if starts("\"") {
        return 1 + quoted(&rest[1..], '"');
    }
    // 'x' and '\n' are literals, 'x in <'x> is a lifetime.
    if starts("'") && (rest.get(1) == Some(&'\\') || rest.get(2) == Some(&'\'')) {
        return 1 + quoted(&rest[1..], '\'');
    }
    let in_a_name = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    if starts("r") && !in_a_name {
        let hashes = rest[1..].iter().take_while(|c| **c == '#').count();
        if rest.get(1 + hashes) == Some(&'"') {
            let close: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
            let body = 2 + hashes;
            let end = (body..rest.len()).find(|n| rest[*n..].starts_with(&close));
            return end.map_or(rest.len(), |end| end + close.len());
        }
    }
    0
}

/// The length up to and with the closing quote.
fn quoted(rest: &[char], quote: char) -> usize {
    let mut at = 0;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

/// Every path that begins with `root::`, groups written out: `crate::{a, b::{c, d}}` is three.
pub(crate) fn paths(code: &str, root: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices(&format!("{root}::")) {
        let before = code[..at].chars().last();
        let part_of_another = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
        // `a::root::b` is somebody else's path; `::root::b` is the crate.
        let within_another = code[..at].ends_with("::") && code[..at - 2].ends_with(|c: char| c.is_alphanumeric());
        if !part_of_another && !within_another {
            let mut rest = &code[at + root.len() + 2..];
            expand(String::new(), &mut rest, &mut found);
        }
    }
    found
}

/// Reads one path or group from `rest` and adds what it names, behind `prefix`.
fn expand(prefix: String, rest: &mut &str, found: &mut Vec<String>) {
    *rest = rest.trim_start();
    if let Some(group) = rest.strip_prefix('{') {
        *rest = group;
        loop {
            *rest = rest.trim_start_matches([',', ' ', '\n']);
            if rest.is_empty() || rest.starts_with('}') {
                *rest = rest.get(1..).unwrap_or_default();
                return;
            }
            let before = rest.len();
            expand(prefix.clone(), rest, found);
            // `A as B`, and whatever else stands until the next one.
            *rest = &rest[rest.find([',', '}']).unwrap_or(rest.len())..];
            assert!(rest.len() < before, "a group that does not end: {rest:.40}");
        }
    }
    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_' && c != '*').unwrap_or(rest.len());
    let (name, tail) = rest.split_at(end);
    let path = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}::{name}") };
    *rest = tail;
    match tail.strip_prefix("::") {
        Some(more) if !more.starts_with('<') => {
            *rest = more;
            expand(path, rest, found);
        }
        _ => found.push(path),
    }
}

/// Whether a word stands in the code by itself.
pub(crate) fn has_word(code: &str, word: &str) -> bool {
    let of_a_name = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word)
        .any(|(at, _)| !code[..at].ends_with(of_a_name) && !code[at + word.len()..].starts_with(of_a_name))
}
