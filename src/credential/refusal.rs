//! How a unit is kept from starting: more bytes than a credential can have.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::OVERLENGTH;
use crate::sys::peer::{self, Mark};

const WORDS: &[u8] = b"keyhatch has nothing to serve for this credential, so that the unit must not start\n";
/// Written at a time.
const PART: usize = 16 << 10;

/// Writes more than systemd takes, whatever was written before, and ends what the peer reads. A close without that would
/// start the unit with an empty credential, or with the beginning of one.
///
/// # Errors
/// When the peer has gone.
pub async fn refuse<F: AsFd + AsRawFd>(connection: &AsyncFd<F>) -> io::Result<()> {
    let (part, mut left) = (part(), still_to_write(connection.get_ref().as_fd()));
    while left > 0 {
        left -= write(connection, &part[..left.min(PART)]).await?;
    }
    peer::end(connection.get_ref().as_fd())
}

pub(super) fn part() -> Vec<u8> {
    WORDS.iter().copied().cycle().take(PART).collect()
}

/// From here on it is no connection to write a value to.
pub(super) fn still_to_write(connection: BorrowedFd<'_>) -> usize {
    peer::mark(connection, Mark::Refused);
    OVERLENGTH
}

/// Writes some of these bytes, as soon as there is room. Waits for that in the event loop alone: the connection is not only ours.
///
/// # Errors
/// When the peer has gone.
pub async fn write<F: AsFd + AsRawFd>(connection: &AsyncFd<F>, bytes: &[u8]) -> io::Result<usize> {
    connection.async_io(Interest::WRITABLE, |connection| peer::send_now(connection.as_fd(), bytes)).await
}
