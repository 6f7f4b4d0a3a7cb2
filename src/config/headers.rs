//! Request headers that the configuration may add: those that select what the upstream answers.

use super::diagnostic::{Diagnostic, Report, quoted};
use super::table::Node;
use super::{mask, values};

/// Headers that carry secrets.
const SECRET: [&str; 12] = [
    "authorization",
    "proxy-authorization",
    "cookie",
    "x-api-key",
    "api-key",
    "apikey",
    "x-auth-token",
    "x-vault-token",
    "private-token",
    "x-access-token",
    "x-amz-security-token",
    "x-token",
];

/// Takes lower case.
pub(super) fn carries_secret(name: &str) -> bool {
    SECRET.contains(&name)
}

/// Why a header is not the configuration's to set. Takes lower case.
pub(super) fn reserved(name: &str) -> Option<&'static str> {
    match name {
        "host" => Some("it comes from the URL"),
        "content-length" | "transfer-encoding" | "trailer" | "expect" => {
            Some("it is part of the framing of the request")
        }
        "connection" | "keep-alive" | "proxy-connection" | "te" | "upgrade" => Some("it is about the connection"),
        "if-none-match" | "if-modified-since" | "if-match" | "if-unmodified-since" | "if-range" => {
            Some("keyhatch revalidates by itself")
        }
        "range" => Some("a value is never a part of an answer"),
        "accept-encoding" => Some("answers are taken uncompressed"),
        _ => None,
    }
}

/// The headers of a source, names in lower case, in the order of the names.
pub(super) fn headers(node: &Node<'_>, report: &mut Report<'_>) -> Vec<(String, String)> {
    let mut headers: Vec<(String, String)> = Vec::new();
    for entry in node.entries(report) {
        let lower = entry.name.to_ascii_lowercase();
        let name = quoted(entry.name);
        let refuse = |title: String| Diagnostic::at(entry.place.clone(), title);
        if !values::is_header_name(&lower) {
            report.error(refuse("this is not the name of a header".to_owned()));
            continue;
        }
        if SECRET.contains(&lower.as_str()) {
            report.error(refuse(format!("the header {name} carries a secret")).help(
                "a secret never stands in the configuration: use auth = { type = \"header\", name = \"…\", token = \"…\" }, or another type of `auth`",
            ));
            continue;
        }
        if let Some(why) = reserved(&lower) {
            report.error(refuse(format!("the header {name} cannot be set: {why}")));
            continue;
        }
        if headers.iter().any(|(known, _)| *known == lower) {
            report
                .error(refuse(format!("the header {name} is set twice")).help("case does not matter in header names"));
            continue;
        }
        let Some(value) = entry.node.string(report) else { continue };
        if mask::is_secret(value) {
            report.error(entry.node.error(format!("the header {name} seems to hold a secret")).help(
                "a secret never stands in the configuration: use auth = { type = \"header\", name = \"…\", token = \"…\" }",
            ));
        } else if !values::is_header_value(value) {
            let help = "legal is printable ASCII, without spaces at the ends";
            report.error(entry.node.error(format!("the value of the header {name} is not legal")).help(help));
        } else {
            headers.push((lower, value.to_owned()));
        }
    }
    headers.sort();
    headers
}
