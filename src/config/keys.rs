//! `[keys]`, with and without parameters.

use std::collections::BTreeMap;

use super::diagnostic::{Diagnostic, Place, Report, quoted};
use super::presets::Presets;
use super::settings::Partial;
use super::table::{Entry, Node, Table};
use super::text::Scope;
use super::tokens::Tokens;
use super::{Key, KeyTemplate, SourceTemplate, nameko, names, params, source};
use crate::acl::Pattern;
use crate::secret::{KeyPath, KeyPathError, MAX_PART_LEN, is_part_name};
use crate::staleness::{OnMissing, Settings};
use crate::template::{Overlap, Shape, ShapeError, Template};

/// What sources are made of: names that are defined elsewhere.
#[derive(Clone, Copy)]
pub(super) struct MadeOf<'m> {
    pub(super) tokens: &'m Tokens,
    pub(super) presets: &'m Presets<'m>,
}

/// The keys of all files, in the order of their paths, and those with parameters in the order of their definition.
#[derive(Default)]
pub(super) struct Keys {
    /// By the text of their paths.
    places: BTreeMap<String, Place>,
    /// Those of keys, also with another error; by their texts patterns for those of keys with parameters.
    paths: Vec<KeyPath>,
    patterns: BTreeMap<String, Vec<Pattern>>,
    keys: Vec<Key>,
    templates: Vec<(KeyTemplate, Place)>,
}

impl Keys {
    pub(super) fn add(&mut self, entry: &Entry<'_>, defaults: &Partial, made_of: MadeOf<'_>, report: &mut Report<'_>) {
        if entry.name.contains(['{', '}']) {
            return self.add_template(entry, defaults, made_of, report);
        }
        if nameko::is_meant(entry) {
            // Each set of arguments has a value of its own.
            return self.add_template(entry, defaults, made_of, report);
        }
        let path = self.path(entry, report);
        let Some(table) = entry.node.table(report, &names::KEY) else { return };
        let own = Partial::read(&table, report);
        params::refuse(&table, own.places_of_capacity(), report);
        let settings = settings(&own, &own.over(defaults), &table, report);
        let at = report.location(&entry.place);
        if let (Some(several), None) = (table.get("sources"), table.get("source")) {
            let parts = parts(&several, made_of, report);
            let of_part = |(name, source): (&str, SourceTemplate)| {
                let path = path.as_ref()?.part(name);
                Some(Key { path, source: source.expand(&[]), settings: settings.clone(), at: at.clone() })
            };
            self.keys.extend(parts.into_iter().filter_map(of_part));
            return;
        }
        let source = read_source(entry, &table, made_of, &Scope::new(&[]), report);
        if let (Some(path), Some(source)) = (path, source) {
            self.keys.push(Key { path, source: source.expand(&[]), settings, at });
        }
    }

    fn add_template(&mut self, entry: &Entry<'_>, defaults: &Partial, made_of: MadeOf<'_>, report: &mut Report<'_>) {
        let shape = self.shape(entry, report);
        let Some(table) = entry.node.table(report, &names::KEY) else { return };
        let own = Partial::read(&table, report);
        let merged = own.over(defaults);
        let mut settings = settings(&own, &merged, &table, report);
        if nameko::is_meant(entry) {
            nameko::check_settings(&table, report);
            settings.refresh = None;
        }
        // Without its parameters nothing more can be said of it.
        let Some(shape) = shape else { return };
        let parameters = shape.parameters().to_vec();
        let constraints = params::constraints(entry, &table, &parameters, report);
        let source = read_source(entry, &table, made_of, &Scope::new(&parameters), report);
        let template = constraints.and_then(|constraints| Template::new(shape, constraints));
        let (Some(template), Some(source)) = (template, source) else { return };
        if self.overlaps(entry, &template, report) {
            return;
        }
        let patterns = template.as_patterns();
        let patterns = patterns.iter().filter_map(|pattern| Pattern::parse(pattern).ok()).collect();
        self.patterns.insert(entry.name.to_owned(), patterns);
        let (max_entries, eviction) = merged.capacity();
        let at = report.location(&entry.place);
        self.templates
            .push((KeyTemplate { template, source, settings, max_entries, eviction, at }, entry.place.clone()));
    }

    /// The path of a key, if it is legal and new.
    fn path(&mut self, entry: &Entry<'_>, report: &mut Report<'_>) -> Option<KeyPath> {
        match KeyPath::parse(entry.name) {
            Ok(path) => {
                self.paths.push(path.clone());
                self.is_new(entry, report).then_some(path)
            }
            Err(error) => {
                let rooted = || KeyPath::parse(&format!("/{}", entry.name)).is_ok();
                refuse_path(entry, error.to_string(), error == KeyPathError::NoLeadingSlash && rooted(), report);
                None
            }
        }
    }

    /// The same for one with parameters.
    fn shape(&mut self, entry: &Entry<'_>, report: &mut Report<'_>) -> Option<Shape> {
        match Shape::parse(entry.name) {
            Ok(shape) => {
                self.patterns.insert(entry.name.to_owned(), Pattern::parse(&shape.as_pattern()).into_iter().collect());
                self.is_new(entry, report).then_some(shape)
            }
            Err(error) => {
                let rooted = || Shape::parse(&format!("/{}", entry.name)).is_ok();
                let unrooted = error == ShapeError::Path(KeyPathError::NoLeadingSlash) && rooted();
                refuse_path(entry, error.to_string(), unrooted, report);
                None
            }
        }
    }

    fn is_new(&mut self, entry: &Entry<'_>, report: &mut Report<'_>) -> bool {
        if let Some(first) = self.places.get(entry.name) {
            let title = format!("the key {} is defined twice", quoted(entry.name));
            report.error(Diagnostic::at(entry.place.clone(), title).also(first.clone(), "first defined here"));
            return false;
        }
        self.places.insert(entry.name.to_owned(), entry.place.clone());
        true
    }

    /// Whether it certainly has a path in common with one before it: then neither is meant to be the other's exception.
    fn overlaps(&self, entry: &Entry<'_>, template: &Template, report: &mut Report<'_>) -> bool {
        for (other, place) in &self.templates {
            let Overlap::Certain { example } = other.template.overlap(template) else { continue };
            let title = match example {
                Some(path) => format!("two keys with parameters stand for {}", quoted(&path)),
                None => "two keys with parameters stand for the same paths".to_owned(),
            };
            let error = Diagnostic::at(entry.place.clone(), title).also(place.clone(), "the other one");
            report.error(error.help("narrow a constraint of one of them; for a single exception write a key without parameters, which comes first"));
            return true;
        }
        false
    }

    pub(super) fn is_empty(&self) -> bool {
        self.paths.is_empty() && self.patterns.is_empty()
    }

    /// Whether a pattern may be meant for some key that was defined, also for one with another error.
    pub(super) fn may_match(&self, pattern: &Pattern) -> bool {
        self.paths.iter().any(|path| pattern.matches(path))
            || self.patterns.values().flatten().any(|keys| keys.overlaps(pattern))
    }

    /// Whether some key is at this path, also one with another error, or may be.
    pub(super) fn may_be(&self, path: &KeyPath) -> bool {
        self.paths.contains(path) || self.patterns.values().flatten().any(|pattern| pattern.matches(path))
    }

    /// The paths of keys without parameters that one of these patterns matches.
    pub(super) fn granted_by(&self, patterns: &[Pattern]) -> impl Iterator<Item = &KeyPath> {
        self.paths.iter().filter(|path| patterns.iter().any(|pattern| pattern.matches(path)))
    }

    pub(super) fn finish(mut self) -> (Vec<Key>, Vec<KeyTemplate>) {
        self.keys.sort_by(|a, b| a.path.cmp(&b.path));
        // What is one path goes before what is many, as a key without parameters does.
        self.templates.sort_by_key(|(template, _)| !template.template.parameters().is_empty());
        (self.keys, self.templates.into_iter().map(|(template, _)| template).collect())
    }
}

fn refuse_path(entry: &Entry<'_>, error: String, unrooted: bool, report: &mut Report<'_>) {
    let diagnostic = Diagnostic::at(entry.place.clone(), error);
    report.error(if unrooted { diagnostic.label(format!("write \"/{}\"", entry.name)) } else { diagnostic });
}

fn read_source(
    entry: &Entry<'_>,
    table: &Table<'_>,
    made_of: MadeOf<'_>,
    scope: &Scope<'_>,
    report: &mut Report<'_>,
) -> Option<SourceTemplate> {
    if let Some(several) = table.get("sources") {
        let error = match table.get("source") {
            Some(one) => several.error("`source` and `sources` exclude each other").also(one.place(), "the other one"),
            None => several.error("a key with parameters has one `source`"),
        };
        report.error(error);
        return None;
    }
    let Some(node) = table.get("source") else {
        if !table.misspells("source") && !table.misspells("sources") {
            let error = Diagnostic::at(entry.place.clone(), "this key has no `source`");
            let example = "for example: source = { type = \"http\", url = \"https://host/path\" }";
            report.error(error.help(example).absence());
        }
        return None;
    };
    let before = report.errors.len();
    let source = source::source(&node, made_of, scope, report)?;
    params::check_places(entry, &node, &source::may_hold(&node, made_of.presets), scope, report);
    (report.errors.len() == before).then_some(source)
}

/// The most sources of one key.
const MAX_PARTS: usize = 32;

/// The sources of a key that has several, by their names.
fn parts<'a>(several: &Node<'a>, made_of: MadeOf<'_>, report: &mut Report<'_>) -> Vec<(&'a str, SourceTemplate)> {
    let entries = several.entries(report);
    if several.is_table() && entries.is_empty() {
        report.error(several.error("`sources` is empty").help(
            "for example: sources = { db = { type = \"file\", path = \"/etc/keyhatch/db\" } }; the value is {\"db\": …}",
        ));
    }
    if entries.len() > MAX_PARTS {
        let help = format!("at most {MAX_PARTS} are legal: all of them are in memory when one is asked for");
        report.error(several.error(format!("`sources` has {} sources", entries.len())).help(help));
    }
    let mut parts = Vec::new();
    for one in entries {
        if !is_part_name(one.name) {
            let error = Diagnostic::at(one.place.clone(), "this is not a name for a source");
            let help = format!("it becomes a member of the value: A-Z a-z 0-9 . _ -, at most {MAX_PART_LEN} bytes");
            report.error(error.help(help));
            continue;
        }
        if let Some(source) = source::source(&one.node, made_of, &Scope::new(&[]), report) {
            if source.takes_arguments() {
                report.error(
                    one.node.error("a call is not one of several sources").help(
                        "its arguments come with each request, and the others have none: give it a key of its own",
                    ),
                );
                continue;
            }
            parts.push((one.name, source));
        }
    }
    parts
}

fn settings(own: &Partial, merged: &Partial, table: &Table<'_>, report: &mut Report<'_>) -> Settings {
    merged.check(own, report);
    let mut settings = merged.resolve();
    let on_missing = table.get("on-missing").and_then(|node| node.word(report, names::ON_MISSING));
    if on_missing == Some("wait") {
        settings.on_missing = OnMissing::Wait;
    }
    settings
}
