//! The start of a program: a child that becomes its user, has nothing of ours but the pipes, and executes it. Whoever starts it
//! does not wait for that: a directory that hangs, a file that somebody holds, or another process of that user that stops the
//! child must not keep the order to end the run from being heard.

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal, sigprocmask};
use nix::unistd::{ForkResult, Gid, Pid, Uid, chdir, execve, fork, pipe2, setgroups, setpgid, setresgid, setresuid};

use super::{GIVEN_FD, Given, Program};

/// Processes and threads that the user of a program may have together: room for any honest one, and none for a flood that
/// would take them from the broker.
const MOST_PROCESSES: u64 = 256;

/// Above all descriptors that a program is given.
const ASIDE: i32 = 16;

/// The program's ends of its pipes.
pub(super) struct Ends {
    pub(super) output: OwnedFd,
    pub(super) errors: OwnedFd,
    pub(super) given: Option<OwnedFd>,
}

/// A child that is, or becomes, a program.
pub(super) struct Begun {
    /// Its process group has the same number.
    pub(super) leader: Pid,
    /// Why it could not, if it could not.
    pub(super) told: OwnedFd,
}

/// In a process group of its own.
#[expect(clippy::disallowed_methods, reason = "a copy that becomes the program")]
pub(super) fn begin(program: &Program, ends: Ends) -> io::Result<Begun> {
    let variable = |(name, value): &(String, String)| CString::new(format!("{name}={value}"));
    let mut environment: Vec<CString> = program.environment.iter().map(variable).collect::<Result<_, _>>()?;
    environment.sort();
    let arguments: Vec<&CStr> =
        std::iter::once(&program.path).chain(&program.arguments).map(CString::as_c_str).collect();
    let (told, tell) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    // Else it could be where the program finds what it is given.
    let tell = aside(&tell)?;
    // SAFETY: the process has one thread, so that the child may do all that this one may.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => {
            // The child does so, too: whoever is first, its group is known when this returns. An error says that it is past that.
            let _ = setpgid(child, child);
            Ok(Begun { leader: child, told })
        }
        ForkResult::Child => {
            let Err(errno) = become_program(program, &arguments, &environment, &ends);
            let _ = std::fs::File::from(tell).write_all(&(errno as i32).to_ne_bytes());
            // SAFETY: ends this process; nothing of the copy is run at its exit.
            unsafe { libc::_exit(127) }
        }
    }
}

/// What kept it from being executed. When nothing of the run is left.
pub(super) fn failure(told: OwnedFd) -> Option<i32> {
    let mut word = [0; 4];
    std::fs::File::from(told).read_exact(&mut word).ok()?;
    Some(i32::from_ne_bytes(word))
}

/// Returns only if that failed.
fn become_program(
    program: &Program,
    arguments: &[&CStr],
    environment: &[CString],
    ends: &Ends,
) -> Result<Infallible, Errno> {
    // Also what whoever started the broker had it ignore.
    for number in Signal::iterator().filter(|number| ![Signal::SIGKILL, Signal::SIGSTOP].contains(number)) {
        // SAFETY: SIG_DFL runs no code of ours.
        unsafe { signal(number, SigHandler::SigDfl) }?;
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
    place(program.given, ends)?;
    if let Some((uid, gid)) = program.ids {
        setrlimit(Resource::RLIMIT_NPROC, MOST_PROCESSES, MOST_PROCESSES)?;
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        setgroups(&[])?;
        setresgid(gid, gid, gid)?;
        setresuid(uid, uid, uid)?;
        let root = Uid::from_raw(0);
        if setresuid(root, root, root).is_ok() {
            return Err(Errno::EPERM);
        }
    }
    chdir(program.directory.as_c_str())?;
    execve(&program.path, arguments, environment)
}

/// Puts the pipes where the program finds them; all else that this copy has open is closed by the exec.
fn place(given: Given, ends: &Ends) -> Result<(), Errno> {
    let null = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let null = nix::fcntl::open(c"/dev/null", null, nix::sys::stat::Mode::empty())?;
    let nothing = aside(&null)?;
    let secret = ends.given.as_ref().map(aside).transpose()?;
    let input = secret.as_ref().filter(|_| given == Given::Stdin).unwrap_or(&nothing);
    let (output, errors) = (aside(&ends.output)?, aside(&ends.errors)?);
    // SAFETY: takes numbers. Marks what this copy has open.
    Errno::result(unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) })?;
    let places = [Some((input, 0)), Some((&output, 1)), Some((&errors, 2))];
    let secret = secret.as_ref().filter(|_| given == Given::Descriptor).map(|secret| (secret, GIVEN_FD));
    for (from, to) in places.into_iter().flatten().chain(secret) {
        // SAFETY: takes numbers. What was at the target is one that the exec would have closed; this copy uses it no more.
        Errno::result(unsafe { libc::dup2(from.as_raw_fd(), to) })?;
    }
    Ok(())
}

/// A copy that is at none of the places of the program's own.
fn aside(fd: &OwnedFd) -> Result<OwnedFd, Errno> {
    let number = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(ASIDE))?;
    // SAFETY: fcntl has just made this descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
