//! Whose a connection of systemd's is, from the connection itself: what its address says, and whether that is true.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use tokio::io::unix::AsyncFd;

use super::super::judge::Judges;
use super::super::serve::ParentError;
use super::super::units::{Units, watched};
use crate::acl::Unit;
use crate::credential::{self, Address};
use crate::sys::peer;

/// A connection that asks for a credential.
pub(super) struct Claim {
    pub(super) pid: i32,
    pub(super) said: Said,
}

pub(super) enum Said {
    /// The unit that its address names is the one that its process is in.
    True {
        unit: Unit,
        id: String,
        process: AsyncFd<OwnedFd>,
    },
    /// It is not. Nobody but root makes such a connection, and not by chance.
    False {
        unit: Unit,
        id: String,
        within: Option<Unit>,
    },
    Malformed,
}

/// Looks at what the worker has handed over. `None` when there is no descriptor or memory left for that.
///
/// # Errors
/// It is no connection of ours, or not one that an honest worker hands over: root's, with an address like systemd's.
pub(super) fn look(socket: BorrowedFd<'_>, judges: &Judges, units: &Units) -> Result<Option<Claim>, ParentError> {
    if !judges.is_of_ours(socket) {
        return Err(ParentError::Protocol("the fd beside a credential is no connection of ours"));
    }
    let found = peer::credentials(socket).map_err(|_| ParentError::Protocol("a peer without credentials"))?;
    let name = peer::abstract_name(socket).ok().flatten().filter(|name| credential::is_meant(name));
    let Some(name) = name.filter(|_| found.uid == 0) else {
        return Err(ParentError::Protocol("a credential that systemd has not asked for"));
    };
    let pid = found.pid;
    let Some(Address { unit: named, id }) = Address::parse(&name) else {
        return Ok(Some(Claim { pid, said: Said::Malformed }));
    };
    let found = match units.look(socket, pid) {
        Ok(found) => found,
        Err(error) if peer::is_shortage(&error) => return Ok(None),
        // Nothing is known of its unit: that is none.
        Err(_) => None,
    };
    let said = match found {
        Some((unit, process)) if unit.name() == named.name() => match watched(process) {
            Ok(process) => Said::True { unit, id, process },
            Err(_) => return Ok(None),
        },
        found => Said::False { unit: named, id, within: found.map(|(unit, _)| unit) },
    };
    Ok(Some(Claim { pid, said }))
}

/// Whether the process that asks has ended: nobody is there any more whose unit is known.
pub(super) fn has_ended(process: &AsyncFd<OwnedFd>) -> bool {
    peer::has_ended(process.get_ref().as_fd()).unwrap_or(true)
}
