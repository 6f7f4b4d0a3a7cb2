//! Vault and Consul. Shapes: <https://developer.hashicorp.com/vault/api-docs>, <https://developer.hashicorp.com/consul/api-docs>.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{Asked, not_so, refuse, with};
use crate::answer::{Answer, json, whole};

/// KV version 2 at `secret` and `team/kv`, version 1 at `kv`.
pub(super) fn vault(asked: &Asked) -> Answer {
    let errors = |status: u16, errors: &[&str]| refuse(status, &json!({ "errors": errors }));
    if asked.header("x-vault-request") != "true" {
        return errors(400, &["missing 'X-Vault-Request' header"]);
    }
    if let Some(answer) = vault_login(asked) {
        return answer;
    }
    if asked.method != "GET" || !asked.body.is_empty() || !asked.has_only(&["version"]) {
        return not_so("no read");
    }
    let shown = asked.header("x-vault-token");
    if shown != asked.token && !asked.is_session(shown) {
        return errors(403, &["permission denied"]);
    }
    match asked.last() {
        "denied" => return errors(403, &["1 error occurred:\n\t* permission denied\n\n"]),
        "sealed" => return errors(503, &["Vault is sealed"]),
        "secondary" => return errors(472, &[]),
        "standby" => return errors(473, &[]),
        "behind" => return errors(412, &["required index state not present"]),
        "throttled" => {
            let answer = errors(429, &["request path \"secret/data/throttled\": rate limit quota exceeded"]);
            return with(answer, "retry-after", "7");
        }
        "absent" => return errors(404, &[]),
        _ => {}
    }
    let namespace = asked.header("x-vault-namespace");
    let value = if namespace.is_empty() { asked.value.clone() } else { format!("of {namespace}") };
    let data = json!({ "user": "app", "password": value, "port": 5432 });
    let auth = |data: Value| {
        json!({
            "request_id": "3b7f1a6e-0000-4000-8000-000000000000", "lease_id": "", "renewable": false, "lease_duration": 0,
            "data": data, "wrap_info": null, "warnings": null, "auth": null, "mount_type": "kv",
        })
    };
    let metadata = |version: u64, deleted: &str, destroyed: bool| {
        json!({
            "created_time": "2026-03-03T10:00:00.000000000Z", "custom_metadata": null, "deletion_time": deleted,
            "destroyed": destroyed, "version": version,
        })
    };
    match asked.path.as_str() {
        "v1/secret/data/team/deleted" => refuse(
            404,
            &auth(json!({ "data": null, "metadata": metadata(3, "2026-03-04T10:00:00.000000000Z", false) })),
        ),
        "v1/secret/data/team/destroyed" => {
            refuse(404, &auth(json!({ "data": null, "metadata": metadata(3, "", true) })))
        }
        "v1/secret/data/team/app" | "v1/team/kv/data/app" | "v1/secret/data/team/a%20b%3Fc" => {
            let version = asked.query("version");
            let data = if version == "2" { json!({ "password": "an older one" }) } else { data };
            json(&auth(json!({ "data": data, "metadata": metadata(version.parse().unwrap_or(3), "", false) })))
        }
        "v1/kv/team/app" if asked.query.is_empty() => json(&auth(data)),
        _ => errors(404, &["no handler for route \"unknown\". route entry not found."]),
    }
}

/// AppRole, and wrapping tokens, of which each is good once.
fn vault_login(asked: &Asked) -> Option<Answer> {
    let refused = |error: &str| Some(refuse(400, &json!({ "errors": [error] })));
    let sent: Value = serde_json::from_str(&asked.body).unwrap_or_default();
    let session = || {
        json(&json!({
            "request_id": "1", "lease_id": "", "renewable": false, "lease_duration": 0, "data": null, "wrap_info": null, "warnings": null,
            "auth": {
                "client_token": asked.begin_session(), "accessor": "a", "policies": ["default"], "lease_duration": 1200,
                "renewable": true, "token_type": "service",
            },
        }))
    };
    match asked.path.as_str() {
        "v1/auth/approle/login" | "v1/auth/team/apps/login" if asked.method == "POST" => {
            let legal = sent["secret_id"] == asked.token || sent["secret_id"] == "unwrapped-secret-id";
            if sent["role_id"] != "role-1" || !legal || !asked.header("x-vault-token").is_empty() {
                return refused("invalid role or secret ID");
            }
            Some(session())
        }
        // With the token in both places the real one uses it up and answers nothing.
        "v1/sys/wrapping/unwrap" if asked.method == "POST" && asked.body.is_empty() => {
            let again = asked.state.was_unwrapped(asked.header("x-vault-token"));
            match asked.header("x-vault-token") {
                "wrapped-secret-id" if !again => {
                    Some(json(&json!({ "data": { "secret_id": "unwrapped-secret-id", "secret_id_ttl": 600 } })))
                }
                "wrapped-token" if !again => Some(session()),
                _ => refused("wrapping token is not valid or does not exist"),
            }
        }
        _ => None,
    }
}

pub(super) fn consul(asked: &Asked) -> Answer {
    let plain = |status, text: &str| whole(status, "text/plain", text.to_owned());
    if asked.method != "GET" || !asked.has_only(&["dc", "ns", "partition"]) {
        return not_so("no read of one key");
    }
    if asked.header("x-consul-token") != asked.token {
        return plain(403, "ACL not found");
    }
    let value = |text: &[u8]| {
        json(&json!([{
            "LockIndex": 0, "Key": asked.path, "Flags": 0, "Value": STANDARD.encode(text), "CreateIndex": 4, "ModifyIndex": 9,
        }]))
    };
    let object = json!({ "password": asked.value, "port": 5432 }).to_string();
    match asked.path.as_str() {
        "v1/kv/team/app" if asked.query("dc") == "berlin" => value(b"of berlin"),
        "v1/kv/team/app" => value(asked.value.as_bytes()),
        "v1/kv/team/object" => value(object.as_bytes()),
        "v1/kv/team/binary" => value(&[0xff, 0xfe]),
        "v1/kv/team/empty" => json(&json!([{ "LockIndex": 0, "Key": "team/empty", "Flags": 0, "Value": null }])),
        "v1/kv/team/denied" => {
            plain(403, "Permission denied: token with AccessorID 'x' lacks permission 'key:read' on \"team/denied\"")
        }
        "v1/kv/team/leaderless" => plain(500, "No cluster leader"),
        _ => plain(404, ""),
    }
}
