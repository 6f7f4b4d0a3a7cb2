//! What of a document is the value: `field`, `pointer`, several steps in `extract`, or all of it.

use super::diagnostic::{Report, quoted};
use super::expand::{Selection, StepText};
use super::table::{Bad, Node, Table};
use super::text::{Scope, Text};
use super::{Coding, Format, names};

/// The most steps, each of which is a walk through what is left.
const MAX_STEPS: usize = 16;

/// One of `field`, `pointer` and `extract`, or none of them.
pub(super) fn projection(
    table: &Table<'_>,
    format: Format,
    scope: &Scope<'_>,
    report: &mut Report<'_>,
) -> Option<Selection> {
    let given = ["field", "pointer", "extract"].into_iter().filter_map(|name| table.get(name)).collect::<Vec<_>>();
    if let [first, second, ..] = given[..] {
        let error = second.error(format!("`{}` and `{}` exclude each other", first.name, second.name));
        report.error(error.also(first.place(), "the other one"));
        return None;
    }
    let Some(node) = given.first() else { return Some(Selection::Whole) };
    let selection = match node.name {
        "field" => fields(node, scope, report).map(Selection::Fields),
        "pointer" => node.parsed(report, |name, text| parse_pointer(name, text, scope)),
        _ => Some(extract(node, scope, report)?),
    };
    let decodes =
        matches!(&selection, Some(Selection::Steps(steps)) if matches!(steps.first(), Some(StepText::Decode(_))));
    if format == Format::Text && !decodes {
        let written = table.get("format").is_some();
        let why = if written { "`format = \"text\"`" } else { "the format is \"text\" unless set, which" };
        let error = node.error(format!("`{}` selects from a document, and {why} has no parts", node.name));
        report.error(if node.name == "extract" { error.help("its first step can be a `decode`") } else { error });
        return None;
    }
    selection
}

/// Steps, each of which begins with what the one before has come to.
fn extract(node: &Node<'_>, scope: &Scope<'_>, report: &mut Report<'_>) -> Option<Selection> {
    let before = report.errors.len();
    let Some(items) = node.as_list() else {
        let example = "for example: extract = [{ pointer = \"/data\" }, { decode = \"base64\" }]";
        report.error(node.expected("a list of steps").help(example));
        return None;
    };
    if items.is_empty() || items.len() > MAX_STEPS {
        report.error(node.error(format!("`extract` has 1 to {MAX_STEPS} steps")));
    }
    let mut steps = Vec::new();
    for item in items {
        step(&item, scope, &mut steps, report);
    }
    if report.errors.len() > before {
        return None;
    }
    // One step that has a name of its own is that.
    Some(match steps.as_slice() {
        [] => Selection::Whole,
        [StepText::Pointer(tokens)] => Selection::Pointer(tokens.clone()),
        [StepText::Fields(fields)] => Selection::Fields(fields.clone()),
        _ => Selection::Steps(steps),
    })
}

/// What is decoded first, then what is selected from that.
fn step(node: &Node<'_>, scope: &Scope<'_>, steps: &mut Vec<StepText>, report: &mut Report<'_>) {
    let Some(table) = node.table(report, &names::STEP) else { return };
    let decode = table.get("decode");
    if let Some(coding) = decode.as_ref().and_then(|node| node.word(report, names::CODINGS)) {
        steps.push(StepText::Decode(if coding == "json" { Coding::Json } else { Coding::Base64 }));
    }
    let given: Vec<_> =
        ["pointer", "field", "where", "decode-each"].into_iter().filter_map(|name| table.get(name)).collect();
    if let [first, second, ..] = given[..] {
        let error = second.error(format!("`{}` and `{}` are two steps", first.name, second.name));
        report.error(error.also(first.place(), "the other one").help("write each in braces of its own"));
        return;
    }
    let Some(node) = given.first() else {
        if decode.is_none() && !names::STEP.legal.iter().any(|name| table.misspells(name)) {
            let legal = names::STEP.legal.join(", ");
            report.error(node.error("this step does nothing").help(format!("legal in it are {legal}")).absence());
        }
        return;
    };
    match node.name {
        "pointer" => {
            // The empty one is no step at all.
            if let Some(Selection::Pointer(tokens)) = node.parsed(report, |name, text| parse_pointer(name, text, scope))
            {
                steps.push(StepText::Pointer(tokens));
            }
        }
        "field" => steps.extend(fields(node, scope, report).map(StepText::Fields)),
        "where" => steps.extend(element(node, scope, report)),
        _ => {
            if node.word(report, &["base64"]).is_some() {
                steps.push(StepText::DecodeEach);
            }
        }
    }
}

/// `{ label = "password" }`.
fn element(node: &Node<'_>, scope: &Scope<'_>, report: &mut Report<'_>) -> Option<StepText> {
    let entries = node.entries(report);
    let [entry] = entries.as_slice() else {
        if node.is_table() {
            let help = "for example: where = { label = \"password\" }";
            report.error(node.error("`where` names one member and its value").help(help));
        }
        return None;
    };
    let value = entry.node.parsed(report, |name, text| Text::lenient(name, text, scope))?;
    Some(StepText::Where { member: entry.name.to_owned(), value })
}

/// A name of a field, or a list of them.
pub(super) fn fields(node: &Node<'_>, scope: &Scope<'_>, report: &mut Report<'_>) -> Option<Vec<Text>> {
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

/// The unescaped tokens of a pointer in which no parameter stands.
pub(super) fn plain_pointer(name: &str, text: &str) -> Result<Vec<String>, Bad> {
    Ok(match parse_pointer(name, text, &Scope::new(&[]))? {
        Selection::Pointer(tokens) => tokens.iter().flat_map(Text::literals).map(str::to_owned).collect(),
        _ => Vec::new(),
    })
}

/// A JSON pointer (RFC 6901); the empty one is the whole document.
fn parse_pointer(name: &str, text: &str, scope: &Scope<'_>) -> Result<Selection, Bad> {
    if text.is_empty() {
        return Ok(Selection::Whole);
    }
    let tokens = pointer_tokens(name, text)?;
    let tokens = tokens.iter().map(|token| Text::lenient(name, token, scope));
    Ok(Selection::Pointer(tokens.collect::<Result<_, _>>()?))
}

/// The unescaped tokens of a JSON pointer that is not the empty one.
pub(super) fn pointer_tokens(name: &str, text: &str) -> Result<Vec<String>, Bad> {
    let help = "a JSON pointer looks like \"/data/items/0\"; in a name `~` is written ~0 and `/` is written ~1";
    let Some(rest) = text.strip_prefix('/') else {
        return Err(Bad::new(format!("`{name}` does not begin with `/`")).help(help));
    };
    let unescape = |token: &str| {
        let stray = token.replace("~0", "").replace("~1", "").contains('~');
        (!stray).then(|| token.replace("~1", "/").replace("~0", "~"))
    };
    let tokens: Option<Vec<String>> = rest.split('/').map(unescape).collect();
    tokens.ok_or_else(|| Bad::new(format!("`{name}` has a `~` that is not ~0 or ~1")).help(help))
}

#[cfg(test)]
mod tests {
    use super::super::text::Encoding;
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
}
