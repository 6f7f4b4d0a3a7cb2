//! What a configuration of cachish 1.7 says, and where it says what keyhatch has no place for.
//!
//! Errors show names of items and settings, never what stands for a token or secret.

use std::rc::Rc;

use zeroize::Zeroizing;

use super::Fault;
use super::yaml::{Kind, Node};
use crate::secret::KeyPath;
use crate::shown;

pub(super) struct Found {
    pub(super) items: Vec<Item>,
    pub(super) clients: Vec<Client>,
    pub(super) notes: Vec<String>,
}

pub(super) struct Item {
    pub(super) key: KeyPath,
    pub(super) source: Source,
    /// `disable_auth`: whoever asks gets it.
    pub(super) open: bool,
}

pub(super) enum Source {
    Heroku { app: String, token: Zeroizing<String>, vars: Vec<String> },
    Http { url: String, fields: Vec<String>, basic: Option<(String, Zeroizing<String>)> },
    Hawk { id: String, secret: Zeroizing<String>, algorithm: String, url: String, fields: Vec<String> },
}

pub(super) struct Client {
    pub(super) name: String,
    pub(super) globs: Vec<String>,
    token: Zeroizing<String>,
}

/// Everything, or everything that is wrong.
pub(super) fn read(root: &Node) -> Result<Found, Vec<Fault>> {
    let mut reader =
        Reader { faults: Vec::new(), found: Found { items: Vec::new(), clients: Vec::new(), notes: Vec::new() } };
    reader.top(root);
    if reader.faults.is_empty() { Ok(reader.found) } else { Err(reader.faults) }
}

struct Reader {
    faults: Vec<Fault>,
    found: Found,
}

type Pair = (Rc<Node>, Rc<Node>);

impl Reader {
    fn fault(&mut self, line: usize, what: impl Into<String>) {
        self.faults.push(Fault::at(line, what));
    }

    fn top(&mut self, root: &Node) {
        for (name, value) in self.map(root, "the file") {
            match text(&name) {
                Some("items") => self.items(&value),
                Some("auth") => self.auth(&value),
                Some("cache_dir") => self.found.notes.push(
                    "cache_dir is not carried over: keyhatch seals its cache. What cachish has stored lies there in the clear; remove it when cachish is gone"
                        .to_owned(),
                ),
                Some("log_config") => {
                    self.found.notes.push("log_config is not carried over: keyhatch logs to stderr, as text or JSON".to_owned());
                }
                // Not by name: it may be anything.
                _ => self.fault(name.line, "cachish has no such setting; legal are items, auth, cache_dir, log_config"),
            }
        }
    }

    /// The entries of a mapping; of nothing, none.
    fn map(&mut self, node: &Node, what: &str) -> Vec<Pair> {
        match &node.kind {
            Kind::Map(pairs) => pairs.clone(),
            Kind::Null => Vec::new(),
            _ => {
                self.fault(node.line, format!("{what} is to be a mapping, and this is {}", node.what()));
                Vec::new()
            }
        }
    }

    fn items(&mut self, node: &Node) {
        for (path, item) in self.map(node, "items") {
            let Some(name) = text(&path) else {
                self.fault(path.line, format!("the path of an item is a text, and this is {}", path.what()));
                continue;
            };
            match KeyPath::parse(name) {
                Ok(key) => self.item(key, path.line, &item),
                Err(_) if name.contains('<') => {
                    self.fault(path.line, "a path with a variable (`<…>`); cachish answers that with an error, keyhatch has keys with parameters");
                }
                Err(error) => self.fault(path.line, format!("the path cannot be that of a key: {error}")),
            }
        }
    }

    fn item(&mut self, key: KeyPath, line: usize, node: &Node) {
        let before = self.faults.len();
        let (mut module, mut parameters, mut open) = (None, Vec::new(), false);
        for (name, value) in self.map(node, "an item") {
            match text(&name) {
                Some("module") => module = Some(value),
                Some("parameters") => parameters = self.map(&value, "parameters"),
                Some("disable_auth") => open = self.flag(&value),
                _ => self
                    .found
                    .notes
                    .push(format!("line {}: cachish does not look at this either, it is left out", name.line)),
            }
        }
        let Some(module) = module else {
            if self.faults.len() == before {
                self.fault(line, format!("{key} has no module; legal are Heroku, JsonHttp, Hawk"));
            }
            return;
        };
        let mut given = Parameters { reader: self, key: &key, line, pairs: parameters };
        let source = match text(&module) {
            Some("Heroku") => given.heroku(),
            Some("JsonHttp") => given.http(),
            Some("Hawk") => given.hawk(),
            _ => {
                self.fault(
                    module.line,
                    format!("{key}: cachish 1.7 has no such module; legal are Heroku, JsonHttp, Hawk"),
                );
                return;
            }
        };
        if let Some(source) = source {
            self.found.items.push(Item { key, source, open });
        }
    }

    /// What Python takes for true, where that is not a surprise.
    fn flag(&mut self, node: &Node) -> bool {
        match &node.kind {
            Kind::Bool(flag) => *flag,
            Kind::Null => false,
            _ => {
                self.fault(node.line, "disable_auth is true or false; cachish takes any other text or number for true, also \"no\" in quotes");
                false
            }
        }
    }

    fn auth(&mut self, node: &Node) {
        for (name, value) in self.map(node, "auth") {
            let Kind::Map(pairs) = &value.kind else {
                // Here the name is the token.
                self.fault(
                    name.line,
                    "auth is in the form that cachish had before 1.1 (token: path), which 1.7 does not start with; write it as NAME: {token: …, url: …}",
                );
                continue;
            };
            let Some(client) = text(&name).map(str::to_owned) else {
                self.fault(name.line, format!("the name of a client is a text, and this is {}", name.what()));
                continue;
            };
            let named = |wanted: &str| {
                pairs.iter().find(|(name, _)| text(name) == Some(wanted)).map(|(_, value)| value.clone())
            };
            let (Some(token), Some(url)) = (named("token"), named("url")) else {
                self.fault(name.line, "a client needs token and url");
                continue;
            };
            let Some(token) = text(&token).map(str::to_owned).map(Zeroizing::new) else {
                self.fault(
                    token.line,
                    format!("the token is to be a text, and this is {}: nobody could have shown it", token.what()),
                );
                continue;
            };
            if let Some(other) = self.found.clients.iter().find(|known| known.token == token) {
                let what = format!(
                    "this client has the token of `{}`; cachish knows the last of them alone",
                    shown::part(&other.name)
                );
                self.fault(name.line, what);
                continue;
            }
            if let Some(globs) = self.texts(&url, "url") {
                self.found.clients.push(Client { name: client, globs, token });
            }
        }
    }

    /// A text or a list of texts.
    fn texts(&mut self, node: &Node, what: &str) -> Option<Vec<String>> {
        match &node.kind {
            Kind::Text(one) => return Some(vec![one.to_string()]),
            Kind::List(items) => {
                let all: Option<Vec<String>> = items.iter().map(|item| text(item).map(str::to_owned)).collect();
                if all.is_some() {
                    return all;
                }
            }
            _ => {}
        }
        let found = match &node.kind {
            Kind::List(items) => items.iter().find(|item| text(item).is_none()).map_or("a list", |item| item.what()),
            _ => node.what(),
        };
        self.fault(node.line, format!("{what} is a text or a list of texts, and this is {found}"));
        None
    }
}

fn text(node: &Node) -> Option<&str> {
    match &node.kind {
        Kind::Text(text) => Some(text),
        _ => None,
    }
}

/// The parameters of one item.
struct Parameters<'r> {
    reader: &'r mut Reader,
    key: &'r KeyPath,
    line: usize,
    pairs: Vec<Pair>,
}

impl Parameters<'_> {
    fn only(&mut self, legal: &[&str]) {
        for (name, _) in &self.pairs {
            let known = text(name).is_some_and(|name| legal.contains(&name));
            let older = matches!(text(name), Some("heroku_app" | "heroku_api_token"));
            if older {
                let what = format!("{}: a parameter of cachish before 1.2; 1.7 calls them app and api_token", self.key);
                self.reader.faults.push(Fault::at(name.line, what));
            } else if !known {
                let what = format!("{}: the module has no such parameter; legal are {}", self.key, legal.join(", "));
                self.reader.faults.push(Fault::at(name.line, what));
            }
        }
    }

    fn get(&self, wanted: &str) -> Option<Rc<Node>> {
        self.pairs.iter().find(|(name, _)| text(name) == Some(wanted)).map(|(_, value)| value.clone())
    }

    fn optional(&mut self, name: &str) -> Option<Zeroizing<String>> {
        let node = self.get(name)?;
        let Kind::Text(found) = &node.kind else {
            self.reader.fault(node.line, format!("{}: {name} is to be a text, and this is {}", self.key, node.what()));
            return None;
        };
        Some(found.clone())
    }

    fn required(&mut self, name: &str) -> Option<Zeroizing<String>> {
        if self.get(name).is_none() {
            self.reader.fault(self.line, format!("{} has no {name}", self.key));
        }
        self.optional(name)
    }

    /// One that becomes the content of a token file.
    fn secret(&mut self, name: &str) -> Option<Zeroizing<String>> {
        let found = self.required(name)?;
        if found.is_empty()
            || !found.bytes().all(|byte| (b' '..=b'~').contains(&byte))
            || found.trim() != found.as_str()
        {
            let what = format!(
                "{}: {name} is empty, or has characters that are not printable ASCII, or space around it",
                self.key
            );
            self.reader.fault(self.line, what);
            return None;
        }
        Some(found)
    }

    /// What Python takes for false is the whole document.
    fn fields(&mut self, name: &str) -> Option<Vec<String>> {
        match self.get(name) {
            None => Some(Vec::new()),
            Some(node) => match &node.kind {
                Kind::Null | Kind::Bool(false) => Some(Vec::new()),
                Kind::Text(text) if text.is_empty() => Some(Vec::new()),
                _ => self.reader.texts(&node, &format!("{}: {name}", self.key)),
            },
        }
    }

    fn heroku(&mut self) -> Option<Source> {
        self.only(&["api_token", "app", "config_key"]);
        let (app, token, vars) = (self.required("app"), self.secret("api_token"), self.fields("config_key"));
        if vars.as_ref().is_some_and(Vec::is_empty) {
            self.reader.fault(
                self.line,
                format!("{} names no config_key; keyhatch hands out the config vars that are named", self.key),
            );
            return None;
        }
        Some(Source::Heroku { app: app?.to_string(), token: token?, vars: vars? })
    }

    fn http(&mut self) -> Option<Source> {
        self.only(&["url", "field"]);
        let (url, fields) = (self.required("url"), self.fields("field"));
        let (url, basic) = without_user(&url?);
        if let Some(None) = basic {
            self.reader.fault(self.line, format!("{}: the user or password in the url cannot be decoded", self.key));
        }
        Some(Source::Http { url, fields: fields?, basic: basic.flatten() })
    }

    fn hawk(&mut self) -> Option<Source> {
        self.only(&["secret_id", "secret", "algorithm", "url", "field"]);
        let (id, secret) = (self.required("secret_id"), self.secret("secret"));
        let algorithm =
            if self.get("algorithm").is_some() { self.optional("algorithm")?.to_string() } else { "sha256".to_owned() };
        if !["sha256", "sha1"].contains(&algorithm.as_str()) {
            self.reader.fault(self.line, format!("{}: algorithm is to be sha256 or sha1", self.key));
        }
        let (url, fields) = (self.required("url"), self.fields("field"));
        let (url, basic) = without_user(&url?);
        if basic.is_some() {
            self.reader.fault(
                self.line,
                format!(
                    "{}: a user and password in the url take the place of Hawk in cachish; leave one of the two out",
                    self.key
                ),
            );
        }
        Some(Source::Hawk { id: id?.to_string(), secret: secret?, algorithm, url, fields: fields? })
    }
}

/// The URL alone, and what was before its host: the requests library sends that as Basic authentication, if there is a password.
type User = (String, Zeroizing<String>);
fn without_user(url: &str) -> (String, Option<Option<User>>) {
    let Some((scheme, rest)) = url.split_once("://") else { return (url.to_owned(), None) };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let Some(at) = rest[..end].rfind('@') else { return (url.to_owned(), None) };
    let bare = format!("{scheme}://{}", &rest[at + 1..]);
    let Some((user, password)) = rest[..at].split_once(':') else { return (bare, None) };
    let password = decoded(password).map(Zeroizing::new);
    let shown =
        password.filter(|password| !password.is_empty() && password.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
    (bare, Some(decoded(user).zip(shown)))
}

/// Percent-decoding (RFC 3986), to UTF-8.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, more)) = rest.split_first() {
        let pair = if *first == b'%' { more.get(..2).and_then(|pair| std::str::from_utf8(pair).ok()) } else { None };
        match pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()) {
            Some(byte) => (bytes, rest) = ([bytes, vec![byte]].concat(), &more[2..]),
            None => {
                bytes.push(*first);
                rest = more;
            }
        }
    }
    String::from_utf8(bytes).ok()
}
