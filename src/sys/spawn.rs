//! Starting this binary once more, with exactly the fds that the other role needs.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, getsockopt, socketpair, sockopt};

/// Where the worker finds its listener, and the runner its list.
const FIRST_FD: i32 = 3;
/// Where both find their channel.
pub const CHANNEL_FD: i32 = 4;

/// A SEQPACKET pair: a reader is woken when the other end closes, and frames stay whole (unix(7)).
pub fn channel_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?)
}

/// A pipe whose writing end never blocks.
pub fn log_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?)
}

/// Re-executes this binary with these arguments: an empty environment, fds 0 and 1 on /dev/null, `log` as stderr (`None`: ours),
/// a listener or a list, the channel, and nothing else.
pub fn respawn(
    arguments: &[String],
    first: BorrowedFd<'_>,
    channel: BorrowedFd<'_>,
    log: Option<OwnedFd>,
) -> io::Result<Child> {
    // Copies above the targets, so that neither dup2 overwrites the other's source.
    let first = above(first)?;
    let channel = above(channel)?;
    let mut command = Command::new("/proc/self/exe");
    let log = log.map_or_else(Stdio::inherit, Stdio::from);
    command.arg0("keyhatch").args(arguments).env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let (from_first, from_channel) = (first.as_raw_fd(), channel.as_raw_fd());
    // SAFETY: between fork and exec this calls only dup2 and close_range, which are async-signal-safe and take no pointer.
    unsafe {
        command.pre_exec(move || {
            let copied = libc::dup2(from_first, FIRST_FD) >= 0 && libc::dup2(from_channel, CHANNEL_FD) >= 0;
            if !copied || libc::close_range(5, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_int) != 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
    command.spawn()
}

fn above(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let number = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(10))?;
    // SAFETY: fcntl has just made this fd, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// The worker's listener and channel, checked for what they are. Closes everything above them.
pub fn claim() -> io::Result<(OwnedFd, OwnedFd)> {
    let (listener, channel) = claim_two()?;
    let listens = getsockopt(&listener, sockopt::AcceptConn)?;
    if !listens || getsockopt(&listener, sockopt::SockType)? != SockType::Stream {
        return Err(io::Error::other("fd 3 is not a listening stream socket"));
    }
    Ok((listener, channel))
}

/// The runner's list, which its reader checks, and channel. Closes everything above them.
pub fn claim_list() -> io::Result<(OwnedFd, OwnedFd)> {
    claim_two()
}

fn claim_two() -> io::Result<(OwnedFd, OwnedFd)> {
    super::process::close_inherited(2)?;
    // SAFETY: F_GETFD takes no pointer; an fd that is not open gives EBADF.
    let open = |number| unsafe { libc::fcntl(number, libc::F_GETFD) } >= 0;
    if !open(FIRST_FD) || !open(CHANNEL_FD) {
        return Err(io::Error::other("started without its descriptors: only `keyhatch serve` starts this role"));
    }
    // SAFETY: both are open, as just checked, and this role claims them once, before anything else can own them.
    let (first, channel) = unsafe { (OwnedFd::from_raw_fd(FIRST_FD), OwnedFd::from_raw_fd(CHANNEL_FD)) };
    for fd in [&first, &channel] {
        fcntl(fd, FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))?;
    }
    if getsockopt(&channel, sockopt::SockType)? != SockType::SeqPacket {
        return Err(io::Error::other("fd 4 is not a SEQPACKET socket"));
    }
    Ok((first, channel))
}
