//! What sources need that only the root phase may open: the authorities of `ca-file`, and the files of type `file`.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::inputs::{Refusal, secret};
use super::{StartError, at};
use crate::config::{Config, Document};
use crate::parent::{Authorities, SourceInputs};
use crate::sys::replaced::Watch;
use crate::sys::{creds, trusted};

/// The longest file of authorities: a whole system's are a quarter of a megabyte.
const MAX_AUTHORITIES: u64 = 16 << 20;

/// A file that is missing costs its keys their refreshing, and is told beside the inputs. One that is not safe, and a
/// `ca-file` that is no use, cost the start.
pub(super) fn open(config: &Config) -> Result<(SourceInputs, Vec<String>), StartError> {
    let (mut inputs, mut missing) = (SourceInputs::default(), Vec::new());
    let keys = config.keys.iter().map(|key| (&key.path as &dyn fmt::Display, &key.at, &key.source.document));
    // All paths of a key with parameters have their authorities, and their file, in common.
    let common: Vec<Document> = config.templates.iter().map(|key| key.source.any_document()).collect();
    let templates = config.templates.iter().zip(&common);
    let templates = templates.map(|(key, document)| (&key.template as &dyn fmt::Display, &key.at, document));
    for (key, place, document) in keys.chain(templates) {
        let named = |message: String| format!("{place}: key `{key}`: {message}");
        let wrong = |message: String| StartError::Configuration(named(message));
        match document {
            Document::Http(http) => {
                let Some(path) = &http.ca_file else { continue };
                if !inputs.authorities.contains_key(path) {
                    let found = authorities(path).map_err(|why| wrong(format!("ca-file {}: {why}", at(path))))?;
                    inputs.authorities.insert(path.clone(), found);
                }
            }
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
    Ok((inputs, missing))
}

/// The parent may not look at the path: what is not watched from now on, it does not learn.
fn watch(path: &Path, open: &File) -> Option<Watch> {
    let watch = Watch::begin(path, open);
    watch.inspect_err(|error| tracing::warn!(path = at(path), %error, "not noticed when it is moved away")).ok()
}

/// Of a file that nobody else can write: whoever does decides whom the token is shown to.
fn authorities(path: &Path) -> Result<Authorities, String> {
    let file = trusted::open_secret(path).map_err(|error| error.to_string())?;
    let found = file.metadata().map_err(|error| error.to_string())?;
    if found.uid() != 0 && found.uid() != creds::own_uid() {
        return Err(format!("it belongs to uid {}. Mend it with: chown root {}", found.uid(), at(path)));
    }
    if found.mode() & 0o022 != 0 {
        return Err(format!("it can be written by others. Mend it with: chmod go-w {}", at(path)));
    }
    let mut pem = Vec::new();
    file.take(MAX_AUTHORITIES).read_to_end(&mut pem).map_err(|error| error.to_string())?;
    Authorities::from_pem(&pem).map_err(|error| error.to_string())
}
