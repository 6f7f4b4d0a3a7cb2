//! The end of a run: all that is left of it is killed, whatever it does to stay.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollTimeout, poll};
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{ForkResult, Pid, Uid, fork, getresuid, setresuid};

use super::{End, as_user};

/// How long those that a run has left may take to be killed one by one. Then whatever their user runs is killed at once.
const PATIENCE: Duration = Duration::from_millis(500);
/// Between two looks at what is left, in milliseconds.
const PAUSE: u16 = 2;

/// Kills all that is left, and waits until nothing is.
pub(super) fn end(ids: Option<(u32, u32)>, leader: Pid, children: Option<&File>) -> io::Result<End> {
    let began = Instant::now();
    let mut end = None;
    // The program has not been waited for: this number is still its group's. All of it at once, so that none can fork meanwhile.
    let _ = as_user(ids, || killpg(leader, Signal::SIGKILL));
    loop {
        // Whoever has left the group comes to us when its parent dies.
        let ours = children.map(of_file).unwrap_or_default();
        let _ = as_user(ids, || {
            for child in ours {
                let _ = kill(child, Signal::SIGKILL);
            }
            Ok(())
        });
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) => break,
                Ok(WaitStatus::Exited(pid, code)) if pid == leader => {
                    end = Some(End::Exited(u8::try_from(code).unwrap_or(u8::MAX)));
                }
                Ok(WaitStatus::Signaled(pid, signal, _)) if pid == leader => {
                    end = Some(End::Killed(u8::try_from(signal as i32).unwrap_or(u8::MAX)));
                }
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::ECHILD) => return end.ok_or_else(|| io::Error::other("the program was not waited for")),
                Err(errno) => return Err(errno.into()),
            }
        }
        if let Some(ids) = ids
            && began.elapsed() > PATIENCE
        {
            // They multiply faster than they are killed, or cannot be seen. Where there is no room for one process more, which
            // may be their doing, there is again once some of them are gone.
            let _ = kill_all_of(ids);
        }
        pause();
    }
}

/// Kills everything of a user, at once, so that none can fork meanwhile. In a child that is this user and nothing else: for
/// kill(2) with -1, a real id that is still root's would mean all of root's as well.
#[expect(clippy::disallowed_methods, reason = "a copy that makes four system calls")]
fn kill_all_of(ids: (u32, u32)) -> io::Result<()> {
    let uid = Uid::from_raw(ids.0);
    // SAFETY: the process has one thread, and the child makes system calls alone.
    let killer = match unsafe { fork() }? {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            let became = setresuid(uid, uid, uid).and_then(|()| getresuid());
            let only = became.is_ok_and(|now| (now.real, now.effective, now.saved) == (uid, uid, uid));
            if only && !uid.is_root() {
                let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
            }
            // SAFETY: ends this process; nothing of the copy is run at its exit.
            unsafe { libc::_exit(0) }
        }
    };
    // As long as it is that user, that user can stop it.
    let began = Instant::now();
    while began.elapsed() < PATIENCE / 10 {
        if waitpid(killer, Some(WaitPidFlag::WNOHANG))? != WaitStatus::StillAlive {
            return Ok(());
        }
        pause();
    }
    as_user(Some(ids), || kill(killer, Signal::SIGKILL))?;
    waitpid(killer, None)?;
    Ok(())
}

/// A child that ends wakes nobody here: its signal is blocked, and what is left is looked at again anyway.
fn pause() {
    let _ = poll(&mut [], PollTimeout::from(PAUSE));
}

/// The direct children (proc_pid_task_children, CONFIG_PROC_CHILDREN): each is there until it is waited for, so its number is
/// nobody else's.
fn of_file(children: &File) -> Vec<Pid> {
    let mut text = [0; 4096];
    let read = children.read_at(&mut text, 0).unwrap_or(0);
    let is_ours = |pid: &Pid| {
        let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        pid.as_raw() > 1 && waitid(Id::Pid(*pid), peek).is_ok()
    };
    whole_numbers(&text[..read]).map(Pid::from_raw).filter(is_ours).collect()
}

/// A number without a space behind it may have been cut.
fn whole_numbers(text: &[u8]) -> impl Iterator<Item = i32> {
    let whole = text.split_inclusive(|byte| *byte == b' ').filter_map(|word| word.strip_suffix(b" "));
    whole.filter_map(|number| std::str::from_utf8(number).ok()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_was_cut_is_none() {
        let numbers = |text: &[u8]| whole_numbers(text).collect::<Vec<_>>();
        assert_eq!(numbers(b"12 345 "), [12, 345]);
        assert_eq!(numbers(b"12 345"), [12]);
        assert!(numbers(b"").is_empty());
    }
}
