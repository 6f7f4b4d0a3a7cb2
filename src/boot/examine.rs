//! What `keyhatch check` looks at beyond the configuration: users, files, owners and modes. Makes and changes nothing.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;

use super::inputs::{self, OpenedToken, Refusal};
use super::{service_users, sources, units};
use crate::config::{Config, SecretFile, TokenName};
use crate::parent::SourceFile;
use crate::sys::creds;

/// What was found.
pub struct Examined {
    /// Each says what is wrong and how to mend it.
    pub errors: Vec<String>,
    /// Those that could be opened: what they hold is for the parent's code to judge.
    pub tokens: Vec<OpenedToken>,
    /// Credentials that are not to be seen from here.
    pub unseen: Vec<(TokenName, SecretFile)>,
    /// Of sources of type `file`, by their paths.
    pub files: BTreeMap<PathBuf, SourceFile>,
    /// Of every `ca-file`.
    pub authorities: BTreeMap<PathBuf, File>,
}

/// What it means that there is no credentials directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credentials {
    /// The credentials are missing.
    Needed,
    /// A broker runs that has them.
    Held,
}

/// Opens what `serve` would open, as far as it is there.
pub fn examine(config: &Config, credentials: Credentials) -> Examined {
    let mut errors = Vec::new();
    let users = if creds::is_root() { service_users(config).map(Some) } else { Ok(None) };
    let parent = match users {
        Ok(users) => users.map(|(parent, _)| parent),
        Err(error) => {
            errors.push(error.to_string());
            None
        }
    };
    let (mut tokens, mut unseen) = (Vec::new(), Vec::new());
    let held = credentials == Credentials::Held && !inputs::sees_credentials();
    for (name, from) in &config.tokens {
        if held && matches!(from, SecretFile::Credential(_)) {
            unseen.push((name.clone(), from.clone()));
            continue;
        }
        match inputs::token(from) {
            Ok(file) => tokens.push((name.clone(), from.clone(), Ok(file.into()))),
            Err(Refusal::Absent(reason)) => errors.push(format!("token `{name}`: {from}: {reason}")),
            Err(Refusal::Unsafe(message)) => errors.push(format!("token `{name}`: {message}")),
        }
    }
    let sources = sources::open(config).unwrap_or_else(|error| {
        errors.push(error.to_string());
        sources::Opened::default()
    });
    errors.extend(sources.missing);
    errors.extend(units::problems(config, parent.map(|(_, gid)| gid)));
    let knows_owner = parent.is_some() || !creds::is_root();
    if knows_owner && config.cache.directory.exists() {
        let found = inputs::cache_directory(&config.cache.directory, parent);
        errors.extend(found.err().map(|error| error.to_string()));
    }
    Examined { errors, tokens, unseen, files: sources.inputs.files, authorities: sources.authorities }
}
