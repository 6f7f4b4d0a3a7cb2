//! Who is at the other end of a Unix socket, by the kernel's word (unix(7)).

use std::io::{self, Read};
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, openat};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, Shutdown, SockFlag, SockType, SockaddrLike, SockaddrStorage, UnixAddr, accept4, connect,
    getpeername, getsockname, getsockopt, send, shutdown, socket, sockopt,
};
use nix::sys::stat::Mode;

/// Who has more supplementary groups than this counts as one that has none: the kernel takes milliseconds to tell the 65,536 that
/// anybody with a subordinate gid can take (setgroups(2), newgidmap(1)), and nothing else is done meanwhile.
pub const MOST_GROUPS: usize = 1024;

/// `SO_PEERCRED` and `SO_PEERGROUPS`: as they were at `connect()`.
pub struct Credentials {
    pub uid: u32,
    pub gid: u32,
    pub pid: i32,
    pub groups: Vec<u32>,
}

pub fn credentials(socket: BorrowedFd<'_>) -> io::Result<Credentials> {
    let (uid, gid, pid) = ids(socket)?;
    Ok(Credentials { uid, gid, pid, groups: groups(socket)? })
}

/// `SO_PEERCRED` alone: uid, gid and pid.
pub fn ids(socket: BorrowedFd<'_>) -> io::Result<(u32, u32, i32)> {
    let peer = getsockopt(&socket, sockopt::PeerCredentials)?;
    Ok((peer.uid(), peer.gid(), peer.pid()))
}

/// Takes a connection that waits already, without blocking (accept4(2)).
///
/// # Errors
/// `WouldBlock` when there is none; else what accept4 says, such as that there is no descriptor left.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<UnixStream> {
    let fd = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK)?;
    // SAFETY: accept4 has just made this fd, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) }.into())
}

/// `SO_PEERGROUPS` alone; none where they are [too many](MOST_GROUPS).
pub fn groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
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
        // ERANGE tells the size that is needed.
        if error.raw_os_error() != Some(libc::ERANGE) || count <= groups.len() {
            return Err(error);
        }
        if count > MOST_GROUPS {
            return Ok(Vec::new());
        }
        groups.resize(count, 0);
    }
}

/// `SO_PEERPIDFD` (Linux 6.5): the process that connected, whoever has the socket now, and whatever process has its number.
///
/// # Errors
/// `Unsupported` where the kernel has it not; else what `getsockopt` says, such as that there is no descriptor left.
pub fn pidfd(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let fd = option::<libc::c_int>(socket, libc::SO_PEERPIDFD).map_err(|error| match error.raw_os_error() {
        Some(libc::ENOPROTOOPT | libc::EINVAL) => io::ErrorKind::Unsupported.into(),
        _ => error,
    })?;
    // SAFETY: the kernel has made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Whether this kernel has `SO_PEERPIDFD`.
pub fn has_pidfd() -> bool {
    let pair = std::os::unix::net::UnixStream::pair();
    pair.is_ok_and(|(one, _)| pidfd(one.as_fd()).is_ok())
}

/// A pidfd of whatever process has this number now (pidfd_open(2)).
pub fn pidfd_of(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and no pointer.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = libc::c_int::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Whether this is for want of descriptors or memory, and may work another time.
pub fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS | libc::ENOSPC))
}

/// Whether the process of a pidfd has ended: the pidfd is readable then, and stays so.
pub fn has_ended(pidfd: BorrowedFd<'_>) -> io::Result<bool> {
    let mut polled = [PollFd::new(pidfd, PollFlags::POLLIN)];
    Ok(poll(&mut polled, PollTimeout::ZERO)? > 0)
}

/// The control groups of a process, from an open `/proc` (cgroups(7)). Cut at 64 KiB, which no path of them reaches.
pub fn cgroups(proc: BorrowedFd<'_>, pid: i32) -> io::Result<String> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let file = std::fs::File::from(openat(proc, format!("{pid}/cgroup").as_str(), flags, Mode::empty())?);
    let mut text = String::new();
    file.take(64 << 10).read_to_string(&mut text)?;
    Ok(text)
}

/// A number that no other socket of this machine has or will have (`SO_COOKIE`, Linux 4.6).
pub fn cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    option(socket, libc::SO_COOKIE)
}

/// An option of the level of sockets that is one number.
pub(super) fn option<T: Default + Copy>(socket: BorrowedFd<'_>, name: libc::c_int) -> io::Result<T> {
    let mut value = T::default();
    let size = size_of::<T>();
    let mut len = libc::socklen_t::try_from(size).map_err(io::Error::other)?;
    // SAFETY: the buffer has `len` writable bytes, of which the kernel writes no more; any bytes are a number.
    let done =
        unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, name, (&raw mut value).cast(), &raw mut len) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    if len as usize != size {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(value)
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

/// The abstract address that the peer of a connection has taken, without the NUL before it; `None` if it has none.
pub fn abstract_name(socket: BorrowedFd<'_>) -> io::Result<Option<Vec<u8>>> {
    let address: UnixAddr = getpeername(socket.as_raw_fd())?;
    Ok(address.as_abstract().map(<[u8]>::to_vec))
}

/// Writes what there is room for (send(2)). Never waits, whatever others who have this connection have set it to.
pub fn send_now(socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    Ok(send(socket.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL)?)
}

/// Ends what the peer can read, for all who have this connection (shutdown(2)).
pub fn end(socket: BorrowedFd<'_>) -> io::Result<()> {
    Ok(shutdown(socket.as_raw_fd(), Shutdown::Write)?)
}

/// Whether nothing more can be written: its end is shut, or its peer has gone. A write of nothing says so (send(2), `EPIPE`).
pub fn is_ended(socket: BorrowedFd<'_>) -> bool {
    send_now(socket, &[]).is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// What those who share a connection tell each other by it: flags of the open file (open(2)), which all their descriptors are
/// of, in whatever process, now and later. To a Unix socket that nobody wants signals of they mean nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// A value is being written.
    Begun,
    /// Somebody writes something else.
    Refused,
}

impl Mark {
    fn flag(self) -> OFlag {
        match self {
            Self::Begun => OFlag::O_APPEND,
            Self::Refused => OFlag::O_ASYNC,
        }
    }
}

pub fn mark(socket: BorrowedFd<'_>, mark: Mark) {
    // There is no such socket that refuses it.
    let flags = fcntl(socket, FcntlArg::F_GETFL).map(OFlag::from_bits_retain);
    let _ = flags.and_then(|flags| fcntl(socket, FcntlArg::F_SETFL(flags | mark.flag())));
}

/// Whether anybody has marked it so; what cannot be told counts as that.
pub fn is_marked(socket: BorrowedFd<'_>, mark: Mark) -> bool {
    fcntl(socket, FcntlArg::F_GETFL).map_or(true, |flags| OFlag::from_bits_retain(flags).contains(mark.flag()))
}

/// Whether something can be written to it, or its peer has gone, within so long (poll(2)).
pub fn has_room(socket: BorrowedFd<'_>, within: Duration) -> io::Result<bool> {
    let mut polled = [PollFd::new(socket, PollFlags::POLLOUT)];
    Ok(poll(&mut polled, PollTimeout::try_from(within).unwrap_or(PollTimeout::MAX))? > 0)
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
