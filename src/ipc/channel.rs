//! One end of the channel: typed by direction, one frame a packet, fds beside it.
//!
//! Must never hand on a frame whose data or fds were cut: whoever sent it is not who we think.

use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::marker::PhantomData;
use std::os::fd::{BorrowedFd, OwnedFd};

use serde::{Serialize, de::DeserializeOwned};
use tokio::io::Interest;
use tokio_seqpacket::UnixSeqpacket;
use tokio_seqpacket::ancillary::{AncillaryMessageWriter, OwnedAncillaryMessage};
use zeroize::Zeroizing;

use super::wire::{self, MAX_FRAME, ToParent, ToWorker, WireError};

/// An end that sends `Out` and receives `In`.
pub struct ChannelEnd<Out, In> {
    socket: UnixSeqpacket,
    types: PhantomData<fn(Out) -> In>,
}

/// The end that the parent holds.
pub type ParentEnd = ChannelEnd<ToWorker, ToParent>;
/// The end that the worker holds.
pub type WorkerEnd = ChannelEnd<ToParent, ToWorker>;

/// What came beside a frame.
pub enum Passed {
    Nothing,
    One(OwnedFd),
    /// An fd that this process has no room for: its own trouble, and no fault of the sender.
    Lost,
}

/// Room for more fds than are ever sent, so that what does not fit is told from what could not be opened here.
const ROOM: usize = 64;

/// Fatal to whoever gets it.
#[derive(Debug)]
pub enum ChannelError {
    Io(io::Error),
    Wire(WireError),
    /// Data or fds that did not fit.
    Truncated,
}

impl fmt::Display for ChannelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "the channel failed: {error}"),
            Self::Wire(error) => write!(f, "the channel carried {error}"),
            Self::Truncated => write!(f, "the channel carried a frame that was cut"),
        }
    }
}

impl std::error::Error for ChannelError {}

impl<Out: Serialize, In: DeserializeOwned> ChannelEnd<Out, In> {
    /// `fd` is one of a non-blocking SEQPACKET pair.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self { socket: UnixSeqpacket::try_from(fd)?, types: PhantomData })
    }

    pub async fn send(&self, message: &Out, fd: Option<BorrowedFd<'_>>) -> Result<(), ChannelError> {
        let frame = Zeroizing::new(wire::encode(message).map_err(ChannelError::Wire)?);
        let mut control = [0; 64];
        let mut ancillary = AncillaryMessageWriter::new(&mut control);
        if let Some(fd) = fd {
            ancillary.add_fds([fd]).map_err(|_| ChannelError::Truncated)?;
        }
        let sent = self.socket.send_vectored_with_ancillary(&[IoSlice::new(&frame)], &mut ancillary).await;
        sent.map(drop).map_err(ChannelError::Io)
    }

    /// Says and hears nothing more; what the other end has said before this can still be received. The other end learns of it.
    pub fn shut(&self) {
        // One that is shut already is none the less.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }

    /// Resolves when the other end is shut in both directions, as [`Self::shut`] does, or its process is gone. One direction
    /// alone is not that. What has come and was not received does not matter.
    pub async fn until_shut(&self) -> io::Result<()> {
        loop {
            let mut ready = self.socket.as_async_fd().ready(Interest::WRITABLE).await?;
            if ready.ready().is_write_closed() {
                return Ok(());
            }
            ready.clear_ready();
        }
    }

    /// The next frame and its fd; `None` when the other end is gone. More than one fd is a surprise.
    pub async fn recv(&self) -> Result<Option<(In, Passed)>, ChannelError> {
        let mut frame = Zeroizing::new(vec![0; MAX_FRAME + 1]);
        let mut control = [0; ROOM];
        let mut parts = [IoSliceMut::new(&mut frame)];
        let received = self.socket.recv_vectored_with_ancillary(&mut parts, &mut control).await;
        let (info, ancillary) = received.map_err(ChannelError::Io)?;
        let mut fds = Vec::new();
        for message in ancillary.into_messages() {
            if let OwnedAncillaryMessage::FileDescriptors(received) = message {
                fds.extend(received);
            }
        }
        // Cut with nothing in it: there was one, and the limit of open files kept it out (recvmsg(2), MSG_CTRUNC).
        let lost = info.ancillary_truncated() && fds.is_empty();
        let length = info.bytes_read();
        if length == 0 {
            return Ok(None);
        }
        if info.truncated() || (info.ancillary_truncated() && !lost) || fds.len() > 1 {
            return Err(ChannelError::Truncated);
        }
        let message = wire::decode(&frame[..length]).map_err(ChannelError::Wire)?;
        let passed = match fds.pop() {
            Some(fd) => Passed::One(fd),
            None if lost => Passed::Lost,
            None => Passed::Nothing,
        };
        Ok(Some((message, passed)))
    }
}
