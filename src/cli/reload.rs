//! `keyhatch reload`: reads what the running broker was started with, if the caller names it too, and hands it over with what only root can open.
//!
//! Hands tokens to nobody but a broker that root has started, or the caller.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::operate::of_another;
use super::{cache, errors, show, show_json, tell, trust};
use crate::boot::{Credentials, Examined};
use crate::config::{self, Config, Fixed};
use crate::exit::Exit;
use crate::parent::reload::{
    Given, Greeting, NOTHING, Offer, Offered, Refusal, Step, TokenOutcome, UPGRADE, needs_restart,
};
use crate::shown;
use crate::sys::{creds, memfd, pass, peer};

/// The longest answer of the broker before it hands the connection over, in bytes.
const MAX_HEAD: usize = 16 << 10;
/// The longest line of a broker, in bytes: it names every port.
const MAX_LINE: u64 = 1 << 20;
/// How long the broker may be silent: as long as a fetch lasts, with which it tries a token, and those before us need.
const SILENCE: Duration = Duration::from_secs(300);

/// A reload that came to nothing: the message was told.
struct Failed(Exit);

pub(super) fn run(path: &Path, socket: &Path, json: bool) -> Exit {
    match reload(path, socket, json) {
        Ok(exit) | Err(Failed(exit)) => exit,
    }
}

fn fail(exit: Exit, message: &dyn std::fmt::Display) -> Failed {
    tell(message);
    Failed(exit)
}

fn reload(path: &Path, socket: &Path, json: bool) -> Result<Exit, Failed> {
    let lost = |error: io::Error| fail(Exit::Unavailable, &format_args!("the broker does not answer: {error}"));
    let mut stream = connect(socket)?;
    let mut lines = BufReader::new(stream.try_clone().map_err(lost)?);
    let greeting = lines_of(&mut lines)?.ok_or_else(|| lost(io::ErrorKind::UnexpectedEof.into()))?;
    let greeting: Greeting = match serde_json::from_str(&greeting) {
        Ok(greeting) => greeting,
        // It may have said no to begin with.
        Err(_) => return follow(&mut lines, Some(greeting), json),
    };
    if greeting.version != env!("CARGO_PKG_VERSION") {
        let (running, own) = (shown::part(&greeting.version), env!("CARGO_PKG_VERSION"));
        let message = format!("the broker that runs is version {running}, this command is {own}: this needs a restart");
        return Err(fail(Exit::Configuration, &message));
    }
    // The caller says what is read: a broker that was taken over could name any file, and have its lines told in errors.
    if let Some(message) = of_another(&greeting.config, path) {
        return Err(fail(Exit::Configuration, &message));
    }
    let (config, opened) = checked(path, socket, &greeting).inspect_err(|_| {
        // For the broker's log; one that has gone misses it.
        let _ = stream.write_all(&NOTHING);
    })?;
    let (losses, notes) = cache::losses(&config);
    losses.iter().for_each(|loss| tell(&format_args!("warning: {loss}")));
    notes.iter().for_each(|note| tell(&format_args!("note: {note}")));
    offer(&mut stream, config, opened).map_err(lost)?;
    follow(&mut lines, None, json)
}

/// What can be offered to this broker, and what it names, opened.
fn checked(path: &Path, socket: &Path, greeting: &Greeting) -> Result<(Config, Examined), Failed> {
    let config = config::load(path, trust()).map_err(|error| fail(Exit::Configuration, &error))?;
    config.warnings.iter().for_each(|warning| tell(&format_args!("warning: {warning}")));
    if let Some(message) = needs_restart(&greeting.fixed, &Fixed::of(&config, config.acl.has_units())) {
        let message = format!("{}: {message}; nothing was changed", path.display());
        let message = shown::part(&message);
        return Err(fail(Exit::Configuration, &message));
    }
    if !is_same(&config.server.admin_socket, socket) {
        let (of_file, asked) = (config.server.admin_socket.display(), socket.display());
        let message = format!("{}: its broker is at {of_file}, not at {asked}; nothing was changed", path.display());
        return Err(fail(Exit::Configuration, &message));
    }
    let (errors, opened) = errors(&config, Credentials::Held);
    if !errors.is_empty() {
        errors.iter().for_each(|error| tell(&format_args!("error: {error}")));
        let message = format!("{}: nothing was changed", path.display());
        return Err(fail(Exit::Configuration, &message));
    }
    Ok((config, opened))
}

/// Whether both paths lead to one file.
fn is_same(one: &Path, other: &Path) -> bool {
    let identity = |path: &Path| std::fs::metadata(path).map(|found| (found.dev(), found.ino()));
    matches!((identity(one), identity(other)), (Ok(one), Ok(other)) if one == other)
}

/// Connects, and has the broker hand the connection over.
fn connect(socket: &Path) -> Result<UnixStream, Failed> {
    let at = socket.display();
    let unreachable = |error: io::Error| {
        let exit = if error.kind() == io::ErrorKind::PermissionDenied { Exit::Denied } else { Exit::Unavailable };
        fail(exit, &format_args!("no broker answers at {at}: {error}"))
    };
    let stream = UnixStream::connect(socket).map_err(unreachable)?;
    let listens = peer::credentials(stream.as_fd()).map_err(unreachable)?.uid;
    if listens != 0 && listens != creds::own_uid() {
        let message = format!("the broker at {at} was started by uid {listens}: that user is who can reload it");
        return Err(fail(Exit::Denied, &message));
    }
    stream.set_read_timeout(Some(SILENCE)).map_err(unreachable)?;
    let request = format!(
        "POST /reload HTTP/1.1\r\nHost: keyhatch\r\nConnection: upgrade\r\nUpgrade: {UPGRADE}\r\nContent-Length: 0\r\n\r\n"
    );
    (&stream).write_all(request.as_bytes()).map_err(unreachable)?;
    let head = head(&stream).map_err(unreachable)?;
    match head.split(' ').nth(1).and_then(|status| status.parse().ok()) {
        Some(101) => Ok(stream),
        Some(status) => {
            let mut body = String::new();
            // What came is told, whether it is all or not.
            let _ = stream.set_read_timeout(Some(Duration::from_millis(100)));
            let _ = (&stream).take(MAX_HEAD as u64).read_to_string(&mut body);
            let body: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
            let detail = body.get("detail").and_then(serde_json::Value::as_str).unwrap_or("the broker refused");
            // A broker that knows no reload is an older one.
            let detail =
                if status == 404 { "the broker that runs knows no reload: this needs a restart" } else { detail };
            let exit = if status == 404 { Exit::Configuration } else { Exit::of_status(status) };
            Err(fail(exit, &format_args!("{status} {}", shown::part(detail))))
        }
        None => Err(fail(Exit::Unavailable, &format_args!("what answers at {at} is no broker"))),
    }
}

/// Byte by byte: what comes after it is read by others.
fn head(mut stream: &UnixStream) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if head.len() >= MAX_HEAD || stream.read(&mut byte)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        head.push(byte[0]);
    }
    String::from_utf8(head).map_err(io::Error::other)
}

fn lines_of(lines: &mut impl BufRead) -> Result<Option<String>, Failed> {
    let mut line = String::new();
    let read = lines.take(MAX_LINE).read_line(&mut line);
    let read = read.map_err(|error| fail(Exit::Unavailable, &format_args!("the broker does not answer: {error}")))?;
    Ok((read > 0).then_some(line))
}

/// The configuration, and beside it all that was opened.
fn offer(stream: &mut UnixStream, config: Config, opened: Examined) -> io::Result<()> {
    let (mut tokens, mut fds): (Vec<_>, Vec<OwnedFd>) = (Vec::new(), Vec::new());
    for (name, from, fd) in opened.tokens {
        fds.push(fd.map_err(io::Error::other)?);
        tokens.push((name, from, Given::Opened));
    }
    tokens.extend(opened.unseen.into_iter().map(|(name, from)| (name, from, Given::Kept)));
    let mut files = Vec::with_capacity(opened.files.len());
    for (path, file) in opened.files {
        let (file, watch) = file.into_parts();
        fds.push(file.into());
        let watched = watch.map(|watch| {
            let (events, watched) = watch.into_parts();
            fds.push(events);
            watched
        });
        files.push((path, watched));
    }
    let mut authorities = Vec::with_capacity(opened.authorities.len());
    for (path, file) in opened.authorities {
        fds.push(file.into());
        authorities.push(path);
    }
    let fixed = Fixed::of(&config, config.acl.has_units());
    let offered = Offered { fixed, live: config.into_live(), tokens, files, authorities };
    let payload = postcard::to_stdvec(&offered).map_err(io::Error::other)?;
    let descriptors = u32::try_from(fds.len()).map_err(io::Error::other)?;
    let offer = Offer { version: env!("CARGO_PKG_VERSION").to_owned(), len: payload.len() as u64, descriptors };
    let offer = postcard::to_stdvec(&offer).map_err(io::Error::other)?;
    let mut frame = u32::try_from(offer.len()).map_err(io::Error::other)?.to_le_bytes().to_vec();
    frame.extend(offer);

    let memfd = memfd::sealed(&payload)?;
    let sent = pass::send(stream.as_fd(), &frame, &[memfd.as_fd()])?;
    stream.write_all(&frame[sent..])?;
    for some in fds.chunks(pass::AT_ONCE) {
        let some: Vec<BorrowedFd<'_>> = some.iter().map(AsFd::as_fd).collect();
        pass::send(stream.as_fd(), b".", &some)?;
    }
    Ok(())
}

/// Tells each step as it comes.
fn follow(lines: &mut impl BufRead, first: Option<String>, json: bool) -> Result<Exit, Failed> {
    let mut next = first;
    loop {
        let line = match next.take() {
            Some(line) => line,
            None => lines_of(lines)?
                .ok_or_else(|| fail(Exit::Unavailable, &"the broker ended before it said what became of this"))?,
        };
        let step: Step = serde_json::from_str(&line)
            .map_err(|_| fail(Exit::Unavailable, &"the broker says what this command does not understand"))?;
        let end = end(&step);
        if json {
            show_json(&line);
        } else if let Some(text) = text(&step) {
            show(&text);
        }
        if let Step::Refused { detail, .. } = &step {
            tell(&shown::part(detail));
        }
        if let Some(exit) = end {
            return Ok(exit);
        }
    }
}

/// The exit code, if this is the last step.
fn end(step: &Step) -> Option<Exit> {
    match step {
        Step::Refused { why: Refusal::Unavailable, .. } => Some(Exit::Unavailable),
        Step::Refused { .. } => Some(Exit::Configuration),
        Step::Done { refused_tokens: 0 } => Some(Exit::Ok),
        Step::Done { .. } | Step::WorkerStuck { .. } => Some(Exit::Other),
        Step::Applied { .. } | Step::Token { .. } => None,
    }
}

/// For people; `None` where there is nothing more to say.
fn text(step: &Step) -> Option<String> {
    let reason =
        |reason: &Option<String>| reason.as_ref().map_or(String::new(), |reason| format!(" ({})", shown::part(reason)));
    match step {
        Step::Applied { generation, keys, clients, removed, redefined } => {
            let (keys, clients) = (shown::counted(*keys, "key"), shown::counted(*clients, "client"));
            let mut text = format!("configuration {generation} holds: {keys}, {clients}");
            for (count, what) in [(removed, "removed"), (redefined, "defined otherwise, without their values")] {
                if *count > 0 {
                    text.push_str(&format!("; {count} {what}"));
                }
            }
            Some(text)
        }
        Step::Token { token, outcome, reason: why } => {
            let what = match outcome {
                TokenOutcome::Taken => "taken".to_owned(),
                TokenOutcome::Accepted => "accepted by its upstream: the old one is gone".to_owned(),
                TokenOutcome::Refused => format!("REFUSED by its upstream{}: the old one stays", reason(why)),
                TokenOutcome::Overtaken => "another reload has brought another one".to_owned(),
                TokenOutcome::Unproven => {
                    format!("unproven{}: it is tried first from now on, and the old one stays until then", reason(why))
                }
            };
            Some(format!("token `{}`: {what}", shown::part(token)))
        }
        Step::WorkerStuck { generation } => Some(format!(
            "configuration {generation} holds in the parent, but the worker does not say that it has taken it over: restart the broker"
        )),
        Step::Refused { .. } | Step::Done { .. } => None,
    }
}
