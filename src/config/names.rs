//! The names of all settings: what is legal where, and what a later version will bring.
//!
//! One list, because three things must agree on it: the parser, the suggestions, and the documentation
//! (a test compares).

/// The settings that are legal in one place.
pub(super) struct Names {
    /// The place, for messages: "a client", "`[server]`".
    pub(super) place: &'static str,
    pub(super) legal: &'static [&'static str],
    /// Refused with the remark that this version does not have them yet.
    pub(super) later: &'static [&'static str],
}

const fn names(place: &'static str, legal: &'static [&'static str]) -> Names {
    Names { place, legal, later: &[] }
}

pub(super) const TOP: Names =
    names("the configuration", &["server", "cache", "limits", "tokens", "presets", "defaults", "keys", "clients"]);
pub(super) const DROP_IN: Names = names("a file of conf.d", &["tokens", "presets", "keys", "clients"]);
pub(super) const SERVER: Names = names(
    "`[server]`",
    &["socket", "socket-mode", "admin-socket", "admin-group", "parent-user", "worker-user", "sandbox"],
);
pub(super) const CACHE: Names = names("`[cache]`", &["directory", "seal-key"]);
pub(super) const LIMITS: Names = names(
    "`[limits]`",
    &[
        "connections",
        "connections-per-user",
        "fetches-per-user",
        "value-size",
        "document-size",
        "memory",
        "header-timeout",
        "idle-timeout",
        "header-size",
    ],
);
pub(super) const SECRET_FILE: Names = names("a token or seal key", &["file", "credential"]);
pub(super) const SETTINGS: Names = names(
    "`[defaults]`",
    &[
        "max-age",
        "stale-while-revalidate",
        "stale-if-error",
        "timeout",
        "failover-timeout",
        "fetch-timeout",
        "negative-max-age",
        "refresh",
        "revoked-after",
        "revoked-over",
        "forget-after",
        "max-entries",
        "eviction",
    ],
);
pub(super) const KEY: Names = names(
    "a key",
    &[
        "source",
        "sources",
        "params",
        "max-age",
        "stale-while-revalidate",
        "stale-if-error",
        "timeout",
        "failover-timeout",
        "fetch-timeout",
        "negative-max-age",
        "refresh",
        "revoked-after",
        "revoked-over",
        "forget-after",
        "max-entries",
        "eviction",
        "on-missing",
    ],
);
pub(super) const PARAMETER: Names = names("a parameter", &["one-of", "matches"]);
pub(super) const HTTP: Names = names(
    "an `http` source",
    &[
        "type",
        "url",
        "method",
        "headers",
        "body",
        "format",
        "field",
        "pointer",
        "extract",
        "auth",
        "outcomes",
        "rate-limit",
        "ca-file",
        "proxy",
        "allow-plaintext",
    ],
);
pub(super) const FILE: Names = names("a `file` source", &["type", "path", "format", "field", "pointer", "extract"]);
pub(super) const STEP: Names = names("a step of `extract`", &["pointer", "field", "where", "decode", "decode-each"]);
pub(super) const OUTCOME: Names =
    names("an entry of `outcomes`", &["status", "header", "pointer", "one-of", "matches", "class"]);
pub(super) const RATE_LIMIT: Names = names("`rate-limit`", &["remaining", "reset"]);
pub(super) const NAMEKO: Names = names(
    "a `nameko` source",
    &["type", "broker", "user", "token", "service", "method", "exchange", "ca-file", "allow-plaintext"],
);
pub(super) const COMMAND: Names = names(
    "a `command` source",
    &[
        "type",
        "run",
        "user",
        "environment",
        "directory",
        "token",
        "token-on",
        "format",
        "field",
        "pointer",
        "extract",
        "exit-codes",
    ],
);
pub(super) const BEARER: Names = names("`bearer` authentication", &["type", "token"]);
pub(super) const BASIC: Names = names("`basic` authentication", &["type", "user", "token"]);
pub(super) const HEADER: Names = names("`header` authentication", &["type", "name", "prefix", "token"]);
pub(super) const HAWK: Names = names("`hawk` authentication", &["type", "id", "key", "algorithm"]);
pub(super) const AWS_SIGV4: Names = names("`aws-sigv4` authentication", &["type", "service", "region", "credentials"]);
pub(super) const AWS_STATIC: Names =
    names("`static` credentials", &["type", "access-key-id", "secret-access-key", "session-token"]);
pub(super) const AWS_FILE: Names = names("`file` credentials", &["type", "token", "profile"]);
pub(super) const AWS_CONTAINER: Names = names("`container` credentials", &["type", "url", "token"]);
pub(super) const AWS_IMDS: Names = names("`imds` credentials", &["type", "url", "role"]);
pub(super) const OAUTH2: Names = names(
    "`oauth2-client-credentials` authentication",
    &["type", "token-url", "client-id", "client-secret", "scope", "send"],
);
pub(super) const GOOGLE: Names =
    names("`google-service-account` authentication", &["type", "key", "scope", "token-url"]);
pub(super) const LOGIN: Names = names(
    "`login` authentication",
    &[
        "type", "url", "method", "headers", "body", "secrets", "unwrap", "once", "pointer", "lifetime", "renew",
        "header", "prefix",
    ],
);
pub(super) const UNWRAP: Names = names("`unwrap`", &["secret", "url", "pointer", "creation-path"]);
pub(super) const PRESET: Names = names("a preset", &["title", "about", "link", "parameters", "source"]);
pub(super) const PRESET_PARAMETER: Names = names(
    "a parameter of a preset",
    &["type", "doc", "default", "optional", "example", "one-of", "characters", "longest"],
);
pub(super) const PRESET_SOURCE: Names = names(
    "the source of a preset",
    &[
        "url",
        "query",
        "method",
        "headers",
        "body",
        "json",
        "format",
        "field",
        "pointer",
        "extract",
        "auth",
        "outcomes",
        "rate-limit",
        "ca-file",
        "proxy",
        "allow-plaintext",
    ],
);
pub(super) const CLIENT: Names = names("a client", &["user", "group", "unit", "anyone", "keys", "credentials"]);

/// The words that are legal as the value of a setting.
pub(super) const SOURCE_TYPES: &[&str] = &["http", "file", "command", "nameko"];
pub(super) const PARAMETER_TYPES: &[&str] =
    &["text", "path", "token", "fields", "choice", "boolean", "origin", "host-label"];
pub(super) const AUTH_TYPES: &[&str] =
    &["bearer", "basic", "header", "hawk", "aws-sigv4", "oauth2-client-credentials", "google-service-account", "login"];
pub(super) const CODINGS: &[&str] = &["base64", "json"];
pub(super) const CLASSES: &[&str] =
    &["unavailable", "rate-limited", "token-refused", "refused", "gone", "misconfigured"];
pub(super) const AWS_CREDENTIALS: &[&str] = &["static", "file", "container", "imds"];
pub(super) const SEND: &[&str] = &["basic", "body"];
pub(super) const HAWK_ALGORITHMS: &[&str] = &["sha256", "sha1"];
pub(super) const METHODS: &[&str] = &["GET", "POST"];
pub(super) const HTTP_FORMATS: &[&str] = &["json", "text"];
pub(super) const FILE_FORMATS: &[&str] = &["text", "json", "toml", "env"];
pub(super) const TOKEN_PLACES: &[&str] = &["fd-3", "stdin"];
pub(super) const EXIT_CLASSES: &[&str] = &["unavailable", "token-refused", "refused", "gone", "misconfigured"];
pub(super) const SANDBOX: &[&str] = &["strict", "best-effort"];
pub(super) const EVICTIONS: &[&str] = &["lru", "lfu"];
pub(super) const ON_MISSING: &[&str] = &["fail", "wait"];

/// Every place that has settings, with their names.
pub(super) const ALL: [&Names; 33] = [
    &TOP,
    &DROP_IN,
    &SERVER,
    &CACHE,
    &LIMITS,
    &SECRET_FILE,
    &SETTINGS,
    &KEY,
    &PARAMETER,
    &HTTP,
    &FILE,
    &STEP,
    &OUTCOME,
    &RATE_LIMIT,
    &COMMAND,
    &NAMEKO,
    &BEARER,
    &BASIC,
    &HEADER,
    &HAWK,
    &AWS_SIGV4,
    &AWS_STATIC,
    &AWS_FILE,
    &AWS_CONTAINER,
    &AWS_IMDS,
    &OAUTH2,
    &GOOGLE,
    &LOGIN,
    &UNWRAP,
    &PRESET,
    &PRESET_PARAMETER,
    &PRESET_SOURCE,
    &CLIENT,
];

const WORDS: [&[&str]; 16] = [
    SOURCE_TYPES,
    PARAMETER_TYPES,
    AUTH_TYPES,
    CODINGS,
    CLASSES,
    AWS_CREDENTIALS,
    SEND,
    HAWK_ALGORITHMS,
    METHODS,
    HTTP_FORMATS,
    FILE_FORMATS,
    TOKEN_PLACES,
    EXIT_CLASSES,
    SANDBOX,
    EVICTIONS,
    ON_MISSING,
];

/// Whether a text is a word of the configuration's own language, which is nobody's secret.
pub(super) fn is_word(text: &str) -> bool {
    let mut settings = ALL.iter().flat_map(|names| names.legal);
    let own = matches!(text, "true" | "false") || settings.any(|name| *name == text);
    own || WORDS.iter().any(|words| words.contains(&text)) || super::presets::is_word(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = include_str!("../../docs/configuration.md");

    #[test]
    fn every_setting_is_documented() {
        for names in ALL {
            for name in names.legal.iter().chain(names.later) {
                assert!(DOCUMENT.contains(&format!("`{name}`")), "`{name}` of {} is not documented", names.place);
            }
        }
    }

    #[test]
    fn every_word_is_documented() {
        for word in WORDS.iter().copied().flatten() {
            let shown = [format!("`{word}`"), format!("`\"{word}\"`")];
            assert!(shown.iter().any(|shown| DOCUMENT.contains(shown)), "{word} is not documented");
        }
    }
}
