//! Sources of type `command`: what is run, as whom, and what it is given. All of it is fixed: nothing that a peer says
//! becomes an argument.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::diagnostic::{Diagnostic, Place, Report, quoted};
use super::expand::Kind;
use super::projection::projection;
use super::resolve::{Resolver, advice};
use super::source::format;
use super::table::{Entry, Node, Table};
use super::text::Scope;
use super::tokens::Tokens;
use super::{Command, CommandDocument, Document, Format, Key, KeyTemplate, Server, TokenPlace, mask, names, values};
use crate::acl::{self, OVERFLOW_ID};
use crate::outcome::Class;

const RUN: &str = "for example: run = [\"/usr/bin/op\", \"read\", \"op://vault/item/field\"]";
const NO_SECRET: &str = "a secret never stands in the configuration: name a token of [tokens], which the program reads from descriptor 3, or with token-on = \"stdin\" from its standard input";

/// Set by keyhatch itself.
const OURS: &str = "KEYHATCH_TOKEN_FD";

pub(super) fn command(table: &Table<'_>, tokens: &Tokens, scope: &Scope<'_>, report: &mut Report<'_>) -> Option<Kind> {
    let before = report.errors.len();
    let run = table.require(report, "run", "[\"/usr/bin/op\", \"read\", \"op://vault/item/field\"]");
    let run = run.and_then(|node| program(&node, scope, report));
    let user = table.require(report, "user", "\"op-runner\"").and_then(|node| name_of_user(&node, report));
    let environment = table.get("environment").map(|node| environment(&node, report)).unwrap_or_default();
    let directory = table.get("directory").and_then(|node| node.parsed(report, values::path));
    let token = table.get("token").and_then(|node| tokens.named(&node, report));
    let place = table.get("token-on").and_then(|node| {
        if table.get("token").is_none() {
            report.error(node.error("`token-on` says where the program finds its `token`, and there is none"));
        }
        node.word(report, names::TOKEN_PLACES)
    });
    let place = match (&token, place) {
        (None, _) => TokenPlace::None,
        (Some(_), Some("stdin")) => TokenPlace::Stdin,
        (Some(_), _) => TokenPlace::Descriptor,
    };
    let format = format(table, names::FILE_FORMATS, Format::Text, report);
    let projection = projection(table, format, scope, report);
    let exit_codes = table.get("exit-codes").map(|node| exit_codes(&node, report)).unwrap_or_default();
    let (Some((program, arguments)), Some(user), Some(projection)) = (run, user, projection) else { return None };
    let directory = directory.unwrap_or_else(|| PathBuf::from("/"));
    let command = Command { program, arguments, environment, directory, user, ids: None, token: place };
    let document = Box::new(CommandDocument { command, token, format, exit_codes });
    (report.errors.len() == before).then_some(Kind::Command { document, projection })
}

/// The program and its arguments.
fn program(node: &Node<'_>, scope: &Scope<'_>, report: &mut Report<'_>) -> Option<(PathBuf, Vec<String>)> {
    let Some(items) = node.as_list().filter(|items| !items.is_empty()) else {
        report.error(node.expected("a list of the program and its arguments; no shell reads it").help(RUN));
        return None;
    };
    let before = report.errors.len();
    let mut words = Vec::with_capacity(items.len());
    for item in &items {
        let Some(word) = item.string(report) else { continue };
        if word.contains('\0') {
            report.error(item.error("`run` holds a NUL character"));
        } else if mask::is_secret(word) || mask::has_secret_parameter(word) {
            report.error(item.error("an argument seems to hold a secret").help(NO_SECRET));
        } else if let Some(name) = scope.named_in(word) {
            let error = item.error(format!("a parameter cannot stand in `run`: {{{name}}}"));
            report.error(error.help(
                "what runs is fixed at start, and no peer chooses an argument; parameters may stand in `field` and `pointer`",
            ));
        }
        words.push(word.to_owned());
    }
    let program = items[0].parsed(report, values::path)?;
    if program.file_name().is_none() || words[0].ends_with('/') {
        report.error(items[0].error("`run` begins with a directory, not with a program").help(RUN));
    }
    words.remove(0);
    (report.errors.len() == before).then_some((program, words))
}

/// The name of the user, or the digits of a uid.
fn name_of_user(node: &Node<'_>, report: &mut Report<'_>) -> Option<String> {
    if node.is_integer() {
        return Some(node.integer(report, 0, u32::MAX - 1)?.to_string());
    }
    let name = node.as_str().filter(|name| !name.is_empty()).map(str::to_owned);
    if name.is_none() {
        report.error(node.expected("the name of a user, or a uid"));
    }
    name
}

fn environment(node: &Node<'_>, report: &mut Report<'_>) -> Vec<(String, String)> {
    let mut variables = Vec::new();
    for entry in node.entries(report) {
        let refuse = |title: String| Diagnostic::at(entry.place.clone(), title);
        let name = entry.name;
        let begins = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
        if !begins || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            let error = refuse("this is not the name of a variable".to_owned());
            report.error(error.help("a name is made of A-Z a-z 0-9 _ and does not begin with a digit"));
            continue;
        }
        if name == OURS {
            report.error(refuse(format!("the variable {} is keyhatch's own", quoted(name))));
            continue;
        }
        let Some(value) = entry.node.string(report) else { continue };
        if value.contains('\0') {
            report.error(entry.node.error(format!("the variable {} holds a NUL character", quoted(name))));
        } else if mask::is_secret(value) || mask::has_secret_parameter(value) || names_secret(name, value) {
            let error = entry.node.error(format!("the variable {} seems to hold a secret", quoted(name)));
            report.error(error.help(NO_SECRET));
        } else {
            variables.push((name.to_owned(), value.to_owned()));
        }
    }
    variables.sort();
    variables
}

/// By its name, and unless it is a path or nothing.
fn names_secret(name: &str, value: &str) -> bool {
    let name = name.to_ascii_uppercase();
    let secret = ["TOKEN", "SECRET", "PASSWORD", "PASSWD", "API_KEY", "APIKEY", "PRIVATE_KEY"];
    !value.is_empty() && !value.starts_with('/') && secret.iter().any(|word| name.ends_with(word))
}

fn exit_codes(node: &Node<'_>, report: &mut Report<'_>) -> Vec<(u8, Class)> {
    let mut codes = Vec::new();
    for entry in node.entries(report) {
        let code = entry.name.parse::<u8>().ok().filter(|code| *code > 0 && code.to_string() == entry.name);
        let Some(code) = code else {
            let error = Diagnostic::at(entry.place.clone(), "this is not an exit code that says what failed");
            report.error(error.help("legal is 1 to 255, for example: exit-codes = { 2 = \"gone\" }"));
            continue;
        };
        let class = match entry.node.word(report, names::EXIT_CLASSES) {
            Some("token-refused") => Class::TokenRefused,
            Some("refused") => Class::Refused,
            Some("gone") => Class::Gone,
            Some("misconfigured") => Class::Misconfigured,
            Some(_) => Class::Unavailable,
            None => continue,
        };
        codes.push((code, class));
    }
    codes.sort_unstable_by_key(|(code, _)| *code);
    codes
}

/// The users of commands, looked up while that can be done.
pub(super) struct Users<'a> {
    server: &'a Server,
    resolver: &'a dyn Resolver,
    /// By the name in the configuration: the ids, if there is such a user, and where it was first named.
    found: BTreeMap<String, (Option<(u32, u32)>, Place)>,
    runs: Vec<Run>,
}

/// A command of a key: as whom, and with which token.
struct Run {
    key: String,
    user: String,
    token: Option<String>,
    at: Place,
}

impl<'a> Users<'a> {
    pub(super) fn new(server: &'a Server, resolver: &'a dyn Resolver) -> Self {
        Self { server, resolver, found: BTreeMap::new(), runs: Vec::new() }
    }

    /// Those of a key's sources of this type.
    pub(super) fn look_up(&mut self, entry: &Entry<'_>, report: &mut Report<'_>) {
        if let Some(source) = entry.node.peek("source") {
            self.of_source(entry.name, &source, report);
        }
        if let Some(several) = entry.node.peek("sources").filter(Node::is_table) {
            several.entries(report).iter().for_each(|one| self.of_source(entry.name, &one.node, report));
        }
    }

    fn of_source(&mut self, key: &str, source: &Node<'_>, report: &mut Report<'_>) {
        if source.peek("type").and_then(|kind| kind.as_str()) != Some("command") {
            return;
        }
        let Some(node) = source.peek("user") else { return };
        let Some(name) = node.as_str().map(str::to_owned).or_else(|| node.as_integer().map(|uid| uid.to_string()))
        else {
            return;
        };
        let token = source.peek("token").and_then(|node| node.as_str()).map(str::to_owned);
        self.runs.push(Run { key: key.to_owned(), user: name.clone(), token, at: node.place() });
        if self.found.contains_key(&name) {
            return;
        }
        let looked_up = if node.is_integer() {
            let uid = name.parse::<u32>().ok();
            Ok(uid.map(|uid| {
                (uid, self.resolver.primary_group(uid.into()).ok().flatten().map_or(uid, |gid| gid.as_raw()))
            }))
        } else {
            let found = self.resolver.user(&name);
            found.map(|ids| ids.map(|(uid, gid)| (uid.as_raw(), gid.as_raw())))
        };
        let ids = looked_up.as_ref().ok().copied().flatten();
        if let Some(why) = self.unfit(&name, ids) {
            let error = node.error(format!("a command cannot run as {}, who {why}", quoted(&name)));
            report.error(error.help("make a user for it with: useradd --system NAME"));
        } else if ids.is_none() {
            let (key, user) = (quoted(key), quoted(&name));
            let why = match looked_up {
                Err(error) => format!("looking up user {user}, to run its command: {error}"),
                Ok(_) => format!("there is no user {user} to run its command; {}", advice("user", &name)),
            };
            report.problem(&node.place(), format!("key {key}: {why}"));
        }
        self.found.insert(name, (ids, node.place()));
    }

    fn unfit(&self, name: &str, ids: Option<(u32, u32)>) -> Option<&'static str> {
        let is = |user: &super::ServiceUser| {
            let uid = user.ids.map(|(uid, _)| uid.as_raw());
            user.name == name || (uid.is_some() && uid == ids.map(|(uid, _)| uid))
        };
        match ids {
            _ if name == "root" => Some("is root: nothing would hold it"),
            Some((0, _)) => Some("is root: nothing would hold it"),
            Some((_, 0)) => Some("has root's group as its primary group"),
            Some((OVERFLOW_ID, _)) => Some("is nobody: a user that others share"),
            _ if is(&self.server.parent_user) => Some("is the `parent-user` of keyhatch itself"),
            _ if is(&self.server.worker_user) => Some("is the `worker-user` of keyhatch itself"),
            _ => None,
        }
    }

    /// Warns of tokens that other programs of the same user can read while they are used.
    pub(super) fn check_tokens(&self, report: &mut Report<'_>) {
        let uid = |run: &Run| self.found.get(&run.user).and_then(|(ids, _)| *ids).map(|(uid, _)| uid);
        let same_user =
            |one: &Run, other: &Run| one.user == other.user || (uid(one).is_some() && uid(one) == uid(other));
        for (at, run) in self.runs.iter().enumerate() {
            let mut earlier = self.runs[..at].iter().filter(|other| same_user(run, other));
            // Once for each token of a user.
            if let Some(first) = earlier.next()
                && first.token != run.token
                && earlier.all(|other| other.token != run.token)
            {
                let (key, other, user) = (quoted(&run.key), quoted(&first.key), quoted(&run.user));
                let text = format!(
                    "the commands of {key} and {other} run as {user} and have not the same token: programs of one user \
                     can read each other's; give each token a user of its own"
                );
                report.warning(&run.at, text);
            }
        }
    }

    /// The first of them that is one of these users, and where it is named.
    pub(super) fn among(&self, users: &acl::Users) -> Option<(&str, &Place)> {
        let dynamic = |uid: &u32| users.dynamic && acl::DYNAMIC_USERS.contains(uid);
        let is = |ids: &Option<(u32, u32)>| ids.is_some_and(|(uid, _)| users.uids.contains(&uid) || dynamic(&uid));
        self.found.iter().find_map(|(name, (ids, place))| is(ids).then_some((name.as_str(), place)))
    }

    /// The ids, into the sources.
    pub(super) fn fill_in(&self, keys: &mut [Key], templates: &mut [KeyTemplate]) {
        let ids = |command: &mut Command| {
            command.ids = self.found.get(&command.user).and_then(|(ids, _)| *ids);
        };
        for key in keys {
            if let Document::Command(document) = &mut key.source.document {
                ids(&mut document.command);
            }
        }
        for key in templates {
            if let Kind::Command { document, .. } = &mut key.source.0 {
                ids(&mut document.command);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Source, SourceText, System, parse};
    use super::*;

    fn source(more: &str) -> Source {
        let text = format!(
            "[tokens]\nt = {{ file = \"/t\" }}\nu = {{ file = \"/u\" }}\n[keys.\"/k\"]\nsource = {{ type = \"command\", run = [\"/bin/x\", \"y\"], {more} }}\n"
        );
        let path = PathBuf::from("keyhatch.toml");
        parse(vec![SourceText { path, text }], &System).unwrap().keys.remove(0).source
    }

    #[test]
    fn what_is_left_out_has_its_default() {
        let Document::Command(document) = source("user = 4000000000, token = \"t\"").document else {
            panic!("another type")
        };
        let CommandDocument { command, token, format, exit_codes } = *document;
        assert_eq!((token.unwrap().0.as_str(), format, exit_codes), ("t", Format::Text, Vec::new()));
        let expected = Command {
            program: PathBuf::from("/bin/x"),
            arguments: vec!["y".to_owned()],
            environment: Vec::new(),
            directory: PathBuf::from("/"),
            user: "4000000000".to_owned(),
            // A uid without an entry has the group of the same number.
            ids: Some((4_000_000_000, 4_000_000_000)),
            token: TokenPlace::Descriptor,
        };
        assert_eq!(command, expected);
    }

    #[test]
    fn tokens_of_programs_that_can_read_them_are_a_warning() {
        let warnings = |sources: &[&str]| {
            let key = |(number, more): (usize, &&str)| {
                format!("[keys.\"/k{number}\"]\nsource = {{ type = \"command\", run = [\"/bin/x\"], {more} }}\n")
            };
            let keys: String = sources.iter().enumerate().map(key).collect();
            let tokens = "[tokens]\nt = { file = \"/t\" }\nu = { file = \"/u\" }\n";
            let clients = "[clients.c]\nanyone = true\nkeys = [\"/**\"]\n";
            let path = PathBuf::from("keyhatch.toml");
            parse(vec![SourceText { path, text: format!("{tokens}{keys}{clients}") }], &System).unwrap().warnings
        };
        let (t, u, none) = ("user = 7000, token = \"t\"", "user = 7000, token = \"u\"", "user = 7000");
        assert!(warnings(&[t, t, "user = 7001, token = \"u\"", "user = 7001, token = \"u\""]).is_empty());
        assert!(warnings(&[none, none]).is_empty());
        let told = warnings(&[t, u, t, u, u]);
        assert!(told.len() == 1 && told[0].contains(":7: the commands of `/k1` and `/k0` run as `7000`"), "{told:?}");
        assert_eq!(warnings(&[t, u, none]).len(), 2);
        assert_eq!(warnings(&[none, t]).len(), 1);
    }

    #[test]
    fn what_selects_data_is_in_the_definition_and_nothing_else() {
        let of = |more: &str| source(more).definition;
        let plain = of("user = 7000, token = \"t\"");
        for same in ["token-on = \"stdin\"", "exit-codes = { 2 = \"gone\" }", "format = \"text\"", "directory = \"/\""]
        {
            assert_eq!(of(&format!("user = 7000, token = \"t\", {same}")), plain, "{same}");
        }
        for other in [
            "environment = { A = \"b\" }",
            "directory = \"/tmp\"",
            "format = \"json\"",
            "format = \"json\", field = \"a\"",
        ] {
            assert_ne!(of(&format!("user = 7000, token = \"t\", {other}")), plain, "{other}");
        }
        assert_ne!(of("user = 7001, token = \"t\""), plain);
        assert_ne!(of("user = 7000, token = \"u\""), plain);
        assert_ne!(of("user = 7000"), plain);
    }

    #[test]
    fn what_has_the_name_of_a_secret_is_one_unless_it_is_a_path() {
        for (name, value, secret) in [
            ("OP_SERVICE_ACCOUNT_TOKEN", "x", true),
            ("db_password", "x", true),
            ("VAULT_TOKEN", "", false),
            ("GOOGLE_APPLICATION_CREDENTIALS", "/var/lib/gcloud/key.json", false),
            ("CLIENT_SECRET", "/run/secret", false),
            ("TOKEN_NAME", "ci", false),
            ("HOME", "/var/lib/op", false),
        ] {
            assert_eq!(names_secret(name, value), secret, "{name}");
        }
    }
}
