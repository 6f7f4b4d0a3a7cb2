//! `keyhatch presets`: what sources can be made of without writing out a request, the shipped and the operator's own.

use std::fmt::Write;
use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;

use super::args::{DEFAULT_CONFIG, Presets};
use super::table::Table;
use super::{show, tell, trust};
use crate::config::{self, Description};
use crate::exit::Exit;
use crate::shown;

/// Of a parameter of a preset in which one of a key may stand.
const MARK: &str = " {…}";

pub(super) fn run(path: &Path, asked: &Presets) -> Exit {
    let mut presets = config::shipped_presets();
    match own(path) {
        Ok(own) => presets.extend(own),
        Err(exit) => return exit,
    }
    match &asked.command {
        None if asked.json => show(&serde_json::json!({ "presets": presets }).to_string()),
        None => show(list(&presets).trim_end()),
        Some(super::args::PresetsCommand::Show { name, example, json }) => {
            let Some(preset) = presets.iter().find(|preset| preset.name == *name) else {
                let names: Vec<&str> = presets.iter().map(|preset| preset.name.as_str()).collect();
                let unknown = shown::part(name);
                tell(&format_args!("there is no preset {unknown}; there are {}", names.join(", ")));
                return Exit::Usage;
            };
            match (json, example) {
                (true, _) => show(&serde_json::json!(preset).to_string()),
                (false, true) => show(preset.example.trim_end()),
                (false, false) => show(describe(preset).trim_end()),
            }
        }
    }
}

/// Those of the configuration, where there is one: whoever looks around may have none, or may not read it.
fn own(path: &Path) -> Result<Vec<Description>, Exit> {
    match File::open(path).map_err(|error| error.kind()) {
        Err(ErrorKind::NotFound) if path == Path::new(DEFAULT_CONFIG) => return Ok(Vec::new()),
        Err(ErrorKind::PermissionDenied) => {
            tell(&format_args!("{}: not readable, so only what keyhatch ships is told", path.display()));
            return Ok(Vec::new());
        }
        _ => {}
    }
    config::load(path, trust()).map(|config| config.presets).map_err(|error| {
        tell(&error);
        Exit::Configuration
    })
}

fn list(presets: &[Description]) -> String {
    let mut table = Table::new(&["PRESET", "OF", "TITLE"], &[]);
    for preset in presets {
        let of = if preset.shipped { "keyhatch" } else { "configuration" };
        table.row([preset.name.clone(), of.to_owned(), preset.title.clone()]);
    }
    table.text()
}

fn describe(preset: &Description) -> String {
    let mut text = format!("{}: {}\n", preset.name, preset.title);
    // To write into a string does not fail.
    if let Some(link) = &preset.link {
        let _ = writeln!(text, "{link}");
    }
    let _ = writeln!(text, "\n{}\n\n{}\n", preset.about, preset.request);
    let mut table = Table::new(&["PARAMETER", "TYPE", "NEEDED", "MEANING"], &[]);
    for one in &preset.parameters {
        let needed = match (&one.default, one.required) {
            (Some(default), _) => format!("else {default}"),
            (None, true) => "yes".to_owned(),
            (None, false) => "no".to_owned(),
        };
        let words = if one.one_of.is_empty() { String::new() } else { format!(" ({})", one.one_of.join(", ")) };
        let mark = if one.takes_parameters_of_keys { MARK } else { "" };
        table.row([format!("{}{mark}", one.name), one.kind.to_owned(), needed, format!("{}{words}", one.doc)]);
    }
    text.push_str(&table.text());
    if preset.parameters.iter().any(|one| one.takes_parameters_of_keys) {
        let _ = writeln!(
            text,
            "\n{}: a parameter of the key may stand in it, as in [keys.\"/{}/{{name}}\"].",
            MARK.trim(),
            preset.name
        );
    }
    if !preset.ways.is_empty() {
        let _ = writeln!(text, "\nA way to authenticate is one of: {}.", preset.ways.join("; "));
    }
    if !preset.outcomes.is_empty() {
        let mut table = Table::new(&["ANSWER", "IS"], &[]);
        preset.outcomes.iter().for_each(|one| table.row([one.answer.clone(), one.class.clone()]));
        let _ = write!(text, "\n{}", table.text());
    }
    let _ = write!(text, "\nBeside these: ca-file, proxy, allow-plaintext. Example:\n\n{}", preset.example);
    text
}
