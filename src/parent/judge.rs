//! The parent's own judgement of a peer, from the peer's own socket and never from what the worker says of it.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::yield_now;

use super::engine::{Engine, worse_state};
use super::serve::ParentError;
use super::units::Units;
use crate::acl::{Acl, Peer, Unit};
use crate::ipc::wire::{Attestation, KeyState, Survey};
use crate::secret::KeyPath;
use crate::sys::peer::{self, is_shortage};

/// So many keys are judged before others have their turn.
const SLICE: usize = 64;
/// For so many identities it is remembered which keys they may read: a byte for each key.
const REMEMBERED: usize = 128;

/// The judge of the configuration that holds.
pub(super) struct Judges {
    now: RefCell<Rc<Judge>>,
    listeners: Vec<PathBuf>,
    units: Rc<Units>,
}

impl Judges {
    /// `listeners` are the paths that a peer may have come by.
    pub(super) fn new(acl: Acl, keys: Vec<KeyPath>, listeners: Vec<PathBuf>, units: Rc<Units>) -> Rc<Self> {
        let now = RefCell::new(Judge::new(acl, keys, listeners.clone(), units.clone()));
        Rc::new(Self { now, listeners, units })
    }

    pub(super) fn now(&self) -> Rc<Judge> {
        self.now.borrow().clone()
    }

    /// Whether this is a connection that one of our listeners has accepted.
    pub(super) fn is_of_ours(&self, socket: BorrowedFd<'_>) -> bool {
        peer::accepted_from(socket).is_some_and(|path| self.listeners.contains(&path))
    }

    /// By this from now on.
    pub(super) fn replace(&self, acl: Acl, keys: Vec<KeyPath>) {
        self.now.replace(Judge::new(acl, keys, self.listeners.clone(), self.units.clone()));
    }

    /// The states of all keys that the peer may read, by what holds when that is known.
    pub(super) async fn survey(&self, engine: &Engine, attested: &Attested) -> Option<Survey> {
        loop {
            let judge = self.now();
            let survey = judge.survey(engine, attested).await;
            if Rc::ptr_eq(&judge, &self.now()) {
                return survey;
            }
        }
    }
}

/// One configuration's rules, and what was judged by them.
pub(super) struct Judge {
    acl: Acl,
    /// Of the configuration, without parameters, in the order of their paths.
    keys: Vec<KeyPath>,
    listeners: Vec<PathBuf>,
    units: Rc<Units>,
    readable: RefCell<Readable>,
    turns: Rc<Turns>,
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

/// Whose turn it is to have all keys judged: one at a time for each uid.
#[derive(Default)]
struct Turns {
    of_user: RefCell<HashMap<u32, Arc<Semaphore>>>,
}

struct Turn {
    _permit: Option<OwnedSemaphorePermit>,
    uid: u32,
    among: Rc<Turns>,
}

/// Each path once, whatever it was called with: the arguments of others are nobody's business.
fn paths(sorted: Vec<KeyState>) -> Vec<KeyState> {
    let mut paths: Vec<KeyState> = Vec::with_capacity(sorted.len());
    for mut state in sorted {
        state.key = state.key.alone();
        match paths.pop() {
            Some(before) if before.key == state.key => paths.push(worse_state(before, state)),
            before => paths.extend(before.into_iter().chain([state])),
        }
    }
    paths
}

impl Judge {
    fn new(acl: Acl, mut keys: Vec<KeyPath>, listeners: Vec<PathBuf>, units: Rc<Units>) -> Rc<Self> {
        keys.sort_unstable();
        Rc::new(Self { acl, keys, listeners, units, readable: RefCell::default(), turns: Rc::default() })
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

    /// The key that the credential of this id is for a unit, and the name of the client that grants it.
    pub(super) fn credential(&self, unit: &Unit, id: &str) -> Option<(&str, KeyPath)> {
        self.acl.credential(unit, id).map(|(client, key)| (client.name.as_str(), key))
    }

    /// The name of the client that lets the peer read this key, as things are now.
    pub(super) fn granted_by(&self, attested: &Attested, key: &KeyPath) -> Option<&str> {
        let peer = &attested.peer;
        let grant = if self.is_current(attested) {
            self.acl.judge(peer, key)
        } else {
            self.acl.judge(&Peer { unit: None, ..peer.clone() }, key)
        };
        grant.map(|grant| grant.client.name.as_str())
    }

    /// Whether the process still lives whose unit was attested.
    fn is_current(&self, attested: &Attested) -> bool {
        attested.peer.unit.is_none() || attested.cookie.and_then(|cookie| self.units.unit(cookie)).is_some()
    }

    /// The states of all keys that the peer may read. One at a time for each uid, and others have their turn in between.
    /// `None` when the peer is not who it was any more.
    async fn survey(&self, engine: &Engine, attested: &Attested) -> Option<Survey> {
        let turn = self.turns.of(attested.peer.uid).await;
        let surveyed = self.look_at_all(engine, &attested.peer).await;
        drop(turn);
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
        let drill = keys.iter().any(|one| engine.is_drilled(&one.key));
        Survey { keys: paths(keys), drill }
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

impl Turns {
    async fn of(self: &Rc<Self>, uid: u32) -> Turn {
        let new = || Arc::new(Semaphore::new(1));
        let turn = self.of_user.borrow_mut().entry(uid).or_insert_with(new).clone();
        // Nobody closes it.
        Turn { _permit: turn.acquire_owned().await.ok(), uid, among: self.clone() }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut turns = self.among.of_user.borrow_mut();
        // The one in the map and our own: nobody waits.
        if turns.get(&self.uid).is_some_and(|turn| Arc::strong_count(turn) <= 2) {
            turns.remove(&self.uid);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use tokio::task::LocalSet;

    use super::*;
    use crate::acl::{Client, Pattern, Users, Who};
    use crate::config::Location;
    use crate::ipc::channel::ParentEnd;
    use crate::parent::outbox::Outbox;
    use crate::sys::spawn::channel_pair;

    const KEYS: usize = 10_000;

    /// 64 patterns that are looked at in vain, and one.
    fn judge() -> Rc<Judge> {
        let client = |name: &str, pattern: &str| Client {
            name: name.to_owned(),
            who: Who::Ids { users: Some(Users { uids: vec![1, 2], dynamic: false }), groups: None, units: None },
            keys: vec![Pattern::parse(pattern).unwrap()],
            credentials: Default::default(),
            at: Location { file: "keyhatch.toml".into(), line: 1 },
        };
        let mut clients: Vec<Client> = (0..64).map(|n| client("vain", &format!("/**/x{n}*y/*"))).collect();
        clients.push(client("some", "/k/*7"));
        let keys = (0..KEYS).map(|n| KeyPath::parse(&format!("/k/{n}")).unwrap()).collect();
        let outbox = Outbox::new(Rc::new(ParentEnd::new(channel_pair().unwrap().0).unwrap()), 1);
        Judge::new(Acl { clients }, keys, Vec::new(), Units::new(None, 4, outbox))
    }

    fn peer(uid: u32) -> Peer {
        Peer { uid, gid: 1, groups: Vec::new(), unit: None, pid: 9 }
    }

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, test);
    }

    #[test]
    fn others_have_their_turn_while_all_keys_are_judged_and_it_is_remembered() {
        run(async {
            let judge = judge();
            let turns = Rc::new(Cell::new(0_usize));
            let counted = turns.clone();
            let other = tokio::task::spawn_local(async move {
                loop {
                    counted.set(counted.get() + 1);
                    yield_now().await;
                }
            });
            let readable = judge.readable(&peer(1)).await;
            assert_eq!(readable.iter().filter(|readable| **readable).count(), KEYS / 10);
            assert!(turns.get() >= KEYS / SLICE, "{} turns", turns.get());
            let before = turns.get();
            assert!(Rc::ptr_eq(&readable, &judge.readable(&Peer { pid: 10, ..peer(1) }).await));
            assert_eq!(turns.get(), before, "known already");
            let others = judge.readable(&peer(3)).await;
            assert!(!others.contains(&true), "another identity has its own");
            other.abort();
        });
    }

    #[test]
    fn for_so_many_identities_it_is_remembered_and_for_no_more() {
        run(async {
            let judge = Judge { keys: Vec::new(), ..Rc::into_inner(judge()).unwrap() };
            for uid in 0..1000 {
                judge.readable(&peer(uid)).await;
            }
            let readable = judge.readable.borrow();
            assert_eq!((readable.known.len(), readable.order.len()), (REMEMBERED, REMEMBERED));
            assert!(readable.known.contains_key(&Peer { pid: 0, ..peer(999) }));
        });
    }

    #[test]
    fn a_user_has_one_turn_at_a_time() {
        run(async {
            let turns = Rc::new(Turns::default());
            let first = turns.of(1).await;
            let mut second = pin!(turns.of(1));
            let mut context = Context::from_waker(Waker::noop());
            assert!(second.as_mut().poll(&mut context).is_pending());
            drop(turns.of(2).await);
            drop(first);
            let Poll::Ready(second) = second.as_mut().poll(&mut context) else { panic!("it is free") };
            drop(second);
            assert!(turns.of_user.borrow().is_empty());
        });
    }
}
