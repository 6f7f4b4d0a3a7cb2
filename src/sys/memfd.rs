//! Payloads too large for a frame: a memfd that nobody can change any more (memfd_create(2)).

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::{Mode, fchmod};
use zeroize::Zeroizing;

/// Shells use the descriptors below 10 and near 255 (`exec 3<file`), service managers pass theirs from 3 on.
const FIRST_HANDED_ON: i32 = 64;

const SEALS: SealFlag =
    SealFlag::F_SEAL_WRITE.union(SealFlag::F_SEAL_GROW).union(SealFlag::F_SEAL_SHRINK).union(SealFlag::F_SEAL_SEAL);

pub fn sealed(bytes: &[u8]) -> io::Result<OwnedFd> {
    let fd = memfd_create(c"keyhatch", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let mut file = File::from(fd);
    file.write_all(bytes)?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(SEALS))?;
    Ok(file.into())
}

/// A name for this, as a path, that goes away with the last process that has it: read-only, in memory alone, and left open over
/// an exec. Its number is out of the way of shells and of sockets that a service manager passes.
pub fn handed_on(bytes: &[u8]) -> io::Result<OwnedFd> {
    let fd = read_only(bytes)?;
    let number = fcntl(&fd, FcntlArg::F_DUPFD(FIRST_HANDED_ON))?;
    // SAFETY: fcntl has just made this fd, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// The same, but closed by an exec: others open it by way of this process.
pub fn shown(bytes: &[u8]) -> io::Result<OwnedFd> {
    read_only(bytes)
}

/// In the place of one that was shown: whoever opens it from now on sees these bytes, whoever has it open the earlier ones.
pub fn show_instead(shown: &mut OwnedFd, bytes: &[u8]) -> io::Result<()> {
    Ok(nix::unistd::dup3(read_only(bytes)?, shown, OFlag::O_CLOEXEC)?)
}

fn read_only(bytes: &[u8]) -> io::Result<OwnedFd> {
    let fd = sealed(bytes)?;
    fchmod(&fd, Mode::S_IRUSR)?;
    Ok(fd)
}

/// Reads it back: fully sealed, exactly `len` bytes, and no more than `cap`.
pub fn read_sealed(fd: OwnedFd, len: u64, cap: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    let seals = SealFlag::from_bits_truncate(fcntl(&fd, FcntlArg::F_GET_SEALS)?);
    let mut file = File::from(fd);
    // Not by stat: that takes a path, too, and this is a role that may name none.
    if !seals.contains(SEALS) || len > cap || file.seek(SeekFrom::End(0))? != len {
        return Err(io::Error::other("a payload that is not sealed, or not of the size announced"));
    }
    let mut bytes = Zeroizing::new(vec![0; usize::try_from(len).map_err(io::Error::other)?]);
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}
