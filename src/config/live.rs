//! What of a configuration a running broker takes over, and what it cannot: pure.
//!
//! Nothing that only the start could have done is ever taken over in part.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use serde::{Deserialize, Serialize};

use super::{Command, Config, Content, Document, Key, KeyTemplate, Limits, Server, ServiceUser, TokenName, Url};
use crate::acl::Acl;

/// The tokens that are files of several lines, each with all that must stand in it.
pub type TokenFiles = BTreeMap<TokenName, Vec<Content>>;

/// What a running broker takes over. Holds paths and names of secrets, never their bytes.
#[derive(Debug, Serialize, Deserialize)]
pub struct Live {
    pub limits: Limits,
    pub keys: Vec<Key>,
    pub templates: Vec<KeyTemplate>,
    pub acl: Acl,
    pub tokens: Vec<TokenName>,
}

/// What holds from the start to the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fixed {
    /// Settings by their names, with their values as text to compare.
    settings: Vec<(String, String)>,
    /// Some client has `unit`: what tells units is there.
    units: bool,
    /// Where upstreams and their proxies listen.
    ports: BTreeSet<u16>,
    /// What each port is of, to be told by whoever read the configuration. No part of what is compared.
    #[serde(skip)]
    of_ports: BTreeMap<u16, String>,
    /// What can be run.
    commands: Vec<Command>,
}

impl Fixed {
    /// `units`: some client has one.
    pub fn of(config: &Config, units: bool) -> Self {
        let Server { socket, socket_mode, admin_socket, admin_group, parent_user, worker_user, sandbox } =
            &config.server;
        let user = |user: &ServiceUser| {
            let ids = user.ids.map(|(uid, gid)| format!(", uid {uid}, gid {gid}")).unwrap_or_default();
            format!("{}{ids}", user.name)
        };
        let seal_keys = config.cache.seal_keys.iter().map(ToString::to_string).collect::<Vec<_>>();
        let settings = [
            ("server.socket", socket.display().to_string()),
            ("server.socket-mode", format!("{socket_mode:04o}")),
            ("server.admin-socket", admin_socket.display().to_string()),
            ("server.admin-group", admin_group.map_or("none".to_owned(), |gid| format!("gid {gid}"))),
            ("server.parent-user", user(parent_user)),
            ("server.worker-user", user(worker_user)),
            ("server.sandbox", format!("{sandbox:?}")),
            ("cache.directory", config.cache.directory.display().to_string()),
            ("cache.seal-key", seal_keys.join(", ")),
            // Both roles have made room for this many; the sealed cache reads no larger one.
            ("limits.connections", config.limits.connections.to_string()),
            ("limits.value-size", config.limits.value_size.to_string()),
        ];
        let settings = settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let mut of_ports = BTreeMap::new();
        for (port, origin, key) in config.listeners() {
            of_ports.entry(port).or_insert_with(|| format!("{origin}, of key `{key}`"));
        }
        Self { settings, units, ports: of_ports.keys().copied().collect(), of_ports, commands: config.commands() }
    }

    /// What a broker with these cannot take over from the others, each by its name.
    pub fn refused(&self, new: &Self) -> Vec<String> {
        let value = |name: &str| self.settings.iter().find(|(known, _)| known == name).map(|(_, value)| value);
        let differs = |(name, wanted): &&(String, String)| value(name) != Some(wanted);
        let named = |(name, wanted): &(String, String)| {
            let have: &dyn Display = value(name).map_or(&"unknown", |value| value);
            format!("{name} is {have} and would be {wanted}")
        };
        let settings = new.settings.iter().filter(differs).map(named);
        let ports = new.ports.difference(&self.ports);
        let ports = ports.map(|port| match new.of_ports.get(port) {
            Some(of) => format!("the TCP port {port} of {of}, is a new one"),
            None => format!("the TCP port {port} of a source or proxy is a new one"),
        });
        let units = new.units && !self.units;
        let units = units.then(|| "a client with `unit` is the first one".to_owned());
        let commands = new.commands.iter().filter(|command| !self.commands.contains(command));
        let commands = commands
            .map(|command| format!("the source of type `command` that runs `{command}` is a new one, or has changed"));
        settings.chain(ports).chain(units).chain(commands).collect()
    }
}

impl Config {
    /// The TCP ports of all sources and of where their sessions come from, or of their proxies: a redirect stays within its
    /// origin.
    pub fn ports(&self) -> impl Iterator<Item = u16> {
        self.listeners().into_iter().map(|(port, ..)| port)
    }

    /// Each of these ports with its origin and the key that it is for.
    fn listeners(&self) -> Vec<(u16, String, String)> {
        let of = |document: &Document, key: &dyn Display| {
            listeners(document).into_iter().map(|(port, origin)| (port, origin, key.to_string())).collect::<Vec<_>>()
        };
        let of_keys = self.keys.iter().flat_map(|key| of(&key.source.document, &key.path.whole()));
        // Parameters never stand in a port.
        let of_templates = self.templates.iter().flat_map(|key| of(&key.source.any_document(), &key.template));
        of_keys.chain(of_templates).collect()
    }

    /// The tokens that are files of several lines.
    pub fn token_files(&self) -> TokenFiles {
        token_files(&self.keys, &self.templates)
    }

    /// All that is run, each once and in their order.
    pub fn commands(&self) -> Vec<Command> {
        let command = |document| match document {
            Document::Command(document) => Some(document.command),
            _ => None,
        };
        let of_keys = self.keys.iter().filter_map(|key| command(key.source.document.clone()));
        let of_templates = self.templates.iter().filter_map(|key| command(key.source.any_document()));
        let commands: BTreeSet<Command> = of_keys.chain(of_templates).collect();
        commands.into_iter().collect()
    }

    /// Splits off what a running broker takes over.
    pub fn into_live(self) -> Live {
        let tokens = self.tokens.into_keys().collect();
        Live { limits: self.limits, keys: self.keys, templates: self.templates, acl: self.acl, tokens }
    }
}

/// The tokens that are files of several lines: whoever reads tokens is to take these as they are.
fn token_files<'k>(keys: &'k [Key], templates: &'k [KeyTemplate]) -> TokenFiles {
    let of_templates: Vec<Document> = templates.iter().map(|key| key.source.any_document()).collect();
    let documents = keys.iter().map(|key| &key.source.document).chain(&of_templates);
    let mut files = TokenFiles::new();
    for document in documents {
        let Document::Http(http) = document else { continue };
        let Some((token, content)) = http.auth.file() else { continue };
        let contents = files.entry(token.clone()).or_default();
        if !contents.contains(&content) {
            contents.push(content);
        }
    }
    files
}

impl Live {
    /// The tokens that are files of several lines.
    pub fn token_files(&self) -> TokenFiles {
        token_files(&self.keys, &self.templates)
    }
}

fn listeners(document: &Document) -> Vec<(u16, String)> {
    let http = match document {
        Document::Http(http) => http,
        Document::Nameko(call) => return vec![(call.broker.port, call.broker.origin())],
        Document::File(_) | Document::Command(_) => return Vec::new(),
    };
    let listener = |url: &Url| (url.port, url.origin());
    let by_proxy = |url: &Url| listener(http.proxy.as_ref().unwrap_or(url));
    let endpoint = http.auth.endpoint();
    let endpoint = endpoint.map(|url| if http.auth.is_metadata() { listener(url) } else { by_proxy(url) });
    [by_proxy(&http.url)].into_iter().chain(endpoint).collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::{SourceText, System, parse};
    use super::*;

    fn fixed(text: &str) -> Fixed {
        let path = PathBuf::from("keyhatch.toml");
        let config = parse(vec![SourceText { path, text: text.to_owned() }], &System).unwrap();
        Fixed::of(&config, config.acl.has_units())
    }

    #[test]
    fn each_setting_of_the_start_is_named() {
        let before = fixed("");
        for (name, text) in [
            ("server.socket", "[server]\nsocket = \"/run/other.sock\""),
            ("server.socket-mode", "[server]\nsocket-mode = \"0660\""),
            ("server.admin-socket", "[server]\nadmin-socket = \"/run/other.sock\""),
            ("server.admin-group", "[server]\nadmin-group = 77"),
            ("server.parent-user", "[server]\nparent-user = 4711"),
            ("server.worker-user", "[server]\nworker-user = 4711"),
            ("server.sandbox", "[server]\nsandbox = \"best-effort\""),
            ("cache.directory", "[cache]\ndirectory = \"/elsewhere\""),
            ("cache.seal-key", "[cache]\nseal-key = { file = \"/elsewhere\" }"),
            ("limits.connections", "[limits]\nconnections = 2000"),
            ("limits.value-size", "[limits]\nvalue-size = \"2MiB\""),
        ] {
            let refused = before.refused(&fixed(text));
            assert!(refused.len() == 1 && refused[0].starts_with(&format!("{name} is ")), "{name}: {refused:?}");
        }
        assert!(before.refused(&fixed("[limits]\nmemory = \"128MiB\"\nidle-timeout = \"5s\"")).is_empty());
    }

    #[test]
    fn units_may_go_and_not_come() {
        let (without, with) = (fixed(""), fixed("[clients.u]\nunit = \"u.service\"\nkeys = [\"/**\"]"));
        assert_eq!(without.refused(&with), ["a client with `unit` is the first one"]);
        assert!(with.refused(&without).is_empty() && with.refused(&with).is_empty());
    }

    #[test]
    fn what_is_run_may_go_and_not_come_and_what_is_made_of_it_may_change() {
        let with = |source: &str| {
            fixed(&format!(
                "[tokens]\nt = {{ file = \"/t\" }}\n[keys.\"/a\"]\nsource = {{ type = \"command\", user = 4711, {source} }}"
            ))
        };
        let before = with("run = [\"/bin/a\", \"b c\"]");
        assert!(before.refused(&fixed("")).is_empty());
        for same in ["format = \"json\"", "exit-codes = { 2 = \"gone\" }"] {
            assert!(before.refused(&with(&format!("run = [\"/bin/a\", \"b c\"], {same}"))).is_empty(), "{same}");
        }
        assert_eq!(
            before.refused(&with("run = [\"/bin/a\", \"d\"]")),
            ["the source of type `command` that runs `/bin/a d` is a new one, or has changed"]
        );
        for other in ["directory = \"/tmp\"", "environment = { A = \"b\" }", "token = \"t\""] {
            assert_eq!(before.refused(&with(&format!("run = [\"/bin/a\", \"b c\"], {other}"))).len(), 1, "{other}");
        }
    }

    #[test]
    fn ports_may_go_and_not_come() {
        let with =
            |port: u16| format!("[keys.\"/a\"]\nsource = {{ type = \"http\", url = \"https://a.example:{port}/\" }}");
        let (before, other) = (fixed(&with(8443)), fixed(&with(8444)));
        assert!(before.refused(&fixed("")).is_empty());
        assert_eq!(before.refused(&other), ["the TCP port 8444 of https://a.example:8444, of key `/a`, is a new one"]);
        let with = |more: &str| {
            let auth = format!("auth = {{ type = \"google-service-account\", key = \"t\", scope = \"s\"{more} }}");
            let source = format!("source = {{ type = \"http\", url = \"https://a.example:8443/\", {auth} }}");
            fixed(&format!("[tokens]\nt = {{ file = \"/t\" }}\n[keys.\"/a\"]\n{source}"))
        };
        let told = before.refused(&with(""));
        assert_eq!(told, ["the TCP port 443 of https://oauth2.googleapis.com:443, of key `/a`, is a new one"]);
        // A command that does not know is compared all the same.
        let crossed: Fixed = serde_json::from_str(&serde_json::to_string(&with("")).unwrap()).unwrap();
        assert_eq!(before.refused(&crossed), ["the TCP port 443 of a source or proxy is a new one"]);
        assert!(with("").refused(&crossed).is_empty());
    }
}
