//! What sources need that only the root phase may open: the authorities of `ca-file`, and the files of type `file`.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::inputs::{Refusal, secret};
use super::{StartError, at};
use crate::config::{Config, Document};
use crate::parent::{Authorities, SourceInputs};
use crate::sys::replaced::Watch;
use crate::sys::trusted::OpenError;
use crate::sys::{creds, trusted};

/// Opened and checked.
#[derive(Default)]
pub(super) struct Opened {
    pub(super) inputs: SourceInputs,
    /// What the authorities were read from.
    pub(super) authorities: BTreeMap<PathBuf, File>,
    /// Each with what to do about it.
    pub(super) missing: Vec<String>,
}

/// A file that is missing costs its keys their refreshing, and is told beside the inputs. One that is not safe, and a
/// `ca-file` that is no use, cost the start.
pub(super) fn open(config: &Config) -> Result<Opened, StartError> {
    let Opened { mut inputs, mut authorities, mut missing } = Opened::default();
    let keys = config.keys.iter().map(|key| (&key.path as &dyn fmt::Display, &key.at, &key.source.document));
    // All paths of a key with parameters have their authorities, and their file, in common.
    let common: Vec<Document> = config.templates.iter().map(|key| key.source.any_document()).collect();
    let templates = config.templates.iter().zip(&common);
    let templates = templates.map(|(key, document)| (&key.template as &dyn fmt::Display, &key.at, document));
    for (key, place, document) in keys.chain(templates) {
        let named = |message: String| format!("{place}: key `{key}`: {message}");
        let wrong = |message: String| StartError::Configuration(named(message));
        let ca_file = match document {
            Document::Http(http) => http.ca_file.as_ref(),
            Document::Nameko(call) => call.ca_file.as_ref(),
            Document::File(_) | Document::Command(_) => None,
        };
        match document {
            Document::Http(_) | Document::Nameko(_) => {
                let Some(path) = ca_file else { continue };
                if !inputs.authorities.contains_key(path) {
                    let wrong = |why: String| wrong(format!("ca-file {}: {why}", at(path)));
                    let file = open_authorities(path).map_err(wrong)?;
                    inputs.authorities.insert(path.clone(), Authorities::read(&file).map_err(wrong)?);
                    authorities.insert(path.clone(), file);
                }
            }
            Document::Command(document) => match check_program(&document.command.program) {
                Ok(()) => {}
                Err(Refusal::Unsafe(message)) => return Err(wrong(message)),
                Err(Refusal::Absent(reason)) => {
                    let path = at(&document.command.program);
                    tracing::error!(%key, path, reason, "program not found: its keys serve what is known");
                    missing.push(named(format!("{path}: {reason}")));
                }
            },
            Document::File(file) if inputs.files.contains_key(&file.path) => {}
            Document::File(file) => match secret(&file.path) {
                Ok(open) => {
                    let watch = watch(&file.path, &open);
                    inputs.files.insert(file.path.clone(), (open, watch).into());
                }
                Err(Refusal::Unsafe(message)) => return Err(wrong(message)),
                Err(Refusal::Absent(reason)) => {
                    let path = at(&file.path);
                    tracing::error!(%key, path, reason, "source not found: its keys serve what is known");
                    missing.push(named(format!("{path}: {reason}")));
                }
            },
        }
    }
    Ok(Opened { inputs, authorities, missing })
}

/// The parent may not look at the path: what is not watched from now on, it does not learn.
fn watch(path: &Path, open: &File) -> Option<Watch> {
    let watch = Watch::begin(path, open);
    watch.inspect_err(|error| tracing::warn!(path = at(path), %error, "not noticed when it is moved away")).ok()
}

/// Whoever can change a program is handed its token.
fn check_program(path: &Path) -> Result<(), Refusal> {
    trusted::check_program(path).map_err(|error| match error {
        OpenError::Io(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Refusal::Absent(error.to_string())
        }
        other => Refusal::Unsafe(format!("{}: {other}", at(path))),
    })
}

/// Of a file that nobody else can write: whoever does decides whom the token is shown to.
fn open_authorities(path: &Path) -> Result<File, String> {
    let file = trusted::open_secret(path).map_err(|error| error.to_string())?;
    let found = file.metadata().map_err(|error| error.to_string())?;
    if found.uid() != 0 && found.uid() != creds::own_uid() {
        return Err(format!("it belongs to uid {}. Mend it with: chown root {}", found.uid(), at(path)));
    }
    if found.mode() & 0o022 != 0 {
        return Err(format!("it can be written by others. Mend it with: chmod go-w {}", at(path)));
    }
    Ok(file)
}
