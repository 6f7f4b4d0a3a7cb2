//! Why a peer may read a key, or why it may not: what `keyhatch explain` prints.
//!
//! Decides nothing: the grant is the ACL's own, and only a refusal is taken apart afterwards.

use std::fmt;

use super::{Config, Location};
use crate::acl::{Client, Grant, Peer, Who};
use crate::secret::KeyPath;

/// The answer for one peer and one key.
#[derive(Debug)]
pub struct Explanation<'a> {
    pub key: &'a KeyPath,
    /// Where the key is defined; a peer is told the same about a key that is not and one that it may not read.
    pub defined: Option<&'a Location>,
    pub grant: Option<Grant<'a>>,
    /// Without a grant: what stands against it in each client, in the order of their definition.
    pub obstacles: Vec<(&'a Client, Obstacle)>,
}

/// Why one client does not grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    /// The peer is this client, and none of its patterns matches the key.
    OtherKeys,
    /// A pattern matches the key, and the peer is not this client.
    OtherPeer,
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
    let defined = config.keys.iter().find(|defined| defined.path == *key).map(|key| &key.at);
    Explanation { key, defined, grant, obstacles }
}

fn obstacle(client: &Client, peer: &Peer, key: &KeyPath) -> Obstacle {
    let covers = client.keys.iter().any(|pattern| pattern.matches(key));
    match (client.matches(peer), covers) {
        (true, _) => Obstacle::OtherKeys,
        (false, true) if client.who == Who::Nobody => Obstacle::Nobody,
        (false, true) => Obstacle::OtherPeer,
        (false, false) => Obstacle::Both,
    }
}

impl fmt::Display for Explanation<'_> {
    /// For a person, one line for each client; ends without a newline.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.key;
        match &self.grant {
            Some(Grant { client, pattern }) => {
                write!(f, "{key} is granted by client `{}` ({}), whose keys hold `{pattern}`", client.name, client.at)?;
            }
            None => {
                write!(f, "{key} is not granted by any client")?;
                let telling = self.obstacles.iter().filter(|(_, obstacle)| *obstacle != Obstacle::Both);
                for (client, obstacle) in telling {
                    let why = match obstacle {
                        Obstacle::OtherPeer => "holds the key, but the peer is none of its users and groups",
                        Obstacle::Nobody => "holds the key, but matches nobody: see `keyhatch check`",
                        Obstacle::OtherKeys | Obstacle::Both => "matches the peer, but none of its keys is this one",
                    };
                    write!(f, "\n  client `{}` ({}) {why}", client.name, client.at)?;
                }
            }
        }
        match self.defined {
            Some(at) => write!(f, "\n  the key is defined at {at}"),
            None => write!(f, "\n  there is no such key"),
        }
    }
}
