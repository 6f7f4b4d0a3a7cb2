//! The start: single-threaded, and as root where there is one. Opens everything, then drops for good.
//!
//! Never reads a token: it opens the files, and the parent reads them after the worker exists and the drop is done.
#![forbid(unsafe_code)]

mod activation;
mod confine;
mod directories;
mod examine;
mod inputs;
mod layers;
mod manager;
mod reach;
mod runner;
mod sockets;
mod sources;
mod surroundings;
mod units;
mod worker;

pub use examine::{Credentials, Examined, examine};
pub use inputs::OpenedToken;
pub use reach::of_parent as reach;
pub use runner::{Runner, enter as enter_runner};
pub use surroundings::Surroundings;
pub use worker::{confine as confine_worker, enter};

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use self::confine::Confinement;
use crate::config::Config;
use crate::ipc::wire::Layer;
use crate::parent::reload::Origin;
use crate::parent::{CacheInputs, ParentInputs};
use crate::sys::{cleaner, clock, creds, file, process, spawn};

/// Why there is no start. All but `System` are for whoever wrote the configuration.
#[derive(Debug)]
pub enum StartError {
    /// What is wrong, where, and how to mend it.
    Configuration(String),
    System(String),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Configuration(message) | Self::System(message) => f.write_str(message),
        }
    }
}

impl std::error::Error for StartError {}

fn system(what: &'static str) -> impl Fn(std::io::Error) -> StartError {
    move |error| StartError::System(format!("{what}: {error}"))
}

/// The first act of `serve`: nothing is read, opened or started before it.
pub fn begin() -> Result<Surroundings, StartError> {
    harden()?;
    surroundings::reduce()
}

/// The seal keys that there are, for a look at what they have sealed.
pub fn existing_seal_keys(config: &Config) -> Result<Vec<std::fs::File>, StartError> {
    inputs::existing_seal_keys(&config.cache.seal_keys)
}

/// The first act of every role.
fn harden() -> Result<(), StartError> {
    process::no_dump().map_err(|errno| StartError::System(format!("cannot forbid core dumps: {errno}")))
}

/// The root phase, in the only order that is right. The configuration was read from `path`.
pub fn start(mut config: Config, path: &Path, surroundings: Surroundings) -> Result<ParentInputs, StartError> {
    surroundings::refuse_half_a_root()?;
    let path = std::path::absolute(path).map_err(system("cannot tell where we are"))?;
    let aside = surroundings::make_room(&config, surroundings.passed.kept.count())?;
    let users = if creds::is_root() { Some(service_users(&config)?) } else { None };
    let parent_ids = users.map(|(parent, _)| parent);
    // All paths of the configuration are absolute; no file system stays busy because of where we were started.
    std::env::set_current_dir("/").map_err(system("cannot change to /"))?;

    // Everything is opened before anything is dropped.
    let mut cache = CacheInputs {
        directory: inputs::cache_directory(&config.cache.directory, parent_ids)?,
        seal_keys: inputs::seal_keys(&config.cache.seal_keys)?,
        boot: clock::boot_id(),
    };
    let tokens = inputs::tokens(&config)?;
    // Missing tokens degrade the broker like missing users do.
    let missing =
        tokens.iter().filter_map(|(name, _, opened)| Some(format!("token `{name}`: {}", opened.as_ref().err()?)));
    config.problems.extend(missing);
    let opened = sources::open(&config)?;
    config.problems.extend(opened.missing);
    let sources = opened.inputs;
    let units = units::open(&config);
    let hindrances = units::problems(&config, parent_ids.map(|(_, gid)| gid));
    hindrances.iter().for_each(|problem| tracing::error!("{problem}"));
    config.problems.extend(hindrances);
    let server = &config.server;
    surroundings.not_ours.iter().for_each(|why| tracing::warn!("{why}"));
    let manager = surroundings.manager.and_then(|connected| {
        connected.inspect_err(|why| tracing::warn!("the service manager cannot be told: {why}")).ok()
    });
    // Of what systemd passed nothing is removed: it is not ours.
    let mut start = cleaner::look_after(vec![server.socket.clone(), server.admin_socket.clone()])
        .map_err(system("cannot start what cleans up"))?;
    let listener = sockets::data(server, surroundings.passed.data, &mut start)?;
    let admin = sockets::admin(server, surroundings.passed.admin, users.is_some(), &mut start)?;

    // The worker, before any token byte is in this process.
    let (channel, worker_channel) = spawn::channel_pair().map_err(system("cannot make the channel"))?;
    let (worker_log, log_writer) = spawn::log_pipe().map_err(system("cannot make the worker's log"))?;
    let threads = process::thread_count().map_err(system("cannot count threads"))?;
    if threads != 1 {
        return Err(StartError::System(format!("{threads} threads before the worker is started, not one")));
    }
    let arguments = worker::arguments(users.map(|(_, worker)| worker), config.server.sandbox, aside);
    spawn::respawn(&arguments, listener.fd.as_fd(), worker_channel.as_fd(), Some(log_writer))
        .map_err(system("cannot start the worker"))?;
    // The path is that by which the parent knows peers of this listener.
    let listeners = vec![listener.path];
    drop((listener.fd, worker_channel));
    let runner = runner::start(&config, users.is_some())?;

    let layers = confine_parent(parent_ids, &config, &mut cache.directory)?;
    match (layers::missing(&layers), users) {
        (Some(missing), None) => {
            let commands = if runner.is_some() { "; programs run as the same user, too" } else { "" };
            tracing::warn!("not started as root; what does not hold: {missing}{commands}");
        }
        (Some(missing), Some(_)) => tracing::warn!("what does not hold: {missing}"),
        (None, _) => {}
    }
    let origin = Origin { config: path, privileged: users.is_some() };
    Ok(ParentInputs {
        config,
        channel,
        worker_log,
        cache,
        tokens,
        sources,
        listeners,
        runner,
        units,
        origin,
        admin,
        manager,
        layers,
        kept: surroundings.passed.kept,
        start: Some(start),
        started_as_root: users.is_some(),
    })
}

/// A uid and a gid.
pub type Ids = (u32, u32);

/// All layers of the parent, in the only order that is right; the process has one thread. `store` was found and is opened
/// with the rights that are left.
pub fn confine_parent(ids: Option<Ids>, config: &Config, store: &mut OwnedFd) -> Result<Vec<Layer>, StartError> {
    let mut confinement = Confinement::new("parent", config.server.sandbox);
    give_up(ids)?;
    *store = file::reopen_directory(store.as_fd()).map_err(|error| {
        let path = at(&config.cache.directory);
        StartError::Configuration(format!("cache directory {path}: {error}, as uid {}", creds::own_uid()))
    })?;
    confinement.no_new_code();
    confinement.tell(layers::of_this_role(ids));
    confinement.memory_of_tokens();
    confinement.narrow(&reach::of_parent(config, store.as_fd()))?;
    confinement.calls_of_parent()?;
    Ok(confinement.finish())
}

/// The two users to drop to; they are only needed where there is something to drop.
fn service_users(config: &Config) -> Result<(Ids, Ids), StartError> {
    if let Some(missing) = config.server.missing_users() {
        return Err(StartError::Configuration(missing));
    }
    let find = |user: &crate::config::ServiceUser| {
        let ids = user.ids.ok_or_else(|| StartError::Configuration(format!("there is no user `{}`", user.name)))?;
        Ok::<Ids, StartError>((ids.0.as_raw(), ids.1.as_raw()))
    };
    let (parent, worker) = (find(&config.server.parent_user)?, find(&config.server.worker_user)?);
    if parent.0 == worker.0 || parent.0 == 0 || worker.0 == 0 {
        return Err(StartError::Configuration(
            "parent-user and worker-user must differ, and neither may be root".into(),
        ));
    }
    Ok((parent, worker))
}

/// Drops to these ids, or, without root, gives up what capabilities there are. Then nothing new can be gained.
fn give_up(ids: Option<Ids>) -> Result<(), StartError> {
    let dropped = match ids {
        Some((uid, gid)) => creds::drop_to(uid, gid),
        None => creds::drop_capabilities(),
    };
    dropped.map_err(|error| StartError::System(error.to_string()))?;
    process::no_new_privileges().map_err(|errno| StartError::System(format!("no-new-privs: {errno}")))?;
    // The change of ids has reset the flag.
    harden()
}

/// A path in a message of ours.
fn at(path: &Path) -> String {
    PathBuf::from(path).display().to_string()
}
