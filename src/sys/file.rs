//! Files relative to a directory fd: after the drop no path is resolved from the root any more.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, Flock, FlockArg, OFlag, open, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, fchownat, unlinkat};
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

/// A hold on what is at this name, whatever it is; a link is held itself.
pub fn find_at(directory: BorrowedFd<'_>, name: &std::ffi::OsStr) -> io::Result<OwnedFd> {
    Ok(openat(directory, name, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?)
}

/// The owner of what is held. Its mode loses set-user-ID and such (chown(2)).
pub fn chown(held: BorrowedFd<'_>, uid: u32, gid: u32) -> io::Result<()> {
    Ok(fchownat(held, "", Some(uid.into()), Some(gid.into()), AtFlags::AT_EMPTY_PATH)?)
}

/// The mode of what is held, which may be held without a right to it: older kernels have fchmodat(2) without flags.
pub fn chmod(held: BorrowedFd<'_>, mode: u32) -> io::Result<()> {
    let path = format!("/proc/self/fd/{}", held.as_raw_fd());
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))
}

/// Waits until no other process has taken this directory, at most this long; `None` after that.
pub fn lock_soon(found: BorrowedFd<'_>, longest: Duration) -> io::Result<Option<DirectoryLock>> {
    let give_up = Instant::now() + longest;
    loop {
        match lock(reopen_directory(found)?)? {
            None if Instant::now() < give_up => std::thread::sleep(Duration::from_millis(20)),
            outcome => return Ok(outcome),
        }
    }
}

/// A directory that no other process holds.
pub struct DirectoryLock(Flock<OwnedFd>);

impl AsFd for DirectoryLock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Takes the directory for this process; `None` when another one has it.
pub fn lock(directory: OwnedFd) -> io::Result<Option<DirectoryLock>> {
    match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(DirectoryLock(lock))),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => Err(errno.into()),
    }
}

fn open_at(directory: BorrowedFd<'_>, name: &str) -> io::Result<Option<File>> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    match openat(directory, name, flags, Mode::empty()) {
        Ok(fd) => Ok(Some(fd.into())),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// The whole file, `None` when there is none, `FileTooLarge` when it is longer than `cap`.
pub fn read_at(directory: BorrowedFd<'_>, name: &str, cap: u64) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    let Some(file) = open_at(directory, name)? else { return Ok(None) };
    let length = file.metadata()?.len();
    if length > cap {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(length).map_err(io::Error::other)? + 1));
    file.take(cap).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

/// The beginning of a file, as far as `buffer` has room, and the length of all of it. `None` when there is none.
pub fn read_head_at(directory: BorrowedFd<'_>, name: &str, buffer: &mut [u8]) -> io::Result<Option<(usize, u64)>> {
    let Some(mut file) = open_at(directory, name)? else { return Ok(None) };
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..])? {
            0 => return Ok(Some((filled, filled as u64))),
            n => filled += n,
        }
    }
    Ok(Some((filled, file.metadata()?.len())))
}

/// The names in a directory. Those that are not UTF-8 are left out: none of ours is like that.
pub fn names_at(directory: BorrowedFd<'_>) -> io::Result<Vec<String>> {
    // A description of its own: reading moves the offset.
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut opened = nix::dir::Dir::openat(directory, ".", flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in opened.iter() {
        match entry?.file_name().to_str() {
            Ok("." | "..") | Err(_) => {}
            Ok(name) => names.push(name.to_owned()),
        }
    }
    Ok(names)
}

/// The name under which a file is written before it takes its own.
fn temporary(name: &str) -> String {
    format!(".{name}.new")
}

/// The file that this is, or was to become, the temporary one of.
pub fn of_temporary(name: &str) -> Option<&str> {
    name.strip_prefix('.')?.strip_suffix(".new")
}

/// Replaces each file as a whole: after a crash there is the old one or the new one, never a part. All that succeed
/// are durable when it returns.
pub fn replace_at(directory: BorrowedFd<'_>, files: &[(String, Vec<u8>)]) -> Vec<io::Result<()>> {
    let mut done = replace(directory, files, File::sync_all);
    if let Err(errno) = nix::unistd::fsync(directory) {
        done.iter_mut().filter(|done| done.is_ok()).for_each(|done| *done = Err(errno.into()));
    }
    done
}

/// The same, but durable only after [`sync_file_system`].
pub fn replace_unsynced_at(directory: BorrowedFd<'_>, files: &[(String, Vec<u8>)]) -> Vec<io::Result<()>> {
    replace(directory, files, |_| Ok(()))
}

/// Makes all that was written to the file system durable, whoever wrote it.
pub fn sync_file_system(directory: BorrowedFd<'_>) -> io::Result<()> {
    Ok(nix::unistd::syncfs(directory)?)
}

fn replace(
    directory: BorrowedFd<'_>,
    files: &[(String, Vec<u8>)],
    sync: impl Fn(&File) -> io::Result<()>,
) -> Vec<io::Result<()>> {
    // All are written before the first is synced: one commit of the journal then carries them together.
    let written: Vec<_> = files.iter().map(|(name, content)| write_temporary(directory, name, content)).collect();
    let take_place = |(written, (name, _)): (io::Result<File>, &(String, Vec<u8>))| {
        let renamed = written.and_then(|file| {
            sync(&file)?;
            Ok(renameat(directory, temporary(name).as_str(), directory, name.as_str())?)
        });
        if renamed.is_err() {
            // The first error is the one to tell.
            let _ = unlinkat(directory, temporary(name).as_str(), UnlinkatFlags::NoRemoveDir);
        }
        renamed
    };
    written.into_iter().zip(files).map(take_place).collect()
}

fn write_temporary(directory: BorrowedFd<'_>, name: &str, content: &[u8]) -> io::Result<File> {
    // A pipe that somebody has put there fails instead of waiting for a reader.
    let kind = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC | kind;
    let mut file: File = openat(directory, temporary(name).as_str(), flags, Mode::from_bits_truncate(0o600))?.into();
    file.write_all(content)?;
    Ok(file)
}

/// Removes files, durably and with one wait for the disk. No error when there is one less; the last error there was.
pub fn remove_all_at(directory: BorrowedFd<'_>, names: impl IntoIterator<Item = String>) -> io::Result<()> {
    let mut done = Ok(());
    for name in names {
        match unlinkat(directory, name.as_str(), UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => done = Err(errno.into()),
        }
    }
    nix::unistd::fsync(directory.as_fd())?;
    done
}

/// Removes a file, durably. No error when there is none.
pub fn remove_at(directory: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    match unlinkat(directory, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) => Ok(nix::unistd::fsync(directory.as_fd())?),
        Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_the_way_of_a_file_costs_one_write_and_goes() {
        let path = tempfile::tempdir().unwrap();
        let directory = open_directory(path.path()).unwrap();
        let write = |content: &str| replace_at(directory.as_fd(), &[("a".into(), content.into())]).remove(0);
        let read = || read_at(directory.as_fd(), "a", 9).unwrap().unwrap().to_vec();
        write("old").unwrap();
        nix::unistd::mkfifo(&path.path().join(temporary("a")), Mode::S_IRWXU).unwrap();
        assert!(write("lost").is_err(), "a pipe without a reader is nothing to wait for");
        assert_eq!(read(), b"old");
        write("new").unwrap();
        assert_eq!(read(), b"new");
    }
}
