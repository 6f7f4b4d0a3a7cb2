//! What tells the units of peers, and what may be in the way. Only for a configuration in which some client has `unit`.

use crate::acl::Who;
use crate::config::Config;
use crate::parent::UnitSource;
use crate::sys::{peer, proc};

/// Found as root, used by the parent after the drop.
pub(super) fn open(config: &Config) -> Option<UnitSource> {
    if !config.acl.has_units() {
        return None;
    }
    Some(UnitSource { proc: proc::find().ok()?, certain: peer::has_pidfd() })
}

/// Why clients with `unit` match nobody here, for `check`, health and the log. `gid` is the parent's, if that is known.
pub(super) fn problems(config: &Config, gid: Option<u32>) -> Vec<String> {
    let with_unit = || config.acl.clients.iter().filter(|client| client.has_unit());
    let mut problems = Vec::new();
    if with_unit().next().is_none() {
        return problems;
    }
    let nobody = "clients with `unit` match nobody";
    if !proc::has_cgroup2().unwrap_or(false) {
        problems
            .push(format!("{nobody}: processes have no place in cgroup v2 here (no line 0:: in /proc/self/cgroup)"));
    } else if proc::hides_processes(gid).unwrap_or(true) {
        problems.push(format!(
            "{nobody}: /proc is mounted with hidepid, so that parent-user cannot see the processes of others. Mount it \
             with gid= of that user's group, or without hidepid (in a unit: ProtectProc=default)"
        ));
    }
    if !peer::has_pidfd() {
        let named = |who: &Who| matches!(who, Who::Ids { users: Some(users), .. } if !users.uids.is_empty());
        let lost = with_unit().filter(|client| !named(&client.who));
        problems.extend(lost.map(|client| {
            format!(
                "{}: client `{}` matches nobody: this kernel has no SO_PEERPIDFD (Linux 6.5), so that `unit` counts only \
                 beside a `user` that is named",
                client.at, client.name
            )
        }));
    }
    problems
}
