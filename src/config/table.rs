//! A reader over parsed TOML that knows where everything stood.
//!
//! A getter returns `None` when the value is not what it should be and has then put the error into the
//! report: whoever reads goes on, so that one run finds every error.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::{Diagnostic, Place, Report, quoted, similar};
use super::names::{self, Names};

/// A value, the name it was given under, and where it stood.
#[derive(Clone, Copy)]
pub(super) struct Node<'a> {
    pub(super) file: usize,
    pub(super) name: &'a str,
    value: &'a Spanned<DeValue<'a>>,
}

/// A table whose names are the configuration's own.
pub(super) struct Table<'a> {
    file: usize,
    at: Place,
    names: &'static Names,
    entries: &'a DeTable<'a>,
}

/// An entry of a table whose names a person chose.
pub(super) struct Entry<'a> {
    pub(super) name: &'a str,
    /// Of the name.
    pub(super) place: Place,
    pub(super) node: Node<'a>,
}

/// Why the text of a setting is wrong, before it is known where it stood.
pub(super) struct Bad {
    pub(super) title: String,
    pub(super) help: Option<String>,
}

impl Bad {
    pub(super) fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), help: None }
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl<'a> Node<'a> {
    pub(super) fn place(&self) -> Place {
        Place { file: self.file, span: self.value.span() }
    }

    /// What was made of this one: shown where this one stands.
    pub(super) fn with<'m>(&self, made: &'m Spanned<DeValue<'m>>) -> Node<'m>
    where
        'a: 'm,
    {
        Node { file: self.file, name: self.name, value: made }
    }

    pub(super) fn value(&self) -> &'a Spanned<DeValue<'a>> {
        self.value
    }

    pub(super) fn error(&self, title: impl Into<String>) -> Diagnostic {
        Diagnostic::at(self.place(), title)
    }

    /// "an integer", for messages.
    pub(super) fn kind(&self) -> &'static str {
        match self.value.get_ref() {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a float",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        }
    }

    /// The error for a value of the wrong type.
    pub(super) fn expected(&self, what: &str) -> Diagnostic {
        self.error(format!("`{}` is {what}", self.name)).label(format!("this is {}", self.kind()))
    }

    pub(super) fn as_str(&self) -> Option<&'a str> {
        self.value.get_ref().as_str()
    }

    pub(super) fn is_integer(&self) -> bool {
        self.value.get_ref().is_integer()
    }

    pub(super) fn as_integer(&self) -> Option<i128> {
        let integer = self.value.get_ref().as_integer()?;
        i128::from_str_radix(integer.as_str(), integer.radix()).ok()
    }

    /// The elements, if it is a list.
    pub(super) fn as_list(&self) -> Option<Vec<Node<'a>>> {
        let items = self.value.get_ref().as_array()?;
        Some(items.iter().map(|value| Node { file: self.file, name: self.name, value }).collect())
    }

    pub(super) fn is_table(&self) -> bool {
        self.value.get_ref().is_table()
    }

    pub(super) fn as_table(&self) -> Option<&'a DeTable<'a>> {
        self.value.get_ref().as_table()
    }

    /// A string, a boolean or a list of strings as a person would write it.
    pub(super) fn shown(&self) -> String {
        match (self.as_list(), self.as_str()) {
            (Some(items), _) => format!("[{}]", items.iter().map(Node::shown).collect::<Vec<_>>().join(", ")),
            (None, Some(text)) => format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")),
            (None, None) => self.value.get_ref().as_bool().is_some_and(|truth| truth).to_string(),
        }
    }

    /// A string, an integer or a list of them, for a person.
    pub(super) fn listed(&self) -> String {
        match (self.as_list(), self.as_str(), self.as_integer()) {
            (Some(items), ..) => items.iter().map(Node::listed).collect::<Vec<_>>().join(", "),
            (None, Some(text), _) => text.to_owned(),
            (None, None, number) => number.unwrap_or_default().to_string(),
        }
    }

    pub(super) fn string(&self, report: &mut Report<'_>) -> Option<&'a str> {
        let text = self.as_str();
        if text.is_none() {
            report.error(self.expected("a string"));
        }
        text
    }

    pub(super) fn boolean(&self, report: &mut Report<'_>) -> Option<bool> {
        let value = self.value.get_ref().as_bool();
        if value.is_none() {
            report.error(self.expected("`true` or `false`"));
        }
        value
    }

    /// A string that `parse` understands.
    pub(super) fn parsed<T>(
        &self,
        report: &mut Report<'_>,
        parse: impl FnOnce(&str, &str) -> Result<T, Bad>,
    ) -> Option<T> {
        let text = self.string(report)?;
        match parse(self.name, text) {
            Ok(value) => Some(value),
            Err(bad) => {
                report.error(self.refused(bad));
                None
            }
        }
    }

    pub(super) fn refused(&self, bad: Bad) -> Diagnostic {
        let error = self.error(bad.title);
        match bad.help {
            Some(help) => error.help(help),
            None => error,
        }
    }

    /// An integer within a range.
    pub(super) fn integer(&self, report: &mut Report<'_>, least: u32, most: u32) -> Option<u32> {
        let Some(value) = self.as_integer() else {
            report.error(self.expected("an integer").help(format!("legal is {least} to {most}, without quotes")));
            return None;
        };
        let legal = u32::try_from(value).ok().filter(|value| (least..=most).contains(value));
        if legal.is_none() {
            report.error(
                self.error(format!("`{}` is out of range", self.name)).help(format!("legal is {least} to {most}")),
            );
        }
        legal
    }

    /// One of several words. What was written instead is shown by its line alone, where it may be masked.
    pub(super) fn word<'l>(&self, report: &mut Report<'_>, legal: &[&'l str]) -> Option<&'l str> {
        let text = self.string(report)?;
        if let Some(found) = legal.iter().find(|word| **word == text) {
            return Some(found);
        }
        let mut meant: Vec<&str> = similar(text, legal.iter().copied()).into_iter().collect();
        if meant.is_empty() && !text.is_empty() {
            // The name of the service alone, such as "gitlab".
            let longer = |word: &&str| word.strip_prefix(text).is_some_and(|rest| rest.starts_with('-'));
            meant = legal.iter().copied().filter(longer).collect();
        }
        let meant: Vec<String> = meant.iter().map(|word| format!("\"{word}\"")).collect();
        let label = if meant.is_empty() { String::new() } else { format!("did you mean {}?", meant.join(" or ")) };
        let list: Vec<String> = legal.iter().map(|word| format!("\"{word}\"")).collect();
        report.error(
            self.error(format!("unknown `{}`", self.name)).label(label).help(format!("legal are {}", list.join(", "))),
        );
        None
    }

    /// A value or a list of values; an empty list is an error.
    pub(super) fn one_or_many(&self, report: &mut Report<'_>) -> Option<Vec<Node<'a>>> {
        match self.as_list() {
            None => Some(vec![*self]),
            Some(items) if items.is_empty() => {
                report.error(self.error(format!("`{}` is an empty list", self.name)));
                None
            }
            Some(items) => Some(items),
        }
    }

    /// A table with the configuration's own names; unknown ones are reported here.
    pub(super) fn table(&self, report: &mut Report<'_>, names: &'static Names) -> Option<Table<'a>> {
        let Some(entries) = self.value.get_ref().as_table() else {
            report.error(self.expected("a table"));
            return None;
        };
        Some(Table::new(self.file, self.place(), entries, names, report))
    }

    /// A single entry, before anything is known of the rest (the `type` that decides what is legal).
    pub(super) fn peek(&self, name: &str) -> Option<Node<'a>> {
        let (key, value) = self.value.get_ref().as_table()?.get_key_value(name)?;
        Some(Node { file: self.file, name: key.get_ref(), value })
    }

    /// The entries of a table whose names a person chose, in the order in which they stand in the file.
    pub(super) fn entries(&self, report: &mut Report<'_>) -> Vec<Entry<'a>> {
        let Some(table) = self.value.get_ref().as_table() else {
            report.error(self.expected("a table"));
            return Vec::new();
        };
        let mut entries: Vec<Entry<'a>> = table
            .iter()
            .map(|(key, value)| Entry {
                name: key.get_ref(),
                place: Place { file: self.file, span: key.span() },
                node: Node { file: self.file, name: key.get_ref(), value },
            })
            .collect();
        entries.sort_by_key(|entry| entry.place.span.start);
        entries
    }
}

impl<'a> Table<'a> {
    pub(super) fn new(
        file: usize,
        at: Place,
        entries: &'a DeTable<'a>,
        names: &'static Names,
        report: &mut Report<'_>,
    ) -> Self {
        for key in entries.keys().filter(|key| !names.legal.contains(&key.get_ref().as_ref())) {
            let place = Place { file, span: key.span() };
            report.error(unknown(place, key.get_ref(), names));
        }
        Self { file, at, names, entries }
    }

    pub(super) fn get(&self, name: &'static str) -> Option<Node<'a>> {
        debug_assert!(self.names.legal.contains(&name), "{name} is not listed for {}", self.names.place);
        let (key, value) = self.entries.get_key_value(name)?;
        Some(Node { file: self.file, name: key.get_ref(), value })
    }

    /// The place of the name of an entry, else of the table.
    pub(super) fn name_place(&self, name: &str) -> Place {
        match self.entries.get_key_value(name) {
            Some((key, _)) => Place { file: self.file, span: key.span() },
            None => self.at.clone(),
        }
    }

    /// Whether an unknown name here seems to mean this one, so that its absence needs no second error.
    pub(super) fn misspells(&self, name: &str) -> bool {
        let mut unknown = self.entries.keys().filter(|key| !self.names.legal.contains(&key.get_ref().as_ref()));
        unknown.any(|key| similar(key.get_ref(), self.names.legal.iter().copied()) == Some(name))
    }

    /// Like [`get`](Self::get); its absence is an error.
    pub(super) fn require(&self, report: &mut Report<'_>, name: &'static str, example: &str) -> Option<Node<'a>> {
        let found = self.get(name);
        if found.is_none() && !self.misspells(name) {
            report.error(
                Diagnostic::at(self.at.clone(), format!("{} needs `{name}`", self.names.place))
                    .help(format!("for example: {name} = {example}"))
                    .absence(),
            );
        }
        found
    }
}

fn unknown(place: Place, name: &str, names: &Names) -> Diagnostic {
    if names.later.contains(&name) {
        return Diagnostic::at(place, format!("this version of keyhatch does not have `{name}` yet"))
            .label("not accepted, so that it is not silently ignored")
            .help(format!("legal in {} are {}", names.place, names.legal.join(", ")));
    }
    unknown_setting(place, name, names.place, names.legal)
}

/// The error for a name that is not legal in this place. A setting of a key in its source is told where it belongs.
pub(super) fn unknown_setting(place: Place, name: &str, of: &str, legal: &[&str]) -> Diagnostic {
    let mut of_key = names::KEY.legal.iter().filter(|setting| !["source", "sources"].contains(setting));
    let label = if of.ends_with("source") && of_key.any(|setting| *setting == name.replace('_', "-")) {
        "a setting of the key: it stands beside `source`, not in it".to_owned()
    } else {
        similar(name, legal.iter().copied()).map(|word| format!("did you mean `{word}`?")).unwrap_or_default()
    };
    Diagnostic::at(place, format!("unknown setting {} in {of}", quoted(name)))
        .label(label)
        .help(format!("legal in {of} are {}", legal.join(", ")))
}
