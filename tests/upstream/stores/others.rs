//! Heroku, Doppler, Infisical, 1Password Connect, GitLab.

use serde_json::json;

use super::{Asked, not_so, refuse, with};
use crate::answer::{Answer, json};

/// <https://devcenter.heroku.com/articles/platform-api-reference>
pub(super) fn heroku(asked: &Asked) -> Answer {
    let error = |status: u16, id: &str| refuse(status, &json!({ "id": id, "message": "said to a person" }));
    if asked.header("accept") != "application/vnd.heroku+json; version=3" || asked.method != "GET" {
        return not_so("no version of the API");
    }
    if !asked.is_bearer() {
        return error(401, "unauthorized");
    }
    let answer = match asked.path.as_str() {
        "apps/billing-prod/config-vars" => json(&json!({ "DATABASE_URL": asked.value, "OTHER": "x" })),
        "apps/denied/config-vars" => error(403, "forbidden"),
        "apps/throttled/config-vars" => error(429, "rate_limit"),
        _ => error(404, "not_found"),
    };
    with(answer, "ratelimit-remaining", "4321")
}

/// <https://docs.doppler.com/reference/secrets-download>
pub(super) fn doppler(asked: &Asked) -> Answer {
    let error = |status: u16, message: &str| refuse(status, &json!({ "messages": [message], "success": false }));
    if asked.method != "GET" || asked.path != "v3/configs/config/secrets/download" {
        return not_so("no download");
    }
    if !asked.is_bearer() {
        return error(401, "Invalid Auth token");
    }
    if asked.query("format") != "json" || !asked.has_only(&["format", "project", "config"]) {
        return not_so("no JSON");
    }
    match (asked.query("project"), asked.query("config")) {
        ("billing", "prd") | ("", "") => {
            json(&json!({ "DATABASE_URL": asked.value, "DOPPLER_PROJECT": "billing", "DOPPLER_CONFIG": "prd" }))
        }
        ("billing", "denied") => error(403, "This token does not have access to requested config 'denied'"),
        ("billing", "throttled") => with(error(429, "Rate limit exceeded"), "retry-after", "7"),
        ("billing", _) => error(404, "Could not find requested config"),
        _ => error(404, "Could not find requested project"),
    }
}

/// <https://infisical.com/docs/api-reference/endpoints/secrets/read>
pub(super) fn infisical(asked: &Asked) -> Answer {
    let error = |status: u16, name: &str| {
        refuse(status, &json!({ "reqId": "req-1", "statusCode": status, "message": "said to a person", "error": name }))
    };
    if asked.path == "api/v1/auth/universal-auth/login" && asked.method == "POST" {
        let sent: serde_json::Value = serde_json::from_str(&asked.body).unwrap_or_default();
        if sent != json!({ "clientId": "client-1", "clientSecret": asked.token }) {
            return error(401, "Unauthorized");
        }
        return json(&json!({
            "accessToken": asked.begin_session(), "expiresIn": 7200, "accessTokenMaxTTL": 43244, "tokenType": "Bearer",
        }));
    }
    if asked.method != "GET" || !asked.has_only(&["projectId", "environment", "secretPath"]) {
        return not_so("no read");
    }
    if !asked.is_bearer() && !asked.is_bearer_of_session() {
        return error(401, "TokenError");
    }
    if asked.query("projectId") != "p-1" || asked.query("environment") != "prod" {
        return error(404, "NotFound");
    }
    match (asked.path.as_str(), asked.query("secretPath")) {
        ("api/v4/secrets/DATABASE_URL", folder @ ("/" | "/billing/db")) => json(&json!({ "secret": {
            "id": "7a", "_id": "7a", "workspace": "p-1", "environment": "prod", "version": 4, "type": "shared",
            "secretKey": "DATABASE_URL", "secretValue": format!("{}{folder}", asked.value), "secretComment": "",
            "secretValueHidden": false, "secretPath": folder,
        } })),
        ("api/v4/secrets/denied", _) => error(403, "PermissionDenied"),
        ("api/v4/secrets/throttled", _) => with(error(429, "RateLimitExceeded"), "retry-after", "7"),
        ("api/v4/secrets/broken", _) => error(500, "InternalServerError"),
        _ => error(404, "NotFound"),
    }
}

/// <https://developer.1password.com/docs/connect/api-reference>
pub(super) fn connect(asked: &Asked) -> Answer {
    let error = |status: u16, message: &str| refuse(status, &json!({ "status": status, "message": message }));
    if asked.method != "GET" || !asked.query.is_empty() {
        return not_so("no item");
    }
    if !asked.is_bearer() {
        return error(401, "Invalid bearer token");
    }
    match asked.path.as_str() {
        "v1/vaults/hfnjvi6aymbsnfc2xeeoheizda/items/wepiqdxdzncjtnvmv5fegud4qy" => json(&json!({
            "id": "wepiqdxdzncjtnvmv5fegud4qy", "title": "Database", "vault": { "id": "hfnjvi6aymbsnfc2xeeoheizda" },
            "category": "LOGIN", "sections": [{ "id": "s1", "label": "More" }],
            "fields": [
                { "id": "username", "type": "STRING", "purpose": "USERNAME", "label": "username", "value": "app" },
                { "id": "password", "type": "CONCEALED", "purpose": "PASSWORD", "label": "password", "value": asked.value, "entropy": 99.5 },
                { "id": "notesPlain", "type": "STRING", "purpose": "NOTES", "label": "notesPlain" },
                { "id": "x1", "section": { "id": "s1" }, "type": "URL", "label": "connection string", "value": "postgres://h/\u{e9}" },
            ],
        })),
        "v1/vaults/hfnjvi6aymbsnfc2xeeoheizda/items/denied" => {
            error(403, "vault hfnjvi6aymbsnfc2xeeoheizda is not in scope")
        }
        "v1/vaults/hfnjvi6aymbsnfc2xeeoheizda/items/offline" => error(503, "sync not completed"),
        "v1/vaults/hfnjvi6aymbsnfc2xeeoheizda/items/invalid" => error(400, "Invalid Item UUID"),
        _ => error(404, "Item not found"),
    }
}

/// <https://docs.gitlab.com/api/project_level_variables/>
pub(super) fn gitlab(asked: &Asked) -> Answer {
    let error = |status: u16, message: &str| refuse(status, &json!({ "message": message }));
    if asked.method != "GET" || !asked.has_only(&["filter[environment_scope]"]) {
        return not_so("no variable");
    }
    if asked.header("private-token") != asked.token {
        return error(401, "401 Unauthorized");
    }
    let variable = |value: serde_json::Value, scope: &str| {
        json(&json!({
            "variable_type": "env_var", "key": asked.last(), "value": value, "protected": true, "masked": true,
            "hidden": value.is_null(), "raw": false, "environment_scope": scope, "description": null,
        }))
    };
    let scope = asked.query("filter[environment_scope]");
    let answer = match asked.path.as_str() {
        "api/v4/projects/shop%2Fbilling/variables/DATABASE_URL" | "api/v4/projects/42/variables/DATABASE_URL" => {
            variable(json!(asked.value), "*")
        }
        "api/v4/projects/42/variables/SCOPED" if scope == "review/*" => variable(json!("of review"), scope),
        "api/v4/projects/42/variables/SCOPED" => {
            error(409, "There are multiple variables with provided parameters. Please use 'filter[environment_scope]'")
        }
        "api/v4/projects/42/variables/HIDDEN" => variable(json!(null), "*"),
        "api/v4/projects/42/variables/DENIED" => error(403, "403 Forbidden"),
        "api/v4/projects/42/variables/THROTTLED" => {
            let answer = refuse(429, &json!("Retry later"));
            return with(with(answer, "retry-after", "7"), "ratelimit-remaining", "0");
        }
        "api/v4/projects/42/variables/ABSENT" => error(404, "404 Variable Not Found"),
        _ => error(404, "404 Project Not Found"),
    };
    with(answer, "ratelimit-remaining", "1999")
}
