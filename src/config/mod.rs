//! The configuration: from TOML files to [`Config`], with every error of a run at once.
//!
//! Opens nothing but the configuration files, reads no token, and never holds one: tokens are paths and
//! names here. What a file says is shown only masked.
#![forbid(unsafe_code)]

mod answers;
mod auth;
mod broker;
mod clients;
mod command;
mod credentials;
mod definition;
mod diagnostic;
mod expand;
mod explain;
#[cfg(test)]
mod fuzz;
mod headers;
mod keys;
mod limits;
mod live;
mod mask;
mod model;
mod nameko;
mod names;
mod open;
mod outcomes;
mod params;
mod presets;
mod projection;
mod resolve;
mod server;
mod settings;
mod sockets;
mod source;
mod table;
mod text;
mod tokens;
mod url;
mod values;

pub use answers::{Coding, OutcomeClass, OutcomeRule, Projection, RateLimit, Step, Test};
pub use auth::*;
pub use broker::{Broker, NamekoDocument};
pub use diagnostic::{LoadError, SourceText};
pub use expand::{Eviction, KeyTemplate, SourceTemplate, expand};
pub use explain::{Defined, Explanation, Obstacle, TemplateExplanation, explain, explain_template};
pub use live::{Fixed, Live, TokenFiles};
pub use model::*;
pub use open::Trust;
pub use presets::{Description, OutcomeDescription, ParameterDescription, shipped_presets};
pub use resolve::{Resolver, System};
pub use sockets::{Asked, socket};
pub use text::{Encoding, Piece, Text};
pub use url::origin;

use std::collections::HashSet;
use std::path::Path;

use toml::Spanned;
use toml::de::DeTable;

use crate::acl::Acl;
use clients::Clients;
use diagnostic::{Diagnostic, Place, Report, first_line};
use keys::{Keys, MadeOf};
use presets::Presets;
use settings::Partial;
use table::{Node, Table};
use tokens::Tokens;

/// Reads and checks the configuration: the file, and the drop-ins of `conf.d` beside it.
///
/// Asks the name service for users and groups, so it is called before anything is dropped.
pub fn load(path: &Path, trust: Trust) -> Result<Config, LoadError> {
    let (files, errors) = open::read_all(path, trust);
    parse_into(files, errors, &System)
}

/// The same from texts: the first is the main file, the others are drop-ins in their order.
pub fn parse(files: Vec<SourceText>, resolver: &dyn Resolver) -> Result<Config, LoadError> {
    parse_into(files, Vec::new(), resolver)
}

fn parse_into(files: Vec<SourceText>, unread: Vec<Diagnostic>, resolver: &dyn Resolver) -> Result<Config, LoadError> {
    let mut report = Report::new(&files);
    report.errors = unread;
    let parsed: Vec<Spanned<DeTable<'_>>> =
        files.iter().enumerate().map(|(file, source)| syntax(file, &source.text, &mut report)).collect();
    let syntax_errors = report.errors.clone();
    let config = build(&parsed, resolver, &mut report);
    let mut errors = std::mem::take(&mut report.errors);
    drop(report);
    drop_consequences(&files, &syntax_errors, &mut errors);
    drop(parsed);
    if errors.is_empty() { Ok(config) } else { Err(LoadError::new(files, errors)) }
}

/// The document, as far as it can be read, with all its syntax errors in the report.
fn syntax<'a>(file: usize, text: &'a str, report: &mut Report<'_>) -> Spanned<DeTable<'a>> {
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut seen = HashSet::new();
    for error in errors {
        let span = error.span().unwrap_or(text.len()..text.len());
        let what = (error.message().to_owned(), span.start);
        if !seen.insert(what) {
            continue;
        }
        let written = text.get(span.clone()).unwrap_or_default();
        let place = Place { file, span };
        report.error(match error.message() {
            message if message.starts_with("duplicate key") => {
                Diagnostic::at(place, "a name that is already in its table")
                    .label("it is defined above")
                    .help("each name stands once; a key, token or client is defined in one place")
            }
            message if message.starts_with("string values must be quoted") && written.trim().is_empty() => {
                Diagnostic::at(place, "missing value")
            }
            message => Diagnostic::at(place, message),
        });
    }
    table
}

/// In a file with syntax errors, what is found on the same line or to be missing may follow from those.
fn drop_consequences(files: &[SourceText], syntax: &[Diagnostic], errors: &mut Vec<Diagnostic>) {
    let line = |at: &Place| (at.file, first_line(&files[at.file].text, &at.span).start);
    let broken: HashSet<(usize, usize)> = syntax.iter().filter_map(Diagnostic::place).map(line).collect();
    let broken_files: HashSet<usize> = broken.iter().map(|(file, _)| *file).collect();
    let mut index = 0;
    errors.retain(|error| {
        index += 1;
        let Some(place) = error.place().filter(|_| index > syntax.len()) else { return true };
        let in_broken_file = broken_files.contains(&place.file);
        !(broken.contains(&line(place)) || (in_broken_file && error.about_absence))
    });
}

/// Goes through all files, one kind of section after the other, because later kinds refer to earlier ones.
fn build(parsed: &[Spanned<DeTable<'_>>], resolver: &dyn Resolver, report: &mut Report<'_>) -> Config {
    let mut tables = Vec::new();
    for (file, document) in parsed.iter().enumerate() {
        let names = if file == 0 { &names::TOP } else { &names::DROP_IN };
        let place = Place { file, span: 0..0 };
        tables.push(Table::new(file, place, document.get_ref(), names, report));
    }
    let main = |name| tables.first().and_then(|table| table.get(name));
    let everywhere = |name| tables.iter().filter_map(move |table| table.get(name));

    let server = server::server(main("server"), resolver, report);
    let cache = server::cache(main("cache"), report);
    let limits = limits::limits(main("limits"), report);
    let defaults = defaults(main("defaults"), report);

    let mut tokens = Tokens::default();
    for entry in everywhere("tokens").flat_map(|node| node.entries(report)).collect::<Vec<_>>() {
        tokens.add(&entry, report);
    }
    let mut presets = Presets::default();
    for entry in everywhere("presets").flat_map(|node| node.entries(report)).collect::<Vec<_>>() {
        presets.add(&entry, report);
    }
    let mut keys = Keys::default();
    let mut users = command::Users::new(&server, resolver);
    for entry in everywhere("keys").flat_map(|node| node.entries(report)).collect::<Vec<_>>() {
        keys.add(&entry, &defaults, MadeOf { tokens: &tokens, presets: &presets }, report);
        users.look_up(&entry, report);
    }
    let mut clients = Clients::default();
    for entry in everywhere("clients").flat_map(|node| node.entries(report)).collect::<Vec<_>>() {
        clients.add(&entry, &server, resolver, report);
    }
    clients.check_credentials(&keys, report);
    clients.check_commands(&users, report);
    users.check_tokens(report);
    warn(&keys, &clients, report);
    let (mut keys, mut templates) = keys.finish();
    users.fill_in(&mut keys, &mut templates);
    Config {
        server,
        cache,
        limits,
        presets: presets.describe(&tokens),
        tokens: tokens.finish(),
        keys,
        templates,
        acl: Acl { clients: clients.clients },
        warnings: std::mem::take(&mut report.warnings),
        problems: std::mem::take(&mut report.problems),
    }
}

fn defaults(section: Option<Node<'_>>, report: &mut Report<'_>) -> Partial {
    let Some(table) = section.and_then(|node| node.table(report, &names::SETTINGS)) else { return Partial::default() };
    let defaults = Partial::read(&table, report);
    defaults.check(&defaults, report);
    defaults
}

/// What is legal and still not what anybody wants.
fn warn(keys: &Keys, clients: &Clients, report: &mut Report<'_>) {
    let Some(main) = report.files.first() else { return };
    if keys.is_empty() {
        report.warnings.push(format!("{}: no keys: there is nothing to serve", main.path.display()));
        return;
    }
    if clients.clients.is_empty() {
        report.warnings.push(format!("{}: no clients: nobody may read anything", main.path.display()));
    }
    for (pattern, place) in &clients.patterns {
        if !keys.may_match(pattern) {
            report.warning(place, format!("the pattern `{pattern}` matches no key"));
        }
    }
}
