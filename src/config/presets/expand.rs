//! A preset with its parameters filled in: the table of an `http` source, as a person would have written it. Pure.

use std::borrow::Cow;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::super::table::Node;
use super::super::text::Encoding;
use super::parameter::{Kind, Parameter, Value};
use super::place::Place;
use super::template::{Piece, alternatives, body_place, entries, pieces, secrets};

/// What is filled in, and where an error about it would be shown.
pub(super) struct Filling<'f, 'p> {
    pub(super) parameters: &'f [Parameter<'p>],
    /// For each parameter; `None` where nothing is given for one that may lack.
    pub(super) values: &'f [Option<Value>],
    /// The parameters of the key, which stand in values.
    pub(super) of_key: &'f [String],
    /// Where the key names the preset; `None` when the template itself is judged.
    pub(super) used_at: Option<&'f Range<usize>>,
    /// Names in braces that are a login's own.
    pub(super) secrets: &'f [&'f str],
}

type Item<'a> = Spanned<DeValue<'a>>;

impl<'f> Filling<'f, '_> {
    /// The table of the source, with this one of the alternatives of `auth`.
    pub(super) fn source<'a>(&self, template: &Node<'a>, alternative: usize) -> DeTable<'a> {
        let mut filled = DeTable::new();
        let Some(table) = template.as_table() else { return filled };
        let body = body_place(template);
        for (name, key, value) in entries(table) {
            let item = match name {
                "query" | "json" => continue,
                "url" => self.url(value, table.get("query")),
                "auth" => template.peek("auth").and_then(|auth| {
                    let chosen = alternatives(&auth).into_iter().nth(alternative)?;
                    Filling { secrets: &secrets(&chosen), ..*self }.item(chosen.value(), Place::Auth)
                }),
                "extract" => self.steps(value),
                _ => self.item(value, Place::of(name, body)),
            };
            if let Some(item) = item {
                filled.insert(self.key(key), item);
            }
        }
        if let Some(json) = table.get("json") {
            let name = |name: &'static str| Spanned::new(self.at(&json.span()), Cow::Borrowed(name));
            filled.insert(name("body"), self.string(self.json(json), None, json));
            add_content_type(&mut filled, &name("headers"), &name("content-type"));
        }
        filled
    }

    fn at(&self, span: &Range<usize>) -> Range<usize> {
        self.used_at.unwrap_or(span).clone()
    }

    fn key<'a>(&self, key: &Spanned<Cow<'a, str>>) -> Spanned<Cow<'a, str>> {
        Spanned::new(self.at(&key.span()), key.get_ref().clone())
    }

    /// At the place of what was filled in, else at that of the template.
    fn string<'a>(&self, text: String, given: Option<&Value>, template: &Item<'a>) -> Item<'a> {
        let given = given.and_then(|value| value.span.clone()).filter(|_| self.used_at.is_some());
        let span = given.unwrap_or_else(|| self.at(&template.span()));
        Spanned::new(span, DeValue::String(Cow::Owned(text)))
    }

    fn find(&self, name: &str) -> Option<(&Parameter<'_>, &'f Value)> {
        let at = self.parameters.iter().position(|parameter| parameter.name == name)?;
        Some((&self.parameters[at], self.values.get(at)?.as_ref()?))
    }

    /// What a parameter is at a place, with the parameters of the key as they stand in it.
    fn written(&self, kind: Kind, value: &Value, place: Place) -> String {
        let of = |text: &super::super::text::Text| text.write(self.of_key, |literal| place.encode(kind, literal));
        value.texts.iter().map(of).collect::<Vec<_>>().join(",")
    }

    /// `None` if something in it is not given: then it is left out.
    fn item<'a>(&self, item: &Item<'a>, place: Place) -> Option<Item<'a>> {
        let span = self.at(&item.span());
        match item.get_ref() {
            DeValue::String(text) if place == Place::Url => {
                let (text, given) = self.url_text(text)?;
                Some(self.string(text, given, item))
            }
            DeValue::String(text) => self.text(text, place, item),
            DeValue::Array(items) => {
                let mut filled = DeArray::new();
                items.iter().filter_map(|item| self.item(item, place)).for_each(|item| filled.push(item));
                let vanished = filled.is_empty() && !items.is_empty();
                (!vanished).then(|| Spanned::new(span, DeValue::Array(filled)))
            }
            DeValue::Table(table) => {
                let mut filled = DeTable::new();
                for (name, key, value) in entries(table) {
                    if let Some(value) = self.item(value, place.within(name)) {
                        filled.insert(self.key(key), value);
                    }
                }
                Some(Spanned::new(span, DeValue::Table(filled)))
            }
            other => Some(Spanned::new(span, other.clone())),
        }
    }

    fn text<'a>(&self, text: &str, place: Place, template: &Item<'a>) -> Option<Item<'a>> {
        let pieces = pieces(text);
        if let [Piece::Literal(""), Piece::Named(name), Piece::Literal("")] = pieces[..]
            && !self.secrets.contains(&name)
        {
            let (parameter, value) = self.find(name)?;
            if value.list && parameter.kind == Kind::Fields {
                let mut list = DeArray::new();
                for text in &value.texts {
                    list.push(self.string(text.write(self.of_key, str::to_owned), Some(value), template));
                }
                let span = value.span.clone().unwrap_or_else(|| self.at(&template.span()));
                return Some(Spanned::new(span, DeValue::Array(list)));
            }
        }
        let mut filled = String::new();
        let mut given = None;
        for piece in pieces {
            match piece {
                Piece::Literal(literal) => filled.push_str(literal),
                Piece::Named(name) if self.secrets.contains(&name) => filled.push_str(&format!("{{{name}}}")),
                Piece::Named(name) => {
                    let (parameter, value) = self.find(name)?;
                    filled.push_str(&self.written(parameter.kind, value, place));
                    given = given.or(Some(value));
                }
            }
        }
        Some(self.string(filled, given, template))
    }

    /// A URL, and the first value in it. A segment that is nothing but a parameter that is not given is left out.
    fn url_text(&self, text: &str) -> Option<(String, Option<&'f Value>)> {
        let mut filled = String::new();
        let mut given = None;
        let pieces = pieces(text);
        for (index, piece) in pieces.iter().enumerate() {
            let name = match piece {
                Piece::Literal(literal) => {
                    filled.push_str(literal);
                    continue;
                }
                Piece::Named(name) => *name,
            };
            let Some((parameter, value)) = self.find(name) else {
                let whole = matches!(pieces.get(index + 1), Some(Piece::Literal(next)) if next.is_empty() || next.starts_with(['/', '?']));
                let rest = filled.strip_suffix('/').filter(|_| whole)?;
                filled = rest.to_owned();
                continue;
            };
            let place = match parameter.kind {
                Kind::Origin => Place::Url,
                _ if filled.contains('?') => Place::Query,
                _ => Place::Path,
            };
            let written = self.written(parameter.kind, value, place);
            // The default of an origin may name parts of its host.
            match parameter.kind {
                Kind::Origin if value.span.is_none() => filled.push_str(&self.url_text(&written)?.0),
                _ => filled.push_str(&written),
            }
            given = given.or(value.span.as_ref().map(|_| value));
        }
        Some((filled, given))
    }

    fn url<'a>(&self, url: &Item<'a>, query: Option<&Item<'a>>) -> Option<Item<'a>> {
        let (mut filled, given) = self.url_text(url.get_ref().as_str()?)?;
        for (name, _, value) in query.and_then(|query| query.get_ref().as_table()).into_iter().flat_map(entries) {
            let Some(value) = self.item(value, Place::Query) else { continue };
            let Some(text) = value.get_ref().as_str() else { continue };
            filled.push(if filled.contains('?') { '&' } else { '?' });
            Encoding::Percent.write(name, &mut filled);
            filled.push('=');
            filled.push_str(text);
        }
        Some(self.string(filled, given, url))
    }

    /// Steps in which something is not given are left out as a whole.
    fn steps<'a>(&self, steps: &Item<'a>) -> Option<Item<'a>> {
        let mut filled = DeArray::new();
        for step in steps.get_ref().as_array()?.iter() {
            let Some(table) = step.get_ref().as_table() else {
                filled.push(step.clone());
                continue;
            };
            let part = |(name, key, value)| Some((self.key(key), self.whole(value, Place::of_step(name))?));
            let parts: Option<DeTable<'a>> = entries(table).map(part).collect();
            if let Some(parts) = parts {
                filled.push(Spanned::new(self.at(&step.span()), DeValue::Table(parts)));
            }
        }
        (!filled.is_empty()).then(|| Spanned::new(self.at(&steps.span()), DeValue::Array(filled)))
    }

    /// The same as an item, but `None` also if a part of it is not given.
    fn whole<'a>(&self, item: &Item<'a>, place: Place) -> Option<Item<'a>> {
        let filled = self.item(item, place)?;
        let complete = match (item.get_ref().as_table(), filled.get_ref().as_table()) {
            (Some(before), Some(after)) => before.len() == after.len(),
            _ => true,
        };
        complete.then_some(filled)
    }

    /// A table as the text of a JSON object, without what is not given.
    fn json(&self, item: &Item<'_>) -> String {
        match item.get_ref() {
            DeValue::Table(table) => {
                let member = |(name, _, value): (&str, _, &Item<'_>)| {
                    let value = self.json_member(value)?;
                    Some(format!("\"{}\":{value}", Place::Json.encode(Kind::Text, name)))
                };
                format!("{{{}}}", entries(table).filter_map(member).collect::<Vec<_>>().join(","))
            }
            DeValue::Array(items) => {
                let items: Vec<String> = items.iter().filter_map(|item| self.json_member(item)).collect();
                format!("[{}]", items.join(","))
            }
            DeValue::Boolean(truth) => truth.to_string(),
            DeValue::Integer(number) => {
                i128::from_str_radix(number.as_str(), number.radix()).unwrap_or_default().to_string()
            }
            DeValue::String(text) => format!("\"{}\"", Place::Json.encode(Kind::Text, text)),
            // Refused when the preset is read.
            DeValue::Float(_) | DeValue::Datetime(_) => "null".to_owned(),
        }
    }

    fn json_member(&self, item: &Item<'_>) -> Option<String> {
        let DeValue::String(text) = item.get_ref() else { return Some(self.json(item)) };
        let pieces = pieces(text);
        if let [Piece::Literal(""), Piece::Named(name), Piece::Literal("")] = pieces[..] {
            let (parameter, value) = self.find(name)?;
            if parameter.kind == Kind::Boolean {
                return Some(self.written(Kind::Boolean, value, Place::Json));
            }
        }
        let mut filled = String::from("\"");
        for piece in pieces {
            match piece {
                Piece::Literal(literal) => filled.push_str(&Place::Json.encode(Kind::Text, literal)),
                Piece::Named(name) => {
                    let (parameter, value) = self.find(name)?;
                    filled.push_str(&self.written(parameter.kind, value, Place::Json));
                }
            }
        }
        filled.push('"');
        Some(filled)
    }
}

/// The type of what `json` makes, where the template does not say a narrower one.
fn add_content_type<'a>(
    source: &mut DeTable<'a>,
    headers: &Spanned<Cow<'a, str>>,
    content_type: &Spanned<Cow<'a, str>>,
) {
    let span = headers.span();
    let empty = || Spanned::new(span.clone(), DeValue::Table(DeTable::new()));
    let entry = source.entry(headers.clone()).or_insert_with(empty);
    let DeValue::Table(table) = entry.get_mut() else { return };
    if !table.keys().any(|name| name.get_ref().eq_ignore_ascii_case("content-type")) {
        let json = DeValue::String(Cow::Borrowed("application/json"));
        table.insert(content_type.clone(), Spanned::new(span, json));
    }
}
