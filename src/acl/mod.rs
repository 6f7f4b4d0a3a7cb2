//! Who may read what. Pure policy: no I/O, no clock, no names to look up.
//!
//! Judged in the worker for every request and again in the parent for every fetch, with the same code.
//! A judgement grants by naming the client that grants; nothing else makes a [`Grant`].
#![forbid(unsafe_code)]

#[cfg(test)]
mod fuzz;
mod pattern;
mod peer;

pub use pattern::{Pattern, PatternError};
pub use peer::{OVERFLOW_ID, Peer};

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
    pub at: Location,
}

/// The conditions of a client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Who {
    Anyone,
    /// Any of the uids, if given, and any of the gids, if given. At least one of the two is given.
    Ids {
        users: Option<Vec<u32>>,
        groups: Option<Vec<u32>>,
    },
    /// A user or group of this client could not be found: it matches nobody.
    Nobody,
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
            Who::Ids { users, groups } => {
                let user = users.as_ref().is_none_or(|uids| peer.has_uid(uids));
                let group = groups.as_ref().is_none_or(|gids| peer.has_gid(gids));
                (users.is_some() || groups.is_some()) && user && group
            }
        }
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

    /// The clients that this peer is.
    pub fn matching<'a>(&'a self, peer: &Peer) -> impl Iterator<Item = &'a Client> {
        self.clients.iter().filter(move |client| client.matches(peer))
    }
}
