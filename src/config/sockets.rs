//! Where a command asks: what the configuration says of the sockets of its broker, and nothing else of it.
//!
//! Must never guess: at the default path another broker may listen, and a purge there is a purge.

use std::path::{Path, PathBuf};

use toml::de::DeTable;

use super::diagnostic::{Diagnostic, LoadError, Place, Report, SourceText, first_line, similar};
use super::open::{self, Trust};
use super::server::Sockets;
use super::table::Table;
use super::{drop_consequences, names, syntax, values};

/// One of the two sockets of a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// Of applications.
    Socket,
    /// Of the operator.
    AdminSocket,
}

impl Asked {
    fn name(self) -> &'static str {
        match self {
            Self::Socket => "socket",
            Self::AdminSocket => "admin-socket",
        }
    }

    fn default(self) -> PathBuf {
        let default = Sockets::default();
        match self {
            Self::Socket => default.socket,
            Self::AdminSocket => default.admin_socket,
        }
    }
}

/// The socket of the broker that this file configures, for a command that asks there; what the file says of other things
/// may be wrong. The default path is for a file that says nothing of it.
///
/// `named`: somebody said that it is this file. Of the one at the default path, where nobody did, it is enough that it
/// could not name another socket whatever becomes of it, and whoever may not read it asks at the default path.
///
/// # Errors
/// The file cannot be read, must not be trusted or is no TOML, it has names that are not known at the top or in `[server]`, or
/// what it says of the socket is no path of one. Nobody must be asked then.
pub fn socket(path: &Path, trust: Trust, asked: Asked, named: bool) -> Result<PathBuf, LoadError> {
    // Drop-ins cannot name a socket; one that tries is no reason to ask elsewhere, and one that is for others to read is fine.
    let (files, unread) = if named {
        open::read_all(path, trust)
    } else {
        match open::read_file(path, trust) {
            Ok(file) => (vec![file], Vec::new()),
            Err(error) if error.out_of_reach => return Ok(asked.default()),
            Err(error) => (Vec::new(), vec![*error]),
        }
    };
    let Some(main) = files.first() else { return Err(LoadError::new(files, unread)) };
    let (found, mut errors) = said(&files, asked);
    if !errors.is_empty() && !named {
        return certain(&main.text, asked).ok_or_else(|| LoadError::new(files, errors));
    }
    if found.is_none() {
        (1..files.len()).for_each(|file| errors.extend(check(&files, file, |_, _| ()).1));
        errors.extend(unread.into_iter().filter(|error| !error.out_of_reach));
    }
    if errors.is_empty() { Ok(found.unwrap_or_else(|| asked.default())) } else { Err(LoadError::new(files, errors)) }
}

/// What the main file says, and what is wrong with it.
fn said(files: &[SourceText], asked: Asked) -> (Option<PathBuf>, Vec<Diagnostic>) {
    check(files, 0, |top, report| {
        let server = top.get("server")?.table(report, &names::SERVER)?;
        server.get(asked.name())?.parsed(report, values::socket_path)
    })
}

/// Reads one of the files: its syntax, its names at the top, and what `read` looks at.
fn check<T>(
    files: &[SourceText],
    file: usize,
    read: impl FnOnce(&Table<'_>, &mut Report<'_>) -> T,
) -> (T, Vec<Diagnostic>) {
    let mut report = Report::new(files);
    let document = syntax(file, &files[file].text, &mut report);
    let syntax_errors = report.errors.clone();
    let names = if file == 0 { &names::TOP } else { &names::DROP_IN };
    let top = Table::new(file, Place { file, span: 0..0 }, document.get_ref(), names, &mut report);
    let found = read(&top, &mut report);
    let mut errors = std::mem::take(&mut report.errors);
    drop_consequences(files, &syntax_errors, &mut errors);
    (found, errors)
}

/// The socket of a text that is broken, if it names that one whatever is meant by the rest.
///
/// What stands above the first line that is no TOML is whole, and TOML lets nothing below take it back. Below it, and
/// among names that are not known, nothing may look as if it were about a socket.
fn certain(text: &str, asked: Asked) -> Option<PathBuf> {
    let (_, broken) = DeTable::parse_recoverable(text);
    let error = broken.iter().map(|error| error.span().unwrap_or(0..0)).min_by_key(|span| span.start);
    let (above, below) = text.split_at(error.map_or(text.len(), |span| first_line(text, &span).start));
    if mentions(below) {
        return None;
    }
    // Alone: a string or list that is still open where the error is has swallowed what stands there.
    let above = [SourceText { path: PathBuf::new(), text: above.to_owned() }];
    DeTable::parse(&above[0].text).ok()?;
    let (found, errors) = said(&above, asked);
    let silent = || errors.is_empty() || !mentions(&above[0].text);
    found.or_else(|| silent().then(|| asked.default()))
}

/// Whether a line that is no comment has a word that could be meant for what names a socket.
fn mentions(text: &str) -> bool {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let mut words = lines.flat_map(|line| line.split(|c: char| !(c.is_alphanumeric() || "-_".contains(c))));
    words.any(|word| similar(word, ["server", "socket", "admin-socket"]).is_some())
}
