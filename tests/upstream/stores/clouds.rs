//! Kubernetes, Google, Azure.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::{Asked, not_so, refuse, with};
use crate::answer::{Answer, json};
use crate::session::form;

/// <https://kubernetes.io/docs/reference/kubernetes-api/config-and-storage-resources/secret-v1/>
pub(super) fn kubernetes(asked: &Asked) -> Answer {
    let status = |code: u16, reason: &str| {
        refuse(
            code,
            &json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": "said to a person",
                "reason": reason, "code": code,
            }),
        )
    };
    if asked.method != "GET" || !asked.query.is_empty() || asked.header("accept") != "application/json" {
        return not_so("no read of one Secret");
    }
    if !asked.is_bearer() {
        return status(401, "Unauthorized");
    }
    let data = match asked.path.as_str() {
        "api/v1/namespaces/billing/secrets/database" => {
            json!({ "user": STANDARD.encode("app"), "password": STANDARD.encode(&asked.value), "tls.crt": STANDARD.encode("é\n") })
        }
        "api/v1/namespaces/billing/secrets/binary" => json!({ "password": STANDARD.encode([0xff, 0xfe]) }),
        "api/v1/namespaces/billing/secrets/empty" => json!(null),
        "api/v1/namespaces/billing/secrets/denied" => return status(403, "Forbidden"),
        "api/v1/namespaces/billing/secrets/throttled" => {
            return with(status(429, "TooManyRequests"), "retry-after", "7");
        }
        "api/v1/namespaces/billing/secrets/starting" => return status(503, "ServiceUnavailable"),
        _ => return status(404, "NotFound"),
    };
    json(&json!({
        "kind": "Secret", "apiVersion": "v1", "type": "Opaque", "data": data,
        "metadata": { "name": asked.last(), "namespace": "billing", "resourceVersion": "1" },
    }))
}

/// <https://cloud.google.com/secret-manager/docs/reference/rest/v1/projects.secrets.versions/access>
pub(super) fn google(asked: &Asked) -> Answer {
    let error = |code: u16, status: &str, message: &str| {
        refuse(code, &json!({ "error": { "code": code, "message": message, "status": status } }))
    };
    if asked.method != "GET" || !asked.query.is_empty() {
        return not_so("no access");
    }
    if !asked.is_bearer_of_session() {
        return error(401, "UNAUTHENTICATED", "Request had invalid authentication credentials.");
    }
    let path =
        asked.path.strip_prefix("v1/projects/billing-prod/secrets/").and_then(|path| path.strip_suffix(":access"));
    let (secret, version) = path.and_then(|path| path.split_once("/versions/")).unwrap_or_default();
    let data = match (secret, version) {
        ("database-password", "latest") => STANDARD.encode(&asked.value),
        ("database-password", "3") => STANDARD.encode("an older one"),
        ("database", "latest") => STANDARD.encode(json!({ "user": "app", "password": asked.value }).to_string()),
        ("binary", "latest") => STANDARD.encode([0xff, 0xfe]),
        ("disabled", "latest") => {
            return error(
                400,
                "FAILED_PRECONDITION",
                "Secret Version [projects/1/secrets/disabled/versions/1] is in DISABLED state.",
            );
        }
        ("destroyed", "latest") => {
            return error(
                400,
                "FAILED_PRECONDITION",
                "Secret Version [projects/1/secrets/destroyed/versions/1] is in DESTROYED state.",
            );
        }
        ("invalid", "latest") => return error(400, "INVALID_ARGUMENT", "said to a person"),
        ("denied", "latest") => {
            return error(403, "PERMISSION_DENIED", "Permission 'secretmanager.versions.access' denied");
        }
        ("throttled", "latest") => return error(429, "RESOURCE_EXHAUSTED", "Quota exceeded"),
        _ => return error(404, "NOT_FOUND", "Secret [projects/1/secrets/x] not found or has no versions."),
    };
    json(&json!({
        "name": format!("projects/1/secrets/{secret}/versions/3"), "payload": { "data": data, "dataCrc32c": "1" },
    }))
}

/// <https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow>
pub(super) fn azure_login(asked: &Asked) -> Answer {
    let sent = form(asked.body.as_bytes());
    let shows = |name: &str| sent.get(name).map_or("", String::as_str);
    let good = asked.method == "POST"
        && asked.path == "tenant-1/oauth2/v2.0/token"
        && asked.header("content-type") == "application/x-www-form-urlencoded"
        && shows("grant_type") == "client_credentials"
        && shows("scope") == "https://vault.azure.net/.default"
        && (shows("client_id"), shows("client_secret")) == ("client-1", asked.token.as_str());
    if !good {
        let error =
            json!({ "error": "invalid_client", "error_description": "AADSTS7000215: Invalid client secret provided." });
        return refuse(401, &error);
    }
    json(
        &json!({ "token_type": "Bearer", "expires_in": 3599, "ext_expires_in": 3599, "access_token": asked.begin_session() }),
    )
}

/// <https://learn.microsoft.com/azure/key-vault/general/rest-error-codes>
pub(super) fn azure(asked: &Asked) -> Answer {
    let error = |status: u16, code: &str, inner: Option<&str>| {
        let inner = inner.map_or(json!(null), |inner| json!({ "code": inner }));
        refuse(status, &json!({ "error": { "code": code, "message": "said to a person", "innererror": inner } }))
    };
    if asked.method != "GET" || asked.query("api-version") != "7.4" || !asked.has_only(&["api-version"]) {
        return not_so("no version of the API");
    }
    if !asked.is_bearer_of_session() {
        return error(401, "Unauthorized", None);
    }
    let value = match asked.path.as_str() {
        "secrets/database-password" => asked.value.clone(),
        "secrets/database-password/4387e9f3d6e14c459867679a90fd0f79" => "an older one".to_owned(),
        "secrets/database" => json!({ "user": "app", "password": asked.value }).to_string(),
        "secrets/disabled" => return error(403, "Forbidden", Some("SecretDisabled")),
        "secrets/behind-a-wall" => return error(403, "Forbidden", Some("ForbiddenByFirewall")),
        "secrets/denied" => return error(403, "Forbidden", Some("ForbiddenByRbac")),
        "secrets/throttled" => return with(error(429, "Throttled", None), "retry-after", "7"),
        _ => return error(404, "SecretNotFound", None),
    };
    json(&json!({
        "value": value, "id": "https://billing-prod.vault.azure.net/secrets/x/4387e9f3d6e14c459867679a90fd0f79",
        "attributes": { "enabled": true, "created": 1_700_000_000, "updated": 1_700_000_000, "recoveryLevel": "Recoverable+Purgeable" },
    }))
}
