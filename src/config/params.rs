//! What a key with parameters has beside other keys: `params`, `max-entries`, `eviction`.

use super::diagnostic::{Diagnostic, Place, Report, quoted, similar};
use super::names;
use super::table::{Bad, Entry, Node, Table};
use super::text::{Scope, shown};
use crate::template::{Constraint, ConstraintError, check_value};

const EXAMPLE: &str = "{ one-of = [\"billing\", \"shop\"] }, or { matches = \"[a-z-]+\" }";

/// One constraint for each parameter, in their order.
pub(super) fn constraints(
    entry: &Entry<'_>,
    table: &Table<'_>,
    parameters: &[String],
    report: &mut Report<'_>,
) -> Option<Vec<Constraint>> {
    let before = report.errors.len();
    let given = table.get("params").map(|node| node.entries(report)).unwrap_or_default();
    let mut unknown = Vec::new();
    for one in given.iter().filter(|one| !parameters.iter().any(|name| name == one.name)) {
        let title = format!("this key has no parameter {}", quoted(one.name));
        let label =
            similar(one.name, parameters.iter().map(String::as_str)).map(|name| format!("did you mean `{name}`?"));
        let error = Diagnostic::at(one.place.clone(), title).label(label.unwrap_or_default());
        report.error(error.help(format!("the key has {}", shown(parameters))));
        unknown.push(one.name);
    }
    let mut constraints = Vec::new();
    for name in parameters {
        match given.iter().find(|one| one.name == name) {
            Some(one) => constraints.extend(constraint(&one.node, report)),
            None if table.misspells("params") || similar(name, unknown.iter().copied()).is_some() => return None,
            None => {
                let title = format!("nothing says what the parameter `{name}` may be");
                let error = Diagnostic::at(entry.place.clone(), title).absence();
                report.error(error.help(format!("for example: params.{name} = {EXAMPLE}")));
            }
        }
    }
    (report.errors.len() == before && constraints.len() == parameters.len()).then_some(constraints)
}

fn constraint(node: &Node<'_>, report: &mut Report<'_>) -> Option<Constraint> {
    if !node.is_table() {
        report.error(node.expected("a table").help(format!("for example: params.{} = {EXAMPLE}", node.name)));
        return None;
    }
    let table = node.table(report, &names::PARAMETER)?;
    match (table.get("one-of"), table.get("matches")) {
        (Some(words), None) => one_of(&words, report),
        (None, Some(pattern)) => pattern.parsed(report, |_, text| Constraint::matching(text).map_err(bad)),
        (Some(words), Some(pattern)) => {
            let error = pattern.error("`one-of` and `matches` exclude each other");
            report.error(error.also(words.place(), "the other one"));
            None
        }
        (None, None) => {
            if !table.misspells("one-of") && !table.misspells("matches") {
                let error = node.error(format!("`{}` may be anything at all", node.name)).absence();
                report.error(error.help(format!("for example: params.{} = {EXAMPLE}", node.name)));
            }
            None
        }
    }
}

fn bad(error: ConstraintError) -> Bad {
    let bad = Bad::new(error.to_string());
    match error {
        ConstraintError::Syntax(_) => {
            bad.help("it is matched against the whole value; legal is the syntax of the Rust crate `regex` without Unicode classes")
        }
        ConstraintError::TooLong | ConstraintError::TooLarge => bad.help("values have at most 256 bytes"),
    }
}

fn one_of(node: &Node<'_>, report: &mut Report<'_>) -> Option<Constraint> {
    let mut values: Vec<String> = Vec::new();
    let items = node.one_or_many(report)?;
    let count = items.len();
    for item in items {
        let Some(value) = item.string(report) else { continue };
        if let Err(why) = check_value(value) {
            report.error(item.error(format!("{} cannot be the value of a parameter: {why}", quoted(value))));
        } else if values.iter().any(|known| known == value) {
            report.error(item.error(format!("{} is listed twice", quoted(value))));
        } else {
            values.push(value.to_owned());
        }
    }
    (values.len() == count).then(|| Constraint::one_of(values))
}

/// What only keys with parameters have, in a key without.
pub(super) fn refuse(table: &Table<'_>, capacity: [Option<&Place>; 2], report: &mut Report<'_>) {
    let params = table.get("params").map(|_| table.name_place("params"));
    let names = ["max-entries", "eviction"].into_iter().zip(capacity);
    let found = params.iter().map(|place| ("params", place)).chain(names.filter_map(|(name, at)| Some((name, at?))));
    for (name, place) in found {
        let error =
            Diagnostic::at(place.clone(), format!("`{name}` is for keys with parameters, and this one has none"));
        report.error(error.help("a parameter is a name in braces in the key, such as [keys.\"/heroku/{app}/url\"]"));
    }
}

/// Says where a parameter stands that may not stand there, and which ones stand nowhere. `may_hold`: the settings of
/// this type of source in which parameters may stand.
pub(super) fn check_places(
    entry: &Entry<'_>,
    source: &Node<'_>,
    may_hold: &[&str],
    scope: &Scope<'_>,
    report: &mut Report<'_>,
) {
    let before = report.errors.len();
    if source.is_table() {
        let may_not = source.entries(report).into_iter().filter(|one| !may_hold.contains(&one.name));
        may_not.for_each(|one| refuse_within(&one.node, may_hold, scope, report));
    }
    if report.errors.len() > before {
        return;
    }
    for name in scope.unused() {
        let title =
            format!("the parameter `{name}` does not stand in the source: all its values would be one and the same");
        let help = format!("write {{{name}}} in one of {}; or leave it out of the key", may_hold.join(", "));
        report.error(Diagnostic::at(entry.place.clone(), title).help(help));
    }
}

fn refuse_within(node: &Node<'_>, may_hold: &[&str], scope: &Scope<'_>, report: &mut Report<'_>) {
    if node.is_table() {
        node.entries(report).iter().for_each(|one| refuse_within(&one.node, may_hold, scope, report));
    } else if let Some(items) = node.as_list() {
        items.iter().for_each(|item| refuse_within(item, may_hold, scope, report));
    } else if let Some(name) = node.as_str().and_then(|text| scope.named_in(text)) {
        let error = node.error(format!("a parameter cannot stand in `{}`: {{{name}}}", node.name));
        report.error(error.help(format!("parameters may stand in {}", may_hold.join(", "))));
    }
}
