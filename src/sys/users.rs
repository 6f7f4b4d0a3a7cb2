//! The ids of users and processes, as the system knows them.

use std::ffi::CString;
use std::io;

use nix::unistd::{User, getgrouplist};

/// What decides in an ACL.
#[derive(Debug, PartialEq, Eq)]
pub struct Ids {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups, sorted.
    pub groups: Vec<u32>,
}

/// By name or uid; `None` when there is no such user. A uid without an entry has no groups but its own number.
pub fn of_user(name: &str) -> io::Result<Option<Ids>> {
    let number = name.parse::<u32>().ok();
    let user = match number {
        Some(uid) => User::from_uid(uid.into())?,
        None => User::from_name(name)?,
    };
    match (user, number) {
        (Some(user), _) => {
            let name = CString::new(user.name).map_err(io::Error::other)?;
            let mut groups: Vec<u32> = getgrouplist(&name, user.gid)?.into_iter().map(|gid| gid.as_raw()).collect();
            groups.sort_unstable();
            Ok(Some(Ids { uid: user.uid.as_raw(), gid: user.gid.as_raw(), groups }))
        }
        (None, Some(uid)) => Ok(Some(Ids { uid, gid: uid, groups: Vec::new() })),
        (None, None) => Ok(None),
    }
}

/// The effective ids of a process (proc_pid_status(5)); `None` when there is none of this number.
pub fn of_process(pid: u32) -> io::Result<Option<Ids>> {
    match std::fs::read_to_string(format!("/proc/{pid}/status")) {
        Ok(status) => parse(&status).map(Some).ok_or(io::Error::other("its status cannot be read")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The control groups of a process (cgroups(7)).
pub fn cgroups_of(pid: u32) -> io::Result<String> {
    std::fs::read_to_string(format!("/proc/{pid}/cgroup"))
}

fn parse(status: &str) -> Option<Ids> {
    let numbers = |field: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(field))?;
        line.split_whitespace().map(|number| number.parse().ok()).collect::<Option<Vec<u32>>>()
    };
    // Real, effective, saved, file system.
    Some(Ids { uid: *numbers("Uid:")?.get(1)?, gid: *numbers("Gid:")?.get(1)?, groups: numbers("Groups:")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_judged_by_its_effective_ids() {
        let status = "Name:\tx\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t9 10 \n";
        assert_eq!(parse(status), Some(Ids { uid: 2, gid: 6, groups: vec![9, 10] }));
        assert_eq!(of_process(0).unwrap(), None);
    }

    #[test]
    fn users_are_found_by_name_and_number() {
        assert_eq!(of_user("root").unwrap().unwrap().uid, 0);
        assert_eq!(of_user("0").unwrap(), of_user("root").unwrap());
        assert_eq!(of_user("no-such-user-here").unwrap(), None);
        assert_eq!(of_user("4000000000").unwrap().unwrap().gid, 4_000_000_000);
    }
}
