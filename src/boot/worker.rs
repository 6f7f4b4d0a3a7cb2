//! The worker's first act: claim its two fds, give up everything else.

use std::os::fd::OwnedFd;

use super::{StartError, give_up, harden, layers, system};
use crate::ipc::wire::Layer;
use crate::sys::{process, spawn};

/// A worker that has dropped: what it holds, and what holds it.
pub struct Entered {
    pub listener: OwnedFd,
    pub channel: OwnedFd,
    pub layers: Vec<Layer>,
}

/// Drops to `ids`: uid and gid, or two dashes without root.
pub fn enter(ids: &[String]) -> Result<Entered, StartError> {
    harden()?;
    process::ignore_end_signals().map_err(|errno| StartError::System(format!("cannot ignore signals: {errno}")))?;
    let (listener, channel) = spawn::claim().map_err(system("cannot claim the worker's descriptors"))?;
    let ids = match ids {
        [uid, gid] if uid == "-" && gid == "-" => None,
        [uid, gid] => Some((number(uid)?, number(gid)?)),
        _ => return Err(StartError::System("this role is started by `keyhatch serve` alone".into())),
    };
    give_up(ids)?;
    process::no_files_and_no_children().map_err(|errno| StartError::System(format!("rlimits: {errno}")))?;
    let mut layers = layers::of_this_role(ids);
    layers.push(Layer { name: "rlimits".into(), level: "no file grows, no child starts".into(), holds: true });
    Ok(Entered { listener, channel, layers })
}

fn number(text: &str) -> Result<u32, StartError> {
    text.parse().map_err(|_| StartError::System(format!("{text:?} is no id")))
}
