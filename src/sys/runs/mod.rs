//! Programs that are run for others: each by a supervisor of its own, which sees to it that nothing of a run is left.
//!
//! The supervisor is a copy of the runner that executes nothing. It is the subreaper of all that the program starts, keeps the
//! program's user as its *effective* one while it kills, and root as its real and saved one, so that it may signal the program
//! and the program may not signal it (kill(2)). Call with one thread.

mod ending;
mod starting;
mod supervisor;

use std::ffi::CString;
use std::io::{self, Read};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Gid, Pid, Uid, fork, getegid, geteuid, pipe2, setresgid, setresuid};

/// Where the program finds what it is given, if that is not to be its standard input.
pub const GIVEN_FD: i32 = 3;

/// How a program is given a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Given {
    Nothing,
    /// As what it reads from its standard input, up to the end of file.
    Stdin,
    /// The same at [`GIVEN_FD`].
    Descriptor,
}

/// What to run, and as whom.
pub struct Program {
    /// An absolute path.
    pub path: CString,
    pub arguments: Vec<CString>,
    /// Everything that is in its environment.
    pub environment: Vec<(String, String)>,
    pub directory: CString,
    /// `None`: as the caller.
    pub ids: Option<(u32, u32)>,
    pub given: Given,
}

/// How a run ended, when nothing of it is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Exited(u8),
    /// By this signal, also ours.
    Killed(u8),
    /// errno of what failed.
    NotStarted(i32),
}

/// What a supervisor says last: how the program ended, and how many bytes it had written to its standard error.
pub type Report = (End, u64);

/// A run that has not been reported.
pub struct Run {
    supervisor: Pid,
    /// Its end is the order to end the run, and the report comes by it.
    line: UnixStream,
}

/// What the one who asked has of a run.
pub struct Ends {
    /// What the program writes to its standard output.
    pub output: OwnedFd,
    /// Where it is to be given something.
    pub given: Option<OwnedFd>,
}

/// Starts a run. That the program cannot be executed is for the supervisor to report.
#[expect(clippy::disallowed_methods, reason = "a copy that executes nothing but the program that it looks after")]
pub fn begin(program: &Program) -> io::Result<(Run, Ends)> {
    let (line, others) = UnixStream::pair()?;
    // Of the program's user, so that it can open them by name (/dev/stdin, /dev/fd/3).
    let (output, errors, given) = as_user(program.ids, || {
        let pipe = || pipe2(OFlag::O_CLOEXEC);
        Ok((pipe()?, pipe()?, if program.given == Given::Nothing { None } else { Some(pipe()?) }))
    })?;
    let (given_out, given_in) = given.unzip();
    // SAFETY: the process has one thread, so that the child may do all that this one may.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => {
            Ok((Run { supervisor: child, line }, Ends { output: output.0, given: given_in }))
        }
        ForkResult::Child => {
            // The reading ends are the others' alone: a program that writes after they have gone is to be told so.
            drop((line, output.0, given_in));
            supervisor::run(program, others, supervisor::Pipes { output: output.1, errors, given: given_out })
        }
    }
}

impl Run {
    /// Has everything of it killed. The report comes after that.
    pub fn stop(&self) {
        // It may have ended.
        let _ = self.line.shutdown(Shutdown::Write);
    }

    /// The report, once [`wait`] says that it is there.
    ///
    /// # Errors
    /// The supervisor is gone without one: nobody looks after the run.
    pub fn report(&mut self) -> io::Result<Report> {
        let mut word = [0; supervisor::WORD];
        self.line.read_exact(&mut word)?;
        waitpid(self.supervisor, None)?;
        supervisor::decode(&word).ok_or_else(|| io::Error::other("a report that is none"))
    }
}

/// Waits for a frame on the channel or for reports: whether there is a frame, and which runs have one.
pub fn wait<'r>(channel: BorrowedFd<'_>, runs: impl Iterator<Item = &'r Run> + Clone) -> io::Result<(bool, Vec<bool>)> {
    let mut watched = vec![PollFd::new(channel, PollFlags::POLLIN)];
    watched.extend(runs.map(|run| PollFd::new(run.line.as_fd(), PollFlags::POLLIN)));
    match poll(&mut watched, PollTimeout::NONE) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => return Err(errno.into()),
    }
    let mut ready = watched.iter().map(|fd| fd.any().unwrap_or(false));
    let frame = ready.next().unwrap_or(false);
    Ok((frame, ready.collect()))
}

/// With these effective ids, and the own ones again after that. The real and saved ones stay: so nobody but root, or the
/// caller, may signal this process meanwhile.
fn as_user<T>(ids: Option<(u32, u32)>, act: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
    let Some((uid, gid)) = ids else { return act() };
    let (own_uid, own_gid) = (geteuid(), getegid());
    let (keep_uid, keep_gid) = (Uid::from_raw(u32::MAX), Gid::from_raw(u32::MAX));
    setresgid(keep_gid, Gid::from_raw(gid), keep_gid)?;
    let acted = setresuid(keep_uid, Uid::from_raw(uid), keep_uid).and_then(|()| act());
    // Back to what is the real and saved one needs no capability; the user first, who has the right to the group. Whoever would
    // go on as another one is not to go on.
    let back = setresuid(keep_uid, own_uid, keep_uid).and_then(|()| setresgid(keep_gid, own_gid, keep_gid));
    // The change of ids has reset it.
    if back.and_then(|()| super::process::no_dump()).is_err() {
        std::process::abort();
    }
    acted
}
