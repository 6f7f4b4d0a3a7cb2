//! `[keys]`.

use std::collections::BTreeMap;

use super::diagnostic::{Diagnostic, Place, Report, quoted};
use super::settings::Partial;
use super::table::{Entry, Table};
use super::tokens::Tokens;
use super::{Key, names, source};
use crate::secret::{KeyPath, KeyPathError};

/// The keys of all files, in the order of their paths.
#[derive(Default)]
pub(super) struct Keys {
    paths: BTreeMap<KeyPath, Place>,
    keys: Vec<Key>,
}

impl Keys {
    pub(super) fn add(&mut self, entry: &Entry<'_>, defaults: &Partial, tokens: &Tokens, report: &mut Report<'_>) {
        let path = self.path(entry, report);
        let Some(table) = entry.node.table(report, &names::KEY) else { return };
        let settings = settings(&table, defaults, report);
        let source = match table.get("source") {
            Some(node) => source::source(&node, tokens, report),
            None if table.misspells("source") => None,
            None => {
                let error = Diagnostic::at(entry.place.clone(), "this key has no `source`");
                let example = "for example: source = { type = \"http\", url = \"https://host/path\" }";
                report.error(error.help(example).absence());
                None
            }
        };
        if let (Some(path), Some(source)) = (path, source) {
            let at = report.location(&entry.place);
            self.keys.push(Key { path, source, settings, at });
        }
    }

    /// The path of a key, if it is legal and new.
    fn path(&mut self, entry: &Entry<'_>, report: &mut Report<'_>) -> Option<KeyPath> {
        let at = |title: String| Diagnostic::at(entry.place.clone(), title);
        if entry.name.contains(['{', '}']) {
            report.error(
                at("this version of keyhatch does not have keys with parameters yet".to_owned())
                    .label("a brace is a parameter")
                    .help("write one key for each value"),
            );
            return None;
        }
        let path = match KeyPath::parse(entry.name) {
            Ok(path) => path,
            Err(error) => {
                let mut diagnostic = at(error.to_string());
                let rooted = format!("/{}", entry.name);
                if error == KeyPathError::NoLeadingSlash && KeyPath::parse(&rooted).is_ok() {
                    diagnostic = diagnostic.label(format!("write \"{rooted}\""));
                }
                report.error(diagnostic);
                return None;
            }
        };
        if let Some(first) = self.paths.get(&path) {
            let title = format!("the key {} is defined twice", quoted(entry.name));
            report.error(at(title).also(first.clone(), "first defined here"));
            return None;
        }
        self.paths.insert(path.clone(), entry.place.clone());
        Some(path)
    }

    /// All paths that were defined, also of keys with another error.
    pub(super) fn paths(&self) -> impl Iterator<Item = &KeyPath> {
        self.paths.keys()
    }

    pub(super) fn finish(mut self) -> Vec<Key> {
        self.keys.sort_by(|a, b| a.path.cmp(&b.path));
        self.keys
    }
}

fn settings(table: &Table<'_>, defaults: &Partial, report: &mut Report<'_>) -> crate::staleness::Settings {
    let own = Partial::read(table, report);
    let merged = own.over(defaults);
    merged.check(&own, report);
    merged.resolve()
}
