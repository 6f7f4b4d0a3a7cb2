//! Connections that the service manager has kept while no broker ran (`FDSTORE=1`, sd_notify(3)): this process is the only
//! one that can still tell their units anything.

use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use super::is_meant;
use super::refusal::{part, still_to_write};
use crate::sys::peer;

/// How long units may take to read why they do not start, all together: nobody has begun to serve.
const PATIENCE: Duration = Duration::from_secs(5);
const A_MOMENT: Duration = Duration::from_millis(10);

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
        refuse_all(self.take(), PATIENCE);
    }
}

/// As [`super::refuse`], without an event loop. All have their turns: one that does not read keeps no other.
fn refuse_all(connections: Vec<OwnedFd>, within: Duration) {
    let (part, until) = (part(), Instant::now() + within);
    let refused = |connection: OwnedFd| (still_to_write(connection.as_fd()), connection);
    let mut refused: Vec<(usize, OwnedFd)> = connections.into_iter().map(refused).collect();
    while let Some((_, first)) = refused.first()
        && Instant::now() < until
    {
        // Whether it reads or not, others have done so when this is over.
        let _ = peer::has_room(first.as_fd(), A_MOMENT);
        refused.retain_mut(|(left, connection)| goes_on(connection.as_fd(), left, &part));
    }
}

/// Writes as much as there is room for. `false`: that was the end of it.
fn goes_on(connection: BorrowedFd<'_>, left: &mut usize, part: &[u8]) -> bool {
    while *left > 0 {
        match peer::send_now(connection, &part[..part.len().min(*left)]) {
            Ok(written) => *left -= written,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
            // A peer that has gone starts nothing.
            Err(_) => return false,
        }
    }
    let _ = peer::end(connection);
    false
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::credential::LARGEST;

    #[test]
    fn who_does_not_read_keeps_no_other_from_being_refused() {
        let pairs: Vec<_> = (0..4).map(|_| UnixStream::pair().unwrap()).collect();
        let (ours, theirs): (Vec<UnixStream>, Vec<UnixStream>) = pairs.into_iter().unzip();
        let mut theirs = theirs.into_iter();
        // The first does not read, and the second has gone.
        let (_silent, gone) = (theirs.next(), theirs.next());
        drop(gone);
        let readers: Vec<_> = theirs
            .map(|mut stream| {
                std::thread::spawn(move || {
                    let mut read = Vec::new();
                    stream.read_to_end(&mut read).map(|_| read.len())
                })
            })
            .collect();
        refuse_all(ours.into_iter().map(OwnedFd::from).collect(), Duration::from_millis(500));
        for reader in readers {
            assert!(reader.join().unwrap().unwrap() > LARGEST);
        }
    }
}
