//! `[clients]`: who may read what.

use std::collections::BTreeMap;

use super::Server;
use super::command::Users as CommandUsers;
use super::diagnostic::{Diagnostic, Place, Report, quoted};
use super::keys::Keys;
use super::resolve::{Resolver, is_number};
use super::table::{Entry, Node, Table};
use super::values;
use super::{credentials, names};
use crate::acl::{Client, OVERFLOW_ID, Pattern, UnitPattern, Users, Who};
use crate::secret::KeyPath;

/// The clients of all files, in the order of their definition, and where each pattern stands.
#[derive(Default)]
pub(super) struct Clients {
    names: BTreeMap<String, Place>,
    pub(super) clients: Vec<Client>,
    pub(super) patterns: Vec<(Pattern, Place)>,
    /// Where the keys of credentials stand.
    pub(super) credentials: Vec<(KeyPath, Place)>,
    places: Vec<Place>,
}

impl Clients {
    pub(super) fn add(&mut self, entry: &Entry<'_>, server: &Server, resolver: &dyn Resolver, report: &mut Report<'_>) {
        let at = |title: String| Diagnostic::at(entry.place.clone(), title);
        if let Some(first) = self.names.get(entry.name) {
            let title = format!("the client {} is defined twice", quoted(entry.name));
            report.error(at(title).also(first.clone(), "first defined here"));
        } else if !values::is_name(entry.name) {
            report.error(
                at("this is not a name for a client".to_owned()).help(
                    "a name is made of A-Z a-z 0-9 . _ -, begins with a letter or digit and has at most 64 bytes",
                ),
            );
        }
        self.names.entry(entry.name.to_owned()).or_insert_with(|| entry.place.clone());
        let Some(table) = entry.node.table(report, &names::CLIENT) else { return };
        let keys = self.patterns(entry, &table, report);
        let mut lookup = Lookup { client: entry.name, server, resolver, nobody: false, dynamic: false };
        if let (Some(who), Some(keys)) = (who(entry, &table, &mut lookup, report), keys) {
            let at = report.location(&entry.place);
            let alone = ["user", "group", "anyone"].iter().all(|other| table.get(other).is_none());
            let alone = alone && table.get("unit").is_some();
            let credentials::Credentials { keys: by_id, places } = credentials::read(&table, alone, &keys, report);
            self.credentials.extend(places);
            self.places.push(entry.place.clone());
            self.clients.push(Client { name: entry.name.to_owned(), who, keys, credentials: by_id, at });
        }
    }

    /// What only all keys together tell of credentials.
    pub(super) fn check_credentials(&self, keys: &Keys, report: &mut Report<'_>) {
        for (key, place) in &self.credentials {
            if !keys.may_be(key) {
                let error = Diagnostic::at(place.clone(), "no key of the configuration is at this path");
                report.error(error.help("a credential is a key: define it in [keys]"));
            }
        }
        for (client, place) in self.clients.iter().zip(&self.places) {
            credentials::warn(client, place, keys, report);
        }
    }

    /// A client that is the user of a command could look into it, and take its token.
    pub(super) fn check_commands(&self, users: &CommandUsers<'_>, report: &mut Report<'_>) {
        for (client, place) in self.clients.iter().zip(&self.places) {
            let Who::Ids { users: Some(of_client), .. } = &client.who else { continue };
            if let Some((user, other)) = users.among(of_client) {
                let title =
                    format!("the client {} is the user {}, as whom a command runs", quoted(&client.name), quoted(user));
                let error = Diagnostic::at(place.clone(), title).also(other.clone(), "here");
                report
                    .error(error.help(
                        "give the command a user of its own: whoever is the same user can read what it is given",
                    ));
            }
        }
    }

    fn patterns(&mut self, entry: &Entry<'_>, table: &Table<'_>, report: &mut Report<'_>) -> Option<Vec<Pattern>> {
        let Some(node) = table.get("keys") else {
            if table.misspells("keys") {
                return None;
            }
            let error = Diagnostic::at(entry.place.clone(), "this client has no `keys`");
            report.error(error.help("for example: keys = [\"/billing/*\"]").absence());
            return None;
        };
        let mut patterns = Vec::new();
        for item in node.one_or_many(report)? {
            let Some(text) = item.as_str() else {
                report.error(item.expected("a list of key patterns, such as [\"/billing/*\"]"));
                continue;
            };
            match Pattern::parse(text) {
                Ok(pattern) => {
                    self.patterns.push((pattern.clone(), item.place()));
                    patterns.push(pattern);
                }
                Err(error) => report.error(item.error(error.to_string())),
            }
        }
        Some(patterns)
    }
}

/// The conditions of one client.
fn who(entry: &Entry<'_>, table: &Table<'_>, lookup: &mut Lookup<'_>, report: &mut Report<'_>) -> Option<Who> {
    let (user, group, unit) = (table.get("user"), table.get("group"), table.get("unit"));
    if let Some(anyone) = table.get("anyone") {
        match (anyone.boolean(report)?, user.or(group).or(unit)) {
            (true, None) => return Some(Who::Anyone),
            (true, Some(other)) => report.error(
                anyone
                    .error(format!("`anyone` and `{}` exclude each other", other.name))
                    .also(other.place(), "the other one")
                    .help("inside one client every condition must hold; for either, write two clients"),
            ),
            (false, _) => {
                report.error(anyone.error("`anyone` is either `true` or left out"));
            }
        }
        return None;
    }
    if user.is_none() && group.is_none() && unit.is_none() {
        let help = "a client needs `user` or `group`, or anyone = true";
        // With a misspelt condition, an error stands already.
        if !["user", "group", "unit", "anyone"].iter().any(|name| table.misspells(name)) {
            report
                .error(Diagnostic::at(entry.place.clone(), "this client does not say who it is").help(help).absence());
        }
        return None;
    }
    let units = unit.as_ref().map(|node| units(node, report));
    let users = user.map(|node| {
        let uids = lookup.ids(&node, Kind::User, report);
        if lookup.dynamic && unit.is_none() && !table.misspells("unit") {
            let error = node.error("`user = \"dynamic\"` is legal only beside `unit`");
            report.error(error.help("dynamic users are given to one service after the other: the unit says which one"));
        }
        Users { uids, dynamic: lookup.dynamic }
    });
    let groups = group.map(|node| lookup.ids(&node, Kind::Group, report));
    Some(if lookup.nobody { Who::Nobody } else { Who::Ids { users, groups, units } })
}

fn units(node: &Node<'_>, report: &mut Report<'_>) -> Vec<UnitPattern> {
    let mut patterns = Vec::new();
    for item in node.one_or_many(report).unwrap_or_default() {
        let Some(text) = item.as_str() else {
            report.error(item.expected("a pattern over names of units, such as \"web@*.service\", or a list of them"));
            continue;
        };
        match UnitPattern::parse(text) {
            Ok(pattern) => patterns.push(pattern),
            Err(error) => report.error(item.error(error.to_string())),
        }
    }
    patterns
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    User,
    Group,
}

impl Kind {
    fn noun(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Group => "group",
        }
    }
}

struct Lookup<'a> {
    client: &'a str,
    server: &'a Server,
    resolver: &'a dyn Resolver,
    /// Somebody could not be found.
    nobody: bool,
    /// Among the users are the dynamic ones.
    dynamic: bool,
}

impl Lookup<'_> {
    fn ids(&mut self, node: &Node<'_>, kind: Kind, report: &mut Report<'_>) -> Vec<u32> {
        let items = node.one_or_many(report).unwrap_or_default();
        let mut ids: Vec<u32> = items.iter().filter_map(|item| self.id(item, kind, report)).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    fn id(&mut self, item: &Node<'_>, kind: Kind, report: &mut Report<'_>) -> Option<u32> {
        let noun = kind.noun();
        let (shown, found) = if item.is_integer() {
            let id = item.integer(report, 0, u32::MAX - 1)?;
            (format!("{noun} {id}"), Ok(Some(id)))
        } else {
            let Some(name) = item.as_str().filter(|name| !name.is_empty()) else {
                report.error(item.expected(&format!("the name of a {noun}, its number, or a list of them")));
                return None;
            };
            if name == "dynamic" && kind == Kind::User {
                self.dynamic = true;
                return None;
            }
            let found = match kind {
                Kind::User => self.resolver.user(name).map(|ids| ids.map(|(uid, _)| uid.as_raw())),
                Kind::Group => self.resolver.group(name).map(|gid| gid.map(nix::unistd::Gid::as_raw)),
            };
            (format!("{noun} {}", quoted(name)), found)
        };
        if kind == Kind::User {
            self.refuse_service_user(item, found.as_ref().ok().copied().flatten(), report);
        }
        let why = match found {
            Ok(Some(OVERFLOW_ID)) => format!("{shown} is the overflow id {OVERFLOW_ID}, which never matches"),
            Ok(Some(id)) => return Some(id),
            Ok(None) => match item.as_str().filter(|name| is_number(name)) {
                Some(name) => {
                    let (id, noun) = (if kind == Kind::User { "uid" } else { "gid" }, kind.noun());
                    format!("there is no {shown}; a {id} is written without quotes: {noun} = {name}")
                }
                None => format!("there is no {shown}"),
            },
            Err(error) => format!("looking up {shown}: {error}"),
        };
        self.nobody = true;
        report.problem(&item.place(), format!("client `{}` matches nobody: {why}", self.client));
        None
    }

    /// The service's own users ask nothing: a client that names one would let a worker that was taken over
    /// read as a peer.
    fn refuse_service_user(&self, item: &Node<'_>, uid: Option<u32>, report: &mut Report<'_>) {
        for (setting, user) in [("parent-user", &self.server.parent_user), ("worker-user", &self.server.worker_user)] {
            let own = user.ids.map(|(uid, _)| uid.as_raw());
            if item.as_str() == Some(user.name.as_str()) || (uid.is_some() && uid == own) {
                report.error(
                    item.error(format!("a client cannot be the `{setting}` of keyhatch itself"))
                        .help("give the application a user of its own"),
                );
            }
        }
    }
}
