//! Who is at the other end of a Unix socket, by the kernel's word (unix(7)).

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrLike, SockaddrStorage, UnixAddr, connect, getpeername, getsockname,
    getsockopt, socket, sockopt,
};

/// `SO_PEERCRED` and `SO_PEERGROUPS`: as they were at `connect()`.
pub struct Credentials {
    pub uid: u32,
    pub gid: u32,
    pub pid: i32,
    pub groups: Vec<u32>,
}

pub fn credentials(socket: BorrowedFd<'_>) -> io::Result<Credentials> {
    let peer = getsockopt(&socket, sockopt::PeerCredentials)?;
    Ok(Credentials { uid: peer.uid(), gid: peer.gid(), pid: peer.pid(), groups: groups(socket)? })
}

fn groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut groups: Vec<libc::gid_t> = vec![0; 32];
    loop {
        let room = groups.len() * size_of::<libc::gid_t>();
        let mut len = libc::socklen_t::try_from(room).map_err(io::Error::other)?;
        // SAFETY: the buffer has `len` writable bytes, and the kernel writes no more than that.
        let done = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut len,
            )
        };
        let count = len as usize / size_of::<libc::gid_t>();
        if done == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        // ERANGE tells the size that is needed; 65,536 is the kernel's own limit (NGROUPS_MAX).
        if error.raw_os_error() != Some(libc::ERANGE) || count <= groups.len() || count > 65_536 {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}

/// The path of the listener that this connected stream socket came from; `None` if it is anything else: a listener,
/// another kind of socket, a socketpair, no socket.
pub fn accepted_from(fd: BorrowedFd<'_>) -> Option<PathBuf> {
    if getsockopt(&fd, sockopt::SockType).ok()? != SockType::Stream || getsockopt(&fd, sockopt::AcceptConn).ok()? {
        return None;
    }
    let peer: SockaddrStorage = getpeername(fd.as_raw_fd()).ok()?;
    if peer.family() != Some(AddressFamily::Unix) {
        return None;
    }
    let own: UnixAddr = getsockname(fd.as_raw_fd()).ok()?;
    own.path().map(PathBuf::from)
}

/// The process that listens at this socket file, as it was when it began to; `Some(None)` when it does not accept just now,
/// which is not waited for.
pub fn who_listens(path: &Path) -> io::Result<Option<Option<i32>>> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let client = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    match connect(client.as_raw_fd(), &UnixAddr::new(path)?) {
        Ok(()) => Ok(Some(getsockopt(&client, sockopt::PeerCredentials).ok().map(|peer| peer.pid()))),
        // Its backlog is full.
        Err(Errno::EAGAIN) => Ok(Some(None)),
        Err(Errno::ECONNREFUSED | Errno::ENOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}
