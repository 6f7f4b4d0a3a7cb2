//! Descriptors that whoever started this process passed to it (sd_listen_fds(3)), looked at before they are used.

use std::fmt;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use nix::sys::socket::{UnixAddr, getsockname};
use nix::sys::statfs::fstatfs;

use super::peer;

/// The first of them, as sd_listen_fds(3) has it.
const FIRST: RawFd = 3;

/// What a descriptor is instead of a listening stream socket with a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfit {
    NoSocket,
    /// Of the internet.
    Internet,
    Family(i32),
    /// `SOCK_DGRAM`, `SOCK_SEQPACKET` and the like.
    Type(i32),
    /// A connection, or a socket that nobody called listen(2) for.
    NotListening,
    /// An abstract or no address: what any process may bind says nothing.
    NoPath,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSocket => write!(f, "it is no socket"),
            Self::Internet => {
                write!(
                    f,
                    "it is a socket of the internet, and applications come by a Unix socket alone: ListenStream= takes a path"
                )
            }
            Self::Family(family) => write!(f, "it is of address family {family}, not a Unix socket"),
            Self::Type(libc::SOCK_DGRAM) => write!(f, "it is a datagram socket: ListenStream=, not ListenDatagram="),
            Self::Type(libc::SOCK_SEQPACKET) => {
                write!(f, "it is a socket of packets: ListenStream=, not ListenSequentialPacket=")
            }
            Self::Type(other) => write!(f, "it is a socket of type {other}, not a stream"),
            Self::NotListening => write!(f, "it does not listen: Accept=no"),
            Self::NoPath => write!(f, "it has no path: ListenStream= takes an absolute one"),
        }
    }
}

/// Takes these many descriptors from 3 on. Call once, while the process has one thread and has opened nothing there.
///
/// # Errors
/// The number of the first one that is not open; then none is taken.
pub fn claim(count: u32) -> Result<Vec<OwnedFd>, RawFd> {
    let numbers = || (FIRST..).take(usize::try_from(count).unwrap_or(usize::MAX));
    // SAFETY: F_GETFD takes no pointer; a descriptor that is not open gives EBADF.
    if let Some(shut) = numbers().find(|number| unsafe { libc::fcntl(*number, libc::F_GETFD) } < 0) {
        return Err(shut);
    }
    // SAFETY: all are open, as just checked; who started us has passed them for this process to own, and this is the one
    // place that takes them.
    Ok(numbers().map(|number| unsafe { OwnedFd::from_raw_fd(number) }).collect())
}

/// The path of a listening Unix stream socket, by the kernel's word.
pub fn path_of_listener(fd: BorrowedFd<'_>) -> Result<PathBuf, Unfit> {
    let option = |name| peer::option::<libc::c_int>(fd, name).map_err(|_| Unfit::NoSocket);
    match option(libc::SO_DOMAIN)? {
        libc::AF_UNIX => {}
        libc::AF_INET | libc::AF_INET6 => return Err(Unfit::Internet),
        other => return Err(Unfit::Family(other)),
    }
    match option(libc::SO_TYPE)? {
        libc::SOCK_STREAM => {}
        other => return Err(Unfit::Type(other)),
    }
    if option(libc::SO_ACCEPTCONN)? == 0 {
        return Err(Unfit::NotListening);
    }
    let own: UnixAddr = getsockname(fd.as_raw_fd()).map_err(|_| Unfit::NoPath)?;
    own.path().map(PathBuf::from).ok_or(Unfit::NoPath)
}

/// What names this process for good: the inode of its pidfd, where pidfds have inodes of their own (Linux 6.9).
pub fn own_pidfd_inode() -> Option<u64> {
    /// `PID_FS_MAGIC`.
    const PIDFS: i64 = 0x5049_4446;
    let pidfd = peer::pidfd_of(i32::try_from(std::process::id()).ok()?).ok()?;
    let file = std::fs::File::from(pidfd);
    (fstatfs(&file).ok()?.filesystem_type().0 == PIDFS).then(|| file.metadata().ok().map(|found| found.ino()))?
}
