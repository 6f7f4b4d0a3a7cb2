//! What sources need that only the root phase may open: the authorities of `ca-file`, and the files of type `file`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::inputs::{Refusal, secret};
use super::{StartError, at};
use crate::config::{Config, Document, Location};
use crate::parent::upstream::{SourceFile, SourceInputs};
use crate::sys::creds;

/// The longest file of authorities: a whole system's are a quarter of a megabyte.
const MAX_AUTHORITIES: u64 = 16 << 20;

/// A file that is missing costs its keys their refreshing; one that is not safe, and a `ca-file` that is no use, the start.
pub(super) fn open(config: &Config) -> Result<SourceInputs, StartError> {
    let mut inputs = SourceInputs::default();
    for key in &config.keys {
        let named = |message: String| StartError::Configuration(format!("{}: key `{}`: {message}", key.at, key.path));
        match &key.source.document {
            Document::Http(http) => {
                let Some(path) = http.ca_file.as_ref().filter(|path| !inputs.authorities.contains_key(*path)) else {
                    continue;
                };
                inputs.authorities.insert(path.clone(), authorities(path).map_err(named)?);
            }
            Document::File(file) => open_source(&mut inputs.files, &file.path, &key.at).map_err(named)?,
        }
    }
    Ok(inputs)
}

fn open_source(files: &mut BTreeMap<PathBuf, SourceFile>, path: &Path, asked: &Location) -> Result<(), String> {
    if files.contains_key(path) {
        return Ok(());
    }
    match secret(path) {
        Ok(file) => drop(files.insert(path.to_owned(), SourceFile(file))),
        Err(Refusal::Absent(reason)) => {
            tracing::error!(path = at(path), reason, %asked, "source not found: its keys serve what is known");
        }
        Err(Refusal::Unsafe(message)) => return Err(message),
    }
    Ok(())
}

/// The certificates of a PEM file that nobody else can write: whoever does decides whom the token is shown to.
fn authorities(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let failed = |problem: &dyn std::fmt::Display| format!("ca-file {}: {problem}", at(path));
    let file = File::open(path).map_err(|error| failed(&error))?;
    let found = file.metadata().map_err(|error| failed(&error))?;
    if !found.is_file() {
        return Err(failed(&"not a regular file"));
    }
    if found.uid() != 0 && found.uid() != creds::own_uid() {
        let problem = format!("owned by uid {}. Mend it with: chown root {}", found.uid(), at(path));
        return Err(failed(&problem));
    }
    if found.mode() & 0o022 != 0 {
        return Err(failed(&format!("can be written by others. Mend it with: chmod go-w {}", at(path))));
    }
    let mut pem = Vec::new();
    file.take(MAX_AUTHORITIES).read_to_end(&mut pem).map_err(|error| failed(&error))?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let certificates = certificates.map_err(|error| failed(&format!("not PEM: {error}")))?;
    if certificates.is_empty() {
        return Err(failed(&"there is no certificate in it; it takes PEM, `-----BEGIN CERTIFICATE-----` and so on"));
    }
    let (usable, _) = rustls::RootCertStore::empty().add_parsable_certificates(certificates.iter().cloned());
    if usable == 0 {
        return Err(failed(&"none of its certificates can be read"));
    }
    Ok(certificates)
}
