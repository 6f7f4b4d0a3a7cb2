//! Reads an offer: every length is capped before anything is made of it, and nothing is read that was not announced.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use tokio::io::Interest;
use tokio::net::UnixStream;

use super::wire::{MAX_CONFIG, MAX_DESCRIPTORS, MAX_OFFER, NOTHING, Offer, Offered, Refusal};
use super::{Refused, no_use, version};
use crate::sys::{memfd, pass};

pub(super) struct Received {
    pub(super) offered: Offered,
    pub(super) descriptors: Vec<OwnedFd>,
}

pub(super) async fn receive(stream: &UnixStream) -> Result<Received, Refused> {
    let mut fds = Vec::new();
    let mut length = [0; 4];
    read(stream, &mut length, &mut fds).await?;
    if length == NOTHING {
        return Err(no_use("the configuration did not pass; `keyhatch reload` has told why"));
    }
    let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    if length > MAX_OFFER {
        return Err(no_use(format!("an offer of {length} bytes: the longest legal one has {MAX_OFFER}")));
    }
    let mut offer = vec![0; length];
    read(stream, &mut offer, &mut fds).await?;
    let (offer, _): (Offer, _) =
        postcard::take_from_bytes(&offer).map_err(|_| no_use("an offer that does not decode"))?;
    if offer.version != version() {
        let detail =
            format!("the command is version {}, the broker {}: this needs a restart", offer.version, version());
        return Err(Refused(Refusal::NeedsRestart, detail));
    }
    if offer.descriptors > MAX_DESCRIPTORS {
        let detail =
            format!("{} tokens and files, more than {MAX_DESCRIPTORS}: this needs a restart", offer.descriptors);
        return Err(Refused(Refusal::NeedsRestart, detail));
    }
    let payload = fds.pop().filter(|_| fds.is_empty()).ok_or(no_use("an offer without its configuration"))?;
    let announced = usize::try_from(offer.descriptors).unwrap_or(usize::MAX);
    while fds.len() < announced {
        let before = fds.len();
        read(stream, &mut [0], &mut fds).await?;
        if fds.len() == before || fds.len() > announced {
            return Err(no_use("not as many descriptors as announced"));
        }
    }
    let len = offer.len;
    // What is large is read and decoded beside the event loop.
    let decoded = tokio::task::spawn_blocking(move || {
        let bytes = memfd::read_sealed(payload, len, MAX_CONFIG)?;
        postcard::from_bytes(&bytes).map_err(io::Error::other)
    });
    let offered = decoded.await.map_err(io::Error::other).flatten();
    let offered = offered.map_err(|error| no_use(format!("a configuration that does not decode: {error}")))?;
    Ok(Received { offered, descriptors: fds })
}

/// Fills `bytes`, and takes what descriptors come beside them: one step's worth at most.
async fn read(stream: &UnixStream, bytes: &mut [u8], fds: &mut Vec<OwnedFd>) -> Result<(), Refused> {
    let most = fds.len() + pass::AT_ONCE;
    let mut filled = 0;
    while filled < bytes.len() {
        let rest = &mut bytes[filled..];
        let received = stream.async_io(Interest::READABLE, || pass::receive(stream.as_fd(), rest, fds)).await;
        match received {
            Ok(0) => return Err(no_use("the command ended before it had offered anything")),
            Ok(read) => filled += read,
            Err(error) => return Err(Refused(Refusal::Unavailable, error.to_string())),
        }
        if fds.len() > most {
            return Err(no_use("more descriptors came than were announced"));
        }
    }
    Ok(())
}
