//! Removes what a start has made, when the start fails after it has given up the rights to do so itself: a process of its
//! own, which keeps them until the outcome is known and ends then. It opens nothing, and reads nothing but where it is told.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork, setsid};

/// What is said: which of the paths was made, and device and inode of it; or [`FINISHED`] and nothing more.
type Word = [u8; 17];
const FINISHED: u8 = u8::MAX;
/// How long a start that has failed waits until all is gone.
const LONGEST: Duration = Duration::from_secs(2);

/// A start whose outcome is not known. Dropping it is its failure, as is the end of the process.
pub struct Unfinished {
    cleaner: UnixStream,
    paths: Vec<PathBuf>,
    finished: bool,
}

/// Begins to look after these paths. Call while the process has one thread.
#[expect(clippy::disallowed_methods, reason = "a copy that executes nothing and ends with the start: it is no role")]
pub fn look_after(paths: Vec<PathBuf>) -> io::Result<Unfinished> {
    let (cleaner, start) = UnixStream::pair()?;
    // SAFETY: the process has one thread, so that the child may do all that this one may.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => {
            drop(start);
            waitpid(child, None)?;
            Ok(Unfinished { cleaner, paths, finished: false })
        }
        // Its own child is nobody's, and leaves nothing to wait for.
        // SAFETY: as above; then nothing of this copy is used by anybody else, and nothing is run at its exit.
        ForkResult::Child => unsafe {
            if matches!(fork(), Ok(ForkResult::Child)) {
                clean(start, &paths);
            }
            libc::_exit(0)
        },
    }
}

impl Unfinished {
    /// This one of the paths was made just now.
    pub fn made(&mut self, path: &Path) -> io::Result<()> {
        let index = self.paths.iter().position(|known| known == path).and_then(|index| u8::try_from(index).ok());
        let (Some(index), found) = (index, path.symlink_metadata()?) else { return Ok(()) };
        let mut word = [index; 17];
        word[1..9].copy_from_slice(&found.dev().to_ne_bytes());
        word[9..].copy_from_slice(&found.ino().to_ne_bytes());
        self.cleaner.write_all(&word)
    }

    /// What was made stays.
    pub fn finished(mut self) {
        // One that is gone removes nothing.
        let _ = self.cleaner.write_all(&[FINISHED; 17]);
        self.finished = true;
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.finished && self.cleaner.shutdown(Shutdown::Write).is_ok() {
            // Its end is the end of the stream.
            let _ = self.cleaner.set_read_timeout(Some(LONGEST)).and_then(|()| self.cleaner.read(&mut [0]));
        }
    }
}

/// Hears how the start ends; then there is nothing more to do for this process.
fn clean(mut start: UnixStream, paths: &[PathBuf]) {
    // A Ctrl-C is for the start.
    let _ = setsid();
    let Ok(number) = u32::try_from(start.as_raw_fd()) else { return };
    // SAFETY: takes numbers. What else is open here is a copy that nothing uses; a listener among it would seem alive.
    unsafe {
        libc::syscall(libc::SYS_close_range, 0, number.saturating_sub(1), 0);
        libc::syscall(libc::SYS_close_range, number + 1, libc::c_uint::MAX, 0);
    }
    let mut made: Vec<(&PathBuf, Word)> = Vec::new();
    let mut word: Word = [0; 17];
    while start.read_exact(&mut word).is_ok() {
        if word[0] == FINISHED {
            return;
        }
        made.extend(paths.get(usize::from(word[0])).map(|path| (path, word)));
    }
    for (path, word) in made {
        let same = |found: std::fs::Metadata| {
            found.dev().to_ne_bytes() == word[1..9] && found.ino().to_ne_bytes() == word[9..]
        };
        // Another start may have taken the place.
        if path.symlink_metadata().is_ok_and(same) {
            let _ = std::fs::remove_file(path);
        }
    }
}
