//! Names of users and groups to ids, while the process still may ask the name service (nsswitch.conf(5)).

use nix::unistd::{Gid, Group, Uid, User};

use crate::shown;

/// Looks up users and groups. A trait, so that parsing is tested without the machine's own users.
pub trait Resolver {
    /// uid and primary gid of a user; `None` when there is no such user, an error when nobody could tell.
    fn user(&self, name: &str) -> Result<Option<(Uid, Gid)>, String>;

    /// The primary gid of a uid.
    fn primary_group(&self, uid: Uid) -> Result<Option<Gid>, String>;

    fn group(&self, name: &str) -> Result<Option<Gid>, String>;
}

/// The name service of this machine.
pub struct System;

impl Resolver for System {
    fn user(&self, name: &str) -> Result<Option<(Uid, Gid)>, String> {
        let user = User::from_name(name).map_err(|errno| errno.desc().to_owned())?;
        Ok(user.map(|user| (user.uid, user.gid)))
    }

    fn primary_group(&self, uid: Uid) -> Result<Option<Gid>, String> {
        let user = User::from_uid(uid).map_err(|errno| errno.desc().to_owned())?;
        Ok(user.map(|user| user.gid))
    }

    fn group(&self, name: &str) -> Result<Option<Gid>, String> {
        let group = Group::from_name(name).map_err(|errno| errno.desc().to_owned())?;
        Ok(group.map(|group| group.gid))
    }
}

/// How to make a user that is missing, or what was meant: `setting` is what names it.
pub(super) fn advice(setting: &str, name: &str) -> String {
    if is_number(name) {
        format!("a uid is written without quotes: {setting} = {name}")
    } else {
        format!("make it with: useradd --system --no-create-home --shell /usr/sbin/nologin {}", shown::part(name))
    }
}

/// A name that was meant as an id.
pub(super) fn is_number(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_knows_root_and_not_everybody() {
        assert_eq!(System.user("root"), Ok(Some((Uid::from_raw(0), Gid::from_raw(0)))));
        assert_eq!(System.primary_group(Uid::from_raw(0)), Ok(Some(Gid::from_raw(0))));
        assert_eq!(System.user("no-such-user-here"), Ok(None));
        assert_eq!(System.group("no-such-group-here"), Ok(None));
    }
}
