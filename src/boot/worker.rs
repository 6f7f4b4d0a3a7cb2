//! The worker's first act: claim its two fds, give up everything else.

use std::os::fd::OwnedFd;

use super::{StartError, give_up, harden, system};
use crate::sys::{process, spawn};

/// The listener and the channel of a worker that has dropped. `ids` are uid and gid, or two dashes without root.
pub fn enter(ids: &[String]) -> Result<(OwnedFd, OwnedFd), StartError> {
    harden()?;
    process::ignore_end_signals().map_err(|errno| StartError::System(format!("cannot ignore signals: {errno}")))?;
    let (listener, channel) = spawn::claim().map_err(system("cannot claim the worker's descriptors"))?;
    let ids = match ids {
        [uid, gid] if uid == "-" && gid == "-" => None,
        [uid, gid] => Some((number(uid)?, number(gid)?)),
        _ => return Err(StartError::System("this role is started by `keyhatch serve` alone".into())),
    };
    give_up(ids)?;
    Ok((listener, channel))
}

fn number(text: &str) -> Result<u32, StartError> {
    text.parse().map_err(|_| StartError::System(format!("{text:?} is no id")))
}
