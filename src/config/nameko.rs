//! `type = "nameko"`: a method of a Nameko service, called through its message broker.

use super::diagnostic::{Report, quoted};
use super::expand::{Kind, is_word};
use super::table::{Bad, Entry, Node, Table};
use super::text::{Scope, Text};
use super::tokens::Tokens;
use super::{Broker, NamekoDocument, mask, url, values};
use crate::arguments::{Carried, percent_decoded};

/// Where Nameko's services listen, unless they are configured otherwise.
pub(super) const EXCHANGE: &str = "nameko-rpc";
/// The settings in which parameters of the key may stand.
pub(super) const MAY_HOLD: [&str; 2] = ["service", "method"];
/// A short string of AMQP.
const LONGEST: usize = 255;
const EXAMPLE: &str = "\"amqps://rabbit.example/vhost\"";

/// Whether a key is meant to have such a source, whatever else is wrong with it.
pub(super) fn is_meant(entry: &Entry<'_>) -> bool {
    let source = entry.node.peek("source");
    source.and_then(|source| source.peek("type")?.as_str().map(|kind| kind == "nameko")).unwrap_or(false)
}

/// What cannot be set for a key whose arguments come with each request.
pub(super) fn check_settings(table: &Table<'_>, report: &mut Report<'_>) {
    if let Some(node) = table.get("refresh").filter(|node| node.as_str() != Some("off")) {
        report.error(
            node.error("`refresh` is not for calls: nobody but who asks knows the arguments")
                .help("`stale-while-revalidate` answers at once and calls behind the answer"),
        );
    }
    if let Some(node) = table.get("on-missing") {
        report.error(node.error("`on-missing` is not for calls: a credential has no arguments"));
    }
}

pub(super) fn nameko(table: &Table<'_>, tokens: &Tokens, scope: &Scope<'_>, report: &mut Report<'_>) -> Option<Kind> {
    let before = report.errors.len();
    let node = table.require(report, "broker", EXAMPLE);
    let broker = node.as_ref().and_then(|node| node.parsed(report, broker));
    let user = table.require(report, "user", "\"keyhatch\"").and_then(|node| node.parsed(report, user));
    let token = table.require(report, "token", "\"rabbit\"").and_then(|node| tokens.named(&node, report));
    let mut part = |name: &'static str, example: &str| {
        let node = table.require(report, name, example)?;
        node.parsed(report, |name, text| word(name, text, scope))
    };
    let (service, method) = (part("service", "\"pricing\""), part("method", "\"quote\""));
    let exchange = match table.get("exchange") {
        Some(node) => node.parsed(report, short),
        None => Some(EXCHANGE.to_owned()),
    };
    let ca_file = table.get("ca-file").and_then(|node| {
        if broker.as_ref().is_some_and(|broker| !broker.tls) {
            report.error(node.error("`ca-file` is for amqps, and the broker is amqp"));
        }
        node.parsed(report, values::path)
    });
    if let (Some(node), Some(broker)) = (&node, &broker) {
        plaintext(table, node, broker, report);
    }
    let (Some(broker), Some(user), Some(token), Some(service), Some(method), Some(exchange)) =
        (broker, user, token, service, method, exchange)
    else {
        return None;
    };
    let (routing_key, arguments, carried) = (String::new(), String::new(), Carried::default());
    let document = NamekoDocument { broker, user, token, ca_file, exchange, routing_key, arguments, carried };
    let kind = Kind::Nameko { document: Box::new(document), service, method };
    (report.errors.len() == before).then_some(kind)
}

/// As for HTTP: whoever is on the way, or takes the port of a broker that is down, would be handed the password.
fn plaintext(table: &Table<'_>, node: &Node<'_>, broker: &Broker, report: &mut Report<'_>) {
    let flag = table.get("allow-plaintext");
    let allowed = flag.as_ref().and_then(|node| node.boolean(report)) == Some(true);
    match (broker.tls, flag) {
        (true, Some(flag)) if allowed => report.warning(&flag.place(), "`allow-plaintext` has no effect with amqps"),
        (false, _) if !allowed => {
            report.error(node.error("a password would be sent over plain amqp").help(
                "use amqps; or, where the way to the broker is safe, say so in the source: allow-plaintext = true",
            ))
        }
        _ => {}
    }
}

/// `amqp://host:port/vhost`, as in the specification of AMQP URIs: no path is the virtual host `/`.
fn broker(name: &str, text: &str) -> Result<Broker, Bad> {
    let not_one =
        || Bad::new(format!("`{name}` is no URL of a broker")).help(format!("for example: broker = {EXAMPLE}"));
    let (scheme, rest) = text.split_once("://").ok_or_else(not_one)?;
    let tls = match scheme.to_ascii_lowercase().as_str() {
        "amqps" => true,
        "amqp" => false,
        _ => return Err(Bad::new(format!("`{name}` is neither amqp nor amqps"))),
    };
    if rest.contains('@') {
        return Err(Bad::new(format!("`{name}` holds user info (`user:password@`)")).help(
            "a secret never stands in the configuration: put the password into a file, name it in [tokens], and set `user` and `token`",
        ));
    }
    if rest.contains(['?', '#', '{', '}']) {
        return Err(Bad::new(format!("`{name}` is more than host, port and virtual host"))
            .help("parameters may stand in `service` and `method`; everything else is a setting of its own"));
    }
    let (authority, vhost) = rest.split_once('/').map_or((rest, None), |(authority, vhost)| (authority, Some(vhost)));
    let (host, port) = url::host_and_port(name, authority, if tls { 5671 } else { 5672 })?;
    let vhost = match vhost {
        None => "/".to_owned(),
        Some(vhost) => decoded(vhost).filter(|vhost| vhost.len() <= LONGEST).ok_or_else(|| {
            Bad::new(format!("`{name}` has a virtual host that is none"))
                .help("it has at most 255 bytes; a slash in it is written %2F, so that the one called `/` is …/%2F")
        })?,
    };
    Ok(Broker { tls, host, port, vhost })
}

/// One segment, percent-decoded.
fn decoded(text: &str) -> Option<String> {
    let decoded = percent_decoded(text, b'+').filter(|_| !text.contains('/'))?;
    (!decoded.is_empty() && !decoded.chars().any(char::is_control)).then(|| decoded.as_str().to_owned())
}

fn user(name: &str, text: &str) -> Result<String, Bad> {
    if mask::looks_like_token(text) {
        return Err(Bad::new(format!("`{name}` seems to hold a secret"))
            .help("the password is not written here: `token` names the entry of [tokens] that holds it"));
    }
    short(name, text)
}

fn short(name: &str, text: &str) -> Result<String, Bad> {
    if text.is_empty() || text.len() > LONGEST || text.chars().any(char::is_control) {
        return Err(Bad::new(format!("`{name}` has 1 to {LONGEST} bytes, and no control characters")));
    }
    Ok(text.to_owned())
}

/// The name of a service or of a method: one word of the routing key.
fn word(name: &str, text: &str, scope: &Scope<'_>) -> Result<Text, Bad> {
    if scope.names().is_empty() && text.contains(['{', '}']) {
        return Err(Bad::new(format!("`{name}` has a brace"))
            .help("a parameter has to stand in the key as well, such as [keys.\"/rpc/pricing/{method}\"]"));
    }
    let word = Text::strict(name, text, scope)?;
    let legal =
        |literal: &str| literal.is_empty() || (is_word(literal) && literal.bytes().all(|b| b.is_ascii_graphic()));
    let named = word.has_parameters() || !text.is_empty();
    if named && word.literals().all(legal) {
        Ok(word)
    } else {
        Err(Bad::new(format!("`{name}` is no name of a service or method: {}", quoted(text)))
            .help("a name has no dot, and at most 120 bytes; one method of a service stands in `method` alone"))
    }
}
