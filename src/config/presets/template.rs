//! The template of a preset: where parameters stand in it, how a value is written there, and what may not stand where. Pure.
//!
//! A value stays within its place: it is encoded as that wants it. Scheme, host and port are nobody's to choose but the
//! operator's.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::super::diagnostic::{Diagnostic, Report, quoted, similar};
use super::super::table::{Bad, Node};
use super::parameter::{Kind, Parameter};
use super::place::Place;
use crate::template::is_parameter_name;

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
                if let Some(name) = first_name(entry.name).filter(|name| !self.secrets.contains(name)) {
                    let title = format!("a parameter cannot stand in a name: {{{name}}}");
                    report
                        .error(Diagnostic::at(entry.place.clone(), title).help("it may stand in what the name is for"));
                }
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
        // What stands behind an origin would be the end of its host or port.
        let mut behind_origin = None;
        let pieces = pieces(text);
        for (index, piece) in pieces.iter().enumerate() {
            match *piece {
                Piece::Literal("") => {}
                Piece::Literal(literal) => {
                    if let Some(origin) = behind_origin.take().filter(|_| !literal.starts_with(['/', '?'])) {
                        return Err(Bad::new(format!("what follows {{{origin}}} would be a part of its host or port"))
                            .help(format!("a path begins with a slash: \"{{{origin}}}/…\"")));
                    }
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
                    if behind_origin.is_some() {
                        return Err(in_authority(name, kind));
                    }
                    let ends = |next: &str| next.is_empty() || next.starts_with(['/', '?']);
                    let whole = matches!(pieces.get(index + 1), Some(Piece::Literal(next)) if ends(next));
                    if self.parameters[parameter].optional && (query || !whole || !seen.ends_with('/')) {
                        return Err(Bad::new(format!("{{{name}}} is optional and stands within a URL"))
                            .help("what can be left out is a whole segment of a path, or stands in `query`"));
                    }
                    match (kind, in_host) {
                        (Kind::Origin, _) if seen.is_empty() => {
                            seen.push_str("https://x/");
                            behind_origin = Some(name);
                        }
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
}
