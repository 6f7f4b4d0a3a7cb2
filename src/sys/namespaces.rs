//! Leaving for a network, mounts, System V IPC and a host name of one's own, and for a root with nothing in it.
//!
//! Needs `CAP_SYS_ADMIN` and `CAP_SYS_CHROOT`, and a process of one thread (unshare(2), pivot_root(2)).

use std::fmt;

use nix::errno::Errno;

/// Which step failed.
#[derive(Debug)]
pub struct LeaveError {
    step: &'static str,
    errno: Errno,
}

impl fmt::Display for LeaveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.step, self.errno)
    }
}

impl std::error::Error for LeaveError {}

fn step(step: &'static str, done: libc::c_long) -> Result<(), LeaveError> {
    Errno::result(done).map(drop).map_err(|errno| LeaveError { step, errno })
}

/// Leaves. What is open stays open.
pub fn leave() -> Result<(), LeaveError> {
    let new = libc::CLONE_NEWNET | libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    // SAFETY: unshare takes flags and no pointer.
    step("unshare", unsafe { libc::unshare(new) }.into())?;
    // SAFETY: the path is a literal with a NUL; the three pointers that are null may be, for a change of propagation.
    let private = unsafe {
        let flags = libc::MS_REC | libc::MS_PRIVATE;
        libc::mount(std::ptr::null(), c"/".as_ptr(), std::ptr::null(), flags, std::ptr::null())
    };
    step("mount / privately", private.into())?;
    empty_root()
}

/// The place where the new root is mounted before it is the root: wherever this program runs, it is a directory.
const PLACE: &std::ffi::CStr = c"/proc";

fn empty_root() -> Result<(), LeaveError> {
    let flags = libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    let options = c"size=4k,nr_inodes=1,mode=0555";
    // SAFETY: all four strings are literals with a NUL, and the options are a string, as tmpfs takes them.
    let mounted =
        unsafe { libc::mount(c"keyhatch".as_ptr(), PLACE.as_ptr(), c"tmpfs".as_ptr(), flags, options.as_ptr().cast()) };
    step("mount an empty tmpfs", mounted.into())?;
    // SAFETY: the paths here and below are literals with a NUL.
    step("chdir", unsafe { libc::chdir(PLACE.as_ptr()) }.into())?;
    // Old and new root at the same place: the old one is then on top, and can be taken away (pivot_root(2), NOTES).
    // SAFETY: as above.
    let pivoted = unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) };
    if pivoted == -1 && Errno::last() == Errno::EINVAL {
        // The root of an initramfs, or of a chroot, is no mount that could be moved: it stays, out of reach.
        // SAFETY: as above.
        step("chroot", unsafe { libc::chroot(c".".as_ptr()) }.into())?;
    } else {
        step("pivot_root", pivoted)?;
        // SAFETY: as above.
        step("unmount the old root", unsafe { libc::umount2(c".".as_ptr(), libc::MNT_DETACH) }.into())?;
    }
    // SAFETY: as above.
    step("chdir /", unsafe { libc::chdir(c"/".as_ptr()) }.into())?;
    // SAFETY: as above.
    let found = unsafe { libc::access(c"/proc".as_ptr(), libc::F_OK) };
    if found == 0 {
        return Err(LeaveError { step: "the new root is not empty", errno: Errno::EEXIST });
    }
    Ok(())
}
