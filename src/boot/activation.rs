//! Sockets that systemd passes (sd_listen_fds(3)): taken once, told apart by their names, and never believed unseen. Beside
//! the listeners these are the connections that it has kept.
//!
//! Must run before anything is opened: the numbers are those that a careless caller may have lied about.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::{StartError, at};
use crate::credential::{KEPT, Kept};
use crate::sys::inherited;

/// `FileDescriptorName=` of the applications' socket, and of the operator's.
const DATA: &str = "data";
const ADMIN: &str = "admin";

/// One that listens, with the path that the kernel says it has.
pub(super) struct Listener {
    pub(super) fd: OwnedFd,
    pub(super) path: PathBuf,
}

/// What systemd passed.
#[derive(Default)]
pub(super) struct Passed {
    pub(super) data: Option<Listener>,
    pub(super) admin: Option<Listener>,
    pub(super) kept: Kept,
}

/// What the variables say. Nothing of it is known to be so.
#[derive(Debug, Default)]
pub(super) struct Announced {
    names: Vec<String>,
    /// Why variables that are there are not for this process; for the log.
    pub(super) not_ours: Option<String>,
}

fn wrong(message: &str) -> StartError {
    StartError::Configuration(format!(
        "{message}. The sockets of a unit come by keyhatch.socket and keyhatch-admin.socket"
    ))
}

impl Announced {
    /// What these variables say to this process.
    pub(super) fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, StartError> {
        let number = |name: &str| {
            let text = variable(name);
            let parsed = text.as_ref().map(|text| text.parse::<u64>());
            parsed
                .transpose()
                .map_err(|_| wrong(&format!("{name}={} is no number", text.unwrap_or_default().escape_debug())))
        };
        // Without it the others mean nothing: sd_listen_fds(3) looks at it first.
        let Some(pid) = number("LISTEN_PID")? else { return Ok(Self::default()) };
        let ignored = |why: String| Ok(Self { names: Vec::new(), not_ours: Some(why) });
        if pid != u64::from(std::process::id()) {
            return ignored(format!(
                "LISTEN_PID={pid} is another process: what LISTEN_FDS tells of is not for this one"
            ));
        }
        if let (Some(told), Some(own)) = (number("LISTEN_PIDFDID")?, inherited::own_pidfd_inode())
            && told != own
        {
            return ignored(format!(
                "LISTEN_PIDFDID={told} is an earlier process with this number, not this one ({own})"
            ));
        }
        let count = number("LISTEN_FDS")?.unwrap_or(0);
        let told = variable("LISTEN_FDNAMES").unwrap_or_default();
        let names: Vec<String> =
            if told.is_empty() { Vec::new() } else { told.split(':').map(str::to_owned).collect() };
        let kept = names.iter().filter(|name| *name == KEPT).count() as u64;
        if count.saturating_sub(kept) > 2 {
            return Err(wrong(&format!(
                "LISTEN_FDS={count}: there are at most two sockets to pass, `{DATA}` and `{ADMIN}`"
            )));
        }
        if names.len() as u64 != count {
            return Err(wrong(&format!(
                "LISTEN_FDS={count} and LISTEN_FDNAMES=\"{}\" do not fit: one name for each socket, by FileDescriptorName=",
                told.escape_debug()
            )));
        }
        let listeners: Vec<&str> = names.iter().map(String::as_str).filter(|name| *name != KEPT).collect();
        if let Some(other) = listeners.iter().find(|name| ![DATA, ADMIN].contains(name)) {
            return Err(wrong(&format!(
                "a socket has the name `{}`: FileDescriptorName= is `{DATA}` for applications and `{ADMIN}` for the operator",
                other.escape_debug()
            )));
        }
        if let [one, other] = listeners[..]
            && one == other
        {
            return Err(wrong(&format!(
                "two sockets have the name `{one}`: FileDescriptorName= tells `{DATA}` from `{ADMIN}`"
            )));
        }
        Ok(Self { names, not_ours: None })
    }

    pub(super) fn count(&self) -> u32 {
        u32::try_from(self.names.len()).unwrap_or(0)
    }

    /// Takes the sockets, after a look at what they are.
    pub(super) fn claim(&self) -> Result<Passed, StartError> {
        let fds = inherited::claim(self.count())
            .map_err(|number| wrong(&format!("LISTEN_FDS={}, but descriptor {number} is not open", self.count())))?;
        let mut passed = Passed::default();
        for (name, fd) in self.names.iter().zip(fds) {
            if name == KEPT {
                passed.kept.add(fd);
                continue;
            }
            let path = inherited::path_of_listener(fd.as_fd())
                .map_err(|unfit| wrong(&format!("the socket `{name}` cannot be used: {unfit}")))?;
            let place = if name == DATA { &mut passed.data } else { &mut passed.admin };
            *place = Some(Listener { fd, path });
        }
        if let (Some(data), Some(admin)) = (&passed.data, &passed.admin)
            && data.path == admin.path
        {
            return Err(wrong(&format!("`{DATA}` and `{ADMIN}` are both {}", at(&data.path))));
        }
        Ok(passed)
    }
}

/// Where systemd listens is where clients come; a setting that says otherwise is told.
pub(super) fn tell(listener: &Listener, setting: &str, path: &Path) {
    let taken = at(&listener.path);
    if listener.path == path {
        tracing::info!("systemd passed {taken}");
    } else {
        tracing::warn!("systemd passed {taken}: server.{setting} = \"{}\" does not count", at(path));
    }
}
