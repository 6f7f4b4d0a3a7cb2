//! What unit the process is in that made a connection: looked at once for each connection, and true while that process lives.
//!
//! Must never hold more than one fact for each connection that there can be, whatever the worker asks for.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::{Rc, Weak};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;

use super::outbox::Outbox;
use super::serve::ParentError;
use crate::acl::Unit;
use crate::ipc::wire::ToWorker;
use crate::sys::peer;

/// What units are told by; opened at the start, and only if some client has `unit`.
pub struct UnitSource {
    /// `/proc`, where the control groups of all processes can be read.
    pub proc: OwnedFd,
    /// The kernel has `SO_PEERPIDFD`. Else a process is known by its number, which may have been another one's.
    pub certain: bool,
}

/// The facts, by the cookie of the connection: the kernel gives it, and gives it once.
pub(super) struct Units {
    source: Option<UnitSource>,
    facts: RefCell<HashMap<u64, Fact>>,
    /// The cookies, the oldest fact first.
    by_number: RefCell<BTreeMap<u64, u64>>,
    next: Cell<u64>,
    most: usize,
    outbox: Outbox,
}

struct Fact {
    number: u64,
    /// `None`: in no unit, or not any more.
    lives: Option<Lives>,
}

struct Lives {
    unit: Unit,
    process: Rc<AsyncFd<OwnedFd>>,
    watch: JoinHandle<()>,
}

impl Drop for Lives {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

impl Units {
    /// At most `most` facts. What ends before its connection is told to the worker.
    pub(super) fn new(source: Option<UnitSource>, most: u32, outbox: Outbox) -> Rc<Self> {
        Rc::new(Self {
            source,
            facts: RefCell::default(),
            by_number: RefCell::default(),
            next: Cell::new(0),
            most: usize::try_from(most).unwrap_or(usize::MAX),
            outbox,
        })
    }

    /// The number of the fact about this connection, and the unit that its peer is in.
    ///
    /// # Errors
    /// When there is no descriptor or memory left to find out.
    pub(super) fn of(
        self: &Rc<Self>,
        socket: BorrowedFd<'_>,
        cookie: u64,
        pid: i32,
    ) -> io::Result<(u64, Option<Unit>)> {
        if let Some(number) = self.facts.borrow().get(&cookie).map(|fact| fact.number) {
            return Ok((number, self.unit(cookie)));
        }
        let found = self.look(socket, pid)?;
        let lives = found.map(|(unit, process)| self.watch(cookie, unit, process)).transpose()?;
        let number = self.next.get();
        self.next.set(number + 1);
        let unit = lives.as_ref().map(|lives| lives.unit.clone());
        self.make_room();
        self.by_number.borrow_mut().insert(number, cookie);
        self.facts.borrow_mut().insert(cookie, Fact { number, lives });
        Ok((number, unit))
    }

    /// The unit of a connection that was looked at, if its process still lives.
    pub(super) fn unit(&self, cookie: u64) -> Option<Unit> {
        let facts = self.facts.borrow();
        let lives = facts.get(&cookie)?.lives.as_ref()?;
        // The event loop may not have come to it yet.
        let ended = peer::has_ended(lives.process.get_ref().as_fd()).unwrap_or(true);
        (!ended).then(|| lives.unit.clone())
    }

    /// The connection has ended, says the worker.
    pub(super) fn forget(&self, number: u64) -> Result<(), ParentError> {
        if number >= self.next.get() {
            return Err(ParentError::Protocol("the end of what was never attested"));
        }
        // It may have had to make room before that.
        if let Some(cookie) = self.by_number.borrow_mut().remove(&number) {
            self.facts.borrow_mut().remove(&cookie);
        }
        Ok(())
    }

    /// The unit, and the process that is in it; `None` if there is none or if it has ended.
    pub(super) fn look(&self, socket: BorrowedFd<'_>, pid: i32) -> io::Result<Option<(Unit, OwnedFd)>> {
        // 0: the process is in another pid namespace.
        let Some(source) = self.source.as_ref().filter(|_| pid > 0) else { return Ok(None) };
        let process = if source.certain { peer::pidfd(socket) } else { peer::pidfd_of(pid) };
        let Some(process) = or_none(process)? else { return Ok(None) };
        // What lives before and after has had its number all the time.
        if peer::has_ended(process.as_fd())? {
            return Ok(None);
        }
        let Some(cgroups) = or_none(peer::cgroups(source.proc.as_fd(), pid))? else { return Ok(None) };
        if peer::has_ended(process.as_fd())? {
            return Ok(None);
        }
        Ok(Unit::of_cgroups(&cgroups, source.certain).map(|unit| (unit, process)))
    }

    fn watch(self: &Rc<Self>, cookie: u64, unit: Unit, process: OwnedFd) -> io::Result<Lives> {
        let process = Rc::new(watched(process)?);
        let (watched, units): (_, Weak<Self>) = (process.clone(), Rc::downgrade(self));
        let watch = tokio::task::spawn_local(async move {
            let _ = watched.readable().await;
            if let Some(units) = units.upgrade() {
                units.end(cookie);
            }
        });
        Ok(Lives { unit, process, watch })
    }

    /// The process has ended. The fact stays, that there is none.
    fn end(&self, cookie: u64) {
        if let Some(fact) = self.facts.borrow_mut().get_mut(&cookie) {
            fact.lives = None;
            self.outbox.say(ToWorker::Unattested { fact: fact.number }, None, None);
        }
    }

    fn make_room(&self) {
        while self.by_number.borrow().len() >= self.most.max(1) {
            let Some((number, cookie)) = self.by_number.borrow_mut().pop_first() else { return };
            self.facts.borrow_mut().remove(&cookie);
            self.outbox.say(ToWorker::Unattested { fact: number }, None, None);
        }
    }
}

/// A process whose end makes it readable.
pub(super) fn watched(process: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    #[expect(
        deprecated,
        reason = "unsound for types that change their descriptor; an OwnedFd keeps it open and the same"
    )]
    AsyncFd::with_interest(process, Interest::READABLE)
}

/// `None` for what cannot be found out about this peer; an error for what could be another time.
fn or_none<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if peer::is_shortage(&error) => Err(error),
        Err(_) => Ok(None),
    }
}
