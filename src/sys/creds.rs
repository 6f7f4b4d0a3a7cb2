//! Dropping to a user for good: capabilities, groups, ids, then proof that there is no way back.

use std::fmt;

use caps::{CapSet, Capability};
use nix::unistd::{Gid, Uid, getgroups, getresgid, getresuid, setgroups, setresgid, setresuid};

/// Which step of the drop failed. Always fatal.
#[derive(Debug)]
pub enum DropError {
    Step {
        step: &'static str,
        errno: nix::errno::Errno,
    },
    Capabilities {
        step: &'static str,
        message: String,
    },
    /// The ids read back are not those that were set.
    NotDropped {
        step: &'static str,
    },
    /// `setresuid(0)` worked after the drop.
    Regained,
}

impl fmt::Display for DropError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Step { step, errno } => write!(f, "cannot drop privileges: {step}: {errno}"),
            Self::Capabilities { step, message } => write!(f, "cannot drop capabilities: {step}: {message}"),
            Self::NotDropped { step } => write!(f, "privileges were not dropped: {step} reads back differently"),
            Self::Regained => write!(f, "root could be regained after the drop"),
        }
    }
}

impl std::error::Error for DropError {}

fn step(step: &'static str) -> impl Fn(nix::errno::Errno) -> DropError {
    move |errno| DropError::Step { step, errno }
}

fn capability(step: &'static str) -> impl Fn(caps::errors::CapsError) -> DropError {
    move |error| DropError::Capabilities { step, message: error.to_string() }
}

/// Whether this process may change its ids.
pub fn is_root() -> bool {
    Uid::effective().is_root()
}

pub fn own_uid() -> u32 {
    Uid::effective().as_raw()
}

/// Whether this process may set ids and groups, which a root without these capabilities may not (capabilities(7)).
pub fn can_change_ids() -> bool {
    CHANGE_IDS.into_iter().all(has)
}

/// Whether this process may leave for namespaces of its own, with a root of its own.
pub fn can_leave() -> bool {
    has(Capability::CAP_SYS_ADMIN) && has(Capability::CAP_SYS_CHROOT)
}

/// Whether this process may empty its bounding set.
fn can_empty_bounding() -> bool {
    has(Capability::CAP_SETPCAP)
}

fn has(capability: Capability) -> bool {
    caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false)
}

/// uid and gid, if real, effective and saved ones are the same and there are no other groups.
pub fn only_ids() -> Option<(u32, u32)> {
    let (uids, gids) = (getresuid().ok()?, getresgid().ok()?);
    let uid = Some(uids.real).filter(|uid| (uids.effective, uids.saved) == (*uid, *uid))?;
    let gid = Some(gids.real).filter(|gid| (gids.effective, gids.saved) == (*gid, *gid))?;
    getgroups().ok()?.is_empty().then_some((uid.as_raw(), gid.as_raw()))
}

/// Whether no set holds a capability; the bounding set counts when `bounding`.
pub fn has_no_capability(bounding: bool) -> bool {
    let own = [CapSet::Effective, CapSet::Permitted, CapSet::Inheritable, CapSet::Ambient];
    let empty = |set| caps::read(None, set).is_ok_and(|held| held.is_empty());
    own.into_iter().all(empty) && (!bounding || bounding_is_empty())
}

/// Becomes `uid` and `gid`, without groups and without any capability, or fails. Call before any thread exists.
pub fn drop_to(uid: u32, gid: u32) -> Result<(), DropError> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    // The bounding set first: it needs CAP_SETPCAP, which the change of ids takes away. Without it the set stays; no-new-privs
    // keeps it from ever mattering.
    if can_empty_bounding() {
        empty_bounding()?;
    }
    caps::clear(None, CapSet::Ambient).map_err(capability("ambient set"))?;
    setgroups(&[]).map_err(step("setgroups"))?;
    setresgid(gid, gid, gid).map_err(step("setresgid"))?;
    setresuid(uid, uid, uid).map_err(step("setresuid"))?;

    let uids = getresuid().map_err(step("getresuid"))?;
    let gids = getresgid().map_err(step("getresgid"))?;
    if (uids.real, uids.effective, uids.saved) != (uid, uid, uid) {
        return Err(DropError::NotDropped { step: "uid" });
    }
    if (gids.real, gids.effective, gids.saved) != (gid, gid, gid) {
        return Err(DropError::NotDropped { step: "gid" });
    }
    if !getgroups().map_err(step("getgroups"))?.is_empty() {
        return Err(DropError::NotDropped { step: "groups" });
    }
    let root = Uid::from_raw(0);
    if setresuid(root, root, root).is_ok() {
        return Err(DropError::Regained);
    }
    empty_own_sets()
}

/// Without root: gives up what capabilities happen to be there.
pub fn drop_capabilities() -> Result<(), DropError> {
    if can_empty_bounding() {
        empty_bounding()?;
    }
    caps::clear(None, CapSet::Ambient).map_err(capability("ambient set"))?;
    empty_own_sets()
}

/// Keeps the right to become any user and group, and nothing else of root's: no capability besides, no group.
///
/// # Errors
/// Also when there is no such right.
pub fn keep_changing_ids() -> Result<(), DropError> {
    if can_empty_bounding() {
        empty_bounding()?;
    }
    caps::clear(None, CapSet::Ambient).map_err(capability("ambient set"))?;
    setgroups(&[]).map_err(step("setgroups"))?;
    let kept = CHANGE_IDS.into_iter().collect();
    // Effective before permitted: permitted may not become narrower than effective.
    for set in [CapSet::Effective, CapSet::Permitted] {
        caps::set(None, set, &kept).map_err(capability("own sets"))?;
    }
    caps::clear(None, CapSet::Inheritable).map_err(capability("own sets"))?;
    if !has_only_changing_ids() {
        return Err(DropError::NotDropped { step: "capabilities" });
    }
    Ok(())
}

/// Whether the right to change ids is all that there is.
pub fn has_only_changing_ids() -> bool {
    let kept = CHANGE_IDS.into_iter().collect();
    let holds = |set, kept: &caps::CapsHashSet| caps::read(None, set).is_ok_and(|held| held == *kept);
    [CapSet::Effective, CapSet::Permitted].into_iter().all(|set| holds(set, &kept))
        && [CapSet::Inheritable, CapSet::Ambient].into_iter().all(|set| holds(set, &caps::CapsHashSet::default()))
}

/// Whether there is nothing that an exec could gain.
pub fn bounding_is_empty() -> bool {
    !(0..64).any(in_bounding)
}

const CHANGE_IDS: [Capability; 2] = [Capability::CAP_SETUID, Capability::CAP_SETGID];

fn in_bounding(number: libc::c_int) -> bool {
    // SAFETY: PR_CAPBSET_READ takes one integer and no pointer.
    unsafe { libc::prctl(libc::PR_CAPBSET_READ, number, 0, 0, 0) == 1 }
}

fn empty_bounding() -> Result<(), DropError> {
    // By number and not by the crate's list, so that a capability newer than the crate goes too.
    for number in 0..64 {
        // SAFETY: PR_CAPBSET_DROP takes one integer and no pointer.
        if in_bounding(number) && unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) } != 0 {
            return Err(DropError::Step { step: "PR_CAPBSET_DROP", errno: nix::errno::Errno::last() });
        }
    }
    Ok(())
}

fn empty_own_sets() -> Result<(), DropError> {
    // Effective before permitted: permitted may not become narrower than effective.
    for set in [CapSet::Effective, CapSet::Permitted, CapSet::Inheritable] {
        caps::clear(None, set).map_err(capability("own sets"))?;
        if !caps::read(None, set).map_err(capability("own sets"))?.is_empty() {
            return Err(DropError::NotDropped { step: "capabilities" });
        }
    }
    Ok(())
}
