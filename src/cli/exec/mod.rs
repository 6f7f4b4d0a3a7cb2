//! `keyhatch exec`: a command with values in its environment, or in files in memory whose paths are there.
//!
//! Values never stand in arguments or on a disk. Nothing is started before all of them are there.

mod options;
mod plan;
mod watch;

use std::ffi::OsString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;

pub(super) use self::options::Exec;
use self::plan::{Binding, Way};
use super::get::{patiently, tell_failure, tell_staleness};
use super::tell;
use crate::client::blocking::Client;
use crate::client::{Form, Value};
use crate::exit::Exit;
use crate::shown;
use crate::sys::{memfd, supervise};

pub(super) fn run(asked: &Exec, socket: &Path) -> ExitCode {
    match give(asked, socket) {
        Ok(code) => code.into(),
        Err(exit) => exit.into(),
    }
}

/// The exit code of the command; else how this one ends, which was told.
fn give(asked: &Exec, socket: &Path) -> Result<u8, Exit> {
    let usage = |wrong: plan::Wrong| {
        tell(&wrong);
        Exit::Usage
    };
    let bindings = plan::bindings(&asked.env, &asked.file, &asked.env_file).map_err(usage)?;
    let values = fetch(asked, &bindings, socket)?;
    let failed = |error: std::io::Error| {
        tell(&error);
        Exit::Other
    };
    if let Some(on_change) = asked.watch {
        let client = crate::client::Client::at(socket);
        let job = watch::Job::new(&asked.command, bindings, values, on_change, asked.grace).map_err(failed)?;
        return watch::run(job, &client).map_err(failed);
    }
    let files = files(&bindings, &values, memfd::handed_on).map_err(failed)?;
    let mut command = command(&asked.command, &bindings, &values, &files, "self");
    let error = supervise::replace(&mut command);
    Ok(not_started(&asked.command, &error))
}

/// One after the other: a user has only so many connections.
fn fetch(asked: &Exec, bindings: &[Binding], socket: &Path) -> Result<Vec<Arc<Value>>, Exit> {
    let client = Client::at(socket);
    let mut values: Vec<Arc<Value>> = Vec::new();
    for binding in bindings {
        let key = binding.key.as_str();
        let value = patiently(asked.wait, || client.get(key, Form::TextOrJson));
        let value = value.map_err(|error| tell_failure(key, &error))?;
        if let Some(why) = unfit(binding, &value) {
            tell(&format_args!("{key}: {why}"));
            return Err(Exit::Other);
        }
        if !values.iter().any(|known| known.key() == key) {
            tell_staleness(&value);
        }
        values.push(Arc::new(value));
    }
    Ok(values)
}

/// Why a value cannot be given in the way that is asked for.
fn unfit(binding: &Binding, value: &Value) -> Option<String> {
    let nul = binding.way == Way::Variable && value.as_str().contains('\0');
    nul.then(|| {
        format!("the value has a NUL byte, which no variable can hold; use --file {0}={1}", binding.name, binding.key)
    })
}

/// A file in memory for each value that is wanted so.
fn files(
    bindings: &[Binding],
    values: &[Arc<Value>],
    make: impl Fn(&[u8]) -> std::io::Result<OwnedFd>,
) -> std::io::Result<Vec<Option<OwnedFd>>> {
    let of = |(binding, value): (&Binding, &Arc<Value>)| match binding.way {
        Way::Variable => Ok(None),
        Way::File => make(value.as_str().as_bytes()).map(Some),
    };
    bindings.iter().zip(values).map(of).collect()
}

/// The command with its environment; `process` is whose descriptors the files are.
fn command(
    words: &[OsString],
    bindings: &[Binding],
    values: &[Arc<Value>],
    files: &[Option<OwnedFd>],
    process: &str,
) -> Command {
    let (program, arguments) = words.split_first().map_or((OsString::new(), &[][..]), |(p, a)| (p.clone(), a));
    let mut command = Command::new(program);
    command.args(arguments);
    for ((binding, value), file) in bindings.iter().zip(values).zip(files) {
        match file {
            Some(file) => command.env(&binding.name, format!("/proc/{process}/fd/{}", file.as_raw_fd())),
            None => command.env(&binding.name, value.as_str()),
        };
    }
    command
}

/// The exit code that a shell would have.
fn not_started(words: &[OsString], error: &std::io::Error) -> u8 {
    let program = words.first().map(OsString::as_os_str).unwrap_or_default();
    let code = supervise::cannot_start(program, error);
    let name = program.to_string_lossy();
    let name = shown::part(&name);
    match error.kind() {
        _ if code == 127 => tell(&format_args!("{name}: there is no such command")),
        std::io::ErrorKind::ArgumentListTooLong => {
            tell(&format_args!("{name}: {error}; a variable holds at most 128 KiB: use --file for longer values"));
        }
        _ => tell(&format_args!("{name}: {error}")),
    }
    code
}
