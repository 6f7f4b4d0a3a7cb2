//! Configurations of other programs, as one of keyhatch's: text in, text and tokens out.
//!
//! Reads no file but the one that it is given, and shows nothing of it that may be a secret: errors name lines. [`write`] alone
//! touches the disk, and leaves all of it there or nothing.
#![forbid(unsafe_code)]

mod cachish;
mod glob;
mod render;
pub mod write;
mod yaml;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::config::{self, SourceText, System};
use crate::shown;

/// What is to be written, and what has to be said about it.
pub struct Imported {
    /// `keyhatch.toml`, without a secret.
    pub config: String,
    /// Names of files below `tokens`, and what they hold.
    pub tokens: Vec<(String, Zeroizing<String>)>,
    /// What could not be carried over, or is other than it was.
    pub notes: Vec<String>,
}

/// What keeps a file from being imported, at its line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// From 1; `None` is the whole file.
    pub line: Option<usize>,
    pub what: String,
}

impl Fault {
    fn at(line: usize, what: impl Into<String>) -> Self {
        Self { line: Some(line), what: what.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line}: {}", self.what),
            None => write!(f, "{}", self.what),
        }
    }
}

/// The equivalent of a configuration of cachish 1.7, for a directory that it is to be written to. `users` are those that the clients
/// by the name become.
///
/// # Errors
/// All that is wrong with the file, or that keyhatch has no place for.
pub fn cachish(text: &str, users: &BTreeMap<String, String>, directory: &Path) -> Result<Imported, Vec<Fault>> {
    let root = yaml::read(text).map_err(|fault| vec![fault])?;
    let mut found = cachish::read(&root)?;
    let unknown = users.keys().filter(|name| !found.clients.iter().any(|client| client.name == **name));
    let faults: Vec<Fault> = unknown
        .map(|name| Fault {
            line: None,
            what: format!("--clients names `{}`, which is no client there", shown::part(name)),
        })
        .collect();
    if !faults.is_empty() {
        return Err(faults);
    }
    let (config, tokens) = render::render(&mut found, users, directory);
    let mut notes = found.notes;
    // What is written is read by the program itself before anything is on the disk.
    let file = SourceText { path: PathBuf::from("keyhatch.toml"), text: config.clone() };
    let read = config::parse(vec![file], &System);
    let refused = |error: config::LoadError| {
        vec![Fault { line: None, what: format!("keyhatch would refuse what this becomes:\n{error}") }]
    };
    let read = read.map_err(refused)?;
    notes.extend(read.problems.into_iter().chain(read.warnings));
    Ok(Imported { config, tokens, notes })
}
