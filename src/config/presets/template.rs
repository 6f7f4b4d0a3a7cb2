//! The template of a preset: where parameters stand in it, how a value is written there, and what may not stand where. Pure.
//!
//! A value stays within its place: it is encoded as that wants it. Scheme, host and port are nobody's to choose but the
//! operator's.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::super::diagnostic::{Diagnostic, Report, quoted, similar};
use super::super::table::{Bad, Node};
use super::super::text::Encoding;
use super::parameter::{Kind, Parameter};
use crate::template::is_parameter_name;

/// What a text of a template is a part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// A whole URL, which has places of its own.
    Url,
    Path,
    Query,
    Header,
    Json,
    Form,
    Pointer,
    /// A name of a field, or all of them.
    Field,
    /// What a member of an element is compared with.
    Member,
    /// What says who asks, and the names of tokens.
    Auth,
    /// No parameter may stand here.
    Fixed,
}

impl Place {
    /// Of a setting of the source.
    pub(super) fn of(setting: &str, body: Self) -> Self {
        match setting {
            "url" => Self::Url,
            "query" => Self::Query,
            "headers" => Self::Header,
            "body" => body,
            "json" => Self::Json,
            "field" => Self::Field,
            "pointer" => Self::Pointer,
            "auth" => Self::Auth,
            _ => Self::Fixed,
        }
    }

    /// Of a setting below one that is at this place.
    pub(super) fn within(self, setting: &str) -> Self {
        match (self, setting) {
            (Self::Auth, "url" | "token-url" | "renew") => Self::Url,
            // What is posted to log in is JSON, or nothing of a parameter's stands in it.
            (Self::Auth, "body") => Self::Json,
            (place, _) => place,
        }
    }

    /// Of a setting of one step of `extract`.
    pub(super) fn of_step(setting: &str) -> Self {
        match setting {
            "pointer" => Self::Pointer,
            "field" => Self::Field,
            "where" => Self::Member,
            _ => Self::Fixed,
        }
    }

    /// Whether a value that somebody asks for may stand here: what it selects is data.
    pub(super) fn may_be_asked_for(self) -> bool {
        matches!(self, Self::Path | Self::Query | Self::Json | Self::Form | Self::Pointer | Self::Field | Self::Member)
    }

    /// Whether it only selects from the answer.
    pub(super) fn is_of_projection(self) -> bool {
        matches!(self, Self::Pointer | Self::Field | Self::Member)
    }

    /// Writes what a person gave so that it means itself here.
    pub(super) fn encode(self, kind: Kind, text: &str) -> String {
        let mut written = String::new();
        match self {
            Self::Path if kind == Kind::Path => {
                for (index, segment) in text.split('/').enumerate() {
                    if index > 0 {
                        written.push('/');
                    }
                    Encoding::Percent.write(segment, &mut written);
                }
            }
            Self::Path | Self::Query | Self::Form => Encoding::Percent.write(text, &mut written),
            Self::Json => Encoding::Json.write(text, &mut written),
            Self::Pointer => written = text.replace('~', "~0").replace('/', "~1"),
            Self::Url | Self::Header | Self::Field | Self::Member | Self::Auth | Self::Fixed => {
                text.clone_into(&mut written)
            }
        }
        written
    }
}

pub(super) enum Piece<'t> {
    Literal(&'t str),
    /// The name of a parameter, in braces.
    Named(&'t str),
}

/// A text of a template. Braces around what is no name mean themselves: JSON has them.
pub(super) fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let (mut from, mut at) = (0, 0);
    while let Some(brace) = text[at..].find('{').map(|found| at + found) {
        at = brace + 1;
        let Some((name, _)) = text[at..].split_once('}').filter(|(name, _)| is_parameter_name(name)) else { continue };
        pieces.push(Piece::Literal(&text[from..brace]));
        pieces.push(Piece::Named(name));
        at += name.len() + 1;
        from = at;
    }
    pieces.push(Piece::Literal(&text[from..]));
    pieces
}

/// The first name in braces.
pub(super) fn first_name(text: &str) -> Option<&str> {
    pieces(text).into_iter().find_map(|piece| match piece {
        Piece::Named(name) => Some(name),
        Piece::Literal(_) => None,
    })
}

/// A parameter at a place.
pub(super) struct Slot {
    /// Among the parameters of the preset.
    pub(super) parameter: usize,
    pub(super) place: Place,
    /// Of which alternative of `auth` it is a part.
    pub(super) alternative: Option<usize>,
}

/// Where parameters stand, and what is wrong with that.
pub(super) fn survey<'a>(source: &Node<'a>, parameters: &[Parameter<'a>], report: &mut Report<'_>) -> Vec<Slot> {
    let mut survey = Survey { parameters, slots: Vec::new(), alternative: None, secrets: Vec::new() };
    let body = body_place(source);
    for entry in source.entries(report) {
        match entry.name {
            "auth" => {
                for (index, alternative) in alternatives(&entry.node).iter().enumerate() {
                    survey.alternative = Some(index);
                    survey.secrets = secrets(alternative);
                    survey.node(alternative, Place::Auth, report);
                }
                (survey.alternative, survey.secrets) = (None, Vec::new());
            }
            "extract" => {
                for step in entry.node.as_list().unwrap_or_default().iter().filter(|step| step.is_table()) {
                    for part in step.entries(report) {
                        survey.node(&part.node, Place::of_step(part.name), report);
                    }
                }
            }
            name => survey.node(&entry.node, Place::of(name, body), report),
        }
    }
    survey.slots
}

/// The same for the default of an origin, whose host other parameters may be a part of.
pub(super) fn survey_origin(
    text: &str,
    node: &Node<'_>,
    parameters: &[Parameter<'_>],
    report: &mut Report<'_>,
) -> Vec<Slot> {
    let mut survey = Survey { parameters, slots: Vec::new(), alternative: None, secrets: Vec::new() };
    let judged = survey.url(text).and_then(|()| {
        let labels = |slot: &Slot| slot.place == Place::Url && parameters[slot.parameter].kind == Kind::HostLabel;
        if survey.slots.iter().all(labels) {
            return Ok(());
        }
        Err(Bad::new("the default of an origin is made of literals and parameters of type \"host-label\""))
    });
    if let Err(bad) = judged {
        report.error(node.refused(bad));
    }
    survey.slots
}

/// The tables of `auth`: one, or several of which a key takes one.
pub(super) fn alternatives<'a>(auth: &Node<'a>) -> Vec<Node<'a>> {
    auth.as_list().unwrap_or_else(|| vec![*auth])
}

/// How a body is read, by its type.
pub(super) fn body_place(source: &Node<'_>) -> Place {
    let headers = source.peek("headers").filter(Node::is_table);
    let types = ["content-type", "Content-Type"];
    let of = headers.and_then(|headers| types.into_iter().find_map(|name| headers.peek(name)));
    match of.and_then(|node| node.as_str()) {
        Some(form) if form.starts_with("application/x-www-form-urlencoded") => Place::Form,
        _ => Place::Json,
    }
}

/// The names that a login has its secrets by: what stands in braces for them is the login's.
pub(super) fn secrets<'a>(auth: &Node<'a>) -> Vec<&'a str> {
    let table = auth.peek("secrets").and_then(|secrets| secrets.as_table());
    table.into_iter().flat_map(entries).map(|(name, ..)| name).collect()
}

struct Survey<'p, 'a> {
    parameters: &'p [Parameter<'a>],
    slots: Vec<Slot>,
    alternative: Option<usize>,
    /// Of this alternative.
    secrets: Vec<&'a str>,
}

impl Survey<'_, '_> {
    fn node(&mut self, node: &Node<'_>, place: Place, report: &mut Report<'_>) {
        if node.is_table() {
            for entry in node.entries(report) {
                self.node(&entry.node, place.within(entry.name), report);
            }
        } else if let Some(items) = node.as_list() {
            items.iter().for_each(|item| self.node(item, place, report));
        } else if let Some(Err(bad)) = node.as_str().map(|text| self.text(text, place)) {
            report.error(node.refused(bad));
        }
    }

    fn text(&mut self, text: &str, place: Place) -> Result<(), Bad> {
        if place == Place::Url {
            return self.url(text);
        }
        let whole = matches!(&pieces(text)[..], [Piece::Literal(""), Piece::Named(_), Piece::Literal("")]);
        for piece in pieces(text) {
            match piece {
                Piece::Named(name) if self.secrets.contains(&name) => self.is_no_parameter(name)?,
                Piece::Named(name) => {
                    beside_a_brace(text, name)?;
                    self.slot(name, place, whole)?;
                }
                Piece::Literal(_) => {}
            }
        }
        Ok(())
    }

    /// Scheme, host and port; what is below; what is asked.
    fn url(&mut self, text: &str) -> Result<(), Bad> {
        let (mut seen, mut query) = (String::new(), false);
        for piece in pieces(text) {
            match piece {
                Piece::Literal(literal) => {
                    if literal.contains(['{', '}']) {
                        return Err(Bad::new("this URL has a brace that is of no parameter")
                            .help("write a literal brace as %7B or %7D"));
                    }
                    seen.push_str(literal);
                    query |= literal.contains('?');
                }
                Piece::Named(name) => {
                    let parameter = self.find(name)?;
                    let kind = self.parameters[parameter].kind;
                    let rest = seen.split_once("://").map(|(_, rest)| rest);
                    let in_host = rest.is_some_and(|rest| !rest.contains(['/', '?']));
                    match (kind, in_host) {
                        (Kind::Origin, _) if seen.is_empty() => seen.push_str("https://x/"),
                        (Kind::Origin, _) => return Err(misplaced(name, kind, "stands at the beginning of a URL")),
                        (Kind::HostLabel, true) => seen.push('x'),
                        (_, _) if seen.is_empty() || in_host || rest.is_none() => return Err(in_authority(name, kind)),
                        (_, _) => self.slot(name, if query { Place::Query } else { Place::Path }, false)?,
                    }
                    if matches!(kind, Kind::Origin) || in_host {
                        self.slots.push(Slot { parameter, place: Place::Url, alternative: self.alternative });
                    }
                }
            }
        }
        Ok(())
    }

    fn slot(&mut self, name: &str, place: Place, whole: bool) -> Result<(), Bad> {
        let parameter = self.find(name)?;
        let kind = self.parameters[parameter].kind;
        match (kind, place) {
            (_, Place::Fixed) => {
                return Err(Bad::new(format!("a parameter cannot stand here: {{{name}}}")).help(
                    "parameters may stand in url, query, headers, body, json, field, pointer, extract and auth",
                ));
            }
            (Kind::Origin, _) => return Err(misplaced(name, kind, "stands at the beginning of a URL")),
            (Kind::Token, Place::Auth) | (Kind::Fields, Place::Field) if whole => {}
            (Kind::Token, _) => return Err(misplaced(name, kind, "is the whole of a setting of `auth`, nothing else")),
            (Kind::Fields, _) => return Err(misplaced(name, kind, "is the whole of `field`, nothing else")),
            (Kind::Path, Place::Pointer) => return Err(misplaced(name, kind, "cannot stand in a JSON pointer")),
            _ => {}
        }
        self.slots.push(Slot { parameter, place, alternative: self.alternative });
        Ok(())
    }

    fn is_no_parameter(&self, name: &str) -> Result<(), Bad> {
        if self.parameters.iter().any(|parameter| parameter.name == name) {
            return Err(Bad::new(format!("{{{name}}} is a parameter and a secret of this login"))
                .help("give one of them another name"));
        }
        Ok(())
    }

    fn find(&self, name: &str) -> Result<usize, Bad> {
        let names = || self.parameters.iter().map(|parameter| parameter.name);
        if let Some(found) = names().position(|known| known == name) {
            return Ok(found);
        }
        let bad = Bad::new(format!("this preset has no parameter {}", quoted(name)));
        Err(match similar(name, names()) {
            Some(meant) => bad.help(format!("did you mean {{{meant}}}?")),
            None => bad.help(format!("define it: [presets.NAME.parameters.{name}]; where no parameter is meant, write the braces with a space inside")),
        })
    }
}

fn misplaced(name: &str, kind: Kind, where_it_may: &str) -> Bad {
    Bad::new(format!("{{{name}}} is of type \"{}\": such a parameter {where_it_may}", kind.name()))
}

fn in_authority(name: &str, kind: Kind) -> Bad {
    Bad::new(format!("{{{name}}} is of type \"{}\" and would stand in scheme, host or port", kind.name())).help(
        "whoever fills it in would choose who is shown the token: legal in a host is a parameter of type \"host-label\", and at the beginning of a URL one of type \"origin\"",
    )
}

/// What is put between two braces could become a name.
fn beside_a_brace(text: &str, name: &str) -> Result<(), Bad> {
    if text.contains(&format!("{{{{{name}}}")) || text.contains(&format!("{{{name}}}}}")) {
        return Err(Bad::new(format!("{{{name}}} stands beside another brace")).help("write a space between them"));
    }
    Ok(())
}

/// An error at a parameter that stands nowhere.
pub(super) fn unused(parameter: &Parameter<'_>) -> Diagnostic {
    let title = format!("the parameter `{}` stands nowhere in the source of this preset", parameter.name);
    parameter.node.error(title).help(format!("write {{{}}} where it belongs, or leave it out", parameter.name))
}

/// What stands in a table of TOML, in the order of the names.
pub(super) fn entries<'t, 'a: 't>(
    table: &'t DeTable<'a>,
) -> impl Iterator<Item = (&'t str, &'t Spanned<std::borrow::Cow<'a, str>>, &'t Spanned<DeValue<'a>>)> {
    let mut all: Vec<_> = table.iter().map(|(key, value)| (key.get_ref().as_ref(), key, value)).collect();
    all.sort_by_key(|(name, ..)| *name);
    all.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_in_braces_are_parameters() {
        let names = |text| -> Vec<String> {
            let named = |piece| if let Piece::Named(name) = piece { Some(name.to_owned()) } else { None };
            pieces(text).into_iter().filter_map(named).collect()
        };
        assert_eq!(names("{a}/b/{c-d}?{e}"), ["a", "c-d", "e"]);
        assert_eq!(names("{\"x\": \"{a}\", \"y\": {}}"), ["a"]);
        assert!(names("{ a } {} { {1} }").is_empty());
    }

    #[test]
    fn a_value_stays_in_its_place() {
        let wild = "a/b?c#d\"e~f%g";
        for (place, kind, expected) in [
            (Place::Path, Kind::Text, "a%2Fb%3Fc%23d%22e~f%25g"),
            (Place::Path, Kind::Path, "a/b%3Fc%23d%22e~f%25g"),
            (Place::Query, Kind::Path, "a%2Fb%3Fc%23d%22e~f%25g"),
            (Place::Json, Kind::Text, "a/b?c#d\\\"e~f%g"),
            (Place::Pointer, Kind::Text, "a~1b?c#d\"e~0f%g"),
            (Place::Member, Kind::Text, wild),
        ] {
            assert_eq!(place.encode(kind, wild), expected, "{place:?} {kind:?}");
        }
    }
}
