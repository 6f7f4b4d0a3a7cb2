//! From one TOML file to a [`Config`]: read with its owner checked, parsed, resolved.
//!
//! Must never show the text of a string in an error: somebody may have typed a token there.

use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::*;
use crate::acl::{Acl, Client, Pattern, Who};
use crate::secret::KeyPath;
use crate::staleness::{Revocation, Settings, Span};
use crate::sys::{creds, file, process};

/// The longest configuration file, in bytes.
const LONGEST: u64 = 1 << 20;

/// Why a configuration cannot be used: where, what, and what is legal.
#[derive(Debug)]
pub struct LoadError(String);

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for LoadError {}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct Raw {
    server: RawServer,
    cache: RawCache,
    limits: RawLimits,
    tokens: BTreeMap<String, RawSecret>,
    defaults: RawSettings,
    keys: BTreeMap<String, RawKey>,
    clients: BTreeMap<String, RawClient>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct RawServer {
    socket: Option<PathBuf>,
    socket_mode: Option<String>,
    parent_user: Option<Id>,
    worker_user: Option<Id>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct RawCache {
    directory: Option<PathBuf>,
    seal_key: Option<RawSecret>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct RawLimits {
    connections: Option<u32>,
    connections_per_user: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSecret {
    file: Option<PathBuf>,
    credential: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawKey {
    source: RawSource,
    max_age: Option<String>,
    stale_while_revalidate: Option<String>,
    stale_if_error: Option<String>,
    timeout: Option<String>,
    failover_timeout: Option<String>,
    fetch_timeout: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct RawSettings {
    max_age: Option<String>,
    stale_while_revalidate: Option<String>,
    stale_if_error: Option<String>,
    timeout: Option<String>,
    failover_timeout: Option<String>,
    fetch_timeout: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawSource {
    #[serde(rename = "type")]
    kind: String,
    url: Option<String>,
    field: Option<OneOrMany<String>>,
    pointer: Option<String>,
    token: Option<String>,
    app: Option<String>,
    config_var: Option<OneOrMany<String>>,
    #[serde(default)]
    allow_plaintext: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawClient {
    user: Option<OneOrMany<Id>>,
    group: Option<OneOrMany<Id>>,
    #[serde(default)]
    anyone: bool,
    keys: Vec<String>,
}

#[derive(Deserialize, Clone)]
#[serde(untagged)]
enum Id {
    Number(u32),
    Name(String),
}

impl Id {
    fn name(&self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Name(name) => name.clone(),
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    fn into_vec(self) -> Vec<T> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

/// Reads, parses and resolves. Started as root, the file must be root's; else the caller's or root's.
pub fn load(path: &Path) -> Result<Config, LoadError> {
    let failed = |error: std::io::Error| LoadError(format!("configuration {}: {error}", path.display()));
    let opened = file::open_secret(path).map_err(failed)?;
    let found = opened.metadata().map_err(failed)?;
    if (found.uid() != 0 && found.uid() != creds::own_uid()) || found.mode() & 0o022 != 0 {
        let message = "must be owned by root and not writable by others. Mend it with: chmod go-w and chown root";
        return Err(LoadError(format!("configuration {} {message}", path.display())));
    }
    if !found.is_file() || found.len() > LONGEST {
        return Err(LoadError(format!("configuration {} is no regular file of at most 1 MiB", path.display())));
    }
    parse(path, &std::io::read_to_string(opened).map_err(failed)?)
}

fn parse(path: &Path, text: &str) -> Result<Config, LoadError> {
    let raw: Raw = toml::from_str(text).map_err(|error| {
        let before = &text[..error.span().map_or(0, |span| span.start).min(text.len())];
        let (line, column) =
            (before.matches('\n').count() + 1, before.len() - before.rfind('\n').map_or(0, |n| n + 1) + 1);
        LoadError(format!("{}:{line}:{column}: {}", path.display(), unquoted(error.message())))
    })?;
    resolve(path, text, raw)
}

/// A parser's message without the text of the strings that it quotes.
fn unquoted(message: &str) -> String {
    match (message.find("string \""), message.rfind('"')) {
        (Some(start), Some(end)) => format!("{}string{}", &message[..start], &message[end + 1..]),
        _ => message.to_owned(),
    }
}

fn resolve(path: &Path, text: &str, raw: Raw) -> Result<Config, LoadError> {
    let wrong = |what: String| LoadError(format!("{}: {what}", path.display()));
    let at = |header: &str| {
        let line = text.lines().position(|line| line.trim_start().starts_with(header)).map_or(1, |n| n + 1);
        Location { file: path.to_owned(), line: u32::try_from(line).unwrap_or(u32::MAX) }
    };
    let mut problems = Vec::new();
    let mut warnings = Vec::new();

    let mode = raw.server.socket_mode.as_deref().unwrap_or("0666");
    let socket_mode = u32::from_str_radix(mode, 8).ok().filter(|mode| *mode <= 0o777);
    let user = |given: Option<Id>, name: &str| {
        let name = given.map_or(name.to_owned(), |id| id.name());
        let ids = process::user(&name).ok().flatten().map(|(uid, gid)| (uid.into(), gid.into()));
        ServiceUser { name, ids }
    };
    let server = Server {
        socket: socket_path(raw.server.socket.unwrap_or("/run/keyhatch/keyhatch.sock".into())).map_err(wrong)?,
        socket_mode: socket_mode
            .ok_or_else(|| wrong("server.socket-mode: write octal permissions such as \"0666\"".into()))?,
        admin_socket: "/run/keyhatch/admin.sock".into(),
        admin_group: None,
        parent_user: user(raw.server.parent_user, "keyhatch"),
        worker_user: user(raw.server.worker_user, "keyhatch-worker"),
        sandbox: SandboxMode::Strict,
    };
    let seal_key = match raw.cache.seal_key {
        Some(given) => secret(given).ok_or_else(|| wrong("cache.seal-key: write { file = \"…\" }".into()))?,
        None => SecretFile::File("/var/lib/keyhatch/seal.key".into()),
    };
    let cache =
        Cache { directory: raw.cache.directory.unwrap_or("/var/cache/keyhatch".into()), seal_keys: vec![seal_key] };
    let standard = Limits::default();
    let limits = Limits {
        connections: raw.limits.connections.unwrap_or(standard.connections),
        connections_per_user: raw.limits.connections_per_user.unwrap_or(standard.connections_per_user),
        ..standard
    };

    let mut tokens = BTreeMap::new();
    for (name, given) in raw.tokens {
        let place = secret(given).ok_or_else(|| {
            wrong(format!("token `{name}`: write {{ file = \"…\" }} or {{ credential = \"…\" }}; the token itself never stands here"))
        })?;
        tokens.insert(TokenName(name), place);
    }

    let mut keys = Vec::new();
    for (name, key) in raw.keys {
        let own = RawSettings {
            max_age: key.max_age,
            stale_while_revalidate: key.stale_while_revalidate,
            stale_if_error: key.stale_if_error,
            timeout: key.timeout,
            failover_timeout: key.failover_timeout,
            fetch_timeout: key.fetch_timeout,
        };
        let told = |what: String| wrong(format!("key `{name}`: {what}"));
        let parsed = KeyPath::parse(&name).map_err(|error| told(error.to_string()))?;
        let source = source(key.source).map_err(told)?;
        if let Some(token) = source.document.token().filter(|token| !tokens.contains_key(*token)) {
            problems.push(format!("key `{name}`: there is no token `{token}` in [tokens]"));
        }
        let settings = settings(&own, &raw.defaults).map_err(told)?;
        keys.push(Key { path: parsed, source, settings, at: at(&format!("[keys.\"{name}\"")) });
    }
    if keys.is_empty() {
        warnings.push(format!("{}: no keys: there is nothing to serve but /-/health", path.display()));
    }

    let mut clients = Vec::new();
    for (name, client) in raw.clients {
        let who = who(&name, &client, &mut problems).map_err(wrong)?;
        let patterns: Result<Vec<_>, _> = client.keys.iter().map(|pattern| Pattern::parse(pattern)).collect();
        let patterns = patterns.map_err(|error| wrong(format!("client `{name}`: {error}")))?;
        for pattern in patterns.iter().filter(|pattern| !keys.iter().any(|key: &Key| pattern.matches(&key.path))) {
            warnings.push(format!("{}: client `{name}`: {pattern} matches no key", path.display()));
        }
        clients.push(Client { who, keys: patterns, at: at(&format!("[clients.{name}]")), name });
    }
    Ok(Config { server, cache, limits, tokens, keys, acl: Acl { clients }, warnings, problems })
}

fn socket_path(path: PathBuf) -> Result<PathBuf, String> {
    if !path.is_absolute() || path.as_os_str().len() > 107 {
        return Err("server.socket: an absolute path of at most 107 bytes (unix(7))".into());
    }
    Ok(path)
}

fn secret(given: RawSecret) -> Option<SecretFile> {
    match (given.file, given.credential) {
        (Some(file), None) => Some(SecretFile::File(file)),
        (None, Some(credential)) => Some(SecretFile::Credential(credential)),
        _ => None,
    }
}

fn who(name: &str, client: &RawClient, problems: &mut Vec<String>) -> Result<Who, String> {
    let ids = |given: &Option<OneOrMany<Id>>| match given {
        None => None,
        Some(OneOrMany::One(id)) => Some(vec![id.clone()]),
        Some(OneOrMany::Many(ids)) => Some(ids.clone()),
    };
    let (users, groups) = (ids(&client.user), ids(&client.group));
    match (client.anyone, users.is_some() || groups.is_some()) {
        (true, false) => return Ok(Who::Anyone),
        (false, true) => {}
        _ => return Err(format!("client `{name}`: give either `user` and `group`, or `anyone = true`")),
    }
    let mut missing = false;
    let mut find = |kind: &str, ids: Option<Vec<Id>>, look: &dyn Fn(&str) -> Option<u32>| {
        ids.map(|ids| {
            let found = ids.iter().filter_map(|id| {
                let found = look(&id.name());
                if found.is_none() {
                    missing = true;
                    problems.push(format!("client `{name}`: there is no {kind} `{}`: it matches nobody", id.name()));
                }
                found
            });
            found.collect::<Vec<_>>()
        })
    };
    let users = find("user", users, &|name| process::user(name).ok().flatten().map(|(uid, _)| uid));
    let groups = find("group", groups, &|name| process::group(name).ok().flatten());
    Ok(if missing { Who::Nobody } else { Who::Ids { users, groups } })
}

fn source(raw: RawSource) -> Result<Source, String> {
    let (url, headers, token, projection) = match raw.kind.as_str() {
        "http" => {
            let url = raw.url.ok_or("source `http` needs `url`")?;
            let projection = match (raw.field, raw.pointer) {
                (Some(field), None) => Projection::Fields(field.into_vec()),
                (None, Some(pointer)) => Projection::Pointer(pointer_tokens(&pointer)?),
                (None, None) => Projection::Whole,
                (Some(_), Some(_)) => return Err("`field` and `pointer` exclude each other".into()),
            };
            (url, Vec::new(), raw.token, projection)
        }
        "heroku" => {
            let app = raw.app.ok_or("source `heroku` needs `app`")?;
            if app.is_empty() || !app.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
                return Err("`app` is the name or id of a Heroku app: letters, digits and -".into());
            }
            let token = raw.token.ok_or("source `heroku` needs `token`, the name of an entry of [tokens]")?;
            let names = raw.config_var.ok_or("source `heroku` needs `config-var`")?.into_vec();
            let accept = ("accept".to_owned(), "application/vnd.heroku+json; version=3".to_owned());
            let base = raw.url.unwrap_or("https://api.heroku.com".into());
            let url = format!("{}/apps/{app}/config-vars", base.trim_end_matches('/'));
            (url, vec![accept], Some(token), Projection::Fields(names))
        }
        other => return Err(format!("there is no source type `{other}`; legal are `http` and `heroku`")),
    };
    if matches!(&projection, Projection::Fields(names) if names.is_empty()) {
        return Err("the list of fields is empty".into());
    }
    let parsed = parse_url(&url)?;
    if !parsed.https && token.is_some() && !raw.allow_plaintext {
        return Err("a token over plain http needs `allow-plaintext = true` in the source".into());
    }
    let definition = serde_json::json!({
        "type": raw.kind, "url": url, "projection": format!("{projection:?}"), "token": token,
    });
    let auth = token.map_or(Auth::None, |token| Auth::Bearer { token: TokenName(token) });
    let http = HttpDocument {
        url: parsed,
        method: Method::Get,
        headers,
        body: None,
        format: Format::Json,
        auth,
        ca_file: None,
        proxy: None,
    };
    Ok(Source { document: Document::Http(Box::new(http)), projection, definition: definition.to_string() })
}

fn parse_url(text: &str) -> Result<Url, String> {
    let legal = "a URL is http:// or https://, a host, and a path; without user info and fragment";
    let uri: hyper::Uri = text.parse().map_err(|_| legal.to_owned())?;
    let https = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err(legal.into()),
    };
    let authority = uri.authority().ok_or(legal)?;
    if authority.as_str().contains('@') || authority.host().is_empty() || text.contains('#') {
        return Err(legal.into());
    }
    Ok(Url {
        https,
        host: authority.host().to_ascii_lowercase(),
        port: authority.port_u16().unwrap_or(if https { 443 } else { 80 }),
        target: uri.path_and_query().map_or("/".into(), |target| target.as_str().to_owned()),
    })
}

/// RFC 6901: `~1` is a slash and `~0` a tilde.
fn pointer_tokens(pointer: &str) -> Result<Vec<String>, String> {
    let rest = match pointer.strip_prefix('/') {
        Some(rest) => rest,
        None if pointer.is_empty() => return Ok(Vec::new()),
        None => return Err("`pointer` is empty or begins with `/` (RFC 6901)".into()),
    };
    let bad = |token: &str| token.replace("~0", "").replace("~1", "").contains('~');
    if rest.split('/').any(bad) {
        return Err("`pointer`: `~` stands only in `~0` and `~1` (RFC 6901)".into());
    }
    Ok(rest.split('/').map(|token| token.replace("~1", "/").replace("~0", "~")).collect())
}

fn duration(name: &str, text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| {
        format!("{name}: {text:?} is no duration; write a number with its unit, such as \"300ms\", \"5s\" or \"7d\"")
    })
}

fn settings(own: &RawSettings, defaults: &RawSettings) -> Result<Settings, String> {
    let standard = Settings::default();
    let pick = |own: &Option<String>, default: &Option<String>| own.clone().or(default.clone());
    let span = |name, own: &Option<String>, default: &Option<String>, standard| match pick(own, default).as_deref() {
        None => Ok(standard),
        Some("forever") => Ok(Span::Forever),
        Some(text) => duration(name, text).map(Span::Finite),
    };
    let exact = |name, own: &Option<String>, default: &Option<String>, standard| {
        pick(own, default).map_or(Ok(standard), |text| duration(name, &text))
    };
    let timeout = exact("timeout", &own.timeout, &defaults.timeout, standard.timeout)?;
    let settings = Settings {
        max_age: span("max-age", &own.max_age, &defaults.max_age, standard.max_age)?,
        stale_while_revalidate: span(
            "stale-while-revalidate",
            &own.stale_while_revalidate,
            &defaults.stale_while_revalidate,
            standard.stale_while_revalidate,
        )?,
        stale_if_error: span("stale-if-error", &own.stale_if_error, &defaults.stale_if_error, standard.stale_if_error)?,
        timeout,
        failover_timeout: exact("failover-timeout", &own.failover_timeout, &defaults.failover_timeout, timeout)?,
        fetch_timeout: exact(
            "fetch-timeout",
            &own.fetch_timeout,
            &defaults.fetch_timeout,
            standard.fetch_timeout.max(timeout),
        )?,
        revocation: Revocation::After { refusals: 3, over: Duration::from_secs(600) },
        ..standard
    };
    if settings.failover_timeout > settings.timeout {
        return Err("failover-timeout is longer than timeout; it is the shorter of the two waits".into());
    }
    if settings.fetch_timeout < settings.timeout {
        return Err(
            "fetch-timeout is shorter than timeout; it ends the call that timeout only stops waiting for".into()
        );
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        parse(Path::new("k.toml"), text).expect_err("an error").to_string()
    }

    #[test]
    fn nothing_at_all_is_legal_with_a_warning() {
        let config = parse(Path::new("k.toml"), "").unwrap();
        assert_eq!(config.warnings, ["k.toml: no keys: there is nothing to serve but /-/health"]);
    }

    #[test]
    fn what_is_unknown_is_an_error_with_its_place() {
        assert!(
            error("[server]\nsockt = \"/x\"\n")
                .starts_with("k.toml:2:1: unknown field `sockt`, expected one of `socket`")
        );
        assert!(
            error("[keys.\"/a\"]\nsource = { type = \"ftp\" }\n").contains("no source type `ftp`; legal are `http`")
        );
        assert!(
            error("[keys.\"/{a}\"]\nsource = { type = \"http\", url = \"https://h/\" }\n").contains("'{' is not legal")
        );
    }

    #[test]
    fn a_token_typed_into_the_configuration_is_refused_and_not_shown() {
        let message = error("[tokens]\nheroku = \"hunter2\"\n");
        assert!(message.starts_with("k.toml:2:"), "{message}");
        assert!(!message.contains("hunter2"), "{message}");
    }

    #[test]
    fn a_duration_has_a_unit() {
        let message = error("[keys.\"/a\"]\nsource = { type = \"http\", url = \"https://h/\" }\nmax-age = \"5\"\n");
        assert!(message.contains("max-age: \"5\" is no duration; write a number with its unit"), "{message}");
    }

    #[test]
    fn a_token_goes_over_plain_http_only_when_that_is_said() {
        let source = "[keys.\"/a\"]\nsource = { type = \"http\", url = \"http://h/\", token = \"t\"";
        assert!(error(&format!("{source} }}\n")).contains("allow-plaintext"));
        assert!(parse(Path::new("k.toml"), &format!("{source}, allow-plaintext = true }}\n")).is_ok());
    }

    #[test]
    fn a_user_that_cannot_be_found_disables_its_client_only() {
        let config =
            parse(Path::new("k.toml"), "[clients.x]\nuser = \"no-such-user-here\"\nkeys = [\"/a\"]\n").unwrap();
        assert_eq!(config.acl.clients[0].who, Who::Nobody);
        assert_eq!(config.problems, ["client `x`: there is no user `no-such-user-here`: it matches nobody"]);
    }

    #[test]
    fn waits_that_contradict_each_other_are_refused() {
        let key = "[keys.\"/a\"]\nsource = { type = \"http\", url = \"https://h/\" }\n";
        assert!(error(&format!("{key}failover-timeout = \"9s\"\n")).contains("longer than timeout"));
        assert!(error(&format!("{key}fetch-timeout = \"1s\"\n")).contains("shorter than timeout"));
    }
}
