//! New connections: let in, or turned away at once and as cheaply as can be, for a flood of them comes by the same door.

use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};

use super::answer::Problem;
use super::connection::Connection;
use super::credentials;
use super::service::Shared;
use crate::acl::Peer;
use crate::sys::peer;

/// So many are taken before those that are in have their turn.
const AT_ONCE: usize = 4;
/// When nothing can be accepted, others must end first.
const PATIENCE: Duration = Duration::from_millis(100);
/// How long a connection over the limit may stay to read why.
const LINGER: Duration = Duration::from_millis(100);

/// Accepts for good. `converse` takes those that are let in.
pub(super) async fn accept(listener: UnixListener, shared: &Rc<Shared>, converse: impl Fn(UnixStream, Connection)) {
    loop {
        let mut taken = match listener.accept().await {
            // Handed over before the next one is accepted.
            Ok((stream, _)) if credentials::is_systemds(stream.as_fd()) => {
                credentials::divert(stream, shared).await;
                Ok(())
            }
            Ok((stream, _)) => {
                match look_at(stream.as_fd(), shared) {
                    Ok(Some(connection)) => converse(stream, connection),
                    Ok(None) => drop(stream.into_std().map(|stream| turn_away(stream, shared))),
                    // One that cannot be looked at is closed.
                    Err(_) => {}
                }
                Ok(())
            }
            Err(error) => Err(error),
        };
        // More that wait already, without the event loop, which those that are turned away need not be made known to.
        for _ in 1..AT_ONCE {
            if taken.is_err() {
                break;
            }
            taken = match peer::accept(listener.as_fd()) {
                Ok(stream) if credentials::is_systemds(stream.as_fd()) => match UnixStream::from_std(stream) {
                    Ok(stream) => {
                        credentials::divert(stream, shared).await;
                        Ok(())
                    }
                    Err(error) => Err(error),
                },
                Ok(stream) => {
                    match look_at(stream.as_fd(), shared) {
                        Ok(Some(of)) => drop(UnixStream::from_std(stream).map(|stream| converse(stream, of))),
                        Ok(None) => turn_away(stream, shared),
                        Err(_) => {}
                    }
                    Ok(())
                }
                Err(error) => Err(error),
            };
        }
        match taken.map_err(|error| (error.kind(), error)) {
            Ok(()) | Err((ErrorKind::WouldBlock | ErrorKind::ConnectionAborted | ErrorKind::Interrupted, _)) => {
                tokio::task::yield_now().await;
            }
            Err((_, error)) => {
                // Out of descriptors or memory: others must end first, and a tight loop helps nobody.
                shared.log.tell_shortage(&error);
                tokio::time::sleep(PATIENCE).await;
            }
        }
    }
}

/// `None` when it is over a limit.
pub(super) fn look_at(stream: BorrowedFd<'_>, shared: &Shared) -> io::Result<Option<Connection>> {
    let found = peer::credentials(stream)?;
    let found = Peer { uid: found.uid, gid: found.gid, groups: found.groups, unit: None, pid: found.pid };
    let standing = shared.link.facts.stand();
    Ok(shared.connections.admit(found, standing, &shared.current().config))
}

/// Says 503 without reading, and closes.
fn turn_away(mut stream: std::os::unix::net::UnixStream, shared: &Rc<Shared>) {
    // A fresh connection has room; a peer that has gone does not matter.
    let _ = stream.write(&Problem::too_many_connections().last_words(shared.next_request()));
    // Some clients take a close that comes before their request is sent for a failure to connect.
    if let Some(place) = shared.connections.place_to_linger() {
        tokio::task::spawn_local(async move {
            tokio::time::sleep(LINGER).await;
            drop((stream, place));
        });
    }
}
