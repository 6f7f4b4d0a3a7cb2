//! What the caller left around the process: reduced to what is needed, before anything of ours is open.

use super::{StartError, system};
use crate::config::Config;
use crate::sys::{creds, environment, process};

/// The variables that mean something here; the others are forgotten.
const KEPT: &[&str] = &[
    // systemd.exec(5), sd_notify(3), sd_listen_fds(3).
    "CREDENTIALS_DIRECTORY",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "LISTEN_PID",
    "LISTEN_PIDFDID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
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

/// Environment, descriptors, signals.
pub(super) fn reduce() -> Result<(), StartError> {
    process::close_inherited(passed_descriptors())
        .map_err(|errno| StartError::System(format!("cannot close what the caller left open: {errno}")))?;
    process::unblock_signals().map_err(|errno| StartError::System(format!("cannot unblock signals: {errno}")))?;
    environment::keep_only(is_kept).map_err(system("cannot cut down the environment"))
}

fn is_kept(name: &[u8]) -> bool {
    KEPT.iter().any(|kept| kept.as_bytes() == name)
        || KEPT_PREFIXES.iter().any(|prefix| name.starts_with(prefix.as_bytes()))
}

/// How many sockets systemd passes to this very process.
fn passed_descriptors() -> u32 {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    if number("LISTEN_PID") == Some(std::process::id()) { number("LISTEN_FDS").unwrap_or(0) } else { 0 }
}

/// Room for as many descriptors as the limits of the configuration can need.
pub(super) fn make_room(config: &Config) -> Result<(), StartError> {
    let connections = u64::from(config.limits.connections);
    // In the worker each connection and the hold on its peer; in the parent each answer on its way and each fetch.
    // And in the parent, where units are attested, each connection's process.
    let processes = if config.acl.has_units() { connections } else { 0 };
    // As many credentials besides: in the worker the connection, in the parent that and its process.
    let credentials = if config.acl.has_units() { 2 * connections } else { 0 };
    let needed = 2 * connections + processes + credentials + config.keys.len() as u64 + RESERVED_FILES;
    process::allow_open_files(needed).map_err(|hard| {
        StartError::Configuration(format!(
            "limits.connections = {connections} needs {needed} open files, and this process may have {hard}. Raise it \
             with LimitNOFILE={needed} in the unit (or ulimit -Hn {needed} in a shell), or lower limits.connections"
        ))
    })
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
