//! The sockets: in directories that nobody else can change, one start at a time, and gone again if the start fails.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

use super::activation::{self, Listener};
use super::{StartError, at, directories};
use crate::config::Server;
use crate::sys::cleaner::Unfinished;
use crate::sys::{file, peer};

/// How long another start may take to bind its socket here.
const OTHERS: Duration = Duration::from_secs(3);

/// The applications' socket: the one that was passed, else one of our own.
pub(super) fn data(server: &Server, passed: Option<Listener>, start: &mut Unfinished) -> Result<Listener, StartError> {
    if let Some(passed) = passed {
        activation::tell(&passed, "socket", &server.socket);
        return Ok(passed);
    }
    let bound = bind(&server.socket, server.socket_mode, None, start)?;
    Ok(Listener { fd: bound.into(), path: server.socket.clone() })
}

/// The operator's socket: for root, and for the members of a group that may look.
pub(super) fn admin(
    server: &Server,
    passed: Option<Listener>,
    privileged: bool,
    start: &mut Unfinished,
) -> Result<Option<UnixListener>, StartError> {
    if let Some(passed) = passed {
        activation::tell(&passed, "admin-socket", &server.admin_socket);
        return Ok(Some(passed.fd.into()));
    }
    let path = &server.admin_socket;
    let default = Path::new("/run/keyhatch/admin.sock");
    if !privileged && path == default && !path.parent().is_some_and(Path::exists) {
        tracing::warn!("no operator's socket: {} is for root; set server.admin-socket to have one", at(path));
        return Ok(None);
    }
    let group = server.admin_group.filter(|_| privileged).map(|group| group.as_raw());
    bind(path, if server.admin_group.is_some() { 0o660 } else { 0o600 }, group, start).map(Some)
}

/// Binds the socket; a file that a crash left behind is replaced, a broker that listens is not.
fn bind(path: &Path, mode: u32, group: Option<u32>, start: &mut Unfinished) -> Result<UnixListener, StartError> {
    let wrong = |what: String| StartError::Configuration(format!("socket {}: {what}", at(path)));
    let failed = |error: io::Error| wrong(error.to_string());
    let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(wrong("it has no name".into()));
    };
    let directory = directories::make(above, 0o755).map_err(|error| wrong(error.to_string()))?;
    // Between its look for who listens and its own listening, no other start does the same.
    let alone = file::lock_soon(directory.as_fd(), OTHERS);
    let why = match &alone {
        Ok(Some(_)) => None,
        Ok(None) => Some("is locked by somebody".to_owned()),
        Err(error) => Some(format!("cannot be locked ({error})")),
    };
    if let Some(why) = why {
        tracing::warn!("{} {why}: whether another broker starts there is not known", at(above));
    }
    if let Ok(found) = fs::symlink_metadata(path) {
        if !found.file_type().is_socket() {
            return Err(StartError::Configuration(format!("{} is there and is no socket; it is left alone", at(path))));
        }
        refuse_if_live(path)?;
        fs::remove_file(path).map_err(failed)?;
    }
    // The umask of the start keeps everybody else away until the mode is set.
    let listener = UnixListener::bind(path).map_err(failed)?;
    start.made(path).map_err(failed)?;
    let made = file::find_at(directory.as_fd(), name).map_err(failed)?;
    if let Some(gid) = group {
        file::chown(made.as_fd(), 0, gid).map_err(failed)?;
    }
    file::chmod(made.as_fd(), mode).map_err(failed)?;
    Ok(listener)
}

fn refuse_if_live(path: &Path) -> Result<(), StartError> {
    let failed = |error: io::Error| StartError::Configuration(format!("socket {}: {error}", at(path)));
    // The worker of a broker that was killed goes on for up to a second.
    let give_up = Instant::now() + Duration::from_millis(1500);
    while let Some(who) = peer::who_listens(path).map_err(failed)? {
        if Instant::now() < give_up {
            std::thread::sleep(Duration::from_millis(50));
            continue;
        }
        // The service manager listens for a service that it starts itself.
        if who == Some(1) {
            return Err(StartError::Configuration(format!(
                "systemd listens at {} and has not passed it to this process: start it by systemctl start keyhatch, or stop \
                 keyhatch.socket first",
                at(path)
            )));
        }
        let who = who.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
        return Err(StartError::Configuration(format!(
            "another broker{who} is listening at {}; stop it first",
            at(path)
        )));
    }
    Ok(())
}
