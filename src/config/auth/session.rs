//! Ways to begin a session: OAuth 2.0 client credentials, a service account of Google's, and a login that is written out.

use super::super::diagnostic::{Diagnostic, Report, quoted};
use super::super::projection::pointer_tokens;
use super::super::source::encoding_of_body;
use super::super::table::{Bad, Node, Table};
use super::super::text::{Encoding, Scope, Text};
use super::super::tokens::Tokens;
use super::super::{Method, TokenName, Url, headers, mask, names, url, values};
use super::{Auth, ClientCredentials, Lifetime, Login, ServiceAccount, Unwrap, header_name, header_prefix, optional};

const GOOGLE: &str = "https://oauth2.googleapis.com/token";

pub(super) fn oauth2(node: &Node<'_>, tokens: &Tokens, report: &mut Report<'_>) -> Option<Auth> {
    let table = node.table(report, &names::OAUTH2)?;
    let token_url = table.require(report, "token-url", "\"https://login.example.com/oauth2/token\"");
    let token_url = token_url.and_then(|node| node.parsed(report, url::parse));
    let client_id = table.require(report, "client-id", "\"billing\"").and_then(|node| node.parsed(report, plain));
    let secret = table.require(report, "client-secret", "\"NAME\"").and_then(|node| tokens.named(&node, report));
    let scope = optional(table.get("scope"), |node| node.parsed(report, plain))?;
    let send = optional(table.get("send"), |node| node.word(report, names::SEND))?;
    Some(Auth::OAuth2(Box::new(ClientCredentials {
        token_url: token_url?,
        client_id: client_id?,
        client_secret: secret?,
        scope,
        in_body: send == Some("body"),
    })))
}

pub(super) fn google(node: &Node<'_>, tokens: &Tokens, report: &mut Report<'_>) -> Option<Auth> {
    let table = node.table(report, &names::GOOGLE)?;
    let key = table.require(report, "key", "\"NAME\"").and_then(|node| tokens.named(&node, report));
    let scope = table.require(report, "scope", "\"https://www.googleapis.com/auth/cloud-platform\"");
    let scope = scope.and_then(|node| node.parsed(report, plain));
    let token_url = match table.get("token-url") {
        Some(node) => node.parsed(report, url::parse),
        None => url::parse("token-url", GOOGLE).ok(),
    };
    Some(Auth::Google(Box::new(ServiceAccount { key: key?, scope: scope?, token_url: token_url? })))
}

/// Printable ASCII, which is no secret.
fn plain(name: &str, text: &str) -> Result<String, Bad> {
    if mask::is_secret(text) {
        return Err(
            Bad::new(format!("`{name}` seems to hold a secret")).help("a secret never stands in the configuration")
        );
    }
    if text.is_empty() || text.len() > 2048 || !text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return Err(
            Bad::new(format!("`{name}` is not legal here")).help("legal is printable ASCII, at least one character")
        );
    }
    Ok(text.to_owned())
}

pub(super) fn login(node: &Node<'_>, tokens: &Tokens, report: &mut Report<'_>) -> Option<Auth> {
    let before = report.errors.len();
    let table = node.table(report, &names::LOGIN)?;
    let url_node = table.require(report, "url", "\"https://vault.example.com/v1/auth/approle/login\"");
    let url = url_node.and_then(|node| node.parsed(report, url::parse));
    let method = match table.get("method").and_then(|node| node.word(report, names::METHODS)) {
        Some("GET") => Method::Get,
        _ => Method::Post,
    };
    let secrets = table.require(report, "secrets", "{ secret = \"NAME\" }");
    let secrets = secrets.map(|node| secrets_of(&node, tokens, report)).unwrap_or_default();
    let named: Vec<String> = secrets.iter().map(|(name, _)| name.clone()).collect();
    let scope = Scope::new(&named);
    let headers = table.get("headers").map(|node| headers_of(&node, &scope, report)).unwrap_or_default();
    let body = table.get("body").and_then(|node| body_of(&node, method, &headers, &scope, report));
    let pointer = table.require(report, "pointer", "\"/auth/client_token\"");
    let pointer = pointer.and_then(|node| node.parsed(report, pointer_tokens));
    let lifetime = table.get("lifetime").and_then(|node| lifetime(&node, report)).unwrap_or(Lifetime::Untold);
    let beside = |name: &'static str, report: &mut Report<'_>| at_origin(&table, name, url.as_ref(), report);
    let renew = beside("renew", report);
    let unwrap = table.get("unwrap").and_then(|node| unwrap_of(&node, &named, url.as_ref(), report));
    let once = table.get("once").and_then(|node| node.boolean(report)).unwrap_or(false);
    let header = table.get("header");
    let prefix = match (table.get("prefix"), &header) {
        (Some(node), _) => node.parsed(report, header_prefix),
        // As everybody shows a token in `Authorization`; in a header of its own it stands alone.
        (None, None) => Some("Bearer ".to_owned()),
        (None, Some(_)) => Some(String::new()),
    };
    let header = match header {
        Some(node) => node.parsed(report, header_name),
        None => Some("authorization".to_owned()),
    };
    // What is unwrapped is used, though no text may name it: then the wrapped answer itself would be the session.
    if let Some(unused) = scope.unused().next().filter(|_| report.errors.len() == before) {
        let place = table.name_place("secrets");
        report.error(
            Diagnostic::at(place, format!("the secret {} is not used", quoted(unused)))
                .help(format!("it stands in `body` or a header as {{{unused}}}")),
        );
    }
    if once && renew.is_none() {
        let place = table.name_place("once");
        report.error(Diagnostic::at(place, "`once` needs `renew`").help(
            "what logs in once has to keep its session: for example renew = \"https://…/v1/auth/token/renew-self\"",
        ));
    }
    if report.errors.len() > before {
        return None;
    }
    let (url, pointer, header, prefix) = (url?, pointer?, header?, prefix?);
    Some(Auth::Login(Box::new(Login {
        url,
        method,
        headers,
        body,
        secrets,
        unwrap,
        once,
        pointer,
        lifetime,
        renew,
        header,
        prefix,
    })))
}

fn secrets_of(node: &Node<'_>, tokens: &Tokens, report: &mut Report<'_>) -> Vec<(String, TokenName)> {
    let mut secrets = Vec::new();
    for entry in node.entries(report) {
        if !crate::template::is_parameter_name(entry.name) {
            report.error(
                Diagnostic::at(entry.place.clone(), "this is not a name for a secret")
                    .help("a name is made of A-Z a-z 0-9 _ - and begins with a letter; it stands in `body` as {name}"),
            );
        } else if let Some(token) = tokens.named(&entry.node, report) {
            secrets.push((entry.name.to_owned(), token));
        }
    }
    secrets
}

/// The text of a header or body, in which secrets stand by their names in braces.
fn text(name: &str, text: &str, scope: &Scope<'_>) -> Result<Text, Bad> {
    if mask::is_secret(text) {
        return Err(Bad::new(format!("`{name}` seems to hold a secret")).help(
            "a secret never stands in the configuration: name its token in `secrets`, and write {name} in its place",
        ));
    }
    Text::lenient(name, text, scope)
        .map_err(|bad| Bad { title: format!("`{name}` names a secret that is not in `secrets`"), ..bad })
}

fn headers_of(node: &Node<'_>, scope: &Scope<'_>, report: &mut Report<'_>) -> Vec<(String, Text)> {
    let mut found: Vec<(String, Text)> = Vec::new();
    for entry in node.entries(report) {
        let (lower, name) = (entry.name.to_ascii_lowercase(), quoted(entry.name));
        let refuse = |title: String| Diagnostic::at(entry.place.clone(), title);
        if !values::is_header_name(&lower) {
            report.error(refuse("this is not the name of a header".to_owned()));
        } else if let Some(why) = headers::reserved(&lower) {
            report.error(refuse(format!("the header {name} cannot be set: {why}")));
        } else if found.iter().any(|(known, _)| *known == lower) {
            report.error(refuse(format!("the header {name} is set twice")));
        } else if let Some(value) = entry.node.parsed(report, |name, value| text(name, value, scope)) {
            if !value.literals().all(|literal| literal.bytes().all(|byte| (b' '..=b'~').contains(&byte))) {
                report.error(entry.node.error(format!("the value of the header {name} is not legal")));
            } else if headers::carries_secret(&lower) && !value.has_parameters() {
                report.error(refuse(format!("the header {name} carries a secret")).help(
                    "a secret never stands in the configuration: name its token in `secrets`, and write {name} in its place",
                ));
            } else {
                found.push((lower, value));
            }
        }
    }
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    found
}

fn body_of(
    node: &Node<'_>,
    method: Method,
    headers: &[(String, Text)],
    scope: &Scope<'_>,
    report: &mut Report<'_>,
) -> Option<(Text, Encoding)> {
    if method == Method::Get {
        report.error(node.error("`body` needs method = \"POST\""));
    }
    node.parsed(report, |name, value| {
        let body = text(name, value, scope)?;
        if !body.has_parameters() {
            return Ok((body, Encoding::Plain));
        }
        let given = headers.iter().find(|(name, _)| name == "content-type");
        let given = given.map(|(_, value)| value.literals().collect::<String>());
        // What looks like an object is sent as one, unless a header says otherwise.
        let content_type = given.unwrap_or_else(|| "application/json".to_owned());
        let encoding = encoding_of_body(name, &body, &[("content-type".to_owned(), content_type)])?;
        Ok((body, encoding))
    })
}

fn lifetime(node: &Node<'_>, report: &mut Report<'_>) -> Option<Lifetime> {
    if node.as_str().is_some_and(|text| text.starts_with('/')) {
        return node.parsed(report, pointer_tokens).map(Lifetime::At);
    }
    values::positive_duration(node, report).map(Lifetime::Fixed)
}

/// A URL of the login's own origin, which alone is shown what comes of it.
fn at_origin(table: &Table<'_>, name: &'static str, login: Option<&Url>, report: &mut Report<'_>) -> Option<Url> {
    let node = table.get(name)?;
    let url = node.parsed(report, url::parse)?;
    if login.is_some_and(|login| login.origin() != url.origin()) {
        report.error(
            node.error(format!("`{name}` is at another origin than the login"))
                .help("what a login gives, and what it is given, is shown to the origin of its `url` alone"),
        );
    }
    Some(url)
}

fn unwrap_of(node: &Node<'_>, named: &[String], login: Option<&Url>, report: &mut Report<'_>) -> Option<Unwrap> {
    let table = node.table(report, &names::UNWRAP)?;
    let secret_node = table.require(report, "secret", "\"secret\"");
    let url = table.require(report, "url", "\"https://vault.example.com/v1/sys/wrapping/unwrap\"");
    let url = url.and_then(|_| at_origin(&table, "url", login, report));
    let pointer = table.require(report, "pointer", "\"/data/secret_id\"");
    let pointer = pointer.and_then(|node| node.parsed(report, pointer_tokens));
    let secret = secret_node.and_then(|node| {
        let text = node.string(report)?;
        let found = named.iter().position(|name| name == text);
        if found.is_none() {
            report.error(node.error("there is no such secret in `secrets`"));
        }
        found
    });
    let creation = optional(table.get("creation-path"), |node| node.parsed(report, plain))?;
    let (secret, url, pointer) = (secret?, url?, pointer?);
    let creation = match creation {
        None => None,
        Some(path) => {
            let Some(before) = url.target.strip_suffix("/unwrap") else {
                let node = table.get("creation-path")?;
                let help = "it is asked for where `url` ends in /lookup in the place of /unwrap";
                report.error(node.error("`creation-path` needs a `url` that ends in /unwrap").help(help));
                return None;
            };
            let lookup = Url { target: format!("{before}/lookup"), ..url.clone() };
            Some((path.trim_start_matches('/').to_owned(), lookup))
        }
    };
    Some(Unwrap { secret, url, pointer, creation })
}
