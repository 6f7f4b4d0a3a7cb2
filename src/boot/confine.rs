//! The layers of the sandbox, one after the other: what fails stops the start, or is told where that is wanted.

use std::fmt;

use super::{StartError, layers::layer};
use crate::config::SandboxMode;
use crate::ipc::wire::Layer;
use crate::sys::guarded::Kind;
use crate::sys::landlock::{self as files, Reach};
use crate::sys::{namespaces, process, seccomp};

/// What a role has gone through so far.
pub(super) struct Confinement {
    role: &'static str,
    mode: SandboxMode,
    layers: Vec<Layer>,
}

impl Confinement {
    /// `layers` hold already.
    pub(super) fn new(role: &'static str, mode: SandboxMode) -> Self {
        Self { role, mode, layers: Vec::new() }
    }

    pub(super) fn finish(self) -> Vec<Layer> {
        self.layers
    }

    pub(super) fn tell(&mut self, layers: impl IntoIterator<Item = Layer>) {
        self.layers.extend(layers);
    }

    /// One that the privileges of this start allow: it holds, or the start stops.
    fn demand<E: fmt::Display>(&mut self, name: &str, done: Result<String, E>) -> Result<(), StartError> {
        let (role, level, holds) = match (done, self.mode) {
            (Ok(level), _) => (self.role, level, true),
            (Err(error), SandboxMode::Strict) => {
                return Err(StartError::Configuration(format!(
                    "the layer `{name}` of the sandbox of the {} fails: {error}. Mend that, or do without the layer by \
                     server.sandbox = \"best-effort\"",
                    self.role
                )));
            }
            (Err(error), SandboxMode::BestEffort) => (self.role, short(format!("missing: {error}")), false),
        };
        if !holds {
            tracing::warn!("the layer `{name}` of the sandbox of the {role} is {level}");
        }
        self.layers.push(layer(name, holds, level));
        Ok(())
    }

    /// Where the start has the capabilities for it; where not, Landlock and seccomp hold the same line.
    pub(super) fn leave(&mut self, permitted: bool) -> Result<(), StartError> {
        if !permitted {
            let level = "not its own: CAP_SYS_ADMIN and CAP_SYS_CHROOT are not there".to_owned();
            self.layers.push(layer("namespaces", false, level));
            return Ok(());
        }
        let level = "network, mounts, IPC and host name of its own; an empty root";
        self.demand("namespaces", namespaces::leave().map(|()| level.into()))
    }

    /// Of newer kernels only: nothing is demanded.
    pub(super) fn no_new_code(&mut self) {
        let holds = process::no_new_code();
        let level = if holds { "memory that was written is never executed" } else { "Linux has it from 6.3 on" };
        self.layers.push(layer("no-new-code", holds, level.into()));
    }

    /// The same.
    pub(super) fn keep_signals_within(&mut self) {
        let holds = files::keep_signals_within();
        let level =
            if holds { "programs signal each other and nobody else" } else { "Linux has it for signals from 6.12 on" };
        self.layers.push(layer("landlock", holds, level.into()));
    }

    /// How the tokens are going to be kept: the best that the kernel and the limits give. Nothing is demanded.
    pub(super) fn memory_of_tokens(&mut self) {
        let (holds, level) = match Kind::available() {
            Ok(kind) => (kind != Kind::Swappable, kind.describe().to_owned()),
            Err(error) => (false, short(format!("missing: {error}"))),
        };
        self.layers.push(layer("token-memory", holds, level));
    }

    /// With nothing to reach at all.
    pub(super) fn shut(&mut self) -> Result<(), StartError> {
        self.demand("landlock", files::shut())
    }

    pub(super) fn narrow(&mut self, reach: &Reach<'_>) -> Result<(), StartError> {
        self.demand("landlock", files::narrow(reach))
    }

    pub(super) fn calls_of_worker(&mut self) -> Result<(), StartError> {
        let list = seccomp::WORKER;
        let done = seccomp::allow_only(list);
        self.demand("seccomp", done.map(|()| format!("{} calls; any other ends the process", list.len())))
    }

    pub(super) fn calls_of_runner(&mut self) -> Result<(), StartError> {
        let list = seccomp::RUNNER_REFUSED;
        let done = seccomp::answer_absent(seccomp::PARENT_ANSWERED).and_then(|()| seccomp::refuse(list));
        self.demand("seccomp", done.map(|()| format!("{} calls are refused, to programs as well", list.len())))
    }

    pub(super) fn calls_of_parent(&mut self) -> Result<(), StartError> {
        let list = seccomp::PARENT;
        let done = seccomp::answer_absent(seccomp::PARENT_ANSWERED).and_then(|()| seccomp::allow_only(list));
        self.demand("seccomp", done.map(|()| format!("{} calls; any other ends the process", list.len())))
    }
}

/// As long as a layer may be that the worker tells of.
fn short(mut level: String) -> String {
    level.truncate(level.floor_char_boundary(LONGEST));
    level
}

const LONGEST: usize = 160;
