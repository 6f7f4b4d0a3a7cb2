//! The `source` of a key: what to fetch, and what of it is the value.

use std::path::PathBuf;

use super::auth;
use super::diagnostic::{Report, quoted};
use super::expand::{Kind, Selection};
use super::table::{Bad, Node, Table};
use super::text::{Encoding, Scope, Text};
use super::tokens::Tokens;
use super::{Auth, FileDocument, Format, HttpDocument, Method, SourceTemplate, Url, mask, names, url, values};
use super::{headers, nameko};

const HEROKU_API: &str = "https://api.heroku.com";

/// Reads a source; `None` when something is wrong with it, which is then in the report. That of a key without
/// parameters is a template with nothing to fill in.
pub(super) fn source(
    node: &Node<'_>,
    tokens: &Tokens,
    scope: &Scope<'_>,
    report: &mut Report<'_>,
) -> Option<SourceTemplate> {
    if !node.is_table() {
        let example = "for example: source = { type = \"http\", url = \"https://host/path\" }";
        report.error(node.expected("a table").help(example));
        return None;
    }
    let Some(kind) = node.peek("type") else {
        let legal = names::SOURCE_TYPES.join(", ");
        report.error(node.error("a source needs `type`").help(format!("legal are {legal}")).absence());
        return None;
    };
    let kind = match kind.word(report, names::SOURCE_TYPES)? {
        "http" => http(&node.table(report, &names::HTTP)?, tokens, scope, report),
        "heroku" => heroku(&node.table(report, &names::HEROKU)?, tokens, scope, report),
        "nameko" => nameko::nameko(&node.table(report, &names::NAMEKO)?, tokens, scope, report),
        _ => file(&node.table(report, &names::FILE)?, scope, report),
    };
    kind.map(SourceTemplate)
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
    if let (Some(node), Some(url)) = (&url_node, &url) {
        plaintext(table, node, url, auth.token().is_some(), report);
    }
    let (Some(url), Some(target), Some(projection)) = (url, target, projection) else { return None };
    if report.errors.len() > before {
        return None;
    }
    let document = HttpDocument { url, method, headers, body: None, format, auth, ca_file, proxy };
    Some(Kind::Http { document: Box::new(document), target, body, projection })
}

/// A token over plain HTTP is read by whoever is on the way, or takes the port of an upstream that is down.
fn plaintext(table: &Table<'_>, node: &Node<'_>, url: &Url, with_token: bool, report: &mut Report<'_>) {
    let flag = table.get("allow-plaintext");
    let allowed = flag.and_then(|node| node.boolean(report));
    if url.https {
        if let Some(node) = flag.filter(|_| allowed == Some(true)) {
            report.warning(&node.place(), "`allow-plaintext` has no effect with https");
        }
    } else if with_token && allowed != Some(true) {
        report.error(node.error("a token would be sent over plain http").help(
            "use https; or, where the way to the upstream is safe, say so in the source: allow-plaintext = true",
        ));
    }
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
fn encoding_of_body(name: &str, body: &Text, headers: &[(String, String)]) -> Result<Encoding, Bad> {
    let content_type = headers.iter().find(|(name, _)| name == "content-type").map(|(_, value)| value.as_str());
    let media_type = content_type.and_then(|value| value.split(';').next()).unwrap_or_default().trim();
    match media_type.to_ascii_lowercase().as_str() {
        "application/x-www-form-urlencoded" => Ok(Encoding::Percent),
        json if json == "application/json" || json.ends_with("+json") => {
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

/// A request for all config vars of an app, turned into the `http` source that it is.
fn heroku(table: &Table<'_>, tokens: &Tokens, scope: &Scope<'_>, report: &mut Report<'_>) -> Option<Kind> {
    let before = report.errors.len();
    let app = table.require(report, "app", "\"billing-prod\"");
    let app = app.and_then(|node| node.parsed(report, |name, text| heroku_app(name, text, scope)));
    let vars = table.require(report, "config-var", "\"DATABASE_URL\"").and_then(|node| fields(&node, scope, report));
    let token = table.require(report, "token", "\"heroku\"").and_then(|node| tokens.named(&node, report));
    let base = table.get("base-url");
    let base_url = match &base {
        Some(node) => node.parsed(report, base_url),
        None => url::parse("base-url", HEROKU_API).ok(),
    };
    match (&base, &base_url, table.get("allow-plaintext")) {
        (Some(node), Some(url), _) => plaintext(table, node, url, true, report),
        (None, _, Some(node)) => report.error(node.error("`allow-plaintext` needs `base-url`: Heroku's own is https")),
        _ => {}
    }
    let (Some(app), Some(vars), Some(token), Some(url)) = (app, vars, token, base_url) else { return None };
    let kind = Kind::Heroku { app, vars, base: url, elsewhere: base.is_some(), token };
    (report.errors.len() == before).then_some(kind)
}

/// The name or id of an app. It becomes a part of a path, so nothing that means something there is legal.
fn heroku_app(name: &str, text: &str, scope: &Scope<'_>) -> Result<Text, Bad> {
    if scope.names().is_empty() && text.contains(['{', '}']) {
        return Err(Bad::new(format!("`{name}` has a brace"))
            .help("a parameter has to stand in the key as well, such as [keys.\"/heroku/{app}/url\"]"));
    }
    let app = Text::strict(name, text, scope)?;
    let legal = |text: &str| text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    let length = app.literals().map(str::len).sum::<usize>();
    let named = length > 0 || app.has_parameters();
    if named && length <= 64 && app.literals().all(legal) && !text.starts_with('-') {
        Ok(app)
    } else {
        Err(Bad::new(format!("`{name}` is not the name of a Heroku app: {}", quoted(text)))
            .help("a name is made of a-z 0-9 -, with at most 64 bytes"))
    }
}

fn base_url(name: &str, text: &str) -> Result<Url, Bad> {
    let url = url::parse(name, text)?;
    if url.target.contains('?') {
        return Err(Bad::new(format!("`{name}` has a query")).help("for example: \"https://api.heroku.com\""));
    }
    Ok(url)
}

fn file(table: &Table<'_>, scope: &Scope<'_>, report: &mut Report<'_>) -> Option<Kind> {
    let path = table.require(report, "path", "\"/etc/keyhatch/secret\"");
    let path = path.and_then(|node| node.parsed(report, values::path));
    let format = format(table, names::FILE_FORMATS, Format::Text, report);
    let projection = projection(table, format, scope, report);
    Some(Kind::File { document: FileDocument { path: path?, format }, projection: projection? })
}

fn format(table: &Table<'_>, legal: &[&'static str], default: Format, report: &mut Report<'_>) -> Format {
    match table.get("format").and_then(|node| node.word(report, legal)) {
        Some("json") => Format::Json,
        Some("text") => Format::Text,
        Some("toml") => Format::Toml,
        Some("env") => Format::Env,
        _ => default,
    }
}

/// `field`, `pointer` or neither.
fn projection(table: &Table<'_>, format: Format, scope: &Scope<'_>, report: &mut Report<'_>) -> Option<Selection> {
    let (field, pointer) = (table.get("field"), table.get("pointer"));
    if let Some(node) = field.or(pointer).filter(|_| format == Format::Text) {
        let written = table.get("format").is_some();
        let why = if written { "`format = \"text\"`" } else { "the format is \"text\" unless set, which" };
        report.error(node.error(format!("`{}` selects from a document, and {why} has no parts", node.name)));
        return None;
    }
    match (field, pointer) {
        (Some(field), Some(pointer)) => {
            let error = pointer.error("`field` and `pointer` exclude each other");
            report.error(error.also(field.place(), "the other one"));
            None
        }
        (Some(field), None) => fields(&field, scope, report).map(Selection::Fields),
        (None, Some(pointer)) => pointer.parsed(report, |name, text| parse_pointer(name, text, scope)),
        (None, None) => Some(Selection::Whole),
    }
}

/// A name of a field, or a list of them.
fn fields(node: &Node<'_>, scope: &Scope<'_>, report: &mut Report<'_>) -> Option<Vec<Text>> {
    let mut fields: Vec<(&str, Text)> = Vec::new();
    let items = node.one_or_many(report)?;
    let count = items.len();
    for item in items {
        let Some(field) = item.string(report) else { continue };
        if field.is_empty() {
            report.error(item.error(format!("`{}` holds an empty name", node.name)));
        } else if fields.iter().any(|(known, _)| *known == field) {
            report.error(item.error(format!("{} is listed twice", quoted(field))));
        } else if let Some(text) = item.parsed(report, |name, text| Text::lenient(name, text, scope)) {
            fields.push((field, text));
        }
    }
    (fields.len() == count).then(|| fields.into_iter().map(|(_, text)| text).collect())
}

/// A JSON pointer (RFC 6901); the empty one is the whole document.
fn parse_pointer(name: &str, text: &str, scope: &Scope<'_>) -> Result<Selection, Bad> {
    if text.is_empty() {
        return Ok(Selection::Whole);
    }
    let help = "a JSON pointer looks like \"/data/items/0\"; in a name `~` is written ~0 and `/` is written ~1";
    let Some(rest) = text.strip_prefix('/') else {
        return Err(Bad::new(format!("`{name}` does not begin with `/`")).help(help));
    };
    let unescape = |token: &str| {
        let stray = token.replace("~0", "").replace("~1", "").contains('~');
        (!stray).then(|| token.replace("~1", "/").replace("~0", "~"))
    };
    let tokens: Option<Vec<String>> = rest.split('/').map(unescape).collect();
    let tokens = tokens.ok_or_else(|| Bad::new(format!("`{name}` has a `~` that is not ~0 or ~1")).help(help))?;
    let tokens = tokens.iter().map(|token| Text::lenient(name, token, scope));
    Ok(Selection::Pointer(tokens.collect::<Result<_, _>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_are_unescaped_once() {
        let none = Scope::new(&[]);
        let tokens = |text| match parse_pointer("pointer", text, &none) {
            Ok(Selection::Pointer(tokens)) => {
                Some(tokens.iter().map(|token| token.fill(&[], Encoding::Plain)).collect::<Vec<_>>())
            }
            _ => None,
        };
        // From RFC 6901 section 5.
        assert_eq!(tokens("/foo/0"), Some(vec!["foo".to_owned(), "0".to_owned()]));
        assert_eq!(tokens("/a~1b"), Some(vec!["a/b".to_owned()]));
        assert_eq!(tokens("/m~0n"), Some(vec!["m~n".to_owned()]));
        assert_eq!(tokens("/"), Some(vec![String::new()]));
        assert_eq!(tokens("/~01"), Some(vec!["~1".to_owned()]));
        assert!(matches!(parse_pointer("pointer", "", &none), Ok(Selection::Whole)));
        for text in ["foo", "/~", "/~2", "/a~"] {
            assert!(parse_pointer("pointer", text, &none).is_err(), "{text}");
        }
    }

    #[test]
    fn an_app_stays_within_its_path_segment() {
        let none = Scope::new(&[]);
        assert!(heroku_app("app", "billing-prod", &none).is_ok());
        for text in ["", "a/b", "..", "a?b", "A", "a%2fb", "a b", "-a", "{a}"] {
            assert!(heroku_app("app", text, &none).is_err(), "{text}");
        }
        let names = ["a".to_owned()];
        let scope = Scope::new(&names);
        assert!(heroku_app("app", "{a}", &scope).is_ok() && heroku_app("app", "x-{a}", &scope).is_ok());
        assert!(heroku_app("app", "x/{a}", &scope).is_err() && heroku_app("app", "{b}", &scope).is_err());
    }
}
