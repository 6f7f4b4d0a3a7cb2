//! `keyhatch import`: the configuration of another program, as one of keyhatch's.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::{show, tell};
use crate::exit::Exit;
use crate::import::{self, write};
use crate::shown;

#[derive(Subcommand)]
pub(super) enum Import {
    /// Take over a configuration of cachish 1.7: all of it, or nothing is written
    #[command(
        after_help = "Tokens and secrets become files below `tokens`, 0400. The token of a client has no place here: name the user that the \
        client runs as.\n\nExample: keyhatch import cachish /etc/cachish.yml --clients billing=billing,geo=www-data"
    )]
    Cachish(Cachish),
}

#[derive(Args)]
pub(super) struct Cachish {
    /// Such as /etc/cachish.yml
    pub(super) file: PathBuf,
    /// The users that clients of cachish become
    #[arg(long, value_delimiter = ',', value_parser = client_and_user, value_name = "NAME=USER,…")]
    pub(super) clients: Vec<(String, String)>,
    /// Print the configuration and name the files, write nothing
    #[arg(long)]
    pub(super) dry_run: bool,
    /// The directory to write to, instead of that of --config
    #[arg(long, value_name = "DIR")]
    pub(super) out: Option<PathBuf>,
    /// Replace what is there
    #[arg(long)]
    pub(super) force: bool,
}

fn client_and_user(text: &str) -> Result<(String, String), String> {
    match text.rsplit_once('=') {
        Some((name, user)) if !name.is_empty() && !user.is_empty() => Ok((name.to_owned(), user.to_owned())),
        _ => Err("expected NAME=USER, such as billing=billing".to_owned()),
    }
}

pub(super) fn run(config: &Path, from: &Import) -> Exit {
    let Import::Cachish(asked) = from;
    match imported(config, asked) {
        Ok(exit) | Err(exit) => exit,
    }
}

fn imported(config: &Path, asked: &Cachish) -> Result<Exit, Exit> {
    let fail = |exit: Exit, message: &dyn std::fmt::Display| {
        tell(message);
        exit
    };
    let mut users = BTreeMap::new();
    for (name, user) in &asked.clients {
        if users.insert(name.clone(), user.clone()).is_some() {
            return Err(fail(Exit::Usage, &format_args!("--clients gives `{}` twice", shown::part(name))));
        }
    }
    let directory = asked.out.as_deref().or(config.parent()).unwrap_or(Path::new("."));
    // The paths of tokens have to be whole, wherever the broker is started.
    let directory = std::path::absolute(directory).map_err(|error| fail(Exit::Other, &error))?;
    let file = asked.file.display();
    let text = std::fs::read_to_string(&asked.file).map(zeroize::Zeroizing::new);
    let text = text.map_err(|error| fail(Exit::Configuration, &format_args!("{file}: {error}")))?;
    let made = import::cachish(&text, &users, &directory).map_err(|faults| {
        faults.iter().for_each(|fault| tell(&format_args!("{file}: {fault}")));
        fail(Exit::Configuration, &format_args!("{file}: nothing was written"))
    })?;
    made.notes.iter().for_each(|note| tell(&format_args!("note: {note}")));
    let paths = write::paths(&made, &directory);
    if asked.dry_run {
        paths.iter().for_each(|path| tell(&format_args!("would write {}", path.display())));
        return Ok(show(made.config.trim_end()));
    }
    write::write(&made, &directory, asked.force).map_err(|error| fail(Exit::Other, &error))?;
    paths.iter().for_each(|path| tell(&format_args!("written: {}", path.display())));
    tell(&"next: keyhatch check, and remove the secrets from the file of cachish");
    Ok(Exit::Ok)
}
