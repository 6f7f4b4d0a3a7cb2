//! What both roles give up first: cores, debuggers, new privileges.

use nix::errno::Errno;
use nix::sys::prctl::{set_dumpable, set_no_new_privs};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigHandler, Signal, signal};

/// No core, not dumpable, a closed umask. Again after each change of ids and each exec, which reset the flag.
pub fn no_dump() -> Result<(), Errno> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    set_dumpable(false)?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    Ok(())
}

/// prctl(2), `PR_SET_NO_NEW_PRIVS`: of this thread and those that it starts.
pub fn no_new_privileges() -> Result<(), Errno> {
    set_no_new_privs()
}

/// For a role that is ended over the channel: a Ctrl-C reaches the whole process group.
pub fn ignore_end_signals() -> Result<(), Errno> {
    for number in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGPIPE] {
        // SAFETY: SIG_IGN runs no code of ours in signal context.
        unsafe { signal(number, SigHandler::SigIgn) }?;
    }
    Ok(())
}

/// Asks a child of ours to end.
pub fn terminate(pid: u32) -> Result<(), Errno> {
    let pid = i32::try_from(pid).map_err(|_| Errno::ESRCH)?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGTERM)
}

/// How many threads this process has; 1 is what a fork wants.
pub fn thread_count() -> std::io::Result<usize> {
    Ok(std::fs::read_dir("/proc/self/task")?.count())
}

/// uid and primary gid of a user, by name or number.
pub fn user(name: &str) -> Result<Option<(u32, u32)>, Errno> {
    if let Ok(uid) = name.parse::<u32>() {
        let known = nix::unistd::User::from_uid(uid.into())?;
        return Ok(Some((uid, known.map_or(uid, |user| user.gid.as_raw()))));
    }
    Ok(nix::unistd::User::from_name(name)?.map(|user| (user.uid.as_raw(), user.gid.as_raw())))
}

/// The gid of a group, by name or number.
pub fn group(name: &str) -> Result<Option<u32>, Errno> {
    if let Ok(gid) = name.parse::<u32>() {
        return Ok(Some(gid));
    }
    Ok(nix::unistd::Group::from_name(name)?.map(|group| group.gid.as_raw()))
}
