//! The runner: runs the programs of `command` sources, each as a user of its own. The one process that can still become
//! another user, so it is as little as can be: one thread, no event loop, no token, no network, nothing that it reads but
//! two kinds of short frames.
//!
//! Never reads what a program writes or is given, and runs nothing but what the root phase has listed. Ends at the first
//! surprise, and when the parent is gone.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use crate::config::{Command, TokenPlace};
use crate::ipc::run::{AT_ONCE, End, FromRunner, LONGEST, PROTOCOL, ToRunner};
use crate::ipc::wire::{self, Layer, WireError};
use crate::sys::pass;
use crate::sys::runs::{self, Given, Program, Run};

/// Why the runner ended, other than by the parent's end.
#[derive(Debug)]
pub enum RunnerError {
    Io(io::Error),
    Wire(WireError),
    /// The parent said something that it never says.
    Protocol(&'static str),
    /// Nobody looks after a run any more.
    Lost(io::Error),
}

impl fmt::Display for RunnerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "the runner's channel failed: {error}"),
            Self::Wire(error) => write!(f, "the runner's channel carried {error}"),
            Self::Protocol(what) => write!(f, "the parent broke the runner's protocol: {what}"),
            Self::Lost(error) => write!(f, "the supervisor of a command is gone: {error}"),
        }
    }
}

impl std::error::Error for RunnerError {}

impl From<io::Error> for RunnerError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Runs what is asked for until the parent is gone. What runs then ends with this process.
pub fn run(channel: &OwnedFd, commands: &[Command], layers: Vec<Layer>) -> Result<(), RunnerError> {
    let programs: Vec<Program> = commands.iter().map(program).collect::<Result<_, _>>()?;
    let channel = channel.as_fd();
    say(
        channel,
        &FromRunner::Ready { protocol: PROTOCOL, version: env!("CARGO_PKG_VERSION").to_owned(), layers },
        None,
    )?;
    let mut running: BTreeMap<u64, Run> = BTreeMap::new();
    loop {
        let (frame, reports) = runs::wait(channel, running.values())?;
        let ended: Vec<u64> = running.keys().zip(reports).filter_map(|(id, ready)| ready.then_some(*id)).collect();
        for id in ended {
            let Some(mut run) = running.remove(&id) else { continue };
            let (end, said) = run.report().map_err(RunnerError::Lost)?;
            tell_end(channel, id, end, said)?;
        }
        if !frame {
            continue;
        }
        match hear(channel)? {
            None => return Ok(()),
            Some(ToRunner::Run { id, program }) => {
                let number = usize::try_from(program).ok();
                let program = number.and_then(|number| programs.get(number));
                let program = program.ok_or(RunnerError::Protocol("no program has this number"))?;
                if running.len() == AT_ONCE || running.contains_key(&id) {
                    return Err(RunnerError::Protocol("a run too many, or one of this number already"));
                }
                match runs::begin(program) {
                    Ok((run, ends)) => {
                        running.insert(id, run);
                        say(channel, &FromRunner::Output { id }, Some(ends.output.as_fd()))?;
                        if let Some(given) = &ends.given {
                            say(channel, &FromRunner::Token { id }, Some(given.as_fd()))?;
                        }
                    }
                    Err(error) => tell_end(channel, id, runs::End::NotStarted(error.raw_os_error().unwrap_or(0)), 0)?,
                }
            }
            Some(ToRunner::Stop { id }) => running.get(&id).into_iter().for_each(Run::stop),
        }
    }
}

/// The next frame; `None` when the parent is gone.
fn hear(channel: BorrowedFd<'_>) -> Result<Option<ToRunner>, RunnerError> {
    let mut frame = [0; LONGEST + 1];
    let mut fds = Vec::new();
    let length = pass::receive(channel, &mut frame, &mut fds)?;
    if !fds.is_empty() {
        return Err(RunnerError::Protocol("a descriptor where there is none"));
    }
    // Also what was cut.
    if length > LONGEST {
        return Err(RunnerError::Protocol("a frame that is too long"));
    }
    if length == 0 {
        return Ok(None);
    }
    wire::decode(&frame[..length]).map(Some).map_err(RunnerError::Wire)
}

/// A parent that does not hear is none: the socket has room for all that can be said of as many runs as there may be.
fn say(channel: BorrowedFd<'_>, frame: &FromRunner, fd: Option<BorrowedFd<'_>>) -> Result<(), RunnerError> {
    let frame = wire::encode(frame).map_err(RunnerError::Wire)?;
    pass::send(channel, &frame, fd.as_slice())?;
    Ok(())
}

fn tell_end(channel: BorrowedFd<'_>, id: u64, end: runs::End, said: u64) -> Result<(), RunnerError> {
    let end = match end {
        runs::End::Exited(code) => End::Exited(code),
        runs::End::Killed(signal) => End::Killed(signal),
        runs::End::NotStarted(errno) => End::NotStarted(errno),
    };
    say(channel, &FromRunner::Ended { id, end, said }, None)
}

/// What is in the environment of every program that does not say otherwise.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn program(command: &Command) -> Result<Program, RunnerError> {
    let text = |bytes: &[u8]| CString::new(bytes).map_err(|_| RunnerError::Protocol("a NUL in the list of programs"));
    let mut environment = command.environment.clone();
    if !environment.iter().any(|(name, _)| name == "PATH") {
        environment.push(("PATH".to_owned(), PATH.to_owned()));
    }
    let given = match command.token {
        TokenPlace::None => Given::Nothing,
        TokenPlace::Stdin => Given::Stdin,
        TokenPlace::Descriptor => {
            environment.push(("KEYHATCH_TOKEN_FD".to_owned(), runs::GIVEN_FD.to_string()));
            Given::Descriptor
        }
    };
    Ok(Program {
        path: text(command.program.as_os_str().as_bytes())?,
        arguments: command.arguments.iter().map(|argument| text(argument.as_bytes())).collect::<Result<_, _>>()?,
        environment,
        directory: text(command.directory.as_os_str().as_bytes())?,
        ids: command.ids,
        given,
    })
}
