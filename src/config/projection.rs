//! What of a document is the value: `field`, `pointer`, or neither.

use super::Format;
use super::diagnostic::{Report, quoted};
use super::expand::Selection;
use super::table::{Bad, Node, Table};
use super::text::{Scope, Text};

/// `field`, `pointer` or neither.
pub(super) fn projection(
    table: &Table<'_>,
    format: Format,
    scope: &Scope<'_>,
    report: &mut Report<'_>,
) -> Option<Selection> {
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
