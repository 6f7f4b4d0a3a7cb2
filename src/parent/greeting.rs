//! The worker's share of the configuration, and the handshake that it is given in at the start.

use std::os::fd::AsFd;
use std::time::Duration;

use super::runner::{Ending, Started};
use super::serve::{GREETING, ParentError};
use crate::acl::Acl;
use crate::config::{Config, Key, KeyTemplate, Limits, served};
use crate::ipc::channel::{ParentEnd, Passed};
use crate::ipc::wire::{Layer, PROTOCOL, ToParent, ToWorker, WorkerConfig, WorkerKey, WorkerTemplate};
use crate::staleness::Settings;
use crate::sys::memfd;

/// What the worker needs of a configuration.
pub(super) struct Share<'c> {
    pub(super) generation: u64,
    pub(super) limits: &'c Limits,
    pub(super) keys: &'c [Key],
    pub(super) templates: &'c [KeyTemplate],
    pub(super) acl: &'c Acl,
    pub(super) degraded: bool,
    pub(super) log_requests: bool,
}

impl Share<'_> {
    /// As it crosses. `None` if it cannot be encoded.
    pub(super) fn encode(&self) -> Option<Vec<u8>> {
        let patience = |of: &Settings| of.timeout.max(of.failover_timeout) + Duration::from_secs(2);
        let key = |key: &Key| WorkerKey { path: key.path.whole(), patience: patience(&key.settings) };
        let template = |key: &KeyTemplate| WorkerTemplate {
            template: key.template.clone(),
            patience: patience(&key.settings),
            takes_arguments: key.source.takes_arguments(),
        };
        let worker = WorkerConfig {
            generation: self.generation,
            limits: self.limits.clone(),
            keys: served(self.keys).map(key).collect(),
            templates: self.templates.iter().map(template).collect(),
            acl: self.acl.clone(),
            degraded: self.degraded,
            log_requests: self.log_requests,
        };
        postcard::to_stdvec(&worker).ok()
    }
}

/// The handshake: one version on both sides, then the worker's share of the configuration.
pub(super) async fn greet(channel: &ParentEnd, config: &Config, log_requests: bool) -> Result<Vec<Layer>, ParentError> {
    match channel.recv().await? {
        Some((ToParent::Hello { protocol: PROTOCOL, version }, Passed::Nothing))
            if version == env!("CARGO_PKG_VERSION") => {}
        Some(_) => return Err(ParentError::Protocol("no greeting of this version")),
        None => return Err(ParentError::WorkerGone),
    }
    let share = Share {
        generation: 1,
        limits: &config.limits,
        keys: &config.keys,
        templates: &config.templates,
        acl: &config.acl,
        degraded: !config.problems.is_empty(),
        log_requests,
    };
    let bytes = share.encode().ok_or(ParentError::Protocol("the configuration cannot be encoded"))?;
    let payload = memfd::sealed(&bytes).map_err(ParentError::Io)?;
    let configure = ToWorker::Configure { generation: 1, len: bytes.len() as u64 };
    channel.send(&configure, Some(payload.as_fd())).await?;
    match channel.recv().await? {
        Some((ToParent::Ready { layers }, Passed::Nothing)) => Ok(layers),
        Some(_) => Err(ParentError::Protocol("not ready after its configuration")),
        None => Err(ParentError::WorkerGone),
    }
}

/// The runner's layers, and what tells its end; nothing of both where there is none.
pub(super) async fn greet_runner(started: Option<Started>) -> Result<(Vec<Layer>, Ending), ParentError> {
    match started {
        Some(started) => started.greeted(GREETING).await.map_err(ParentError::Runner),
        None => Ok((Vec::new(), Box::pin(std::future::pending()))),
    }
}

/// One line for each layer of each role; the same for the operator. What the worker says is its own word: capped and escaped.
pub(super) fn tell_layers(
    of_parent: Vec<Layer>,
    of_worker: Vec<Layer>,
    of_runner: Vec<Layer>,
) -> Result<serde_json::Value, ParentError> {
    const MOST: usize = 32;
    const LONGEST: usize = 200;
    let fits = |layer: &Layer| layer.name.len() <= LONGEST && layer.level.len() <= LONGEST;
    if of_worker.len() > MOST || !of_worker.iter().all(fits) {
        return Err(ParentError::Protocol("more layers than there can be"));
    }
    let mut told = Vec::with_capacity(of_parent.len() + of_worker.len() + of_runner.len());
    let roles = [("parent", of_parent), ("worker", of_worker), ("runner", of_runner)];
    let all = roles.into_iter().flat_map(|(role, layers)| layers.into_iter().map(move |layer| (role, layer)));
    for (role, Layer { name, level, holds }) in all {
        let (name, level) = (name.escape_debug().to_string(), level.escape_debug().to_string());
        tracing::info!(role, holds, "layer {name}: {level}");
        told.push(serde_json::json!({ "role": role, "name": name, "level": level, "holds": holds }));
    }
    Ok(told.into())
}
