//! Connections of systemd for `LoadCredential=`: known by their address, handed to the parent at once, and kept until it is
//! done with them.
//!
//! Must never close one that the parent has not ended without a refusal by over-length: the unit would start with an empty
//! credential. Between `accept` and the hand-over nothing is waited for.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

use super::WorkerError;
use super::connection::Connection;
use super::log::Told;
use super::service::Shared;
use crate::credential::{is_meant, refuse, watched_in_time};
use crate::ipc::channel::WorkerEnd;
use crate::ipc::record::Event;
use crate::ipc::wire::{RequestId, Served, ToParent};
use crate::sys::peer;

/// How long units may take to read why they do not start, when this process ends.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// How long a user's manager may take for that where there are too many connections. Those behind it start nothing meanwhile.
const AT_A_LIMIT: Duration = Duration::from_secs(10);

/// How long the parent may take to shut the channel when it is told the end, which it does at once.
const NO_ANSWER: Duration = Duration::from_secs(1);

pub(super) struct Credentials {
    channel: Rc<WorkerEnd>,
    next: Cell<u64>,
    /// The most that the parent takes at a time.
    most: usize,
    /// Until the parent is done with them.
    handed: RefCell<HashMap<u64, Handed>>,
    refusing: Cell<usize>,
    done: Notify,
}

struct Handed {
    stream: Rc<UnixStream>,
    sent: bool,
}

impl Credentials {
    pub(super) fn new(channel: Rc<WorkerEnd>, most: usize) -> Rc<Self> {
        Rc::new(Self {
            channel,
            next: Cell::new(0),
            most,
            handed: RefCell::default(),
            refusing: Cell::new(0),
            done: Notify::new(),
        })
    }

    /// Hands it to the parent. While the parent takes none, this waits, and no other connection is accepted: those end with
    /// an error if this process does, and not with nothing.
    pub(super) async fn hand_over(self: &Rc<Self>, stream: UnixStream, request: RequestId) {
        let stream = Rc::new(stream);
        if self.handed.borrow().len() >= self.most {
            tracing::error!(%request, "more credentials are asked for at a time than limits.connections: one is refused");
            return self.refuse(stream);
        }
        let id = self.next.get();
        self.next.set(id + 1);
        self.handed.borrow_mut().insert(id, Handed { stream: stream.clone(), sent: false });
        let sent = self.channel.send(&ToParent::Credential { id, request }, Some(stream.as_fd())).await;
        let mut handed = self.handed.borrow_mut();
        match sent {
            Ok(()) => handed.get_mut(&id).into_iter().for_each(|one| one.sent = true),
            Err(_) => {
                let unsent = handed.remove(&id);
                drop(handed);
                unsent.into_iter().for_each(|one| self.refuse(one.stream));
            }
        }
    }

    /// The parent is done with it, or has no room for it.
    pub(super) fn end(self: &Rc<Self>, id: u64, ended: bool) -> Result<(), WorkerError> {
        let handed = self.handed.borrow_mut().remove(&id);
        let handed = handed.ok_or(WorkerError::Protocol("the end of what was never handed over"))?;
        if !ended {
            self.refuse(handed.stream);
        }
        self.done.notify_waiters();
        Ok(())
    }

    fn refuse(self: &Rc<Self>, stream: Rc<UnixStream>) {
        self.refusing.set(self.refusing.get() + 1);
        let this = self.clone();
        tokio::task::spawn_local(async move {
            // A peer that has gone starts nothing.
            let _ = refuse(&watched_in_time(stream).await).await;
            this.refusing.set(this.refusing.get() - 1);
            this.done.notify_waiters();
        });
    }

    /// Resolves when none is left. What the parent was not given is refused: nothing is accepted any more.
    pub(super) async fn drained(self: &Rc<Self>) {
        self.refuse_those(|handed| !handed.sent);
        self.until(|| self.handed.borrow().is_empty() && self.refusing.get() == 0).await;
    }

    /// Tells the parent that this process ends, and refuses all that it is not done with, whatever it has written. Not before it
    /// has shut the channel: until then it may end a value, which would then have some of these words in it.
    pub(super) async fn take_leave(self: &Rc<Self>) {
        let shut = async {
            // It may be gone, or have said the same before.
            let _ = self.channel.send(&ToParent::Drained, None).await;
            self.channel.until_shut().await
        };
        // Without it when it stands still: it ends no value then, and may never do anything else.
        let _ = timeout(NO_ANSWER, shut).await;
        self.refuse_those(|_| true);
        // Who does not read it now never will, as far as this process can tell.
        let _ = timeout(LAST_WORDS, self.until(|| self.refusing.get() == 0)).await;
    }

    fn refuse_those(self: &Rc<Self>, which: impl Fn(&Handed) -> bool) {
        let those: Vec<Handed> =
            self.handed.borrow_mut().extract_if(|_, handed| which(handed)).map(|(_, one)| one).collect();
        those.into_iter().for_each(|one| self.refuse(one.stream));
    }

    async fn until(&self, holds: impl Fn() -> bool) {
        loop {
            let done = self.done.notified();
            if holds() {
                return;
            }
            done.await;
        }
    }
}

/// Whether it was meant as a connection of systemd's, by its address. What `accept` says of that does not come through:
/// tokio calls every abstract address unnamed.
pub(super) fn is_systemds(stream: BorrowedFd<'_>) -> bool {
    peer::abstract_name(stream).ok().flatten().is_some_and(|name| is_meant(&name))
}

/// Whether it is of the one manager that is served.
pub(super) fn is_roots(stream: BorrowedFd<'_>) -> bool {
    peer::ids(stream).is_ok_and(|(uid, ..)| uid == 0)
}

/// Somebody who is not root took an address like systemd's: a user's own manager, or a forger. It counts as any other
/// connection of that user, and has as long to read.
pub(super) async fn turn_away(stream: UnixStream, connection: Connection, shared: Rc<Shared>) {
    shared.pace.turn(connection.uid()).await;
    let current = shared.current();
    let (verdict, status, request) = ("credential", 403, shared.next_request());
    shared.tally.count(None, Served::Denied);
    let (event, key, client, millis) = (Event::Denied, None, None, 0);
    let told = Told { connection: &connection, event, key, client, verdict, status, millis, request };
    shared.log.tell(&told, false);
    refuse_within(current.config.limits.idle_timeout, stream).await;
}

/// The same of one over a limit, which counts as no connection.
pub(super) async fn turn_away_at_a_limit(stream: UnixStream, shared: Rc<Shared>) {
    let credentials = &shared.credentials;
    credentials.refusing.set(credentials.refusing.get() + 1);
    if let Ok((uid, ..)) = peer::ids(stream.as_fd()) {
        shared.pace.turn(uid).await;
    }
    refuse_within(AT_A_LIMIT, stream).await;
    credentials.refusing.set(credentials.refusing.get() - 1);
    credentials.done.notify_waiters();
}

async fn refuse_within(time: Duration, stream: UnixStream) {
    let refused = async { refuse(&watched_in_time(stream).await).await };
    let _ = timeout(time, refused).await;
}
