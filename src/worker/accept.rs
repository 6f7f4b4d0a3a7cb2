//! New connections: let in, or turned away as cheaply as can be, for a flood of them comes by the same door.
//!
//! Who is to be turned away waits aside while there is room: who comes behind may be one that is let in. Between any two steps here
//! those that are in have their turn.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream as Fresh};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;
use tokio::task::yield_now;
use tokio::time::timeout;

use super::answer::Problem;
use super::connection::Connection;
use super::credentials;
use super::service::Shared;
use crate::acl::Peer;
use crate::sys::peer;

/// So many are taken before those that are in have their turn.
const AT_ONCE: usize = 4;
/// So many wait to be turned away while others are taken.
const ASIDE: usize = 256;
/// When nothing can be accepted, others must end first.
const PATIENCE: Duration = Duration::from_millis(100);
/// How long a connection over the limit may stay to read why.
const LINGER: Duration = Duration::from_millis(100);

/// Accepts for good. `converse` takes those that are let in.
pub(super) async fn accept(
    listener: AsyncFd<UnixListener>,
    shared: &Rc<Shared>,
    converse: impl Fn(UnixStream, Connection),
) {
    let mut aside = Aside { waiting: VecDeque::new(), shared };
    loop {
        let taken = take_some(&listener, &mut aside, shared, &converse).await;
        yield_now().await;
        // More of them wait at the door, one of whom may be let in.
        if matches!(taken, Ok(true)) && aside.waiting.len() < ASIDE {
            continue;
        }
        if let Some(stream) = aside.waiting.pop_front() {
            turn_away(stream, shared);
            yield_now().await;
        } else if let Err(error) = taken {
            // Out of descriptors or memory: others must end first, and a tight loop helps nobody.
            shared.log.tell_shortage(&error);
            let _ = timeout(PATIENCE, shared.connections.one_ends()).await;
        }
    }
}

/// Those that wait to be turned away.
struct Aside<'a> {
    waiting: VecDeque<Fresh>,
    shared: &'a Shared,
}

impl Drop for Aside<'_> {
    /// Nothing is accepted any more: these are told, too.
    fn drop(&mut self) {
        self.waiting.drain(..).for_each(|mut stream| tell(&mut stream, self.shared));
    }
}

/// Takes a few of those at the door, which it waits for if there is nothing else to do. `true` when more may wait there.
async fn take_some(
    listener: &AsyncFd<UnixListener>,
    aside: &mut Aside<'_>,
    shared: &Rc<Shared>,
    converse: &impl Fn(UnixStream, Connection),
) -> io::Result<bool> {
    let mut ready = poll_fn(|cx| match listener.poll_read_ready(cx) {
        Poll::Pending if !aside.waiting.is_empty() => Poll::Ready(None),
        other => other.map(Some),
    });
    let Some(ready) = (&mut ready).await else { return Ok(false) };
    let mut ready = ready?;
    for _ in 0..AT_ONCE {
        if aside.waiting.len() == ASIDE {
            break;
        }
        let stream = match peer::accept(listener.as_fd()) {
            Ok(stream) => stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                ready.clear_ready();
                return Ok(false);
            }
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => continue,
            Err(error) => return Err(error),
        };
        if credentials::is_systemds(stream.as_fd()) {
            // Handed over before the next one is accepted.
            credentials::divert(stream, shared).await;
            continue;
        }
        match look_at(stream.as_fd(), shared) {
            Ok(Some(connection)) => converse(UnixStream::from_std(stream)?, connection),
            Ok(None) => aside.waiting.push_back(stream),
            // One that cannot be looked at is closed.
            Err(_) => {}
        }
    }
    Ok(true)
}

/// `None` when it is over a limit.
pub(super) fn look_at(stream: BorrowedFd<'_>, shared: &Shared) -> io::Result<Option<Connection>> {
    let found = peer::credentials(stream)?;
    let found = Peer { uid: found.uid, gid: found.gid, groups: found.groups, unit: None, pid: found.pid };
    let standing = shared.link.facts.stand();
    Ok(shared.connections.admit(found, standing, &shared.current().config))
}

/// Says 503 without reading.
fn tell(stream: &mut Fresh, shared: &Shared) {
    // A fresh connection has room; a peer that has gone does not matter.
    let _ = stream.write(&Problem::too_many_connections().last_words(shared.next_request()));
}

/// Says 503, and closes.
fn turn_away(mut stream: Fresh, shared: &Shared) {
    tell(&mut stream, shared);
    // Some clients take a close that comes before their request is sent for a failure to connect.
    if let Some(place) = shared.connections.place_to_linger() {
        tokio::task::spawn_local(async move {
            tokio::time::sleep(LINGER).await;
            drop((stream, place));
        });
    }
}
