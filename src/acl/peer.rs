//! The process at the other end of a connection, as the kernel attests it (unix(7)).

use serde::{Deserialize, Serialize};

use super::Unit;

/// What the kernel shows for ids that have no mapping in our user namespace. Matches nobody.
pub const OVERFLOW_ID: u32 = 65534;

/// Credentials at the time of `connect()`: `SO_PEERCRED` and `SO_PEERGROUPS`; and the unit, while the process lives.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Peer {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups; the primary one need not be among them.
    pub groups: Vec<u32>,
    /// `None` when there is none, when it was not asked for, and when the process that connected has ended.
    pub unit: Option<Unit>,
    /// For the log only; no rule reads it. 0 when the peer is in another pid namespace.
    pub pid: i32,
}

impl Peer {
    pub(super) fn has_uid(&self, uids: &[u32]) -> bool {
        self.uid != OVERFLOW_ID && uids.contains(&self.uid)
    }

    pub(super) fn has_gid(&self, gids: &[u32]) -> bool {
        let mut own = std::iter::once(&self.gid).chain(&self.groups);
        own.any(|gid| *gid != OVERFLOW_ID && gids.contains(gid))
    }
}
