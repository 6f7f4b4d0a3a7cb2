//! New connections: let in, or turned away, for a flood of them comes by the same door.
//!
//! Whom the door lets in waits behind all who came before, whoever they are. So those over a limit are taken out of the way
//! at once and wait aside, as many as there is room for, to be turned away at a pace: until then they cannot come again.
//! Between any two steps here those that are in have their turn.

use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream as Fresh};
use std::rc::Rc;
use std::time::Duration;

use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};
use tokio::net::UnixStream;
use tokio::select;
use tokio::task::yield_now;
use tokio::time::timeout;

use super::answer::{Form, Problem};
use super::connection::Connection;
use super::credentials;
use super::pace::{InTurn, beats};
use super::service::Shared;
use crate::acl::Peer;
use crate::sys::peer;

/// So many are taken before those that are in have their turn.
const AT_ONCE: usize = 4;
/// So many are turned away at a beat.
const AT_A_BEAT: usize = 8;
/// When nothing can be accepted, others must end first.
const PATIENCE: Duration = Duration::from_millis(100);
/// How long a connection over the limit may stay to read why.
const LINGER: Duration = Duration::from_millis(100);
/// So many user managers over a limit are refused at a time.
const MANAGERS: usize = 32;

/// Accepts for good. `converse` takes those that are let in; so many that are not may wait.
pub(super) async fn accept(
    listener: AsyncFd<UnixListener>,
    most_aside: usize,
    shared: &Rc<Shared>,
    converse: impl Fn(UnixStream, Connection),
) {
    let refusal = Problem::too_many_connections().form();
    let mut aside = Aside { waiting: InTurn::default(), most: most_aside, managers: Rc::default(), refusal, shared };
    let mut beats = beats();
    loop {
        if aside.is_full() {
            aside.turn_away(AT_ONCE);
            yield_now().await;
        }
        // Nothing that waits for something is given up in the middle.
        let ready = select! {
            biased;
            _ = beats.tick(), if aside.waiting.len() > 0 => None,
            ready = listener.readable() => Some(ready),
        };
        let taken = match ready {
            None => {
                aside.turn_away(AT_A_BEAT);
                Ok(())
            }
            Some(Ok(ready)) => take_some(ready, &mut aside, shared, &converse).await,
            Some(Err(error)) => Err(error),
        };
        if let Err(error) = taken {
            // Out of descriptors or memory: others must end first, and a tight loop helps nobody.
            shared.log.tell_shortage(&error);
            select! {
                _ = beats.tick(), if aside.waiting.len() > 0 => aside.turn_away(AT_A_BEAT),
                _ = timeout(PATIENCE, shared.connections.one_ends()) => {}
            }
        }
        yield_now().await;
    }
}

/// Those that wait to be turned away, of each user.
struct Aside<'a> {
    waiting: InTurn<Fresh>,
    most: usize,
    /// Those that are being refused.
    managers: Rc<()>,
    refusal: Form,
    shared: &'a Rc<Shared>,
}

impl Aside<'_> {
    fn is_full(&self) -> bool {
        self.waiting.len() + AT_ONCE > self.most
    }

    /// So many of them, or as many as there are.
    fn turn_away(&mut self, count: usize) {
        for _ in 0..count {
            let Some(stream) = self.waiting.pop() else { return };
            if credentials::is_systemds(stream.as_fd()) {
                self.turn_away_manager(stream);
                continue;
            }
            let stream = self.tell(stream);
            // Some clients take a close that comes before their request is sent for a failure to connect.
            if let Some(place) = self.shared.connections.place_to_linger() {
                tokio::task::spawn_local(async move {
                    tokio::time::sleep(LINGER).await;
                    drop((stream, place));
                });
            }
        }
    }

    /// It needs to read more than fits into its socket, and waits while too many others do.
    fn turn_away_manager(&mut self, stream: Fresh) {
        if Rc::strong_count(&self.managers) <= MANAGERS {
            let place = self.managers.clone();
            let refused = credentials::turn_away_at_a_limit(stream, self.shared.clone());
            tokio::task::spawn_local(async move { (refused.await, place).0 });
        } else if let (false, Ok((uid, ..))) = (self.is_full(), peer::ids(stream.as_fd())) {
            self.waiting.push(uid, stream);
        }
    }

    /// Says 503 without reading.
    fn tell(&mut self, mut stream: Fresh) -> Fresh {
        // A fresh connection has room; a peer that has gone does not matter.
        let _ = stream.write(self.refusal.fill_in(self.shared.next_request()));
        stream
    }
}

impl Drop for Aside<'_> {
    /// Nothing is accepted any more: these are told, too. What HTTP says would be a manager's credential.
    fn drop(&mut self) {
        while let Some(stream) = self.waiting.pop() {
            if !credentials::is_systemds(stream.as_fd()) {
                self.tell(stream);
            }
        }
    }
}

/// Takes a few of those at the door, if any is there.
async fn take_some(
    mut ready: AsyncFdReadyGuard<'_, UnixListener>,
    aside: &mut Aside<'_>,
    shared: &Rc<Shared>,
    converse: &impl Fn(UnixStream, Connection),
) -> io::Result<()> {
    for _ in 0..AT_ONCE {
        let stream = match peer::accept(ready.get_inner().as_fd()) {
            Ok(stream) => stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                ready.clear_ready();
                break;
            }
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => continue,
            Err(error) => return Err(error),
        };
        // Who has gone already can be told nothing, and a flood of those is the quickest of floods.
        if peer::is_ended(stream.as_fd()) {
            continue;
        }
        let for_credential = credentials::is_systemds(stream.as_fd());
        if for_credential && credentials::is_roots(stream.as_fd()) {
            // Handed over before the next one is accepted.
            shared.credentials.hand_over(stream, shared.next_request()).await;
            continue;
        }
        match look_at(stream.as_fd(), shared) {
            Ok(Ok(connection)) if for_credential => {
                tokio::task::spawn_local(credentials::turn_away(stream, connection, shared.clone()));
            }
            Ok(Ok(connection)) => converse(UnixStream::from_std(stream)?, connection),
            Ok(Err(Over { uid })) => aside.waiting.push(uid, stream),
            // One that cannot be looked at is closed.
            Err(_) => {}
        }
    }
    Ok(())
}

/// A connection over a limit, of this user.
#[derive(Debug)]
pub(super) struct Over {
    uid: u32,
}

pub(super) fn look_at(stream: BorrowedFd<'_>, shared: &Shared) -> io::Result<Result<Connection, Over>> {
    let (uid, gid, pid) = peer::ids(stream)?;
    let (connections, current) = (&shared.connections, shared.current());
    // Who it is beyond that does not matter then.
    if connections.has_all(uid, &current.config.limits) {
        return Ok(Err(Over { uid }));
    }
    let found = Peer { uid, gid, groups: peer::groups(stream)?, unit: None, pid };
    let standing = shared.link.facts.stand();
    Ok(connections.admit(found, standing, &current.config).ok_or(Over { uid }))
}
