//! Who is connected: counted against the limits, and with what rights.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use tokio::sync::Notify;

use super::held::Slot;
use super::stream::Conversation;
use crate::acl::{Acl, Peer};
use crate::ipc::wire::WorkerConfig;
use crate::secret::KeyPath;

/// Above this many identities, those without a connection are forgotten.
const REMEMBERED: usize = 1024;
/// Above this many keys, a connection's first answers are counted and not told one by one.
const TOLD: usize = 1024;
/// The most connections over the limit that are not closed at once.
const LINGERING: usize = 32;

/// Counts connections, of each user and of all.
#[derive(Default)]
pub(super) struct Connections {
    all: Cell<u32>,
    strangers: Cell<u32>,
    by_user: RefCell<HashMap<u32, u32>>,
    rights: RefCell<HashMap<Identity, Rc<Rights>>>,
    /// Those over a limit that are about to be closed.
    turned_away: Rc<()>,
    ended: Notify,
}

/// uid, gid, supplementary groups.
type Identity = (u32, u32, Vec<u32>);

/// What peers of one identity may read, judged once for each key of the configuration.
pub(super) struct Rights {
    peer: Peer,
    /// What is judged here is so by the configuration of this generation.
    generation: Cell<u64>,
    stranger: Cell<bool>,
    /// By the number of the key.
    judged: RefCell<Vec<Judgement>>,
}

#[derive(Clone, Copy)]
enum Judgement {
    NotYet,
    Denied,
    /// The index of the client.
    Granted(u16),
}

impl Rights {
    /// The name of the client that grants, if one does.
    pub(super) fn judge<'a>(&self, config: &'a WorkerConfig, slot: &Slot) -> Option<&'a str> {
        self.renew(config);
        let acl = &config.acl;
        let mut judged = self.judged.borrow_mut();
        if judged.len() <= slot.number {
            if slot.is_expanded() {
                return self.covers(acl, &slot.path);
            }
            judged.resize(slot.number + 1, Judgement::NotYet);
        }
        if let Judgement::NotYet = judged[slot.number] {
            let grant = acl.judge(&self.peer, &slot.path);
            let client =
                grant.and_then(|grant| acl.clients.iter().position(|client| std::ptr::eq(client, grant.client)));
            judged[slot.number] = match (grant, client.map(u16::try_from)) {
                (None, _) => Judgement::Denied,
                (Some(_), Some(Ok(index))) => Judgement::Granted(index),
                // More clients than can be numbered: judged each time.
                (Some(grant), _) => return Some(&grant.client.name),
            };
        }
        match judged[slot.number] {
            Judgement::Granted(index) => acl.clients.get(usize::from(index)).map(|client| client.name.as_str()),
            _ => None,
        }
    }
}

impl Rights {
    /// Forgets what another configuration made of this identity.
    fn renew(&self, config: &WorkerConfig) {
        if self.generation.replace(config.generation) != config.generation {
            self.judged.borrow_mut().clear();
            self.stranger.set(config.acl.matching(&self.peer).next().is_none());
        }
    }

    /// The name of a client that would grant this path, whatever it is.
    pub(super) fn covers<'a>(&self, acl: &'a Acl, path: &KeyPath) -> Option<&'a str> {
        acl.judge(&self.peer, path).map(|grant| grant.client.name.as_str())
    }
}

impl Connections {
    /// Held while a connection over the limit waits for its peer; `None` when too many do.
    pub(super) fn place_to_linger(&self) -> Option<Rc<()>> {
        (Rc::strong_count(&self.turned_away) <= LINGERING).then(|| self.turned_away.clone())
    }

    /// Resolves when no connection is left.
    pub(super) async fn drained(&self) {
        loop {
            let ended = self.ended.notified();
            if self.all.get() == 0 {
                return;
            }
            ended.await;
        }
    }

    /// `None` when a limit of connections is reached.
    pub(super) fn admit(self: &Rc<Self>, peer: Peer, config: &WorkerConfig) -> Option<Connection> {
        let (pid, limits) = (peer.pid, &config.limits);
        let rights = self.rights_of(peer, config);
        let stranger = rights.stranger.get();
        let uid = rights.peer.uid;
        let of_user = self.by_user.borrow().get(&uid).copied().unwrap_or(0);
        let full = self.all.get() >= limits.connections
            || of_user >= limits.connections_per_user
            || (stranger && self.strangers.get() >= (limits.connections / 8).max(1));
        if full {
            return None;
        }
        self.all.set(self.all.get() + 1);
        self.strangers.set(self.strangers.get() + u32::from(stranger));
        *self.by_user.borrow_mut().entry(uid).or_default() += 1;
        let permit = Rc::new(Permit { uid, stranger, counted: self.clone() });
        Some(Connection {
            rights,
            pid,
            told_of: Cell::default(),
            told: RefCell::default(),
            last_told: Cell::new(usize::MAX),
            permit,
        })
    }

    fn rights_of(&self, peer: Peer, config: &WorkerConfig) -> Rc<Rights> {
        let mut rights = self.rights.borrow_mut();
        let identity = (peer.uid, peer.gid, peer.groups);
        if let Some(known) = rights.get(&identity) {
            known.renew(config);
            return known.clone();
        }
        if rights.len() >= REMEMBERED {
            rights.retain(|_, rights| Rc::strong_count(rights) > 1);
        }
        let peer = Peer { uid: identity.0, gid: identity.1, groups: identity.2.clone(), pid: 0 };
        let stranger = Cell::new(config.acl.matching(&peer).next().is_none());
        let generation = Cell::new(config.generation);
        let new = Rc::new(Rights { peer, generation, stranger, judged: RefCell::default() });
        rights.insert(identity, new.clone());
        new
    }
}

/// One connection and who is at its other end.
pub(super) struct Connection {
    pub(super) rights: Rc<Rights>,
    pid: i32,
    /// Keys whose first answer is in the log, and the generation that their numbers are of.
    told: RefCell<HashSet<usize>>,
    told_of: Cell<u64>,
    last_told: Cell<usize>,
    permit: Rc<Permit>,
}

/// Counts as a connection of this user for as long as it lives.
pub(super) struct Permit {
    uid: u32,
    stranger: bool,
    counted: Rc<Connections>,
}

/// A second fd of a peer's socket on its way to the parent, which judges from it.
pub(super) struct PeerSocket {
    pub(super) fd: OwnedFd,
    pub(super) permit: Rc<Permit>,
}

impl Connection {
    pub(super) fn uid(&self) -> u32 {
        self.rights.peer.uid
    }

    pub(super) fn pid(&self) -> i32 {
        self.pid
    }

    /// As the kernel attests it.
    pub(super) fn peer(&self) -> Peer {
        Peer { pid: self.pid, ..self.rights.peer.clone() }
    }

    pub(super) fn socket(&self, conversation: &Conversation) -> io::Result<PeerSocket> {
        Ok(PeerSocket { fd: conversation.duplicate()?, permit: self.permit.clone() })
    }

    /// Whether this is the first answer about this key here. `asked`: the parent was.
    pub(super) fn is_first_answer(&self, slot: &Slot, asked: bool) -> bool {
        // A path has a new number each time that nobody holds its value: not worth remembering.
        if asked && slot.is_expanded() {
            return true;
        }
        let generation = self.rights.generation.get();
        if self.told_of.replace(generation) != generation {
            self.last_told.set(usize::MAX);
            self.told.borrow_mut().clear();
        }
        if self.last_told.replace(slot.number) == slot.number {
            return false;
        }
        let mut told = self.told.borrow_mut();
        told.len() < TOLD && told.insert(slot.number)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.counted.all.set(self.counted.all.get() - 1);
        self.counted.strangers.set(self.counted.strangers.get() - u32::from(self.stranger));
        let mut by_user = self.counted.by_user.borrow_mut();
        if let Some(count) = by_user.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                by_user.remove(&self.uid);
            }
        }
        self.counted.ended.notify_waiters();
    }
}
