//! The channel between the roles, taken hold of at either role's end: root may have a copy of any descriptor.
#![allow(unsafe_code, reason = "pidfd_open(2) and pidfd_getfd(2) have no function in the C library")]

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::Signal;
use nix::sys::socket::{MsgFlags, Shutdown, SockType, getsockopt, recv, send, shutdown, sockopt};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::wait_until;

/// A process and a copy of its end of the channel. While there is one, the death of that process does not close the channel.
pub struct End(OwnedFd);

impl End {
    /// `None` while the process has no channel, or still both ends of it.
    pub fn of(pid: u32) -> Option<Self> {
        let process = pidfd(pid)?;
        let numbers = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.map_while(Result::ok);
        let of_channel = |entry: std::fs::DirEntry| {
            let number: i32 = entry.file_name().to_str()?.parse().ok()?;
            // Of files, a copy might be the last descriptor.
            std::fs::read_link(entry.path()).ok().filter(|to| to.display().to_string().starts_with("socket:"))?;
            let copy = copy(&process, number)?;
            (getsockopt(&copy, sockopt::SockType).ok()? == SockType::SeqPacket).then_some(copy)
        };
        let mut found: Vec<OwnedFd> = numbers.filter_map(of_channel).collect();
        (found.len() == 1).then(|| Self(found.remove(0)))
    }

    pub fn cut(self, how: Shutdown) {
        shutdown(self.0.as_raw_fd(), how).unwrap();
    }

    /// Says this in the name of the process.
    pub fn put(self, frame: &[u8]) {
        wait_until("there is room in the channel", || match send(self.0.as_raw_fd(), frame, MsgFlags::MSG_DONTWAIT) {
            Ok(sent) => sent == frame.len(),
            Err(error) => (error != Errno::EAGAIN).then(|| panic!("{error}")).is_some(),
        });
    }

    /// Whether the process has been told what it has not heard yet.
    pub fn has_waiting(&self) -> bool {
        recv(self.0.as_raw_fd(), &mut [0; 8], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT)
            .is_ok_and(|length| length > 0)
    }
}

/// What a process has open under this number.
pub fn copy_of(pid: u32, number: i32) -> Option<OwnedFd> {
    copy(&pidfd(pid)?, number)
}

fn pidfd(pid: u32) -> Option<OwnedFd> {
    // SAFETY: takes no pointer.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

fn copy(process: &OwnedFd, number: i32) -> Option<OwnedFd> {
    // SAFETY: takes no pointer; a number that is closed meanwhile gives EBADF.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0) })
}

fn owned(number: libc::c_long) -> Option<OwnedFd> {
    let number = i32::try_from(number).ok().filter(|number| *number >= 0)?;
    // SAFETY: the kernel has just made this fd, and nothing else owns it.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}

/// From now on, a process whose parent has ended is this one's child: the end of a worker can be seen.
pub fn adopt_orphans() {
    nix::sys::prctl::set_child_subreaper(true).unwrap();
}

/// How an orphan that has been adopted has ended: its exit code, or the signal that killed it.
pub fn orphan_ended(pid: u32) -> Option<Result<i32, Signal>> {
    match waitpid(Pid::from_raw(pid.cast_signed()), Some(WaitPidFlag::WNOHANG)) {
        // It may still be its parent's.
        Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => None,
        Ok(WaitStatus::Exited(_, code)) => Some(Ok(code)),
        Ok(WaitStatus::Signaled(_, signal, _)) => Some(Err(signal)),
        other => panic!("{other:?}"),
    }
}
