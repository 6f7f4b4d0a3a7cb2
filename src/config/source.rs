//! The `source` of a key: what to fetch, and what of it is the value.

use std::path::PathBuf;

use super::auth;
use super::command;
use super::diagnostic::Report;
use super::expand::Kind;
use super::headers;
use super::keys::MadeOf;
use super::nameko;
use super::outcomes;
use super::presets::Presets;
use super::projection::projection;
use super::table::{Bad, Node, Table};
use super::text::{Encoding, Scope, Text};
use super::tokens::Tokens;
use super::{Auth, FileDocument, Format, HttpDocument, Method, SourceTemplate, Url, mask, names, url, values};

/// The settings of `http` in which parameters of a key may stand; of a file or a command, the last three.
const MAY_HOLD: [&str; 5] = ["url", "body", "field", "pointer", "extract"];

/// Reads a source; `None` when something is wrong with it, which is then in the report. That of a key without
/// parameters is a template with nothing to fill in.
pub(super) fn source(
    node: &Node<'_>,
    made_of: MadeOf<'_>,
    scope: &Scope<'_>,
    report: &mut Report<'_>,
) -> Option<SourceTemplate> {
    if !node.is_table() {
        let example = "for example: source = { type = \"http\", url = \"https://host/path\" }";
        report.error(node.expected("a table").help(example));
        return None;
    }
    let types: Vec<&str> = names::SOURCE_TYPES.iter().copied().chain(made_of.presets.names()).collect();
    let Some(kind) = node.peek("type") else {
        let error = node.error("a source needs `type`").help(format!("legal are {}", types.join(", ")));
        report.error(match node.peek("preset") {
            Some(_) => error.label("a preset is named by `type`"),
            None => error.absence(),
        });
        return None;
    };
    let tokens = made_of.tokens;
    let kind = match kind.word(report, &types)? {
        "http" => http(&node.table(report, &names::HTTP)?, tokens, scope, report),
        "file" => file(&node.table(report, &names::FILE)?, scope, report),
        "nameko" => nameko::nameko(&node.table(report, &names::NAMEKO)?, tokens, scope, report),
        "command" => command::command(&node.table(report, &names::COMMAND)?, tokens, scope, report),
        preset => made_of.presets.find(preset)??.source(node, tokens, scope, report),
    };
    kind.map(SourceTemplate)
}

/// The settings of a source in which parameters of its key may stand.
pub(super) fn may_hold<'p>(node: &Node<'_>, presets: &'p Presets<'_>) -> Vec<&'p str> {
    let kind = node.peek("type").and_then(|kind| kind.as_str()).unwrap_or_default();
    match presets.find(kind).flatten() {
        Some(preset) => preset.may_be_asked_for(),
        None if kind == "file" || kind == "command" => MAY_HOLD[2..].to_vec(),
        None if kind == "nameko" => nameko::MAY_HOLD.to_vec(),
        None => MAY_HOLD.to_vec(),
    }
}

/// An `http` source that a preset made.
pub(super) fn of_preset(node: &Node<'_>, tokens: &Tokens, scope: &Scope<'_>, report: &mut Report<'_>) -> Option<Kind> {
    http(&node.table(report, &names::HTTP)?, tokens, scope, report)
}

fn http(table: &Table<'_>, tokens: &Tokens, scope: &Scope<'_>, report: &mut Report<'_>) -> Option<Kind> {
    let before = report.errors.len();
    let url_node = table.require(report, "url", "\"https://host/path\"");
    let parsed = url_node.and_then(|node| node.parsed(report, |name, text| url::parse_with(name, text, scope)));
    let (url, target) = parsed.unzip();
    let method = match table.get("method").and_then(|node| node.word(report, names::METHODS)) {
        Some("POST") => Method::Post,
        _ => Method::Get,
    };
    let auth = table.get("auth").and_then(|node| auth::auth(&node, tokens, report)).unwrap_or(Auth::None);
    let headers = table.get("headers").map(|node| headers::headers(&node, report)).unwrap_or_default();
    let body = table.get("body").and_then(|node| body(&node, method, &headers, scope, report));
    let format = format(table, names::HTTP_FORMATS, Format::Json, report);
    let projection = projection(table, format, scope, report);
    let ca_file = table.get("ca-file").and_then(|node| ca_file(&node, url.as_ref(), report));
    let proxy = table.get("proxy").and_then(|node| proxy(&node, report));
    let outcomes = table.get("outcomes").map(|node| outcomes::rules(&node, report)).unwrap_or_default();
    let rate_limit = table.get("rate-limit").and_then(|node| outcomes::rate_limit(&node, report));
    if let (Some(node), Some(url)) = (&url_node, &url) {
        let elsewhere = auth.plain_endpoint().is_some();
        let allowed = plaintext(table, node, url, (auth.is_secret(), elsewhere), report);
        if let Some(node) = table.get("auth").filter(|_| elsewhere && !allowed) {
            auth::plain_endpoint(&node, report);
        }
    }
    let (Some(url), Some(target), Some(projection)) = (url, target, projection) else { return None };
    if report.errors.len() > before {
        return None;
    }
    let document =
        HttpDocument { url, method, headers, body: None, format, auth, ca_file, proxy, outcomes, rate_limit };
    Some(Kind::Http { document: Box::new(document), target, body, projection, named: None })
}

/// A token over plain HTTP is read by whoever is on the way, or takes the port of an upstream that is down. Gives
/// whether that is allowed; `elsewhere`, something else of the source needs it.
fn plaintext(
    table: &Table<'_>,
    node: &Node<'_>,
    url: &Url,
    (with_token, elsewhere): (bool, bool),
    report: &mut Report<'_>,
) -> bool {
    let flag = table.get("allow-plaintext");
    let allowed = flag.and_then(|node| node.boolean(report)) == Some(true);
    if url.https {
        if let Some(node) = flag.filter(|_| allowed && !elsewhere) {
            report.warning(&node.place(), "`allow-plaintext` has no effect with https");
        }
    } else if with_token && !allowed {
        report.error(node.error("a token would be sent over plain http").help(
            "use https; or, where the way to the upstream is safe, say so in the source: allow-plaintext = true",
        ));
    }
    allowed
}

/// The text of a body, and how values stand in it.
fn body(
    node: &Node<'_>,
    method: Method,
    headers: &[(String, String)],
    scope: &Scope<'_>,
    report: &mut Report<'_>,
) -> Option<(Text, Encoding)> {
    let text = node.string(report)?;
    if mask::is_secret(text) {
        report.error(node.error("`body` seems to hold a secret").help(
            "a secret never stands in the configuration: put it into a file, name it in [tokens], and use `auth`",
        ));
    } else if method == Method::Get {
        report.error(node.error("`body` needs method = \"POST\""));
    }
    node.parsed(report, |name, text| {
        let body = Text::lenient(name, text, scope)?;
        let encoding = if body.has_parameters() { encoding_of_body(name, &body, headers)? } else { Encoding::Plain };
        Ok((body, encoding))
    })
}

/// A value in a body has to be encoded, so it must be known what the body is.
pub(super) fn encoding_of_body(name: &str, body: &Text, headers: &[(String, String)]) -> Result<Encoding, Bad> {
    let content_type = headers.iter().find(|(name, _)| name == "content-type").map(|(_, value)| value.as_str());
    let media_type = content_type.and_then(|value| value.split(';').next()).unwrap_or_default().trim();
    match media_type.to_ascii_lowercase().as_str() {
        "application/x-www-form-urlencoded" => Ok(Encoding::Percent),
        json if json == "application/json"
            || json.ends_with("+json")
            || json.starts_with("application/x-amz-json-") =>
        {
            // No JSON has a bare `x`: what parses with one in each place has all its parameters in strings.
            let all: Vec<String> = body.literals().map(|_| "x".to_owned()).collect();
            let parsed: Result<serde::de::IgnoredAny, _> = serde_json::from_str(&body.fill(&all, Encoding::Plain));
            parsed.map(|_| Encoding::Json).map_err(|_| {
                Bad::new(format!("`{name}` is not JSON with parameters inside of strings"))
                    .help("for example: body = '{ \"name\": \"{app}\" }'")
            })
        }
        _ => Err(Bad::new(format!("`{name}` holds a parameter, and nothing says how to encode it"))
            .help("set headers = { content-type = \"application/json\" } or \"application/x-www-form-urlencoded\"")),
    }
}

fn ca_file(node: &Node<'_>, url: Option<&Url>, report: &mut Report<'_>) -> Option<PathBuf> {
    if url.is_some_and(|url| !url.https) {
        report.error(node.error("`ca-file` is for https, and the URL is http"));
    }
    node.parsed(report, values::path)
}

fn proxy(node: &Node<'_>, report: &mut Report<'_>) -> Option<Url> {
    let proxy = node.parsed(report, url::parse)?;
    if proxy.https || proxy.target != "/" {
        let help = "for example: proxy = \"http://proxy.example:3128\"";
        report.error(node.error("`proxy` is the plain http origin of an HTTP proxy").help(help));
    }
    Some(proxy)
}

fn file(table: &Table<'_>, scope: &Scope<'_>, report: &mut Report<'_>) -> Option<Kind> {
    let path = table.require(report, "path", "\"/etc/keyhatch/secret\"");
    let path = path.and_then(|node| node.parsed(report, values::path));
    let format = format(table, names::FILE_FORMATS, Format::Text, report);
    let projection = projection(table, format, scope, report);
    Some(Kind::File { document: FileDocument { path: path?, format }, projection: projection? })
}

pub(super) fn format(table: &Table<'_>, legal: &[&'static str], default: Format, report: &mut Report<'_>) -> Format {
    match table.get("format").and_then(|node| node.word(report, legal)) {
        Some("json") => Format::Json,
        Some("text") => Format::Text,
        Some("toml") => Format::Toml,
        Some("env") => Format::Env,
        _ => default,
    }
}
