//! Programs as sources: what one writes to its standard output is the document. What it is given and what it writes go between
//! this process and the program alone.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::Answer;
use super::aside::parse_aside;
use super::body::Collector;
use super::file::without_line_end;
use crate::config::{CommandDocument, Format};
use crate::ipc::run::End;
use crate::outcome::{Class, Failure, Reason};
use crate::parent::cache::Validators;
use crate::parent::runner::{Event, Run, Runner};
use crate::parent::token::ApiToken;
use crate::parent::vault::Vault;

/// How long the end of the output may take to come once nothing of a run is left: it is there, unless somebody else was
/// handed the pipe.
const LAST: Duration = Duration::from_millis(500);

/// Failures to start a program that say nothing of the program.
const PASSING: [i32; 5] = [EAGAIN, ENOMEM, ENFILE, EMFILE, ETXTBSY];
const EAGAIN: i32 = 11;
const ENOMEM: i32 = 12;
const ENFILE: i32 = 23;
const EMFILE: i32 = 24;
const ETXTBSY: i32 = 26;

pub(super) struct Commands {
    runner: Option<Rc<Runner>>,
    limit: usize,
}

impl Commands {
    /// `limit` is the longest document, in bytes.
    pub(super) fn new(limit: usize, runner: Option<Rc<Runner>>) -> Self {
        Self { runner, limit }
    }

    pub(super) fn run_by(self, runner: Rc<Runner>) -> Self {
        Self { runner: Some(runner), ..self }
    }

    pub(super) fn runner(&self) -> Option<Rc<Runner>> {
        self.runner.clone()
    }

    pub(super) async fn fetch(&self, document: &CommandDocument, vault: &Vault) -> Result<Answer, Failure> {
        let token = document.token.as_ref().map(|name| vault.get(name).ok_or(Reason::TokenMissing)).transpose();
        let token = token.map_err(Failure::unavailable)?;
        // Its user is not known, which the log has said at start.
        let not_started = || Failure::misconfigured(Reason::NotStarted);
        let runner = self.runner.as_ref().ok_or_else(not_started)?;
        let run = runner.begin(&document.command).await.ok_or_else(not_started)?;
        let (bytes, end, said) = finish(run, token, self.limit).await?;
        let nothing = || if bytes.is_empty() { Err(Failure::unavailable(Reason::EmptyBody)) } else { Ok(()) };
        if let Err(failure) = judge(end, &document.exit_codes).and_then(|()| nothing()) {
            let program = document.command.program.display();
            let errno = if let End::NotStarted(errno) = end { Some(io::Error::from_raw_os_error(errno)) } else { None };
            let why = errno.map(tracing::field::display);
            let (reason, user) = (tracing::field::display(failure.reason), &document.command.user);
            tracing::warn!(%program, user, reason, why, stderr_bytes = said, "the command failed: what it wrote to standard error is not logged, run it by hand as its user");
            return Err(failure);
        }
        let bytes = if document.format == Format::Text { without_line_end(bytes) } else { bytes };
        let body = parse_aside(bytes, document.format).await?;
        Ok(Answer::Answered { body, validators: Validators::default(), status: None })
    }
}

/// What an end means.
fn judge(end: End, exit_codes: &[(u8, Class)]) -> Result<(), Failure> {
    match end {
        End::Exited(0) => Ok(()),
        End::Exited(code) => {
            let class = exit_codes.iter().find(|(known, _)| *known == code).map(|(_, class)| *class);
            Err(Failure::new(class.unwrap_or(Class::Unavailable), Reason::Exit(code)))
        }
        End::Killed(signal) => Err(Failure::unavailable(Reason::Killed(signal))),
        End::NotStarted(errno) if PASSING.contains(&errno) => Err(Failure::unavailable(Reason::NotStarted)),
        End::NotStarted(_) => Err(Failure::misconfigured(Reason::NotStarted)),
    }
}

/// The whole output, and the end.
async fn finish(
    mut run: Run,
    token: Option<&ApiToken>,
    limit: usize,
) -> Result<(Zeroizing<Vec<u8>>, End, u64), Failure> {
    let gone = || Failure::unavailable(Reason::NotStarted);
    let mut output =
        Output { pipe: None, collector: Collector::new(limit, None), part: Zeroizing::new(vec![0; 1 << 16]) };
    let mut giving: Option<Giving<'_>> = None;
    loop {
        tokio::select! {
            event = run.next() => match event {
                Some(Event::Output(fd)) => output.pipe = Some(pipe::Receiver::from_owned_fd(fd).map_err(|_| gone())?),
                Some(Event::Token(fd)) => giving = Giving::new(fd, token).map_err(|_| gone())?,
                Some(Event::Ended { end, said }) => {
                    let read = timeout(LAST, async { while output.read().await? {} Ok(()) }).await;
                    read.unwrap_or(Err(Failure::unavailable(Reason::InvalidBody)))?;
                    return Ok((output.collector.finish(), end, said));
                }
                None => return Err(gone()),
            },
            read = output.read(), if output.pipe.is_some() => { read?; }
            more = Giving::write(&mut giving), if giving.is_some() => if !more { giving = None },
        }
    }
}

struct Output {
    /// `None` before its start, and after its end.
    pipe: Option<pipe::Receiver>,
    collector: Collector,
    part: Zeroizing<Vec<u8>>,
}

impl Output {
    /// Reads some; whether there can be more.
    async fn read(&mut self) -> Result<bool, Failure> {
        let Some(pipe) = &mut self.pipe else { return Ok(false) };
        let Ok(count @ 1..) = pipe.read(&mut self.part).await else {
            self.pipe = None;
            return Ok(false);
        };
        self.collector.push(&self.part[..count])?;
        Ok(true)
    }
}

/// A token on its way, from its own pages into the pipe.
struct Giving<'t> {
    pipe: pipe::Sender,
    rest: &'t [u8],
}

impl<'t> Giving<'t> {
    fn new(fd: OwnedFd, token: Option<&'t ApiToken>) -> io::Result<Option<Self>> {
        let pipe = pipe::Sender::from_owned_fd(fd)?;
        Ok(token.map(|token| Self { pipe, rest: token.bytes() }))
    }

    /// Writes some; `false` at the end, or when the program does not want it: then the pipe is to be closed.
    async fn write(giving: &mut Option<Self>) -> bool {
        let Some(giving) = giving else { return false };
        let Ok(count @ 1..) = giving.pipe.write(giving.rest).await else { return false };
        giving.rest = &giving.rest[count..];
        !giving.rest.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_code_means_what_the_configuration_says_and_else_that_there_is_no_value() {
        let codes = [(2, Class::Gone), (4, Class::TokenRefused)];
        assert_eq!(judge(End::Exited(0), &codes), Ok(()));
        for (code, class) in [(1, Class::Unavailable), (2, Class::Gone), (4, Class::TokenRefused)] {
            assert_eq!(judge(End::Exited(code), &codes), Err(Failure::new(class, Reason::Exit(code))));
        }
        assert_eq!(judge(End::Killed(9), &codes), Err(Failure::unavailable(Reason::Killed(9))));
        let class = |errno| judge(End::NotStarted(errno), &codes).unwrap_err().class;
        assert_eq!((class(2), class(13), class(11)), (Class::Misconfigured, Class::Misconfigured, Class::Unavailable));
    }
}
