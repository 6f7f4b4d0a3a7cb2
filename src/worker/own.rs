//! keyhatch's own resources: who the peer is here, which keys it may read, and how they are. Pure.

use serde_json::json;

use crate::acl::{Acl, Peer, Unit};
use crate::ipc::wire::{KeyState, State, Survey};

/// `/-/health`: counts among the keys that the peer may read.
pub(super) fn health(degraded: bool, survey: &Survey) -> serde_json::Value {
    let count = |state| survey.keys.iter().filter(|key| key.state == state).count();
    json!({
        "status": if degraded { "degraded" } else { "ok" },
        "keys": {
            "fresh": count(State::Fresh),
            "stale": count(State::Stale),
            "failing": count(State::Failing),
            "revoked": count(State::Revoked),
            "never-fetched": count(State::NeverFetched),
        },
    })
}

/// `/-/whoami`: what the kernel says of the peer, and the clients that it is.
pub(super) fn whoami(acl: &Acl, peer: &Peer) -> serde_json::Value {
    let clients: Vec<&str> = acl.matching(peer).map(|client| client.name.as_str()).collect();
    let unit = peer.unit.as_ref().map(Unit::name);
    json!({
        "uid": peer.uid,
        "gid": peer.gid,
        "groups": peer.groups,
        "unit": unit,
        "pid": peer.pid,
        "clients": clients,
    })
}

/// `/-/keys`: the keys that the peer may read, with state and age in seconds.
pub(super) fn keys(survey: &Survey) -> serde_json::Value {
    let key = |one: &KeyState| json!({ "key": one.key, "state": one.state, "age": one.age.map(|age| age.as_secs()) });
    json!({ "keys": survey.keys.iter().map(key).collect::<Vec<_>>() })
}
