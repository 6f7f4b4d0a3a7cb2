//! Signature Version 4 of AWS, and the places that its credentials come from.

use super::super::diagnostic::Report;
use super::super::table::{Bad, Node};
use super::super::tokens::Tokens;
use super::super::{Url, names, url};
use super::{Auth, AwsCredentials, AwsSigV4, is_aws_role, optional};

const IMDS: &str = "http://169.254.169.254";

pub(super) fn sigv4(node: &Node<'_>, tokens: &Tokens, report: &mut Report<'_>) -> Option<Auth> {
    let table = node.table(report, &names::AWS_SIGV4)?;
    let service = table.require(report, "service", "\"secretsmanager\"").and_then(|node| node.parsed(report, part));
    let region = table.require(report, "region", "\"eu-west-1\"").and_then(|node| node.parsed(report, part));
    let credentials = table.require(report, "credentials", "{ type = \"imds\" }");
    let credentials = credentials.and_then(|node| credentials_of(&node, tokens, report));
    Some(Auth::AwsSigV4(Box::new(AwsSigV4 { service: service?, region: region?, credentials: credentials? })))
}

fn credentials_of(node: &Node<'_>, tokens: &Tokens, report: &mut Report<'_>) -> Option<AwsCredentials> {
    if !node.is_table() {
        let example = "for example: credentials = { type = \"imds\" }; a secret never stands in the configuration";
        report.error(node.expected("a table").help(example));
        return None;
    }
    let Some(kind) = node.peek("type") else {
        let legal = names::AWS_CREDENTIALS.join(", ");
        report.error(node.error("`credentials` needs `type`").help(format!("legal are {legal}")).absence());
        return None;
    };
    match kind.word(report, names::AWS_CREDENTIALS)? {
        "static" => {
            let table = node.table(report, &names::AWS_STATIC)?;
            let id = table.require(report, "access-key-id", "\"AKIA…\"");
            let id = id.and_then(|node| node.parsed(report, access_key_id));
            let secret = table.require(report, "secret-access-key", "\"NAME\"");
            let secret = secret.and_then(|node| tokens.named(&node, report));
            let session = table.get("session-token");
            let session_token = session.as_ref().and_then(|node| tokens.named(node, report));
            if session.is_some() && session_token.is_none() {
                return None;
            }
            Some(AwsCredentials::Static { access_key_id: id?, secret_access_key: secret?, session_token })
        }
        "file" => {
            let table = node.table(report, &names::AWS_FILE)?;
            let token = table.require(report, "token", "\"NAME\"").and_then(|node| tokens.named(&node, report));
            let profile = optional(table.get("profile"), |node| node.parsed(report, profile))?;
            Some(AwsCredentials::File { token: token?, profile })
        }
        "container" => {
            let table = node.table(report, &names::AWS_CONTAINER)?;
            let url = table.require(report, "url", "\"http://169.254.170.23/v1/credentials\"");
            let url = url.and_then(|node| node.parsed(report, url::parse));
            let token = optional(table.get("token"), |node| tokens.named(node, report))?;
            Some(AwsCredentials::Container { url: url?, token })
        }
        _ => {
            let table = node.table(report, &names::AWS_IMDS)?;
            let url = match table.get("url") {
                Some(node) => node.parsed(report, origin),
                None => url::parse("url", IMDS).ok(),
            };
            let role = optional(table.get("role"), |node| node.parsed(report, role))?;
            Some(AwsCredentials::Imds { url: url?, role })
        }
    }
}

/// A part of the scope of a signature.
fn part(name: &str, text: &str) -> Result<String, Bad> {
    let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if (1..=64).contains(&text.len()) && text.bytes().all(legal) {
        return Ok(text.to_owned());
    }
    Err(Bad::new(format!("`{name}` is not the name of one at AWS")).help("a name is made of a-z 0-9 -"))
}

fn access_key_id(name: &str, text: &str) -> Result<String, Bad> {
    if (16..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return Ok(text.to_owned());
    }
    Err(Bad::new(format!("`{name}` is not the id of an access key"))
        .help("an id is 16 to 128 letters and digits, such as AKIA…; the secret key is named by `secret-access-key`"))
}

fn profile(name: &str, text: &str) -> Result<String, Bad> {
    let legal = |c: char| !c.is_control() && !"[]".contains(c);
    if !text.is_empty() && text.trim() == text && text.chars().all(legal) {
        return Ok(text.to_owned());
    }
    Err(Bad::new(format!("`{name}` is not the name of a profile")).help("it stands in the file as [NAME]"))
}

/// What a role's name may have (IAM), which makes it a segment of a path.
fn role(name: &str, text: &str) -> Result<String, Bad> {
    if is_aws_role(text) {
        return Ok(text.to_owned());
    }
    Err(Bad::new(format!("`{name}` is not the name of a role")).help("a name is made of A-Z a-z 0-9 + = , . @ _ -"))
}

fn origin(name: &str, text: &str) -> Result<Url, Bad> {
    let url = url::parse(name, text)?;
    if url.target != "/" {
        return Err(Bad::new(format!("`{name}` has a path")).help(format!("for example: \"{IMDS}\"")));
    }
    Ok(url)
}
