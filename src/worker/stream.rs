//! The stream that hyper reads and writes, watched: in which phase a conversation is, and since when.
//!
//! Never changes what a peer sends. Of what hyper sends it replaces one thing: the bare answer to bytes that are no
//! request, which becomes a problem document like every other error.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use hyper::{Request, StatusCode, Uri};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::Notify;

use super::turns::Seat;
use crate::sys::clock::boot_nanos;

/// What a connection is about at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Between two requests.
    Idle,
    /// Some bytes of a request have come.
    Head,
    /// The head of a request is with us, and its body is coming.
    Body,
    /// A request is with us.
    Exchange,
    /// hyper has the whole answer, and writes it.
    Answered,
}

/// The request line of the request in hand, as far as it has come.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Line {
    begun: bool,
    /// By a method. What comes next may be the middle of a request that came together with the one before it.
    is_request: bool,
    /// What is too long from here on is a header.
    ended: bool,
    /// A `#` stands in it: hyper's parser drops that and all that follows.
    has_fragment: bool,
}

impl Line {
    /// The same after these bytes.
    fn with(self, bytes: &[u8]) -> Self {
        // Empty lines may stand before it (RFC 9112 section 2.2).
        let bytes = if self.begun { bytes } else { bytes.trim_ascii_start() };
        if self.ended || bytes.is_empty() {
            return self;
        }
        let method = || bytes.iter().find(|byte| !byte.is_ascii_uppercase()).is_none_or(|byte| *byte == b' ');
        let is_request = if self.begun { self.is_request } else { method() };
        let in_line = || bytes.iter().take_while(|byte| **byte != b'\n').any(|byte| *byte == b'#');
        let has_fragment = self.has_fragment || (is_request && bytes.contains(&b'#') && in_line());
        Self { begun: true, is_request, ended: bytes.contains(&b'\n'), has_fragment }
    }
}

/// One connection's stream, shared by hyper, the service and the timer.
pub(super) struct Conversation {
    stream: RefCell<UnixStream>,
    phase: Cell<(Phase, i64)>,
    line: Cell<Line>,
    unparsed: Cell<Option<StatusCode>>,
    spoken: Notify,
    cut: Cell<bool>,
    when_cut: Notify,
    /// Its place among the connections of its user.
    pub(super) seat: Seat,
}

impl Conversation {
    pub(super) fn new(stream: UnixStream, seat: Seat) -> Self {
        Self {
            stream: RefCell::new(stream),
            phase: Cell::new((Phase::Idle, boot_nanos())),
            line: Cell::default(),
            unparsed: Cell::new(None),
            spoken: Notify::new(),
            cut: Cell::new(false),
            when_cut: Notify::new(),
            seat,
        }
    }

    /// The phase, and the instant at which it began, in nanoseconds of `CLOCK_BOOTTIME`.
    pub(super) fn phase(&self) -> (Phase, i64) {
        self.phase.get()
    }

    pub(super) fn enter_at(&self, phase: Phase, now: i64) {
        self.phase.set((phase, now));
    }

    /// The next phase begins with this one's time: what is between is too short to be worth a look at the clock.
    pub(super) fn follow(&self, phase: Phase) {
        self.phase.set((phase, self.phase.get().1));
    }

    /// The status for bytes that hyper could not parse, once it has given up on them.
    pub(super) fn unparsed(&self) -> Option<StatusCode> {
        self.unparsed.get()
    }

    /// The request that has just come, with a target that is no key if it was sent with a `#`: what hyper leaves of that is
    /// not what was asked for. Of a request that came together with the one before it, nobody knows.
    pub(super) fn as_sent<B>(&self, mut request: Request<B>) -> Request<B> {
        let line = self.line.get();
        if line.has_fragment {
            self.line.set(Line { has_fragment: false, ..line });
            *request.uri_mut() = Uri::from_static("*");
        }
        request
    }

    /// Since when the peer has an answer that it has not taken all of.
    pub(super) fn unread_since(&self) -> Option<i64> {
        let (phase, since) = self.phase.get();
        (phase == Phase::Answered && !self.cut.get()).then_some(since)
    }

    /// Ends the connection as it is.
    pub(super) fn cut(&self) {
        self.cut.set(true);
        self.when_cut.notify_one();
    }

    /// Resolves when the connection is to end.
    pub(super) async fn when_cut(&self) {
        self.when_cut.notified().await;
    }

    /// Resolves, once, when something has come: until then hyper takes a connection for one that may be closed.
    pub(super) async fn when_spoken(&self) {
        self.spoken.notified().await;
    }

    /// A second fd of the peer's socket.
    pub(super) fn duplicate(&self) -> io::Result<OwnedFd> {
        self.stream.borrow().as_fd().try_clone_to_owned()
    }

    /// Whether the peer has closed its end in both directions.
    pub(super) fn is_gone(&self) -> bool {
        let stream = self.stream.borrow();
        let mut ready = std::pin::pin!(stream.ready(Interest::WRITABLE));
        let mut nobody = Context::from_waker(std::task::Waker::noop());
        matches!(ready.as_mut().poll(&mut nobody), Poll::Ready(Ok(ready)) if ready.is_write_closed())
    }

    /// Writes past hyper, without waiting: for a connection that ends now.
    pub(super) fn last_words(&self, bytes: &[u8]) {
        // A peer that does not read does not get them.
        let _ = self.stream.borrow().try_write(bytes);
    }

    fn received(&self, bytes: &[u8]) {
        if self.phase.get().0 == Phase::Idle {
            self.spoken.notify_one();
            self.line.take();
            self.enter_at(Phase::Head, boot_nanos());
        }
        self.line.set(self.line.get().with(bytes));
    }

    /// What hyper writes while no request is with us is its own answer to what it could not parse.
    fn is_own_answer(&self, bytes: &[u8]) -> bool {
        if !matches!(self.phase.get().0, Phase::Idle | Phase::Head) {
            return false;
        }
        if self.unparsed.get().is_none() {
            let status = bytes.get(9..12).and_then(|code| StatusCode::from_bytes(code).ok());
            self.unparsed.set(Some(match status {
                Some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE) if !self.line.get().ended => StatusCode::URI_TOO_LONG,
                other => other.unwrap_or(StatusCode::BAD_REQUEST),
            }));
        }
        true
    }
}

/// hyper's end of a [`Conversation`].
pub(super) struct Watched(pub(super) Rc<Conversation>);

impl AsyncRead for Watched {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(self.0.seat.poll_turn(cx));
        ready!(Pin::new(&mut *self.0.stream.borrow_mut()).poll_read(cx, buf))?;
        if let Some(received) = buf.filled().get(before..).filter(|bytes| !bytes.is_empty()) {
            self.0.seat.use_turn();
            self.0.received(received);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.0.is_own_answer(buf) {
            return Poll::Ready(Ok(buf.len()));
        }
        Pin::new(&mut *self.0.stream.borrow_mut()).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.0.is_own_answer(bufs.first().map_or(&[], |first| first)) {
            return Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()));
        }
        Pin::new(&mut *self.0.stream.borrow_mut()).poll_write_vectored(cx, bufs)
    }

    // Keeps values out of hyper's own buffer, which nobody wipes.
    fn is_write_vectored(&self) -> bool {
        true
    }

    /// hyper calls this when it has written all that it had.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.0.phase.get().0 == Phase::Answered {
            self.0.follow(Phase::Idle);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.0.unparsed.get().is_some() {
            // The problem document is still to be written.
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut *self.0.stream.borrow_mut()).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fragment_is_seen_in_the_request_line_alone_and_however_it_is_cut() {
        let line = |parts: &[&str]| parts.iter().fold(Line::default(), |line, part| line.with(part.as_bytes()));
        for with in [
            &["GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n"][..],
            &["GET /a", "#", " HTTP/1.1\r\n\r\n"],
            &["GET /a#", "b HTTP/1.1\r\n\r\n"],
            &["\r\n", "\r\n\r\nGET /a#b HTTP/1.1\r\n\r\n"],
        ] {
            let line = line(with);
            assert!(line.has_fragment && line.ended, "{with:?}");
        }
        for without in [
            &["GET /a HTTP/1.1\r\nX-#: #\r\n\r\n"][..],
            &["GET /a HTTP/1.1\r\n", "X-#: #\r\n\r\n"],
            &["GET /a HTTP/1.1", "\r\nX-#: #\r\n\r\n"],
            &["POST /a HTTP/1.1\r\nContent-Length: 5\r\n\r\n", "[\"#\"]"],
            &["X-Color: #fff\r\n\r\n"],
            &["lor: #fff\r\n\r\n"],
        ] {
            let line = line(without);
            assert!(!line.has_fragment && line.ended, "{without:?}");
        }
        assert_eq!(line(&["\r\n"]), Line::default());
        assert!(!line(&["GET /a"]).ended);
    }
}
