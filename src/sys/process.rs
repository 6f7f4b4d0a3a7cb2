//! What both roles give up first: cores, debuggers, new privileges, whatever the caller left open.

use nix::errno::Errno;
use nix::sys::prctl::{get_dumpable, get_no_new_privs, set_dumpable, set_no_new_privs};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal, sigprocmask};

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

/// Whether a core can be written, or a debugger of our own user attach.
pub fn is_closed_to_debuggers() -> Result<bool, Errno> {
    Ok(!get_dumpable()? && getrlimit(Resource::RLIMIT_CORE)? == (0, 0))
}

pub fn has_no_new_privileges() -> Result<bool, Errno> {
    get_no_new_privs()
}

/// Memory that can be written never becomes executable (`PR_SET_MDWE`, Linux 6.3). Whether this kernel has that.
pub fn no_new_code() -> bool {
    // All of them as wide as the kernel takes them: it looks at every bit.
    let (refuse, none) = (libc::c_ulong::from(libc::PR_MDWE_REFUSE_EXEC_GAIN), 0 as libc::c_ulong);
    // SAFETY: PR_SET_MDWE takes integers and no pointer.
    unsafe { libc::prctl(libc::PR_SET_MDWE, refuse, none, none, none) == 0 }
}

/// For a role that needs neither: no file grows, no process or thread is started (setrlimit(2)).
pub fn no_files_and_no_children() -> Result<(), Errno> {
    setrlimit(Resource::RLIMIT_FSIZE, 0, 0)?;
    setrlimit(Resource::RLIMIT_NPROC, 0, 0)
}

/// Raises the limit of open files to `useful`, or as near to that as the hard limit lets it. Gives what it is then.
///
/// # Errors
/// What it is, when that is below `needed`.
pub fn allow_open_files(needed: u64, useful: u64) -> Result<u64, u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(|_| 0_u64)?;
    let wanted = useful.min(hard);
    let raised = wanted > soft && setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).is_ok();
    let allowed = if raised { wanted } else { soft };
    if allowed < needed { Err(allowed) } else { Ok(allowed) }
}

/// Signals that the caller had blocked reach us again: a mask survives exec (sigprocmask(2)).
pub fn unblock_signals() -> Result<(), Errno> {
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
}

/// Closes what the caller left open above stderr, but for the `passed` descriptors from 3 on, which no child will have.
/// Call before anything of ours is open.
pub fn close_inherited(passed: u32) -> Result<(), Errno> {
    let first = 3_u32.saturating_add(passed);
    if first > 3 {
        close_range(3, first - 1, libc::CLOSE_RANGE_CLOEXEC)?;
    }
    close_range(first, u32::MAX, 0)
}

fn close_range(first: u32, last: u32, flags: u32) -> Result<(), Errno> {
    // SAFETY: close_range takes numbers and no pointer. What it closes was opened by who started us: nothing here owns it.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
    Errno::result(done).map(drop)
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

/// One heap for all threads: what one thread has freed is then there for the others. Call before the first thread.
pub fn share_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes two numbers and no pointer (mallopt(3)).
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Gives memory that was freed back to the system: after the start most of what reading the configuration took is free.
pub fn release_free_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes a number and no pointer; malloc_trim(3) says that it is safe with threads.
    unsafe {
        libc::malloc_trim(0);
    }
}
