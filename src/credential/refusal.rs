//! How a unit is kept from starting: more bytes than a credential can have.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use tokio::io::Interest;
use tokio::net::UnixStream;

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
pub async fn refuse(stream: &UnixStream) -> io::Result<()> {
    let (part, mut left) = (part(), still_to_write(stream.as_fd()));
    while left > 0 {
        left -= write(stream, &part[..left.min(PART)]).await?;
    }
    peer::end(stream.as_fd())
}

pub(super) fn part() -> Vec<u8> {
    WORDS.iter().copied().cycle().take(PART).collect()
}

/// From here on it is no connection to write a value to.
pub(super) fn still_to_write(stream: BorrowedFd<'_>) -> usize {
    peer::mark(stream, Mark::Refused);
    OVERLENGTH
}

/// Writes some of these bytes, as soon as there is room. Waits for that in the event loop alone: the connection is not only ours.
///
/// # Errors
/// When the peer has gone.
pub async fn write(stream: &UnixStream, bytes: &[u8]) -> io::Result<usize> {
    stream.async_io(Interest::WRITABLE, || peer::send_now(stream.as_fd(), bytes)).await
}
