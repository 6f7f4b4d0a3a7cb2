//! How a request shows its credential. Names tokens; the bytes are nobody's business here.

mod aws;
mod model;
mod session;
#[cfg(test)]
mod tests;

pub use self::model::*;
use super::diagnostic::{Report, quoted};
use super::headers;
use super::table::{Bad, Node};
use super::tokens::Tokens;
use super::{mask, names, values};

pub(super) fn auth(node: &Node<'_>, tokens: &Tokens, report: &mut Report<'_>) -> Option<Auth> {
    if !node.is_table() {
        report.error(node.expected("a table").help(
            "for example: auth = { type = \"bearer\", token = \"NAME\" }, where NAME is an entry of [tokens]; a secret never stands in the configuration",
        ));
        return None;
    }
    let Some(kind) = node.peek("type") else {
        let legal = names::AUTH_TYPES.join(", ");
        report.error(node.error("`auth` needs `type`").help(format!("legal are {legal}")).absence());
        return None;
    };
    match kind.word(report, names::AUTH_TYPES)? {
        "bearer" => {
            let table = node.table(report, &names::BEARER)?;
            let token = table.require(report, "token", "\"NAME\"")?;
            Some(Auth::Bearer { token: tokens.named(&token, report)? })
        }
        "basic" => {
            let table = node.table(report, &names::BASIC)?;
            let user = table.require(report, "user", "\"service\"").and_then(|node| node.parsed(report, basic_user));
            let token = table.require(report, "token", "\"NAME\"").and_then(|node| tokens.named(&node, report));
            Some(Auth::Basic { user: user?, token: token? })
        }
        "header" => {
            let table = node.table(report, &names::HEADER)?;
            let name = table.require(report, "name", "\"X-Api-Key\"").and_then(|node| node.parsed(report, header_name));
            let prefix = match table.get("prefix") {
                Some(node) => node.parsed(report, header_prefix),
                None => Some(String::new()),
            };
            let token = table.require(report, "token", "\"NAME\"").and_then(|node| tokens.named(&node, report));
            Some(Auth::Header { name: name?, prefix: prefix?, token: token? })
        }
        "aws-sigv4" => aws::sigv4(node, tokens, report),
        "oauth2-client-credentials" => session::oauth2(node, tokens, report),
        "google-service-account" => session::google(node, tokens, report),
        "login" => session::login(node, tokens, report),
        _ => {
            let table = node.table(report, &names::HAWK)?;
            let id = table.require(report, "id", "\"acme\"").and_then(|node| node.parsed(report, hawk_id));
            let key = table.require(report, "key", "\"NAME\"").and_then(|node| tokens.named(&node, report));
            let algorithm = match table.get("algorithm") {
                Some(node) => node.word(report, names::HAWK_ALGORITHMS),
                None => Some("sha256"),
            };
            let algorithm = if algorithm? == "sha1" { HawkAlgorithm::Sha1 } else { HawkAlgorithm::Sha256 };
            Some(Auth::Hawk { id: id?, key: key?, algorithm })
        }
    }
}

/// What is asked for a session or for credentials is to be asked in private, as the document itself.
pub(super) fn plain_endpoint(node: &Node<'_>, report: &mut Report<'_>) {
    report.error(
        node.error("secrets would be sent over plain http to where the session comes from")
            .help("use https; or, where the way is safe, say so in the source: allow-plaintext = true"),
    );
}

/// `None` where it is there and wrong.
#[expect(clippy::option_option, reason = "absent, and wrong, are two things")]
fn optional<'a, T>(node: Option<Node<'a>>, read: impl FnOnce(&Node<'a>) -> Option<T>) -> Option<Option<T>> {
    match node {
        None => Some(None),
        Some(node) => read(&node).map(Some),
    }
}

/// What the name of a role may have (IAM), which makes it a segment of a path.
pub fn is_aws_role(text: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"+=,.@_-".contains(&byte);
    (1..=64).contains(&text.len()) && text.bytes().all(legal) && !text.bytes().all(|byte| byte == b'.')
}

/// RFC 7617 section 2: no colon, no control characters.
fn basic_user(name: &str, text: &str) -> Result<String, Bad> {
    if text.contains(':') || text.chars().any(char::is_control) {
        return Err(Bad::new(format!("`{name}` has a colon or a control character"))
            .help("the password is not written here: `token` names the entry of [tokens] that holds it"));
    }
    Ok(text.to_owned())
}

/// The header that carries a token: `Authorization` is legal here, framing is not.
fn header_name(name: &str, text: &str) -> Result<String, Bad> {
    let lower = text.to_ascii_lowercase();
    if !values::is_header_name(text) {
        return Err(Bad::new(format!("`{name}` is not the name of a header")));
    }
    match headers::reserved(&lower) {
        Some(why) => Err(Bad::new(format!("the header {} cannot carry a token: {why}", quoted(text)))),
        None => Ok(lower),
    }
}

fn header_prefix(name: &str, text: &str) -> Result<String, Bad> {
    if mask::looks_like_token(text) {
        return Err(Bad::new(format!("`{name}` seems to hold the secret itself"))
            .help("the prefix is what stands before the token, such as \"Token \""));
    }
    if text.len() > 256 || !values::is_header_value(text.trim_end_matches(' ')) {
        return Err(Bad::new(format!("`{name}` has characters that are not legal in a header")));
    }
    Ok(text.to_owned())
}

/// The id stands in a quoted attribute of the header, without any escape.
fn hawk_id(name: &str, text: &str) -> Result<String, Bad> {
    let legal = !text.is_empty() && text.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'"' && b != b'\\');
    if legal {
        Ok(text.to_owned())
    } else {
        Err(Bad::new(format!("`{name}` is not an id for Hawk"))
            .help("legal is printable ASCII without quotes and backslashes, at least one character"))
    }
}
