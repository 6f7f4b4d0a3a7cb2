//! Connections that the service manager has kept while no broker ran (`FDSTORE=1`, sd_notify(3)): this process is the only
//! one that can still tell their units anything.

use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::is_meant;
use super::refusal::{part, still_to_write};
use crate::sys::peer;

/// How long units may take to read why they do not start, all together: nobody has begun to serve.
const PATIENCE: Duration = Duration::from_secs(5);

/// Those whose units wait. Dropped, it refuses them: a start that fails is the end of the service, and then of what is kept.
#[derive(Default)]
pub struct Kept(Vec<OwnedFd>);

impl Kept {
    /// Takes what was passed if it is a connection like systemd's: nothing else is ever written to.
    pub fn add(&mut self, passed: OwnedFd) {
        let named = || peer::abstract_name(passed.as_fd()).ok().flatten();
        if peer::accepted_from(passed.as_fd()).is_some() && named().is_some_and(|name| is_meant(&name)) {
            self.0.push(passed);
        }
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Whoever takes them has to serve or refuse each.
    pub fn take(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.0)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let until = Instant::now() + PATIENCE;
        for connection in self.take() {
            // A peer that has gone starts nothing.
            let _ = refuse_now(connection.into(), until);
        }
    }
}

/// As [`super::refuse`], without an event loop.
fn refuse_now(mut stream: UnixStream, until: Instant) -> io::Result<()> {
    let (part, mut left) = (part(), still_to_write(stream.as_fd()));
    while left > 0 {
        match stream.write(&part[..left.min(part.len())]) {
            Ok(written) => left -= written,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if !peer::has_room(stream.as_fd(), until.saturating_duration_since(Instant::now()))? {
                    return Err(ErrorKind::TimedOut.into());
                }
            }
            Err(error) => return Err(error),
        }
    }
    peer::end(stream.as_fd())
}
