//! Who is connected: counted against the limits, and with what rights.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use tokio::sync::Notify;

use super::held::Slot;
use super::link::Link;
use super::standing::Standing;
use super::stream::Conversation;
use crate::acl::{Acl, Client, Peer, Who};
use crate::config::Limits;
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
    /// Of peers that no client names: strangers too.
    unnamed: Cell<u32>,
    strangers: Cell<u32>,
    by_user: RefCell<HashMap<u32, u32>>,
    /// By identity: a peer without its pid.
    rights: RefCell<HashMap<Peer, Rc<Rights>>>,
    /// Those over a limit that are about to be closed.
    turned_away: Rc<()>,
    ended: Notify,
}

/// What peers of one identity may read, judged once for each key of the configuration.
pub(super) struct Rights {
    peer: Peer,
    /// What is judged here is so by the configuration of this generation.
    generation: Cell<u64>,
    /// As far as is known without its unit, or with the one that it has.
    known: Cell<Known>,
    /// What it may read depends on its unit.
    depends_on_unit: Cell<bool>,
    /// By the number of the key.
    judged: RefCell<Vec<Judgement>>,
}

/// By which clients a peer is known. Who has many uids can be many peers of the lower two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Known {
    /// By none.
    Stranger,
    /// By those for anyone alone.
    Anyone,
    /// By its user or its groups.
    Named,
}

impl Known {
    fn of(peer: &Peer, acl: &Acl) -> Self {
        let of_client = |client: &Client| if client.who == Who::Anyone { Self::Anyone } else { Self::Named };
        acl.matching(peer).map(of_client).max().unwrap_or(Self::Stranger)
    }
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
            self.known.set(Known::of(&self.peer, &config.acl));
            self.depends_on_unit.set(config.acl.depends_on_unit(&self.peer));
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

    /// How many there are.
    pub(super) fn count(&self) -> u32 {
        self.all.get()
    }

    /// Resolves when one of them ends.
    pub(super) async fn one_ends(&self) {
        self.ended.notified().await;
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

    /// Whether this user has as many as one may have, or all users together have.
    pub(super) fn has_all(&self, uid: u32, limits: &Limits) -> bool {
        let of_user = self.by_user.borrow().get(&uid).copied().unwrap_or(0);
        self.all.get() >= limits.connections || of_user >= limits.connections_per_user
    }

    /// `None` when a limit of connections is reached.
    pub(super) fn admit(
        self: &Rc<Self>,
        peer: Peer,
        standing: Rc<Standing>,
        config: &WorkerConfig,
    ) -> Option<Connection> {
        let (pid, limits) = (peer.pid, &config.limits);
        let rights = self.rights_of(peer, config);
        // Who may turn out to be a client counts as one until then.
        let known = if rights.depends_on_unit.get() { Known::Named } else { rights.known.get() };
        let uid = rights.peer.uid;
        let full = self.has_all(uid, limits)
            || (known < Known::Named && self.unnamed.get() >= (limits.connections / 2).max(1))
            || (known < Known::Anyone && self.strangers.get() >= (limits.connections / 8).max(1));
        if full {
            return None;
        }
        self.all.set(self.all.get() + 1);
        self.enter(known);
        *self.by_user.borrow_mut().entry(uid).or_default() += 1;
        let permit = Rc::new(Permit { uid, known: Cell::new(known), counted: self.clone() });
        let (in_unit, told, last_told) = (RefCell::default(), RefCell::default(), Cell::new(usize::MAX));
        Some(Connection { rights, in_unit, standing, pid, told, told_of: Cell::default(), last_told, permit })
    }

    fn enter(&self, known: Known) {
        self.unnamed.set(self.unnamed.get() + u32::from(known < Known::Named));
        self.strangers.set(self.strangers.get() + u32::from(known < Known::Anyone));
    }

    fn leave(&self, known: Known) {
        self.unnamed.set(self.unnamed.get() - u32::from(known < Known::Named));
        self.strangers.set(self.strangers.get() - u32::from(known < Known::Anyone));
    }

    fn rights_of(&self, peer: Peer, config: &WorkerConfig) -> Rc<Rights> {
        let mut rights = self.rights.borrow_mut();
        let peer = Peer { pid: 0, ..peer };
        if let Some(known) = rights.get(&peer) {
            known.renew(config);
            return known.clone();
        }
        if rights.len() >= REMEMBERED {
            rights.retain(|_, rights| Rc::strong_count(rights) > 1);
        }
        let known = Cell::new(Known::of(&peer, &config.acl));
        let depends_on_unit = Cell::new(config.acl.depends_on_unit(&peer));
        let generation = Cell::new(config.generation);
        let judged = RefCell::default();
        let new = Rc::new(Rights { peer: peer.clone(), generation, known, depends_on_unit, judged });
        rights.insert(peer, new.clone());
        new
    }
}

/// One connection and who is at its other end.
pub(super) struct Connection {
    /// Without a unit.
    rights: Rc<Rights>,
    /// In the unit that was attested, while that holds.
    in_unit: RefCell<Option<Rc<Rights>>>,
    standing: Rc<Standing>,
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
    known: Cell<Known>,
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

    /// By its user or its groups; who may turn out to be so, is.
    pub(super) fn is_named(&self) -> bool {
        self.permit.known.get() == Known::Named
    }

    pub(super) fn pid(&self) -> i32 {
        self.pid
    }

    /// As the kernel attests it.
    pub(super) fn peer(&self) -> Peer {
        Peer { pid: self.pid, ..self.rights().peer.clone() }
    }

    /// As they are now: a unit holds while its process lives.
    pub(super) fn rights(&self) -> Rc<Rights> {
        let in_unit = self.in_unit.borrow();
        in_unit.as_ref().filter(|_| self.standing.has_unit()).unwrap_or(&self.rights).clone()
    }

    /// Lets the parent attest the unit, once, if that could matter or if it is `wanted` all the same. False when the parent
    /// does not answer.
    pub(super) async fn attest(
        &self,
        link: &Link,
        conversation: &Conversation,
        config: &WorkerConfig,
        wanted: bool,
    ) -> bool {
        self.rights.renew(config);
        let wanted = self.rights.depends_on_unit.get() || (wanted && config.acl.has_units());
        // An answer may have come after its question was given up.
        let settled = self.standing.is_known() && (self.in_unit.borrow().is_some() || !self.standing.has_unit());
        if settled || !wanted {
            return true;
        }
        if !self.standing.is_known() {
            let Ok(socket) = self.socket(conversation) else { return false };
            if !link.attest(&self.standing, socket).await {
                return false;
            }
        }
        let connections = &self.permit.counted;
        let unit = self.standing.unit();
        let in_unit =
            unit.map(|unit| connections.rights_of(Peer { unit: Some(unit), ..self.rights.peer.clone() }, config));
        let known = in_unit.as_ref().unwrap_or(&self.rights).known.get();
        connections.leave(self.permit.known.replace(known));
        connections.enter(known);
        self.in_unit.replace(in_unit);
        true
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
        self.counted.leave(self.known.get());
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
