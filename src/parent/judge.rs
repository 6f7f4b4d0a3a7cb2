//! The parent's own judgement of a peer, from the peer's own socket and never from what the worker says of it.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;

use tokio::sync::Semaphore;
use tokio::task::yield_now;

use super::engine::Engine;
use super::serve::ParentError;
use super::units::Units;
use crate::acl::{Acl, Peer};
use crate::ipc::wire::{Attestation, Survey};
use crate::secret::KeyPath;
use crate::sys::peer::{self, is_shortage};

/// So many keys are judged before others have their turn.
const SLICE: usize = 64;
/// For so many identities it is remembered which keys they may read: a byte for each key.
const REMEMBERED: usize = 128;

/// One configuration's rules, and what was judged by them.
pub(super) struct Judge {
    acl: Acl,
    /// Of the configuration, without parameters, in the order of their paths.
    keys: Vec<KeyPath>,
    listeners: Vec<PathBuf>,
    units: Rc<Units>,
    readable: RefCell<Readable>,
    /// Whose turn it is to have all keys judged, for each uid.
    turns: RefCell<HashMap<u32, Rc<Semaphore>>>,
}

/// By identity (a peer without its pid): for each key of [`Judge::keys`], whether it may be read.
#[derive(Default)]
struct Readable {
    known: HashMap<Peer, Rc<[bool]>>,
    order: VecDeque<Peer>,
}

/// A peer, as the kernel attests it, and its connection.
pub(super) struct Attested {
    pub(super) peer: Peer,
    cookie: Option<u64>,
}

impl Judge {
    /// `listeners` are the paths that a peer may have come by.
    pub(super) fn new(acl: Acl, mut keys: Vec<KeyPath>, listeners: Vec<PathBuf>, units: Rc<Units>) -> Rc<Self> {
        keys.sort_unstable();
        Rc::new(Self { acl, keys, listeners, units, readable: RefCell::default(), turns: RefCell::default() })
    }

    /// Who the peer is by its own socket, which must be a connection to one of our listeners; closes it. `None` when there is
    /// no descriptor or memory left to find out.
    pub(super) fn attest(&self, socket: OwnedFd) -> Result<Option<Attested>, ParentError> {
        self.look(&socket, |peer| self.acl.depends_on_unit(peer)).map(|found| found.map(|(attested, _)| attested))
    }

    /// The unit alone, for the worker, also where nothing depends on it.
    pub(super) fn attest_unit(&self, socket: OwnedFd) -> Result<Option<Attestation>, ParentError> {
        let found = self.look(&socket, |_| self.acl.has_units())?;
        Ok(found.map(|(attested, fact)| Attestation { fact, unit: attested.peer.unit }))
    }

    fn look(
        &self,
        socket: &OwnedFd,
        needs_unit: impl Fn(&Peer) -> bool,
    ) -> Result<Option<(Attested, Option<u64>)>, ParentError> {
        let from = peer::accepted_from(socket.as_fd());
        if !from.is_some_and(|path| self.listeners.contains(&path)) {
            return Err(ParentError::Protocol("the fd beside a request is no connection of ours"));
        }
        let found =
            peer::credentials(socket.as_fd()).map_err(|_| ParentError::Protocol("a peer without credentials"))?;
        let mut peer = Peer { uid: found.uid, gid: found.gid, groups: found.groups, unit: None, pid: found.pid };
        if !needs_unit(&peer) {
            return Ok(Some((Attested { peer, cookie: None }, None)));
        }
        let fact = peer::cookie(socket.as_fd())
            .and_then(|cookie| Ok((cookie, self.units.of(socket.as_fd(), cookie, peer.pid)?)));
        match fact {
            Ok((cookie, (number, unit))) => {
                peer.unit = unit;
                Ok(Some((Attested { peer, cookie: Some(cookie) }, Some(number))))
            }
            Err(error) if is_shortage(&error) => Ok(None),
            // Nothing is known of its unit: that grants nothing.
            Err(_) => Ok(Some((Attested { peer, cookie: None }, None))),
        }
    }

    /// Whether the peer may read this key, as things are now.
    pub(super) fn grants(&self, attested: &Attested, key: &KeyPath) -> bool {
        let peer = &attested.peer;
        if self.is_current(attested) {
            return self.acl.judge(peer, key).is_some();
        }
        self.acl.judge(&Peer { unit: None, ..peer.clone() }, key).is_some()
    }

    /// Whether the process still lives whose unit was attested.
    fn is_current(&self, attested: &Attested) -> bool {
        attested.peer.unit.is_none() || attested.cookie.and_then(|cookie| self.units.unit(cookie)).is_some()
    }

    /// The states of all keys that the peer may read. One at a time for each uid, and others have their turn in between.
    /// `None` when the peer is not who it was any more.
    pub(super) async fn survey(&self, engine: &Engine, attested: &Attested) -> Option<Survey> {
        let uid = attested.peer.uid;
        let turn = self.turns.borrow_mut().entry(uid).or_insert_with(|| Rc::new(Semaphore::new(1))).clone();
        let surveyed = match turn.acquire().await {
            Ok(_turn) => self.look_at_all(engine, &attested.peer).await,
            Err(_) => return None,
        };
        // Ours and the one in the map.
        if Rc::strong_count(&turn) <= 2 {
            self.turns.borrow_mut().remove(&uid);
        }
        self.is_current(attested).then_some(surveyed)
    }

    async fn look_at_all(&self, engine: &Engine, peer: &Peer) -> Survey {
        let readable = self.readable(peer).await;
        let granted = self.keys.iter().zip(readable.iter()).filter(|(_, readable)| **readable);
        let mut keys = Vec::new();
        for (index, (key, _)) in granted.enumerate() {
            keys.extend(engine.state_of(key));
            if index % SLICE == SLICE - 1 {
                yield_now().await;
            }
        }
        for (index, key) in engine.lasting().iter().enumerate() {
            if self.acl.judge(peer, key).is_some() {
                keys.extend(engine.state_of(key));
            }
            if index % SLICE == SLICE - 1 {
                yield_now().await;
            }
        }
        keys.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Survey { keys }
    }

    async fn readable(&self, peer: &Peer) -> Rc<[bool]> {
        let identity = Peer { pid: 0, ..peer.clone() };
        if let Some(known) = self.readable.borrow().known.get(&identity) {
            return known.clone();
        }
        let mut judged = Vec::with_capacity(self.keys.len());
        for keys in self.keys.chunks(SLICE) {
            judged.extend(keys.iter().map(|key| self.acl.judge(peer, key).is_some()));
            yield_now().await;
        }
        let judged: Rc<[bool]> = judged.into();
        let mut readable = self.readable.borrow_mut();
        if readable.known.insert(identity.clone(), judged.clone()).is_none() {
            readable.order.push_back(identity);
        }
        if readable.order.len() > REMEMBERED
            && let Some(oldest) = readable.order.pop_front()
        {
            readable.known.remove(&oldest);
        }
        judged
    }
}
