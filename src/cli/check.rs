//! `keyhatch check`: all that is wrong with a configuration, and with what it names, without starting anything.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::{cache, errors, show, tell, trust};
use crate::boot::Credentials;
use crate::client::http;
use crate::config::{self, Config, Fixed};
use crate::exit::Exit;
use crate::parent::reload::{Greeting, needs_restart};
use crate::shown;
use crate::sys::creds;

/// How long a broker may think about what it was started with.
const PATIENCE: Duration = Duration::from_secs(2);

/// What was found. Texts for a person, without secrets: `config` masks what it shows.
#[derive(Default)]
struct Findings {
    errors: Vec<String>,
    warnings: Vec<String>,
    notes: Vec<String>,
    /// Keys with and without parameters, those with, and clients; nothing of a configuration that cannot be read.
    counts: Option<[usize; 3]>,
}

/// Problems on stderr, or all of it as one object of JSON on stdout.
pub(super) fn run(path: &Path, as_json: bool) -> Exit {
    let whose = (!creds::is_root()).then(|| {
        let uid = creds::own_uid();
        format!(
            "checked as uid {uid}, as whom a start without root would run; run it as root to check what root starts"
        )
    });
    if let Some(whose) = whose.as_ref().filter(|_| !as_json) {
        tell(&format_args!("note: {whose}"));
    }
    let mut findings = match config::load(path, trust()) {
        Ok(config) => examine(path, &config),
        Err(error) if as_json => Findings { errors: error.each(), ..Findings::default() },
        // As a whole: it says how many there are.
        Err(error) => {
            tell(&error);
            return Exit::Configuration;
        }
    };
    let exit = if findings.errors.is_empty() { Exit::Ok } else { Exit::Configuration };
    if as_json {
        findings.notes.splice(..0, whose);
        return match show(&findings.json(path)) {
            Exit::Ok => exit,
            unwritten => unwritten,
        };
    }
    findings.tell(path);
    exit
}

fn examine(path: &Path, config: &Config) -> Findings {
    let (errors, _) = errors(config, Credentials::Needed);
    // What would be lost by a configuration that is refused is nothing.
    let (losses, notes) = if errors.is_empty() { cache::losses(config) } else { (Vec::new(), Vec::new()) };
    let restart = if errors.is_empty() { restart(path, config) } else { None };
    let warnings = config.warnings.iter().cloned().chain(losses).chain(restart).collect();
    let templates = config.templates.len();
    let counts = [config::served(&config.keys).count() + templates, templates, config.acl.clients.len()];
    Findings { errors, warnings, notes, counts: Some(counts) }
}

/// What a reload would be refused for, if a broker of this file runs here and tells this user so at once.
fn restart(path: &Path, config: &Config) -> Option<String> {
    // Others are denied, and whoever only checks has no business in the log of the broker.
    let may_ask = creds::is_root() || is_own(&config.server.admin_socket);
    let answer = may_ask.then(|| http::ask_within(PATIENCE, &config.server.admin_socket, "/reload"))??;
    let Greeting { version, config: of, fixed } = serde_json::from_slice(&answer.body).ok()?;
    if version != env!("CARGO_PKG_VERSION") || std::path::absolute(path).ok()? != of {
        return None;
    }
    let why = needs_restart(&fixed, &Fixed::of(config, config.acl.has_units()))?;
    Some(shown::part(&format!("the broker that runs will refuse a reload: {why}")))
}

/// Whether the caller's own broker has made this socket: one that was started without root.
fn is_own(socket: &Path) -> bool {
    std::fs::metadata(socket).is_ok_and(|found| found.uid() == creds::own_uid())
}

impl Findings {
    fn tell(&self, path: &Path) {
        self.warnings.iter().for_each(|warning| tell(&format_args!("warning: {warning}")));
        self.notes.iter().for_each(|note| tell(&format_args!("note: {note}")));
        self.errors.iter().for_each(|error| tell(&format_args!("error: {error}")));
        if let Some([keys, templates, clients]) = self.counts
            && self.errors.is_empty()
        {
            let templates = if templates > 0 { format!(" ({templates} with parameters)") } else { String::new() };
            let (keys, clients) = (shown::counted(keys, "key"), shown::counted(clients, "client"));
            tell(&format_args!("{}: good: {keys}{templates}, {clients}", path.display()));
        }
    }

    fn json(&self, path: &Path) -> String {
        let [keys, templates, clients] = self.counts.map_or([None; 3], |counts| counts.map(Some));
        let told = json!({
            "file": path.display().to_string(),
            "good": self.errors.is_empty(),
            "errors": self.errors,
            "warnings": self.warnings,
            "notes": self.notes,
            "keys": keys,
            "with-parameters": templates,
            "clients": clients,
        });
        told.to_string()
    }
}
