//! `/proc`, and what can be seen there of other users' processes (proc(5)).

use std::io;
use std::os::fd::OwnedFd;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

/// `/proc` itself, to find processes in and nothing else.
pub fn find() -> io::Result<OwnedFd> {
    Ok(open("/proc", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?)
}

/// Whether a user of this group does not see the processes of others.
pub fn hides_processes(gid: Option<u32>) -> io::Result<bool> {
    Ok(hides(&std::fs::read_to_string("/proc/self/mounts")?, gid))
}

fn hides(mounts: &str, gid: Option<u32>) -> bool {
    let of_proc = |line: &&str| line.split(' ').nth(1) == Some("/proc");
    // The last one lies above the others.
    let options = mounts.lines().rfind(of_proc).and_then(|line| line.split(' ').nth(3)).unwrap_or_default();
    let option = |name: &str| options.split(',').find_map(|option| option.strip_prefix(name));
    let hidden = option("hidepid=").is_some_and(|level| !matches!(level, "0" | "off"));
    let exempt = option("gid=").and_then(|exempt| exempt.parse().ok());
    hidden && (exempt.is_none() || exempt != gid)
}

/// Whether processes have a place in the one hierarchy of cgroup v2 (cgroups(7)).
pub fn has_cgroup2() -> io::Result<bool> {
    Ok(std::fs::read_to_string("/proc/self/cgroup")?.lines().any(|line| line.starts_with("0::")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidepid_hides_from_all_but_its_group() {
        let mounts =
            |options: &str| format!("x / ext4 rw 0 0\nproc /proc proc rw,{options} 0 0\nx /proc/sys x ro 0 0\n");
        assert!(!hides(&mounts("relatime"), None));
        assert!(!hides(&mounts("hidepid=0"), None) && !hides(&mounts("hidepid=off"), None));
        for level in ["1", "2", "4", "noaccess", "invisible", "ptraceable"] {
            assert!(hides(&mounts(&format!("hidepid={level}")), Some(5)), "{level}");
            assert!(!hides(&mounts(&format!("hidepid={level},gid=5")), Some(5)), "{level}");
            assert!(hides(&mounts(&format!("hidepid={level},gid=6")), Some(5)), "{level}");
        }
        assert!(has_cgroup2().is_ok() && find().is_ok());
    }
}
