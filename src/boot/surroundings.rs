//! What the caller left around the process: reduced to what is needed, before anything of ours is open.

use std::fs::File;
use std::ops::RangeInclusive;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use super::activation::{Announced, Passed};
use super::{StartError, manager, system};
use crate::config::Config;
use crate::parent::ServiceManager;
use crate::sys::{creds, environment, process};

/// The variables that mean something here; the others are forgotten.
const KEPT: &[&str] = &[
    // systemd.exec(5). What else systemd sets is read once, here.
    "CREDENTIALS_DIRECTORY",
    // The roots of TLS, where the machine has them elsewhere.
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    // How lines on a terminal look.
    "TERM",
    "NO_COLOR",
    "LANG",
    "TZ",
];
const KEPT_PREFIXES: &[&str] = &["KEYHATCH_", "LC_"];

/// Of open files beside those of connections and fetches: sockets, the channel, the cache, TLS roots, the log.
const RESERVED_FILES: u64 = 128;
/// Of connections over a limit, so many wait aside for their refusal in any case, and so many where there are descriptors.
const ASIDE: RangeInclusive<u64> = 256..=16_384;

/// What the service manager gave to this process.
pub struct Surroundings {
    pub(super) passed: Passed,
    /// Why there are no sockets among it although there are variables that say so.
    pub(super) not_ours: Option<String>,
    pub(super) manager: Option<Result<ServiceManager, String>>,
    /// stderr is the journal (`JOURNAL_STREAM`, systemd.exec(5)).
    pub journal: bool,
}

/// Environment, descriptors, signals.
pub(super) fn reduce() -> Result<Surroundings, StartError> {
    let variable = |name: &str| std::env::var(name).ok();
    let announced = Announced::read(variable)?;
    process::close_inherited(announced.count())
        .map_err(|errno| StartError::System(format!("cannot close what the caller left open: {errno}")))?;
    let passed = announced.claim()?;
    process::unblock_signals().map_err(|errno| StartError::System(format!("cannot unblock signals: {errno}")))?;
    let (manager, journal) = (manager::connect(variable), is_journal(variable("JOURNAL_STREAM")));
    environment::keep_only(is_kept).map_err(system("cannot cut down the environment"))?;
    Ok(Surroundings { passed, not_ours: announced.not_ours, manager, journal })
}

/// Whether stderr is what the variable says: it may have been redirected since.
fn is_journal(stream: Option<String>) -> bool {
    let found = std::io::stderr().as_fd().try_clone_to_owned().and_then(|fd| File::from(fd).metadata());
    stream.zip(found.ok()).is_some_and(|(stream, found)| stream == format!("{}:{}", found.dev(), found.ino()))
}

fn is_kept(name: &[u8]) -> bool {
    KEPT.iter().any(|kept| kept.as_bytes() == name)
        || KEPT_PREFIXES.iter().any(|prefix| name.starts_with(prefix.as_bytes()))
}

/// Room for as many descriptors as the limits of the configuration can need. Gives how many connections over a limit may wait
/// aside in the worker.
pub(super) fn make_room(config: &Config, kept: usize) -> Result<u64, StartError> {
    let connections = u64::from(config.limits.connections);
    // In the worker each connection and the hold on its peer; in the parent each answer on its way and each fetch.
    // And in the parent, where units are attested, each connection's process.
    let processes = if config.acl.has_units() { connections } else { 0 };
    // As many credentials besides: in the worker the connection, in the parent that and its process.
    let credentials = if config.acl.has_units() { 2 * connections } else { 0 };
    let inside = 2 * connections + processes + credentials + config.keys.len() as u64 + RESERVED_FILES;
    let needed = inside + ASIDE.start();
    // Those of an earlier broker have a process each, too. What is there only for now keeps nobody from starting.
    let inside = inside + 2 * kept as u64;
    let allowed = process::allow_open_files(needed, inside + ASIDE.end()).map_err(|most| {
        StartError::Configuration(format!(
            "limits.connections = {connections} needs {needed} open files, and this process may have {most}. Raise it \
             with LimitNOFILE={needed} in the unit (or ulimit -Hn {needed} in a shell), or lower limits.connections"
        ))
    })?;
    Ok(allowed.saturating_sub(inside).clamp(*ASIDE.start(), *ASIDE.end()))
}

/// A root that cannot change its ids would serve as root.
pub(super) fn refuse_half_a_root() -> Result<(), StartError> {
    if !creds::is_root() || creds::can_change_ids() {
        return Ok(());
    }
    Err(StartError::Configuration(
        "started as root without CAP_SETUID and CAP_SETGID: there is no way to drop to parent-user and worker-user. Give it \
         both, with CAP_SETPCAP (in a unit: CapabilityBoundingSet=CAP_SETUID CAP_SETGID CAP_SETPCAP), or start it as \
         another user"
            .into(),
    ))
}
