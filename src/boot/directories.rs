//! Directories in which the start makes things: those in which nobody else can put another thing in the place of ours.

use std::fs::DirBuilder;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use crate::sys::file;
use crate::sys::trusted::{self, OpenError};

/// A hold on the directory, which is made if it is missing, with those above it.
pub(super) fn make(path: &Path, mode: u32) -> Result<OwnedFd, OpenError> {
    match (trusted::find_directory(path), path.parent(), path.file_name()) {
        (Err(OpenError::Io(error)), Some(above), Some(name)) if error.kind() == std::io::ErrorKind::NotFound => {
            let above = make(above, mode)?;
            match DirBuilder::new().mode(mode).create(path) {
                // The umask has taken some of the mode away.
                Ok(()) => {
                    let made = file::find_at(above.as_fd(), name).map_err(OpenError::Io)?;
                    file::chmod(made.as_fd(), mode).map_err(OpenError::Io)?;
                }
                // Another start was quicker.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(OpenError::Io(error)),
            }
            trusted::find_directory(path)
        }
        (found, ..) => found,
    }
}
