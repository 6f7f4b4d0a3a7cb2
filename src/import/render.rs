//! The configuration as text, and the tokens that have left it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use zeroize::Zeroizing;

use super::cachish::{Found, Source};
use super::glob;
use crate::shown;

/// Names and contents of token files.
type Tokens = Vec<(String, Zeroizing<String>)>;

/// `keyhatch.toml`, and the files below `tokens`. Notes what is not, or not quite, as it was.
pub(super) fn render(found: &mut Found, users: &BTreeMap<String, String>, directory: &Path) -> (String, Tokens) {
    let mut tokens = Names::of(found);
    let mut keys = String::new();
    for item in &found.items {
        let source = source(&item.source, item.key.as_str(), &mut tokens, &mut found.notes);
        let _ = write!(keys, "\n[keys.{}]\nsource = {{ {source} }}\n", quoted(item.key.as_str()));
    }
    let mut text = String::from(
        "# Written by `keyhatch import cachish`.\n\n\
         # As cachish has it: each request asks the upstream, and when that fails the last known good is served, however old.\n\
         # docs/staleness.md tells what else there is, and `max-age` is the first to look at.\n\
         [defaults]\nstale-if-error = \"forever\"\n",
    );
    if !tokens.files.is_empty() {
        text.push_str("\n[tokens]\n");
    }
    for (name, _) in &tokens.files {
        let path = directory.join("tokens").join(name);
        let _ = writeln!(text, "{} = {{ file = {} }}", quoted(name), quoted(&path.display().to_string()));
    }
    text.push_str(&keys);
    text.push_str(&clients(found, users));
    (text, tokens.files)
}

/// As a basic string of TOML: JSON escapes all that TOML wants escaped but one character.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string().replace('\x7f', "\\u007f")
}

fn list(texts: &[String]) -> String {
    match texts {
        [one] => quoted(one),
        many => format!("[{}]", many.iter().map(|text| quoted(text)).collect::<Vec<_>>().join(", ")),
    }
}

fn source(source: &Source, key: &str, tokens: &mut Names, notes: &mut Vec<String>) -> String {
    let field =
        |fields: &[String]| if fields.is_empty() { String::new() } else { format!(", field = {}", list(fields)) };
    let mut plaintext = |url: &str| {
        if url.to_ascii_lowercase().starts_with("https://") {
            return "";
        }
        notes.push(format!("{key}: its credential is sent over plain http, as it was: allow-plaintext = true says so"));
        ", allow-plaintext = true"
    };
    match source {
        Source::Heroku { app, token, vars } => {
            let token = tokens.name("heroku", key, token);
            format!("type = \"heroku\", app = {}, config-var = {}, token = {}", quoted(app), list(vars), quoted(&token))
        }
        Source::Http { url, fields, basic: None } => format!("type = \"http\", url = {}{}", quoted(url), field(fields)),
        Source::Http { url, fields, basic: Some((user, password)) } => {
            let token = tokens.name("basic", key, password);
            let auth = format!("auth = {{ type = \"basic\", user = {}, token = {} }}", quoted(user), quoted(&token));
            format!("type = \"http\", url = {}{}, {auth}{}", quoted(url), field(fields), plaintext(url))
        }
        Source::Hawk { id, secret, algorithm, url, fields } => {
            let token = tokens.name("hawk", key, secret);
            let auth = format!(
                "auth = {{ type = \"hawk\", id = {}, key = {}, algorithm = {} }}",
                quoted(id),
                quoted(&token),
                quoted(algorithm)
            );
            format!("type = \"http\", url = {}{}, {auth}{}", quoted(url), field(fields), plaintext(url))
        }
    }
}

/// Names for secrets, one for each that there is: they say what it is for, and nothing of it.
struct Names {
    files: Tokens,
    /// The kinds of which there is more than one.
    several: Vec<&'static str>,
}

impl Names {
    fn of(found: &Found) -> Self {
        let kinds = found.items.iter().filter_map(|item| match &item.source {
            Source::Heroku { token, .. } => Some(("heroku", token)),
            Source::Hawk { secret, .. } => Some(("hawk", secret)),
            Source::Http { basic: Some((_, password)), .. } => Some(("basic", password)),
            Source::Http { .. } => None,
        });
        let mut first: BTreeMap<&'static str, &Zeroizing<String>> = BTreeMap::new();
        let mut several = Vec::new();
        for (kind, secret) in kinds {
            if *first.entry(kind).or_insert(secret) != secret {
                several.push(kind);
            }
        }
        Self { files: Vec::new(), several }
    }

    fn name(&mut self, kind: &'static str, key: &str, secret: &Zeroizing<String>) -> String {
        if let Some((name, _)) = self.files.iter().find(|(_, known)| known == secret) {
            return name.clone();
        }
        let mut name = kind.to_owned();
        if self.several.contains(&kind) {
            let legal = |c: char| if c.is_ascii_alphanumeric() || ".-_".contains(c) { c } else { '-' };
            name.extend(key.chars().map(legal));
        }
        // A name that looks like a token itself is refused where it is used.
        let looks = name.split(|c: char| !c.is_ascii_alphanumeric()).any(|run| run.len() >= 16);
        if looks || name.len() > 60 || self.files.iter().any(|(known, _)| *known == name) {
            name = format!("{kind}-{}", self.files.len() + 1);
        }
        self.files.push((name.clone(), secret.clone()));
        name
    }
}

/// Who may read what: the clients that have a user, the others as comments, and the items that were open.
fn clients(found: &mut Found, users: &BTreeMap<String, String>) -> String {
    let mut text = String::new();
    let mut names: Vec<String> = Vec::new();
    for client in &found.clients {
        let label = shown::part(&client.name);
        let keys = granted(&label, &client.globs, &found.items, &mut found.notes);
        if keys.is_empty() {
            found.notes.push(format!("client `{label}` matches no path that could be a key, and is left out"));
            continue;
        }
        let name = unused(&client.name, &mut names);
        let user = users.get(&client.name);
        if user.is_none() {
            found.notes.push(format!(
                "client `{label}` is not carried over: the kernel says who asks, not a token. --clients {label}=USER grants its keys to a user; it is in the file as a comment"
            ));
        }
        let begin = if user.is_some() { "" } else { "# " };
        let user = user.map_or("USER", String::as_str);
        // A uid is a number there; in quotes it would be a name.
        let user = user.parse::<u32>().map_or_else(|_| quoted(user), |uid| uid.to_string());
        let _ =
            write!(text, "\n{begin}[clients.{}]\n{begin}user = {user}\n{begin}keys = {}\n", quoted(&name), list(&keys));
    }
    let open: Vec<String> = found.items.iter().filter(|item| item.open).map(|item| item.key.to_string()).collect();
    if !open.is_empty() {
        let name = unused("anyone", &mut names);
        let _ = write!(text, "\n[clients.{}]\nanyone = true\nkeys = {}\n", quoted(&name), list(&open));
    }
    text
}

/// A legal name for a client that none has yet.
fn unused(wanted: &str, names: &mut Vec<String>) -> String {
    let legal = |c: char| if c.is_ascii_alphanumeric() || ".-_".contains(c) { c } else { '-' };
    let mut base: String = wanted.chars().map(legal).take(56).collect();
    if !base.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        base.insert_str(0, "client");
    }
    let numbered = |number: usize| if number == 1 { base.clone() } else { format!("{base}-{number}") };
    let name = (1..).map(numbered).find(|name| !names.contains(name)).unwrap_or(base.clone());
    names.push(name.clone());
    name
}

/// Patterns where they say the same, else the keys that a glob matches now.
fn granted(client: &str, globs: &[String], items: &[super::cachish::Item], notes: &mut Vec<String>) -> Vec<String> {
    let mut keys: Vec<String> = Vec::new();
    for glob in globs {
        let made = glob::patterns(glob).filter(|made| made.iter().all(|one| crate::acl::Pattern::parse(one).is_ok()));
        let made = made.unwrap_or_else(|| {
            let matched = items.iter().map(|item| item.key.as_str()).filter(|key| glob::matches(glob, key));
            let matched: Vec<String> = matched.map(str::to_owned).collect();
            let glob = shown::part(glob);
            notes.push(format!(
                "client `{client}`: no pattern says what `{glob}` does; it gets the {} keys that it matches now",
                matched.len()
            ));
            matched
        });
        keys.extend(made);
    }
    keys.sort();
    keys.dedup();
    keys
}
