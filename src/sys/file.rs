//! Files relative to a directory fd: after the drop no path is resolved from the root any more.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, Flock, FlockArg, OFlag, open, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};
use zeroize::Zeroizing;

pub fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    Ok(open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?)
}

/// A hold on a directory, which gives no right to it.
pub fn find_directory(path: &Path) -> io::Result<OwnedFd> {
    Ok(open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?)
}

/// Opens a directory that was found, with the rights that this process has now.
pub fn reopen_directory(found: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    Ok(openat(found, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?)
}

/// Makes a file that must not be there yet, 0400.
pub fn create_secret(path: &Path, content: &[u8]) -> io::Result<()> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut file: File = openat(AT_FDCWD, path, flags, Mode::from_bits_truncate(0o400))?.into();
    file.write_all(content)?;
    file.sync_all()
}

pub fn chown(path: &Path, uid: u32, gid: u32) -> io::Result<()> {
    Ok(nix::unistd::chown(path, Some(uid.into()), Some(gid.into()))?)
}

/// A directory that no other process holds.
pub type DirectoryLock = Flock<OwnedFd>;

/// Takes the directory for this process; `None` when another one has it.
pub fn lock(directory: OwnedFd) -> Option<DirectoryLock> {
    Flock::lock(directory, FlockArg::LockExclusiveNonblock).ok()
}

/// The whole file, `None` when there is none, an error when it is longer than `cap`.
pub fn read_at(directory: BorrowedFd<'_>, name: &str, cap: u64) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file: File = match openat(directory, name, flags, Mode::empty()) {
        Ok(fd) => fd.into(),
        Err(Errno::ENOENT) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let length = file.metadata()?.len();
    if length > cap {
        return Err(io::Error::other("longer than any file of ours"));
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(length).map_err(io::Error::other)? + 1));
    file.take(cap).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

/// Replaces a file as a whole: after a crash there is the old one or the new one, never a part.
pub fn replace_at(directory: BorrowedFd<'_>, name: &str, content: &[u8]) -> io::Result<()> {
    let temporary = format!(".{name}.new");
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let written = (|| {
        let mut file: File = openat(directory, temporary.as_str(), flags, Mode::from_bits_truncate(0o600))?.into();
        file.write_all(content)?;
        file.sync_all()?;
        renameat(directory, temporary.as_str(), directory, name)?;
        Ok(nix::unistd::fsync(directory)?)
    })();
    if written.is_err() {
        // The first error is the one to tell.
        let _ = unlinkat(directory, temporary.as_str(), UnlinkatFlags::NoRemoveDir);
    }
    written
}

/// Removes a file, durably. No error when there is none.
pub fn remove_at(directory: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    match unlinkat(directory, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(nix::unistd::fsync(directory.as_fd())?),
        Err(errno) => Err(errno.into()),
    }
}
