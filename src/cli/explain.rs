//! `keyhatch explain`: the ACL's own judgement of a user or a process, and the lines that it follows from.

use super::args::Explain;
use super::{show, tell, trust};
use crate::acl::Peer;
use crate::config;
use crate::exit::Exit;
use crate::secret::KeyPath;
use crate::sys::users;

pub(super) fn run(path: &std::path::Path, asked: &Explain) -> Exit {
    let key = match KeyPath::parse(&asked.key) {
        Ok(key) => key,
        Err(error) => {
            tell(&format_args!("{}: {error}", asked.key.escape_debug()));
            return Exit::Usage;
        }
    };
    let peer = match peer(asked) {
        Ok(peer) => peer,
        Err(message) => {
            tell(&message);
            return Exit::Usage;
        }
    };
    let config = match config::load(path, trust()) {
        Ok(config) => config,
        Err(error) => {
            tell(&error);
            return Exit::Configuration;
        }
    };
    let explanation = config::explain(&config, &peer, &key);
    let granted = explanation.grant.is_some() && explanation.defined.is_some();
    let text = if asked.json {
        let client = explanation.grant.map(|grant| {
            serde_json::json!({
                "name": grant.client.name,
                "at": grant.client.at.to_string(),
                "pattern": grant.pattern.to_string(),
            })
        });
        serde_json::json!({
            "key": key,
            "uid": peer.uid,
            "gid": peer.gid,
            "groups": peer.groups,
            "granted": granted,
            "client": client,
            "defined": explanation.defined.map(ToString::to_string),
        })
        .to_string()
    } else {
        format!("uid {}, gid {}, groups {:?}:\n{explanation}", peer.uid, peer.gid, peer.groups)
    };
    match (show(&text), granted) {
        (Exit::Ok, false) => Exit::Denied,
        (exit, _) => exit,
    }
}

/// The ids that the kernel would attest.
fn peer(asked: &Explain) -> Result<Peer, String> {
    let (found, whom) = match (&asked.user, asked.pid) {
        (Some(user), _) => (users::of_user(user), format!("user `{}`", user.escape_debug())),
        (None, Some(pid)) => (users::of_process(pid), format!("process {pid}")),
        (None, None) => return Err("--user or --pid tells whom to judge".to_owned()),
    };
    match found {
        Ok(Some(ids)) => Ok(Peer { uid: ids.uid, gid: ids.gid, groups: ids.groups, pid: 0 }),
        Ok(None) => Err(format!("there is no {whom}")),
        Err(error) => Err(format!("{whom}: {error}")),
    }
}
