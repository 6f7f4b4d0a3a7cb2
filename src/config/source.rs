//! The `source` of a key: what to fetch, and what of it is the value.

use std::path::PathBuf;

use super::auth;
use super::definition;
use super::diagnostic::{Report, quoted};
use super::headers;
use super::table::{Bad, Node, Table};
use super::tokens::Tokens;
use super::{
    Auth, Document, FileDocument, Format, HttpDocument, Method, Projection, Source, Url, mask, names, url, values,
};

const HEROKU_API: &str = "https://api.heroku.com";
/// The version of the Platform API that `heroku` speaks.
const HEROKU_ACCEPT: &str = "application/vnd.heroku+json; version=3";

/// Reads a source; `None` when something is wrong with it, which is then in the report.
pub(super) fn source(node: &Node<'_>, tokens: &Tokens, report: &mut Report<'_>) -> Option<Source> {
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
    match kind.word(report, names::SOURCE_TYPES)? {
        "http" => http(&node.table(report, &names::HTTP)?, tokens, report),
        "heroku" => heroku(&node.table(report, &names::HEROKU)?, tokens, report),
        _ => file(&node.table(report, &names::FILE)?, report),
    }
}

fn http(table: &Table<'_>, tokens: &Tokens, report: &mut Report<'_>) -> Option<Source> {
    let before = report.errors.len();
    let url_node = table.require(report, "url", "\"https://host/path\"");
    let url = url_node.and_then(|node| node.parsed(report, url::parse));
    let method = match table.get("method").and_then(|node| node.word(report, names::METHODS)) {
        Some("POST") => Method::Post,
        _ => Method::Get,
    };
    let auth = table.get("auth").and_then(|node| auth::auth(&node, tokens, report)).unwrap_or(Auth::None);
    let headers = table.get("headers").map(|node| headers::headers(&node, report)).unwrap_or_default();
    let body = table.get("body").and_then(|node| body(&node, method, report));
    let format = format(table, names::HTTP_FORMATS, Format::Json, report);
    let projection = projection(table, format, report);
    let ca_file = table.get("ca-file").and_then(|node| ca_file(&node, url.as_ref(), report));
    let proxy = table.get("proxy").and_then(|node| proxy(&node, report));
    if let (Some(node), Some(url)) = (&url_node, &url) {
        plaintext(table, node, url, auth.token().is_some(), report);
    }
    let (Some(url), Some(projection)) = (url, projection) else { return None };
    if report.errors.len() > before {
        return None;
    }
    let document = HttpDocument { url, method, headers, body, format, auth, ca_file, proxy };
    let definition = definition::of_http(&document, &projection);
    Some(Source { document: Document::Http(Box::new(document)), projection, definition })
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

fn body(node: &Node<'_>, method: Method, report: &mut Report<'_>) -> Option<String> {
    let text = node.string(report)?;
    if mask::is_secret(text) {
        report.error(node.error("`body` seems to hold a secret").help(
            "a secret never stands in the configuration: put it into a file, name it in [tokens], and use `auth`",
        ));
    } else if method == Method::Get {
        report.error(node.error("`body` needs method = \"POST\""));
    }
    Some(text.to_owned())
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
fn heroku(table: &Table<'_>, tokens: &Tokens, report: &mut Report<'_>) -> Option<Source> {
    let before = report.errors.len();
    let app = table.require(report, "app", "\"billing-prod\"").and_then(|node| node.parsed(report, heroku_app));
    let vars = table.require(report, "config-var", "\"DATABASE_URL\"").and_then(|node| fields(&node, report));
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
    let (Some(app), Some(vars), Some(token), Some(mut url)) = (app, vars, token, base_url) else { return None };
    if report.errors.len() > before {
        return None;
    }
    let definition_base = base.is_some().then(|| url.clone());
    url.target = format!("{}/apps/{app}/config-vars", url.target.trim_end_matches('/'));
    let definition = definition::of_heroku(&app, definition_base.as_ref(), &token, &vars);
    let document = HttpDocument {
        url,
        method: Method::Get,
        headers: vec![("accept".to_owned(), HEROKU_ACCEPT.to_owned())],
        body: None,
        format: Format::Json,
        auth: Auth::Bearer { token },
        ca_file: None,
        proxy: None,
    };
    Some(Source { document: Document::Http(Box::new(document)), projection: Projection::Fields(vars), definition })
}

/// The name or id of an app. It becomes a part of a path, so nothing that means something there is legal.
fn heroku_app(name: &str, text: &str) -> Result<String, Bad> {
    let legal = (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-');
    if legal {
        Ok(text.to_owned())
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

fn file(table: &Table<'_>, report: &mut Report<'_>) -> Option<Source> {
    let path = table.require(report, "path", "\"/etc/keyhatch/secret\"");
    let path = path.and_then(|node| node.parsed(report, values::path));
    let format = format(table, names::FILE_FORMATS, Format::Text, report);
    let projection = projection(table, format, report);
    let document = FileDocument { path: path?, format };
    let projection = projection?;
    let definition = definition::of_file(&document, &projection);
    Some(Source { document: Document::File(document), projection, definition })
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
fn projection(table: &Table<'_>, format: Format, report: &mut Report<'_>) -> Option<Projection> {
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
        (Some(field), None) => fields(&field, report).map(Projection::Fields),
        (None, Some(pointer)) => pointer.parsed(report, parse_pointer),
        (None, None) => Some(Projection::Whole),
    }
}

/// A name of a field, or a list of them.
fn fields(node: &Node<'_>, report: &mut Report<'_>) -> Option<Vec<String>> {
    let mut fields: Vec<String> = Vec::new();
    let items = node.one_or_many(report)?;
    let count = items.len();
    for item in items {
        let Some(field) = item.string(report) else { continue };
        if field.is_empty() {
            report.error(item.error(format!("`{}` holds an empty name", node.name)));
        } else if fields.iter().any(|known| known == field) {
            report.error(item.error(format!("{} is listed twice", quoted(field))));
        } else {
            fields.push(field.to_owned());
        }
    }
    (fields.len() == count).then_some(fields)
}

/// A JSON pointer (RFC 6901); the empty one is the whole document.
fn parse_pointer(name: &str, text: &str) -> Result<Projection, Bad> {
    if text.is_empty() {
        return Ok(Projection::Whole);
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
    tokens
        .map(Projection::Pointer)
        .ok_or_else(|| Bad::new(format!("`{name}` has a `~` that is not ~0 or ~1")).help(help))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_are_unescaped_once() {
        let tokens = |text| match parse_pointer("pointer", text) {
            Ok(Projection::Pointer(tokens)) => Some(tokens),
            _ => None,
        };
        // From RFC 6901 section 5.
        assert_eq!(tokens("/foo/0"), Some(vec!["foo".to_owned(), "0".to_owned()]));
        assert_eq!(tokens("/a~1b"), Some(vec!["a/b".to_owned()]));
        assert_eq!(tokens("/m~0n"), Some(vec!["m~n".to_owned()]));
        assert_eq!(tokens("/"), Some(vec![String::new()]));
        assert_eq!(tokens("/~01"), Some(vec!["~1".to_owned()]));
        assert!(matches!(parse_pointer("pointer", ""), Ok(Projection::Whole)));
        for text in ["foo", "/~", "/~2", "/a~"] {
            assert!(parse_pointer("pointer", text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_app_stays_within_its_path_segment() {
        assert!(heroku_app("app", "billing-prod").is_ok());
        for text in ["", "a/b", "..", "a?b", "A", "a%2fb", "a b", "-a"] {
            assert!(heroku_app("app", text).is_err(), "{text}");
        }
    }
}
