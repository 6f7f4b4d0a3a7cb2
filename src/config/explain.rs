//! Why a peer may read a key, or why it may not: what `keyhatch explain` prints.
//!
//! Decides nothing: the grant is the ACL's own, and only a refusal is taken apart afterwards.

use std::fmt;

use super::{Config, KeyTemplate, Location};
use crate::acl::{Client, Grant, Pattern, Peer, UnitPattern, Who};
use crate::secret::KeyPath;
use crate::template::{self, Found};

/// The answer for one peer and one key.
#[derive(Debug)]
pub struct Explanation<'a> {
    pub key: &'a KeyPath,
    pub defined: Defined<'a>,
    pub grant: Option<Grant<'a>>,
    /// Without a grant: what stands against it in each client, in the order of their definition.
    pub obstacles: Vec<(&'a Client, Obstacle)>,
}

/// Where a path is defined; a peer is told the same about a key that is not and one that it may not read.
#[derive(Debug)]
pub enum Defined<'a> {
    No,
    Key(&'a Location),
    /// One of the paths of this key, with these values of its parameters.
    Template(&'a KeyTemplate, Vec<String>),
    /// It would be one, but for the constraint of this parameter.
    Outside(&'a KeyTemplate, &'a str),
}

/// Why one client does not grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    /// The peer is this client, and none of its patterns matches the key.
    OtherKeys,
    /// A pattern matches the key, and the peer is not this client.
    OtherPeer,
    /// A pattern matches the key, the peer has the user and group, and is not in a unit of this client.
    OtherUnit,
    /// The same, and the peer's unit is not certain enough for a client without a user that it names.
    UncertainUnit,
    /// A pattern matches the key, and the client has `unit` alone.
    UnitAlone,
    /// A pattern matches the key, and the client matches nobody: a user or group of it was not found.
    Nobody,
    Both,
}

/// Judges, and says why.
pub fn explain<'a>(config: &'a Config, peer: &Peer, key: &'a KeyPath) -> Explanation<'a> {
    let grant = config.acl.judge(peer, key);
    let obstacles = match grant {
        Some(_) => Vec::new(),
        None => config.acl.clients.iter().map(|client| (client, obstacle(client, peer, key))).collect(),
    };
    Explanation { key, defined: config.defined(key), grant, obstacles }
}

impl Config {
    /// A key without parameters, else the first with parameters that the path is inside of.
    pub fn defined(&self, key: &KeyPath) -> Defined<'_> {
        if let Some(defined) = self.keys.iter().find(|defined| defined.path.whole() == *key) {
            return Defined::Key(&defined.at);
        }
        match template::find(self.templates.iter().map(|one| &one.template), key) {
            Found::Inside { template, values } => Defined::Template(&self.templates[template], values),
            Found::Outside { template, parameter } => Defined::Outside(&self.templates[template], parameter),
            Found::Nothing => Defined::No,
        }
    }
}

impl Defined<'_> {
    /// Whether there is such a key.
    pub fn is_key(&self) -> bool {
        matches!(self, Self::Key(_) | Self::Template(..))
    }

    pub fn at(&self) -> Option<&Location> {
        match self {
            Self::No => None,
            Self::Key(at) => Some(at),
            Self::Template(template, _) | Self::Outside(template, _) => Some(&template.at),
        }
    }

    pub fn template(&self) -> Option<&KeyTemplate> {
        match self {
            Self::Template(template, _) | Self::Outside(template, _) => Some(template),
            Self::No | Self::Key(_) => None,
        }
    }
}

fn obstacle(client: &Client, peer: &Peer, key: &KeyPath) -> Obstacle {
    let covers = client.keys.iter().any(|pattern| pattern.matches(key));
    match (client.matches(peer), covers) {
        (true, _) => Obstacle::OtherKeys,
        (false, true) if client.who == Who::Nobody => Obstacle::Nobody,
        (false, true) if matches!(client.who, Who::Ids { users: None, groups: None, .. }) => Obstacle::UnitAlone,
        (false, true) if client.depends_on_unit(peer) => match (&peer.unit, units(client)) {
            (Some(unit), Some(units)) if units.iter().any(|pattern| pattern.matches(unit)) => Obstacle::UncertainUnit,
            _ => Obstacle::OtherUnit,
        },
        (false, true) => Obstacle::OtherPeer,
        (false, false) => Obstacle::Both,
    }
}

fn units(client: &Client) -> Option<&[UnitPattern]> {
    match &client.who {
        Who::Ids { units, .. } => units.as_deref(),
        _ => None,
    }
}

/// `web@*.service` or `db.service`, for a person.
fn shown_units(client: &Client) -> String {
    let shown: Vec<String> = units(client).unwrap_or_default().iter().map(|pattern| format!("`{pattern}`")).collect();
    shown.join(" or ")
}

impl fmt::Display for Explanation<'_> {
    /// For a person, one line for each client; ends without a newline.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.key;
        match &self.grant {
            Some(Grant { client, pattern }) => {
                write!(f, "{key} is granted by client `{}` ({}), whose keys hold `{pattern}`", client.name, client.at)?;
                if client.has_unit() {
                    write!(f, " and whose unit is {}", shown_units(client))?;
                }
            }
            None => {
                write!(f, "{key} is not granted by any client")?;
                let telling = self.obstacles.iter().filter(|(_, obstacle)| *obstacle != Obstacle::Both);
                for (client, obstacle) in telling {
                    let why = match obstacle {
                        Obstacle::OtherPeer => "holds the key, but the peer is none of its users and groups",
                        Obstacle::OtherUnit => "holds the key, but the peer is not in its unit",
                        Obstacle::UncertainUnit => {
                            "holds the key, but this kernel cannot tell the unit for sure (Linux 6.5), which a client \
                             without a named user needs"
                        }
                        Obstacle::UnitAlone => "holds the key, but is for LoadCredential= of systemd alone and no peer",
                        Obstacle::Nobody => "holds the key, but matches nobody: see `keyhatch check`",
                        Obstacle::OtherKeys | Obstacle::Both => "matches the peer, but none of its keys is this one",
                    };
                    write!(f, "\n  client `{}` ({}) {why}", client.name, client.at)?;
                    if *obstacle == Obstacle::OtherUnit {
                        write!(f, " {}", shown_units(client))?;
                    }
                }
            }
        }
        match &self.defined {
            Defined::No => write!(f, "\n  there is no such key"),
            Defined::Key(at) => write!(f, "\n  the key is defined at {at}"),
            Defined::Template(KeyTemplate { template, at, .. }, values) => {
                let named: Vec<String> =
                    template.parameters().iter().zip(values).map(|(n, v)| format!("{n} = {v}")).collect();
                write!(f, "\n  it is {template}, defined at {at}, with {}", named.join(", "))
            }
            Defined::Outside(KeyTemplate { template, at, .. }, parameter) => {
                write!(
                    f,
                    "\n  there is no such key: {template}, defined at {at}, does not allow this value of `{parameter}`"
                )
            }
        }
    }
}

/// What a peer may read of a key with parameters: for each client that it is, the patterns that match some of its paths.
#[derive(Debug)]
pub struct TemplateExplanation<'a> {
    pub key: &'a KeyTemplate,
    /// And whether it is all of them.
    pub granting: Vec<(&'a Client, &'a Pattern, bool)>,
}

/// Judges the paths of a key with parameters, whatever its parameters are. `None` if it is none of the configuration.
pub fn explain_template<'a>(config: &'a Config, peer: &Peer, text: &str) -> Option<TemplateExplanation<'a>> {
    let key = config.templates.iter().find(|one| one.template.to_string() == text)?;
    let paths: Vec<Pattern> = key.template.as_patterns().iter().filter_map(|text| Pattern::parse(text).ok()).collect();
    let patterns =
        config.acl.matching(peer).flat_map(|client| client.keys.iter().map(move |pattern| (client, pattern)));
    let some = patterns.filter(|(_, pattern)| paths.iter().any(|paths| pattern.overlaps(paths)));
    let granting = some.map(|(client, pattern)| (client, pattern, paths.iter().all(|paths| pattern.covers(paths))));
    Some(TemplateExplanation { key, granting: granting.collect() })
}

impl fmt::Display for TemplateExplanation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let KeyTemplate { template, at, .. } = self.key;
        if self.granting.is_empty() {
            write!(f, "no path of {template} is granted by any client")?;
        }
        for (index, (client, pattern, all)) in self.granting.iter().enumerate() {
            let line = if index > 0 { "\n" } else { "" };
            let which = if *all { "every path" } else { "some paths" };
            let are = if *all { "is" } else { "are" };
            write!(f, "{line}{which} of {template} {are} granted by client `{}` ({}), ", client.name, client.at)?;
            write!(f, "whose keys hold `{pattern}`")?;
        }
        write!(f, "\n  the key is defined at {at}")
    }
}
