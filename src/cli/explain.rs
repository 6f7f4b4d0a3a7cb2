//! `keyhatch explain`: the ACL's own judgement of a user or a process, and the lines that it follows from.

use super::args::Explain;
use super::{show, tell, trust};
use crate::acl::{Client, Pattern, Peer, Unit};
use crate::config::{self, Config};
use crate::exit::Exit;
use crate::secret::KeyPath;
use crate::shown;
use crate::sys::{peer, users};

pub(super) fn run(path: &std::path::Path, asked: &Explain) -> Exit {
    let has_parameters = asked.key.contains('{');
    let key = match KeyPath::parse(&asked.key) {
        Err(error) if !has_parameters => {
            tell(&format_args!("{}: {error}", shown::part(&asked.key)));
            return Exit::Usage;
        }
        parsed => parsed.ok(),
    };
    let peer = match whom(asked) {
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
    let told = match &key {
        Some(key) => Some(of_path(&config, &peer, key, asked.json)),
        None => of_template(&config, &peer, &asked.key, asked.json),
    };
    let Some((text, granted)) = told else {
        tell(&format_args!("there is no key {} in the configuration", shown::part(&asked.key)));
        return Exit::Denied;
    };
    match (show(&text), granted) {
        (Exit::Ok, false) => Exit::Denied,
        (exit, _) => exit,
    }
}

/// What to show, and whether it is granted.
fn of_path(config: &Config, peer: &Peer, key: &KeyPath, json: bool) -> (String, bool) {
    let explanation = config::explain(config, peer, key);
    let granted = explanation.grant.is_some() && explanation.defined.is_key();
    if !json {
        return (format!("{}:\n{explanation}", ids(peer)), granted);
    }
    let client = explanation.grant.map(|grant| client(grant.client, grant.pattern));
    let text = serde_json::json!({
        "key": key,
        "uid": peer.uid,
        "gid": peer.gid,
        "groups": peer.groups,
        "unit": peer.unit.as_ref().map(Unit::name),
        "granted": granted,
        "client": client,
        "defined": explanation.defined.at().map(ToString::to_string),
        "template": explanation.defined.template().map(|one| one.template.to_string()),
    });
    (text.to_string(), granted)
}

/// The same for a key with parameters by its own name.
fn of_template(config: &Config, peer: &Peer, key: &str, json: bool) -> Option<(String, bool)> {
    let explanation = config::explain_template(config, peer, key)?;
    let granted = !explanation.granting.is_empty();
    if !json {
        return Some((format!("{}:\n{explanation}", ids(peer)), granted));
    }
    let clients = explanation.granting.iter().map(|(of, pattern, all)| {
        let mut client = client(of, pattern);
        client["every-path"] = (*all).into();
        client
    });
    let text = serde_json::json!({
        "key": key,
        "uid": peer.uid,
        "gid": peer.gid,
        "groups": peer.groups,
        "unit": peer.unit.as_ref().map(Unit::name),
        "granted": granted,
        "clients": clients.collect::<Vec<_>>(),
        "defined": explanation.key.at.to_string(),
    });
    Some((text.to_string(), granted))
}

fn ids(peer: &Peer) -> String {
    let unit = peer.unit.as_ref().map_or_else(String::new, |unit| format!(", unit {unit}"));
    format!("uid {}, gid {}, groups {:?}{unit}", peer.uid, peer.gid, peer.groups)
}

fn client(client: &Client, pattern: &Pattern) -> serde_json::Value {
    serde_json::json!({ "name": client.name, "at": client.at.to_string(), "pattern": pattern.to_string() })
}

/// The ids and the unit that the kernel would attest.
fn whom(asked: &Explain) -> Result<Peer, String> {
    let certain = peer::has_pidfd();
    let (found, whom) = match (&asked.user, asked.pid) {
        (Some(user), _) => (users::of_user(user), format!("user `{}`", shown::part(user))),
        (None, Some(pid)) => (users::of_process(pid), format!("process {pid}")),
        (None, None) => return Err("--user or --pid tells whom to judge".to_owned()),
    };
    let unit = match (&asked.unit, asked.pid) {
        (Some(name), _) => {
            let unit = Unit::new(name, certain);
            Some(unit.ok_or_else(|| format!("{} is no name of a unit", shown::part(name)))?)
        }
        (None, Some(pid)) => users::cgroups_of(pid).ok().and_then(|text| Unit::of_cgroups(&text, certain)),
        (None, None) => None,
    };
    match found {
        Ok(Some(mut ids)) => {
            if ids.groups.len() > peer::MOST_GROUPS {
                ids.groups.clear();
            }
            Ok(Peer { uid: ids.uid, gid: ids.gid, groups: ids.groups, unit, pid: 0 })
        }
        Ok(None) => Err(format!("there is no {whom}")),
        Err(error) => Err(format!("{whom}: {error}")),
    }
}
