//! `keyhatch cache`: what is sealed on disk, and what a change of the configuration would lose. Never a value.

use std::fmt::Write as _;
use std::path::Path;

use super::args::Cache;
use super::table::{call, duration};
use super::{show, tell, trust};
use crate::boot;
use crate::config::{self, Config};
use crate::exit::Exit;
use crate::parent::cache::{Inspected, Inspection, KeyRing, Standing};
use crate::secret::KeyPath;
use crate::shown;

/// So many keys are named in one line.
const NAMED: usize = 20;

pub(super) fn run(path: &Path, command: &Cache) -> Exit {
    let config = match config::load(path, trust()) {
        Ok(config) => config,
        Err(error) => {
            tell(&error);
            return Exit::Configuration;
        }
    };
    let directory = config.cache.directory.display();
    let inspection = match inspect(&config) {
        Ok(Some(inspection)) => inspection,
        Ok(None) => {
            tell(&format_args!("there is no cache directory {directory} yet"));
            return Exit::Other;
        }
        Err(message) => {
            tell(&message);
            return Exit::Other;
        }
    };
    let (files, json) = match command {
        Cache::Ls { json } => (inspection.files(), *json),
        Cache::Verify { json } => (inspection.verified(), *json),
    };
    let text = if json { serde_json::json!({ "files": files }).to_string() } else { table(&files) };
    let shown = show(text.trim_end());
    let damaged = files.iter().filter(|file| file.state == Standing::Damaged).count();
    if matches!(command, Cache::Verify { .. }) && damaged > 0 {
        tell(&format_args!("{directory}: {damaged} of {} files damaged", files.len()));
        return Exit::Other;
    }
    shown
}

/// `None` when nothing was ever sealed here.
fn inspect(config: &Config) -> Result<Option<Inspection>, String> {
    if matches!(config.cache.directory.try_exists(), Ok(false)) {
        return Ok(None);
    }
    let files = boot::existing_seal_keys(config).map_err(|error| error.to_string())?;
    let keys = KeyRing::read(config.cache.seal_keys.iter().zip(files))?;
    Inspection::new(config, keys).map_err(|error| format!("{}: {error}", config.cache.directory.display()))
}

/// What a configuration would make of the values that there are: warnings, and notes.
pub(super) fn losses(config: &Config) -> (Vec<String>, Vec<String>) {
    let inspection = match inspect(config) {
        Ok(Some(inspection)) => inspection,
        Ok(None) => return (Vec::new(), Vec::new()),
        Err(message) => return (Vec::new(), vec![format!("what is sealed was not looked at: {message}")]),
    };
    let (lost, left) = (inspection.lost(), inspection.left());
    let told = |keys: &[KeyPath], begin: &str, what: &str| {
        let text = || format!("{begin} of {} {what}: {}", counted(keys.len()), named(keys));
        (!keys.is_empty()).then(text).into_iter().collect()
    };
    let of_lost = "would be lost, because the definition of its source has changed";
    let of_left = "not in the configuration, and forgotten after forget-after";
    (told(&lost, "the sealed value", of_lost), told(&left, "there is a sealed value", of_left))
}

fn counted(keys: usize) -> String {
    if keys == 1 { "1 key".into() } else { format!("{keys} keys") }
}

fn named(keys: &[KeyPath]) -> String {
    let mut text = keys.iter().take(NAMED).map(|key| call(key.path(), key.arguments())).collect::<Vec<_>>().join(", ");
    if keys.len() > NAMED {
        // Writing to a String does not fail.
        let _ = write!(text, " and {} more", keys.len() - NAMED);
    }
    text
}

fn table(files: &[Inspected]) -> String {
    let key =
        |file: &Inspected| file.key.as_ref().map_or("-".to_owned(), |key| call(key.path(), file.arguments.as_deref()));
    let width = files.iter().map(|file| key(file).len()).max().unwrap_or(0).max("KEY".len());
    let mut text = format!("{:width$}  {:16}  {:>8}  {:>8}  {:40}  NOTE\n", "KEY", "STATE", "AGE", "SIZE", "FILE");
    for file in files {
        let age = file.age.map_or("-".into(), duration);
        let size = file.size.map_or("-".into(), |size| size.to_string());
        let state = file.state.to_string();
        // Writing to a String does not fail.
        let _ = write!(text, "{:width$}  {state:16}  {age:>8}  {size:>8}  {:40}", key(file), shown::part(&file.file));
        if let Some(problem) = &file.problem {
            let _ = write!(text, "  {problem}");
        }
        if let Some(seconds) = file.forgotten_in {
            let _ = write!(text, "  forgotten in {}", duration(seconds));
        }
        text.push('\n');
    }
    text
}
