//! The supervisor of one run: starts the program, waits for its end or for the order to end it, kills what is left, and says
//! how it ended. Reads nothing that the program writes.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;

use super::starting::{self, Begun};
use super::{End, Program, Report, ending};

/// The program's ends, and both of its standard error.
pub(super) struct Pipes {
    pub(super) output: OwnedFd,
    pub(super) errors: (OwnedFd, OwnedFd),
    pub(super) given: Option<OwnedFd>,
}

/// A report as it crosses.
pub(super) const WORD: usize = 13;

fn encode((end, said): Report) -> [u8; WORD] {
    let (kind, code) = match end {
        End::Exited(code) => (0, i32::from(code)),
        End::Killed(signal) => (1, i32::from(signal)),
        End::NotStarted(errno) => (2, errno),
    };
    let mut word = [kind; WORD];
    word[1..5].copy_from_slice(&code.to_ne_bytes());
    word[5..].copy_from_slice(&said.to_ne_bytes());
    word
}

pub(super) fn decode(word: &[u8; WORD]) -> Option<Report> {
    let code = i32::from_ne_bytes(word[1..5].try_into().ok()?);
    let small = || u8::try_from(code).ok();
    let end = match word[0] {
        0 => End::Exited(small()?),
        1 => End::Killed(small()?),
        2 => End::NotStarted(code),
        _ => return None,
    };
    Some((end, u64::from_ne_bytes(word[5..].try_into().ok()?)))
}

/// Never returns: this is a copy of a process whose stack is not its own.
pub(super) fn run(program: &Program, mut line: UnixStream, pipes: Pipes) -> ! {
    let report = supervise(program, &line, pipes)
        .unwrap_or_else(|error| (End::NotStarted(error.raw_os_error().unwrap_or(libc::EIO)), 0));
    // Nobody hears it when the runner is gone.
    let _ = line.write_all(&encode(report));
    // SAFETY: ends this process; nothing of the copy is run at its exit.
    unsafe { libc::_exit(0) }
}

fn supervise(program: &Program, line: &UnixStream, pipes: Pipes) -> io::Result<Report> {
    let Pipes { output, errors: (errors, errors_in), given } = pipes;
    // The channel, and the lines of other runs, which would not end with the runner.
    let kept = [Some(output.as_raw_fd()), Some(errors.as_raw_fd()), Some(errors_in.as_raw_fd())];
    close_but(kept.into_iter().chain([given.as_ref().map(AsRawFd::as_raw_fd), Some(line.as_raw_fd())]).flatten())?;
    // SAFETY: PR_SET_CHILD_SUBREAPER takes a number and no pointer.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) })?;
    let children = File::open(format!("/proc/self/task/{}/children", nix::unistd::gettid())).ok();
    let null = File::options().write(true).open("/dev/null")?;
    let mut ends = SigSet::empty();
    ends.add(Signal::SIGCHLD);
    ends.thread_block()?;
    let ended = SignalFd::with_flags(&ends, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;

    let Begun { leader, told } = starting::begin(program, starting::Ends { output, errors: errors_in, given })?;
    let mut said = 0;
    // Whatever becomes of the watch: what has been started is ended.
    watch(leader, line, &ended, &errors, &null, &mut said);
    let end = ending::end(program.ids, leader, children.as_ref())?;
    let end = starting::failure(told).map_or(end, End::NotStarted);
    Ok((end, said + drain(&errors, &null).0))
}

/// Until the program ends, or is to be ended.
fn watch(leader: Pid, line: &UnixStream, ended: &SignalFd, errors: &OwnedFd, null: &File, said: &mut u64) {
    let mut open = true;
    loop {
        let mut watched = [
            PollFd::new(line.as_fd(), PollFlags::POLLIN),
            PollFd::new(ended.as_fd(), PollFlags::POLLIN),
            PollFd::new(errors.as_fd(), PollFlags::POLLIN),
        ];
        let count = if open { watched.len() } else { 2 };
        // From here on whatever fails is the end of the run, and not of looking after it.
        match poll(&mut watched[..count], PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return,
        }
        let [stop, child, heard] = watched.map(|fd| fd.any().unwrap_or(false));
        // Only one that was seen: what comes after the look at the child is for the next turn.
        if child {
            let _ = ended.read_signal();
        }
        if stop || (child && has_ended(leader)) {
            return;
        }
        if heard && open {
            let thrown = drain(errors, null);
            *said += thrown.0;
            open = thrown.1;
        }
    }
}

/// Whether the program itself has. What it left and what has come to us is waited for as it ends.
fn has_ended(leader: Pid) -> bool {
    let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    loop {
        match waitid(Id::All, peek) {
            Ok(WaitStatus::StillAlive) => return false,
            Ok(status) if status.pid() == Some(leader) => return true,
            Ok(status) => drop(status.pid().map(|pid| waitpid(pid, Some(WaitPidFlag::WNOHANG)))),
            Err(Errno::EINTR) => {}
            // There is a child for as long as the program has not been waited for.
            Err(_) => return true,
        }
    }
}

/// Throws away what there is to be read, without reading it: how many bytes that was, and whether more can come.
fn drain(errors: &OwnedFd, null: &File) -> (u64, bool) {
    let mut thrown = 0;
    // Not for ever: a program that writes without a pause is to be stopped, too.
    for _ in 0..64 {
        let (from, to, none) = (errors.as_raw_fd(), null.as_raw_fd(), std::ptr::null_mut());
        // SAFETY: takes numbers, and two pointers that may be null: where to read and write is then the descriptors' own.
        let moved = unsafe { libc::splice(from, none, to, none, 1 << 16, libc::SPLICE_F_NONBLOCK) };
        match u64::try_from(moved) {
            Ok(0) => return (thrown, false),
            Ok(count) => thrown += count,
            Err(_) => return (thrown, true),
        }
    }
    (thrown, true)
}

/// Closes all above standard error but these.
fn close_but(kept: impl Iterator<Item = i32>) -> Result<(), Errno> {
    let mut kept: Vec<i32> = kept.collect();
    kept.sort_unstable();
    let mut first = 3;
    for fd in kept {
        if fd > first {
            close(first, fd - 1)?;
        }
        first = fd + 1;
    }
    close(first, i32::MAX)
}

fn close(first: i32, last: i32) -> Result<(), Errno> {
    // SAFETY: takes numbers. This copy uses nothing of what it closes.
    Errno::result(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_crosses_as_it_is() {
        for end in [End::Exited(0), End::Exited(255), End::Killed(9), End::NotStarted(2)] {
            assert_eq!(decode(&encode((end, u64::MAX - 1))), Some((end, u64::MAX - 1)));
        }
        assert_eq!(decode(&[3; WORD]), None);
        assert_eq!(decode(&[0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), None, "no exit code is 256");
    }
}
