//! Landlock: what files, ports and processes this role can still reach (landlock(7)).
//!
//! Of one thread and those that it starts: call before any other thread exists. Kernels differ in what they can
//! restrict; the level says what this one does.

use std::collections::BTreeSet;
use std::fmt;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, LandlockStatus, NetPort, PathBeneath, PathFd, RestrictionStatus,
    Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

/// The newest that this was written for. Older kernels do the part that they know.
const NEWEST: ABI = ABI::V10;
/// Of network rights, for a role that asks a resolver: the first ABI that knows UDP comes after it.
const TCP_ALONE: ABI = ABI::V9;

/// What a role may still reach; nothing else.
pub struct Reach<'a> {
    /// Where files may be read, written, made and removed.
    pub store: BorrowedFd<'a>,
    /// Files, and directories with all below, that may be read. What is not there is left out.
    pub read: BTreeSet<PathBuf>,
    /// Directories whose files may be read by name, and are not listed.
    pub read_by_name: BTreeSet<PathBuf>,
    /// `/proc`, for the control groups of peers.
    pub proc: bool,
    /// Sockets, and directories of them.
    pub sockets: BTreeSet<PathBuf>,
    /// TCP ports to connect to.
    pub connect: BTreeSet<u16>,
}

/// Why nothing is restricted.
#[derive(Debug)]
pub enum LandlockError {
    /// Not built into this kernel, or not enabled at its boot.
    Unavailable(&'static str),
    Ruleset(RulesetError),
}

impl fmt::Display for LandlockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable(why) => write!(f, "this kernel {why} (landlock(7); CONFIG_SECURITY_LANDLOCK, lsm=)"),
            Self::Ruleset(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for LandlockError {}

impl From<RulesetError> for LandlockError {
    fn from(error: RulesetError) -> Self {
        Self::Ruleset(error)
    }
}

/// Leaves nothing to reach: no rule at all. The level that was achieved.
pub fn shut() -> Result<String, LandlockError> {
    let ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?;
    level("nothing can be reached", &ruleset.create()?.restrict_self()?)
}

/// Leaves this to reach. The level that was achieved.
pub fn narrow(reach: &Reach<'_>) -> Result<String, LandlockError> {
    let mut ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(TCP_ALONE))?
        .scope(Scope::from_all(NEWEST))?
        .create()?;
    let store = AccessFs::ReadFile
        | AccessFs::ReadDir
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::RemoveFile;
    ruleset = ruleset.add_rule(PathBeneath::new(reach.store, store))?;
    for (paths, access) in [
        (&reach.read, AccessFs::ReadFile | AccessFs::ReadDir),
        (&reach.read_by_name, AccessFs::ReadFile.into()),
        (&reach.sockets, AccessFs::ReadFile | AccessFs::ResolveUnix),
    ] {
        for path in paths {
            ruleset = permit(ruleset, path, access)?;
        }
    }
    if reach.proc {
        // There is no rule for one file of every process; ptrace(2) and the owner of the others still stand before them.
        ruleset = permit(ruleset, std::path::Path::new("/proc"), AccessFs::ReadFile.into())?;
    }
    for port in &reach.connect {
        ruleset = ruleset.add_rule(NetPort::new(*port, AccessNet::ConnectTcp))?;
    }
    let ports: Vec<String> = reach.connect.iter().map(u16::to_string).collect();
    let units = if reach.proc { ", units of peers" } else { "" };
    let what = format!("the cache, name resolution, TLS roots{units}, TCP to {}", ports.join(" "));
    level(&what, &ruleset.restrict_self()?)
}

/// Nobody from here on signals anybody who is not from here on as well, whoever they are; nothing else is restricted. Whether
/// this kernel has that (Linux 6.12).
pub fn keep_signals_within() -> bool {
    let ruleset = Ruleset::default().scope(Scope::Signal).and_then(Ruleset::create);
    let done = ruleset.and_then(RulesetCreated::restrict_self);
    done.is_ok_and(|status| status.ruleset == RulesetStatus::FullyEnforced)
}

/// What is not there, or not for this user to find, cannot be read anyway.
fn permit(
    ruleset: RulesetCreated,
    path: &std::path::Path,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, RulesetError> {
    let Ok(found) = std::fs::metadata(path) else { return Ok(ruleset) };
    let Ok(fd) = PathFd::new(path) else { return Ok(ruleset) };
    let access = if found.is_dir() { access } else { access & AccessFs::from_file(NEWEST) };
    ruleset.add_rule(PathBeneath::new(fd, access))
}

/// What holds by this status. Files can be restricted by the first ABI, TCP by the fourth, signals by the sixth.
fn level(what: &str, status: &RestrictionStatus) -> Result<String, LandlockError> {
    let abi = match status.landlock {
        LandlockStatus::Available { effective_abi, .. } => effective_abi,
        LandlockStatus::NotEnabled => return Err(LandlockError::Unavailable("has Landlock and does not enable it")),
        LandlockStatus::NotImplemented => return Err(LandlockError::Unavailable("has no Landlock")),
    };
    if status.ruleset == RulesetStatus::NotEnforced {
        return Err(LandlockError::Unavailable("enforces nothing of the ruleset"));
    }
    let restricts = match abi {
        abi if abi >= ABI::V6 => "files, TCP, signals",
        abi if abi >= ABI::V4 => "files and TCP; signals from Linux 6.12 on",
        _ => "files; TCP from Linux 6.7 on, signals from 6.12 on",
    };
    Ok(format!("{what}; ABI {}: {restricts}", abi as i32))
}
