//! What `keyhatch check` looks at beyond the configuration: users, files, owners and modes. Makes and changes nothing.

use super::inputs::{self, OpenedToken, Refusal};
use super::{service_users, sources, units};
use crate::config::Config;
use crate::sys::creds;

/// What was found.
pub struct Examined {
    /// Each says what is wrong and how to mend it.
    pub errors: Vec<String>,
    /// Those that could be opened: what they hold is for the parent's code to judge.
    pub tokens: Vec<OpenedToken>,
}

/// Opens what `serve` would open, as far as it is there.
pub fn examine(config: &Config) -> Examined {
    let mut errors = Vec::new();
    let users = if creds::is_root() { service_users(config).map(Some) } else { Ok(None) };
    let parent = match users {
        Ok(users) => users.map(|(parent, _)| parent),
        Err(error) => {
            errors.push(error.to_string());
            None
        }
    };
    let mut tokens = Vec::new();
    for (name, from) in &config.tokens {
        match inputs::token(from) {
            Ok(file) => tokens.push((name.clone(), from.clone(), Ok(file.into()))),
            Err(Refusal::Absent(reason)) => errors.push(format!("token `{name}`: {from}: {reason}")),
            Err(Refusal::Unsafe(message)) => errors.push(format!("token `{name}`: {message}")),
        }
    }
    match sources::open(config) {
        Ok((_, missing)) => errors.extend(missing),
        Err(error) => errors.push(error.to_string()),
    }
    errors.extend(units::problems(config, parent.map(|(_, gid)| gid)));
    let knows_owner = parent.is_some() || !creds::is_root();
    if knows_owner && config.cache.directory.exists() {
        let found = inputs::cache_directory(&config.cache.directory, parent);
        errors.extend(found.err().map(|error| error.to_string()));
    }
    Examined { errors, tokens }
}
