//! The service manager, if one wants to be told how this goes (sd_notify(3)): connected to before the sandbox closes.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use crate::parent::ServiceManager;

/// `None` if none wants to; what is wrong with its socket costs the service nothing.
pub(super) fn connect(variable: impl Fn(&str) -> Option<String>) -> Option<Result<ServiceManager, String>> {
    let address = variable("NOTIFY_SOCKET")?;
    let connected = || {
        let to = match address.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None if address.starts_with('/') => SocketAddr::from_pathname(&address)?,
            None => return Err(std::io::Error::other("neither a path nor an abstract name")),
        };
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&to)?;
        socket.set_nonblocking(true)?;
        let keeps = variable("FDSTORE").and_then(|most| most.parse::<u32>().ok()).is_some_and(|most| most > 0);
        Ok(ServiceManager { socket, watchdog: watchdog(&variable), keeps })
    };
    Some(connected().map_err(|error| format!("NOTIFY_SOCKET={}: {error}", address.escape_debug())))
}

/// How often it wants to hear of us, if it watches this process (sd_watchdog_enabled(3)).
fn watchdog(variable: impl Fn(&str) -> Option<String>) -> Option<Duration> {
    let number = |name: &str| variable(name).map(|text| text.parse::<u64>());
    let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == Ok(u64::from(std::process::id())));
    let every = number("WATCHDOG_USEC")?.ok().filter(|every| *every > 0);
    every.filter(|_| ours).map(Duration::from_micros)
}
