//! Payloads too large for a frame: a memfd that nobody can change any more (memfd_create(2)).

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use zeroize::Zeroizing;

const SEALS: SealFlag =
    SealFlag::F_SEAL_WRITE.union(SealFlag::F_SEAL_GROW).union(SealFlag::F_SEAL_SHRINK).union(SealFlag::F_SEAL_SEAL);

pub fn sealed(bytes: &[u8]) -> io::Result<OwnedFd> {
    let fd = memfd_create(c"keyhatch", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let mut file = File::from(fd);
    file.write_all(bytes)?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(SEALS))?;
    Ok(file.into())
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
