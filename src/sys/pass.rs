//! Descriptors beside the bytes of a stream (unix(7), SCM_RIGHTS).

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

/// So many go beside one send: a fourth of what the kernel takes (SCM_MAX_FD).
pub const AT_ONCE: usize = 64;

/// Sends bytes with these descriptors, at most [`AT_ONCE`], beside the first of them. How many bytes went: with none of them,
/// no descriptor does.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &[][..] } else { &rights[..] };
    let sent = sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(bytes)], control, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(sent)
}

/// Receives into `bytes`, and what descriptors came beside that. 0 at the end of the stream.
///
/// # Errors
/// Also when descriptors were lost, for want of room in this process or because there were more than [`AT_ONCE`]; those
/// that came are in `fds` all the same, and closed with that.
pub fn receive(socket: BorrowedFd<'_>, bytes: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<usize> {
    // As large as cmsg(3) asks for, and aligned as it asks for.
    let mut control = [0_u64; CONTROL];
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: a message header of zeros has no name, no parts and no control data.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&control) as _;
    // SAFETY: the header names one part and one control buffer, both ours, writable and as long as it says.
    let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_CMSG_CLOEXEC) };
    let received = Errno::result(received)?;
    // SAFETY: the kernel has filled in the header, whose control buffer is still there.
    let mut message = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
    while !message.is_null() {
        // SAFETY: the macros give headers that lie within the control buffer, or null.
        let (kind, data, length) = unsafe {
            let of = &*message;
            let length = of.cmsg_len as usize - (libc::CMSG_LEN(0) as usize);
            ((of.cmsg_level, of.cmsg_type), libc::CMSG_DATA(message), length)
        };
        if kind == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            for at in 0..length / size_of::<RawFd>() {
                // SAFETY: within the data of this message; the kernel has just made this descriptor for this process, and
                // nothing else knows its number.
                fds.push(unsafe { OwnedFd::from_raw_fd(data.cast::<RawFd>().add(at).read_unaligned()) });
            }
        }
        // SAFETY: as above.
        message = unsafe { libc::CMSG_NXTHDR(&raw const header, message) };
    }
    if header.msg_flags & libc::MSG_CTRUNC != 0 {
        return Err(io::Error::other("descriptors were lost: there is no room for so many"));
    }
    usize::try_from(received).map_err(io::Error::other)
}

/// In words of 8 bytes: one header of control data, and the descriptors.
const CONTROL: usize = (size_of::<libc::cmsghdr>() + AT_ONCE * size_of::<RawFd>()).div_ceil(size_of::<u64>());

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn descriptors_come_with_their_bytes_and_in_their_order() {
        let (one, other) = UnixStream::pair().unwrap();
        let files: Vec<File> = (0..AT_ONCE).map(|_| tempfile::tempfile().unwrap()).collect();
        for (n, mut file) in files.iter().enumerate() {
            write!(file, "{n}").unwrap();
        }
        let borrowed: Vec<BorrowedFd<'_>> = files.iter().map(AsFd::as_fd).collect();
        assert_eq!(send(one.as_fd(), b"four", &borrowed).unwrap(), 4);
        let (mut bytes, mut fds) = ([0; 3], Vec::new());
        assert_eq!(receive(other.as_fd(), &mut bytes, &mut fds).unwrap(), 3);
        assert_eq!(fds.len(), AT_ONCE);
        assert_eq!(receive(other.as_fd(), &mut bytes, &mut fds).unwrap(), 1);
        assert_eq!(fds.len(), AT_ONCE, "once");
        for (n, fd) in fds.into_iter().enumerate() {
            let (mut file, mut text) = (File::from(fd), String::new());
            std::io::Seek::rewind(&mut file).unwrap();
            file.read_to_string(&mut text).unwrap();
            assert_eq!(text, n.to_string());
        }
        drop(one);
        assert_eq!(receive(other.as_fd(), &mut bytes, &mut Vec::new()).unwrap(), 0);
    }

    #[test]
    fn more_than_there_is_room_for_are_an_error_and_none_stays_open() {
        let (one, other) = UnixStream::pair().unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        let many = vec![writer.as_fd(); AT_ONCE + 1];
        send(one.as_fd(), b"x", &many).unwrap();
        let mut fds = Vec::new();
        assert!(receive(other.as_fd(), &mut [0], &mut fds).is_err());
        drop((fds, writer));
        let mut reader = reader;
        assert_eq!(reader.read(&mut [0]).unwrap(), 0, "all ends of the pipe are closed");
    }
}
