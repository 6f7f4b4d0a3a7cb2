//! The runner: started only where some source is a command, before any token is read; and its first act.

use std::os::fd::{AsFd, OwnedFd};

use super::confine::Confinement;
use super::{StartError, harden, layers, system};
use crate::config::{Command, Config, SandboxMode};
use crate::ipc::run::LONGEST_LIST;
use crate::ipc::wire::Layer;
use crate::parent::RunnerInputs;
use crate::sys::{creds, memfd, process, spawn};

/// A runner that has dropped what it does not need: what it holds, and what holds it.
pub struct Runner {
    pub channel: OwnedFd,
    /// All that it may run.
    pub commands: Vec<Command>,
    pub layers: Vec<Layer>,
}

const STRICT: &str = "strict";
const BEST_EFFORT: &str = "best-effort";

/// Starts it, with the list of all that it may ever run. `None` where there is nothing to run.
pub(super) fn start(config: &Config, root: bool) -> Result<Option<RunnerInputs>, StartError> {
    let mut commands = config.commands();
    // One whose user is not known is never run; without root nobody can become another user.
    commands.retain(|command| !root || command.ids.is_some());
    if commands.is_empty() {
        return Ok(None);
    }
    let as_listed = |command: &Command| Command { ids: command.ids.filter(|_| root), ..command.clone() };
    let listed: Vec<Command> = commands.iter().map(as_listed).collect();
    let list = postcard::to_stdvec(&listed).map_err(|error| StartError::System(error.to_string()))?;
    let sealed = memfd::sealed(&list).map_err(system("cannot make the runner's list"))?;
    let (channel, runner_channel) = spawn::channel_pair().map_err(system("cannot make the runner's channel"))?;
    let mode = if config.server.sandbox == SandboxMode::Strict { STRICT } else { BEST_EFFORT };
    let arguments = ["runner".to_owned(), list.len().to_string(), mode.to_owned()];
    spawn::respawn(&arguments, sealed.as_fd(), runner_channel.as_fd(), None)
        .map_err(system("cannot start the runner"))?;
    Ok(Some(RunnerInputs { channel, commands }))
}

/// Becomes the runner, in the only order that is right. The process has one thread.
pub fn enter(arguments: &[String]) -> Result<Runner, StartError> {
    harden()?;
    process::ignore_end_signals().map_err(|errno| StartError::System(format!("cannot ignore signals: {errno}")))?;
    let (list, channel) = spawn::claim_list().map_err(system("cannot claim the runner's descriptors"))?;
    let unknown = || StartError::System("this role is started by `keyhatch serve` alone".into());
    let [length, mode] = arguments else { return Err(unknown()) };
    let length: u64 = length.parse().map_err(|_| unknown())?;
    let mode = match mode.as_str() {
        STRICT => SandboxMode::Strict,
        BEST_EFFORT => SandboxMode::BestEffort,
        _ => return Err(unknown()),
    };
    let layers = confine(mode)?;
    let list = memfd::read_sealed(list, length, LONGEST_LIST).map_err(system("cannot read the runner's list"))?;
    let commands: Vec<Command> = postcard::from_bytes(&list).map_err(|_| unknown())?;
    Ok(Runner { channel, commands, layers })
}

/// What of it holds the programs, too: they inherit the empty bounding set, no-new-privs, the limit of cores and the filter.
fn confine(mode: SandboxMode) -> Result<Vec<Layer>, StartError> {
    let mut confinement = Confinement::new("runner", mode);
    let root = creds::is_root();
    let dropped = if root { creds::keep_changing_ids() } else { creds::drop_capabilities() };
    dropped.map_err(|error| StartError::System(error.to_string()))?;
    process::no_new_privileges().map_err(|errno| StartError::System(format!("no-new-privs: {errno}")))?;
    harden()?;
    confinement.tell(layers::of_runner(root));
    confinement.keep_signals_within();
    confinement.calls_of_runner()?;
    Ok(confinement.finish())
}
