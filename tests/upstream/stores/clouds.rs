//! Kubernetes.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::{Asked, not_so, refuse, with};
use crate::answer::{Answer, json};

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
