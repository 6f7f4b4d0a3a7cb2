//! The worker's first act: claim its two fds, give up everything else.

use std::os::fd::OwnedFd;
use std::str::FromStr;

use super::confine::Confinement;
use super::{StartError, give_up, harden, layers, system};
use crate::config::SandboxMode;
use crate::ipc::wire::Layer;
use crate::sys::{creds, process, spawn};

/// A worker that has dropped: what it holds, and what holds it.
pub struct Entered {
    pub listener: OwnedFd,
    pub channel: OwnedFd,
    pub layers: Vec<Layer>,
    /// So many connections over a limit may wait for their refusal.
    pub aside: usize,
}

/// What the parent tells the worker that it starts: the role, the ids to drop to if any, how strict to be, and how many
/// connections over a limit may wait.
pub(super) fn arguments(ids: Option<super::Ids>, mode: SandboxMode, aside: u64) -> Vec<String> {
    let (uid, gid) = ids.map_or(("-".into(), "-".into()), |(uid, gid)| (uid.to_string(), gid.to_string()));
    let mode = if mode == SandboxMode::Strict { STRICT } else { BEST_EFFORT };
    vec!["worker".into(), uid, gid, mode.into(), aside.to_string()]
}

const STRICT: &str = "strict";
const BEST_EFFORT: &str = "best-effort";

/// Becomes the worker, in the only order that is right, as these arguments say. The process has one thread.
pub fn enter(arguments: &[String]) -> Result<Entered, StartError> {
    harden()?;
    process::ignore_end_signals().map_err(|errno| StartError::System(format!("cannot ignore signals: {errno}")))?;
    let (listener, channel) = spawn::claim().map_err(system("cannot claim the worker's descriptors"))?;
    let (ids, mode, aside) = parse(arguments)?;
    let layers = confine(ids, mode)?;
    Ok(Entered { listener, channel, layers, aside })
}

fn parse(arguments: &[String]) -> Result<(Option<super::Ids>, SandboxMode, usize), StartError> {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let [uid, gid, mode @ (STRICT | BEST_EFFORT), aside] = arguments[..] else {
        return Err(StartError::System("this role is started by `keyhatch serve` alone".into()));
    };
    let ids = if (uid, gid) == ("-", "-") { None } else { Some((number(uid)?, number(gid)?)) };
    let mode = if mode == STRICT { SandboxMode::Strict } else { SandboxMode::BestEffort };
    Ok((ids, mode, number(aside)?))
}

/// All layers of the worker. Afterwards nothing can be opened, and little can be called.
pub fn confine(ids: Option<super::Ids>, mode: SandboxMode) -> Result<Vec<Layer>, StartError> {
    let mut confinement = Confinement::new("worker", mode);
    confinement.leave(creds::can_leave())?;
    give_up(ids)?;
    process::no_files_and_no_children().map_err(|errno| StartError::System(format!("rlimits: {errno}")))?;
    confinement.no_new_code();
    confinement.tell(layers::of_this_role(ids));
    confinement.tell([layers::layer("rlimits", true, "no file grows, no child starts".into())]);
    confinement.shut()?;
    confinement.calls_of_worker()?;
    Ok(confinement.finish())
}

fn number<N: FromStr>(text: &str) -> Result<N, StartError> {
    text.parse().map_err(|_| StartError::System(format!("{text:?} is no number")))
}
