//! A command that runs on behalf of its caller: in its place, or as a child to which signals are passed on.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};

use nix::errno::Errno;
use nix::libc;
pub use nix::sys::signal::Signal;
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

/// What is passed on: what a terminal, a service manager or a script sends. Stopping and going on are the group's business.
const PASSED_ON: [Signal; 8] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGWINCH,
];

/// Becomes this command. Returns only if that failed, and why.
pub fn replace(command: &mut Command) -> io::Error {
    command.exec()
}

/// As a child that ends when we are killed, and that has no signals blocked but those that we had before we took ours.
pub fn spawn(command: &mut Command, signals: &Signals) -> io::Result<Child> {
    let before = signals.before;
    // SAFETY: between fork and exec this calls only prctl with numbers and sigprocmask with a set of its own, which are
    // async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            before.thread_set_mask()?;
            Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGTERM)?)
        });
    }
    command.spawn()
}

/// As shells tell it: the exit code, or 128 and the number of the signal that killed it.
pub fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|number| 128 + number));
    // The kernel keeps eight bits of a code, and signals are less than 128.
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

/// A signal by its name, with or without `SIG`.
pub fn named(name: &str) -> Option<Signal> {
    let name = name.to_ascii_uppercase();
    format!("SIG{}", name.strip_prefix("SIG").unwrap_or(&name)).parse().ok()
}

/// To a child of ours that we have not yet waited for.
pub fn send(child: &Child, signal: Signal) {
    if let Ok(pid) = i32::try_from(child.id()) {
        // It may have ended meanwhile; its end is told by SIGCHLD.
        let _ = nix::sys::signal::kill(Pid::from_raw(pid), signal);
    }
}

/// What came to this process instead of ending it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Came {
    /// A child has ended, or stopped.
    Child,
    /// To be passed on. That of a terminal has come to the child as well: it goes to the whole group.
    Signal { signal: Signal, by_terminal: bool },
}

/// All that is passed on, and SIGCHLD, read instead of delivered (signalfd(2)).
pub struct Signals {
    fd: SignalFd,
    before: SigSet,
}

impl Signals {
    /// Call with one thread.
    pub fn take() -> io::Result<Self> {
        // SAFETY: SIG_DFL runs no code of ours. A caller that ignores SIGCHLD would keep it from coming.
        unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) }?;
        let mut taken = SigSet::empty();
        PASSED_ON.into_iter().chain([Signal::SIGCHLD]).for_each(|signal| taken.add(signal));
        let before = taken.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
        Ok(Self { fd: SignalFd::with_flags(&taken, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?, before })
    }

    /// The next one; `None` when there is none yet.
    pub fn next(&self) -> io::Result<Option<Came>> {
        let told = match self.fd.read_signal() {
            Ok(Some(told)) => told,
            Ok(None) | Err(Errno::EAGAIN) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        let number = i32::try_from(told.ssi_signo).map_err(io::Error::other)?;
        Ok(Some(match Signal::try_from(number)? {
            Signal::SIGCHLD => Came::Child,
            signal => Came::Signal { signal, by_terminal: told.ssi_code == libc::SI_KERNEL },
        }))
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl std::os::fd::AsRawFd for Signals {
    fn as_raw_fd(&self) -> i32 {
        self.fd.as_fd().as_raw_fd()
    }
}

/// How shells end that cannot start a command: 127 when there is none of that name, 126 when it cannot be executed.
pub fn cannot_start(program: &OsStr, error: &io::Error) -> u8 {
    let missing = match error.kind() {
        io::ErrorKind::NotFound => true,
        // execvp(3) gives the same error for a directory of $PATH that may not be searched.
        io::ErrorKind::PermissionDenied if !program.as_encoded_bytes().contains(&b'/') => {
            let path = std::env::var_os("PATH").unwrap_or_default();
            !std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
        }
        _ => false,
    };
    if missing { 127 } else { 126 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names() {
        for name in ["HUP", "SIGHUP", "hup", "sighup"] {
            assert_eq!(named(name), Some(Signal::SIGHUP), "{name}");
        }
        for name in ["", "SIG", "restart", "1", "SIGSIGHUP", "HUP "] {
            assert_eq!(named(name), None, "{name}");
        }
    }

    #[test]
    fn ends_are_told_as_shells_tell_them() {
        let of = |script: &str| exit_code(Command::new("sh").args(["-c", script]).status().unwrap());
        assert_eq!((of("exit 0"), of("exit 7"), of("exit 255")), (0, 7, 255));
        assert_eq!((of("kill -TERM $$"), of("kill -KILL $$")), (143, 137));
    }
}
