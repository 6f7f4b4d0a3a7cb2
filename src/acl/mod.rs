//! Who may read what. Pure policy: no I/O, no clock, no names to look up.
//!
//! Judged in the worker for every request and again in the parent for every fetch, with the same code.
//! A judgement grants by naming the client that grants; nothing else makes a [`Grant`].
#![forbid(unsafe_code)]

#[cfg(test)]
mod fuzz;
mod pattern;
mod peer;
mod unit;

pub use pattern::{Pattern, PatternError};
pub use peer::{OVERFLOW_ID, Peer};
pub use unit::{Unit, UnitPattern, UnitPatternError};

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::config::Location;
use crate::secret::KeyPath;

/// All clients of the configuration, in the order of their definition.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acl {
    pub clients: Vec<Client>,
}

/// A named entry of `[clients]`. Every condition that is there must hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    pub name: String,
    pub who: Who,
    pub keys: Vec<Pattern>,
    /// By the ids of credentials, the keys that they are; only where there is a unit alone.
    pub credentials: BTreeMap<String, KeyPath>,
    pub at: Location,
}

/// The uids that systemd gives to units with `DynamicUser=yes` (systemd.exec(5)).
pub const DYNAMIC_USERS: std::ops::RangeInclusive<u32> = 61184..=65519;

/// The conditions of a client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Who {
    Anyone,
    /// All that are given must hold; at least one is.
    Ids {
        users: Option<Users>,
        /// Any of these gids.
        groups: Option<Vec<u32>>,
        /// Any of these units. Alone, without users and groups, it is for connections of systemd itself and matches no peer.
        units: Option<Vec<UnitPattern>>,
    },
    /// A user or group of this client could not be found: it matches nobody.
    Nobody,
}

/// Any of these.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Users {
    pub uids: Vec<u32>,
    /// And any of [`DYNAMIC_USERS`].
    pub dynamic: bool,
}

/// The proof that a peer may read a key: which client says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant<'a> {
    pub client: &'a Client,
    pub pattern: &'a Pattern,
}

impl Client {
    /// Whether all conditions hold for this peer.
    pub fn matches(&self, peer: &Peer) -> bool {
        match &self.who {
            Who::Anyone => true,
            Who::Nobody => false,
            Who::Ids { units: Some(units), users, .. } => {
                let named = users.as_ref().is_some_and(|users| peer.has_uid(&users.uids));
                let within = |unit: &Unit| units.iter().any(|pattern| pattern.matches(unit));
                // What is not certain narrows a user that was named, and decides nothing by itself.
                peer.unit.as_ref().is_some_and(|unit| (unit.certain || named) && within(unit)) && self.admits_ids(peer)
            }
            Who::Ids { .. } => self.admits_ids(peer),
        }
    }

    /// Whether all conditions but the unit hold, and there is one beside it.
    fn admits_ids(&self, peer: &Peer) -> bool {
        let Who::Ids { users, groups, units } = &self.who else { return false };
        let user = users.as_ref().is_none_or(|users| {
            let dynamic = users.dynamic && units.is_some();
            peer.has_uid(&users.uids) || (dynamic && DYNAMIC_USERS.contains(&peer.uid))
        });
        let group = groups.as_ref().is_none_or(|gids| peer.has_gid(gids));
        (users.is_some() || groups.is_some()) && user && group
    }

    /// Whether it is for credentials of this unit: only one with `unit` alone is, and what is not certain is nothing.
    fn is_for_credentials_of(&self, unit: &Unit) -> bool {
        let Who::Ids { units: Some(units), .. } = &self.who else { return false };
        self.is_for_credentials() && unit.certain && units.iter().any(|pattern| pattern.matches(unit))
    }

    /// Whether it is for connections of systemd itself, and for no peer.
    pub fn is_for_credentials(&self) -> bool {
        matches!(self.who, Who::Ids { users: None, groups: None, units: Some(_) })
    }

    /// Whether it has a condition on the unit.
    pub fn has_unit(&self) -> bool {
        matches!(self.who, Who::Ids { units: Some(_), .. })
    }

    /// Whether its unit decides about this peer.
    pub fn depends_on_unit(&self, peer: &Peer) -> bool {
        self.has_unit() && self.admits_ids(peer)
    }
}

impl Acl {
    /// The first client that lets this peer read this key. Rights are the union of all matching clients.
    pub fn judge<'a>(&'a self, peer: &Peer, key: &KeyPath) -> Option<Grant<'a>> {
        self.matching(peer).find_map(|client| {
            let pattern = client.keys.iter().find(|pattern| pattern.matches(key))?;
            Some(Grant { client, pattern })
        })
    }

    /// What the credential of this id is for a unit: the key, and the client that grants it. What a client says of the id
    /// goes before the path that its dots make; the first client that grants counts.
    pub fn credential(&self, unit: &Unit, id: &str) -> Option<(&Client, KeyPath)> {
        let of_unit = || self.clients.iter().filter(|client| client.is_for_credentials_of(unit));
        let granted = |client: &Client, key: &KeyPath| client.keys.iter().any(|pattern| pattern.matches(key));
        let named = of_unit().find_map(|client| {
            let key = client.credentials.get(id).filter(|key| granted(client, key))?;
            Some((client, key.clone()))
        });
        named.or_else(|| {
            let key = KeyPath::parse(&format!("/{}", id.replace('.', "/"))).ok()?;
            of_unit().find(|client| granted(client, &key)).map(|client| (client, key))
        })
    }

    /// Whether some client has a condition on the unit.
    pub fn has_units(&self) -> bool {
        self.clients.iter().any(Client::has_unit)
    }

    /// Whether what this peer may read depends on its unit.
    pub fn depends_on_unit(&self, peer: &Peer) -> bool {
        self.clients.iter().any(|client| client.depends_on_unit(peer))
    }

    /// The clients that this peer is.
    pub fn matching<'a>(&'a self, peer: &Peer) -> impl Iterator<Item = &'a Client> {
        self.clients.iter().filter(move |client| client.matches(peer))
    }
}
