//! What only the root phase may open, each checked on the open file.

use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::{Ids, StartError, at, directories};
use crate::config::{Config, SecretFile, TokenName};
use crate::parent::cache::new_seal_key_text;
use crate::sys::trusted::{self, OpenError};
use crate::sys::{creds, file};

fn wrong(message: String) -> StartError {
    StartError::Configuration(message)
}

/// The directory of sealed values: made if missing; the parent's own and nobody else's. Found only: the parent opens it
/// after the drop, with its own rights.
pub(super) fn cache_directory(path: &Path, parent: Option<Ids>) -> Result<OwnedFd, StartError> {
    let failed = |error: io::Error| wrong(format!("cache directory {}: {error}", at(path)));
    if let (false, Some(above), Some(name)) = (path.exists(), path.parent(), path.file_name()) {
        let above = directories::make(above, 0o755).map_err(|error| wrong(format!("cache directory: {error}")))?;
        fs::DirBuilder::new().mode(0o700).create(path).map_err(failed)?;
        if let Some((uid, gid)) = parent {
            let made = file::find_at(above.as_fd(), name).map_err(failed)?;
            file::chown(made.as_fd(), uid, gid).map_err(failed)?;
        }
    }
    let directory = file::find_directory(path).map_err(failed)?;
    let found = File::from(directory.try_clone().map_err(failed)?).metadata().map_err(failed)?;
    let owner = parent.map_or_else(creds::own_uid, |(uid, _)| uid);
    if found.uid() != owner {
        let message = format!("cache directory {} is owned by uid {}, not by {owner}", at(path), found.uid());
        return Err(wrong(format!("{message}{}", mended_by_owner(owner, path))));
    }
    if found.mode() & 0o077 != 0 {
        return Err(wrong(format!("cache directory {} is open to others. Mend it with: chmod 0700 {0}", at(path))));
    }
    Ok(directory)
}

/// The seal keys. The first one is made at the first start, if it is a file; nothing else ever is: what an older key or a
/// credential has sealed, a new one does not open.
pub(super) fn seal_keys(keys: &[SecretFile]) -> Result<Vec<File>, StartError> {
    if let Some(SecretFile::File(path)) = keys.first() {
        make_seal_key(path)?;
    }
    existing_seal_keys(keys)
}

/// The same without making any.
pub(super) fn existing_seal_keys(keys: &[SecretFile]) -> Result<Vec<File>, StartError> {
    keys.iter().map(seal_key).collect()
}

fn seal_key(from: &SecretFile) -> Result<File, StartError> {
    secret_file(from).map_err(|refusal| match refusal {
        Refusal::Absent(reason) => {
            wrong(format!("seal key {from}: {reason}. `serve` makes only a first one that is a file"))
        }
        Refusal::Unsafe(message) => wrong(format!("seal key {from}: {message}")),
    })
}

fn make_seal_key(path: &Path) -> Result<(), StartError> {
    let failed = |error: io::Error| wrong(format!("seal key {}: {error}", at(path)));
    if path.exists() {
        return Ok(());
    }
    if let Some(above) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(above).map_err(failed)?;
    }
    let text = new_seal_key_text().map_err(|error| wrong(error.to_string()))?;
    file::create_secret(path, text.as_bytes()).map_err(failed)
}

pub type OpenedToken = (TokenName, SecretFile, Result<OwnedFd, String>);

/// A token that cannot be found does not stop the start; one that others can read does.
pub(super) fn tokens(config: &Config) -> Result<Vec<OpenedToken>, StartError> {
    let mut opened = Vec::with_capacity(config.tokens.len());
    for (name, from) in &config.tokens {
        let result = match token(from) {
            Ok(file) => Ok(file.into()),
            Err(Refusal::Absent(reason)) => {
                tracing::error!(token = %name, from = %from, reason, "token not found: its keys serve what is known");
                Err(reason)
            }
            Err(Refusal::Unsafe(message)) => return Err(wrong(format!("token `{name}`: {message}"))),
        };
        opened.push((name.clone(), from.clone(), result));
    }
    Ok(opened)
}

/// Opened and checked as far as that goes without reading it.
pub(super) fn token(from: &SecretFile) -> Result<File, Refusal> {
    let file = secret_file(from)?;
    let length = file.metadata().map_err(|error| Refusal::Unsafe(format!("{from}: {error}")))?.len();
    if length == 0 {
        return Err(Refusal::Unsafe(format!("{from} is empty; it must hold the token, on one line")));
    }
    Ok(file)
}

/// Where systemd puts credentials (systemd.exec(5)).
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

pub(super) fn sees_credentials() -> bool {
    std::env::var_os(CREDENTIALS).is_some()
}

/// A secret by its path, or by its name in the credentials directory (systemd.exec(5)).
fn secret_file(from: &SecretFile) -> Result<File, Refusal> {
    match from {
        SecretFile::File(path) => secret(path),
        SecretFile::Credential(credential) => {
            let directory = std::env::var_os(CREDENTIALS).ok_or_else(|| {
                Refusal::Absent("$CREDENTIALS_DIRECTORY is not set: a unit has it by LoadCredential=".into())
            })?;
            // To a service with a user of its own, systemd shows the file by an ACL, which looks like rights of a group.
            secret_closed_to(&PathBuf::from(directory).join(credential), 0o007)
        }
    }
}

pub(super) enum Refusal {
    Absent(String),
    Unsafe(String),
}

/// Without root there is no such advice: what belongs to others may be a broker's that root starts.
fn mended_by_owner(owner: impl Display, path: &Path) -> String {
    if creds::is_root() { format!(". Mend it with: chown {owner} {}", at(path)) } else { String::new() }
}

/// A regular file of ours that nobody else can read.
pub(super) fn secret(path: &Path) -> Result<File, Refusal> {
    secret_closed_to(path, 0o077)
}

fn secret_closed_to(path: &Path, others: u32) -> Result<File, Refusal> {
    let refuse = |what: String| Refusal::Unsafe(format!("{}: {what}", at(path)));
    let opened = trusted::open_secret(path).map_err(|error| match error {
        OpenError::Io(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Refusal::Absent(error.to_string())
        }
        other => refuse(other.to_string()),
    })?;
    let found = opened.metadata().map_err(|error| refuse(error.to_string()))?;
    if found.uid() != 0 && found.uid() != creds::own_uid() {
        let mend = mended_by_owner("root", path);
        return Err(refuse(format!("it belongs to uid {}{mend}", found.uid())));
    }
    if found.mode() & others != 0 {
        let mode = found.mode() & 0o7777;
        return Err(refuse(format!(
            "it can be read by others (mode {mode:04o}). Mend it with: chmod 0400 {}",
            at(path)
        )));
    }
    Ok(opened)
}
