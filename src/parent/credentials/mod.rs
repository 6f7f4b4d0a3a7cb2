//! `LoadCredential=` of systemd: connections that the worker hands over, each held until its value is written.
//!
//! Must never close one without its whole value or a refusal by over-length: the unit would start with an empty credential.

mod answer;
mod claim;

use std::cell::Cell;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use self::claim::Said;
use super::engine::Engine;
use super::in_flight::{InFlight, Open};
use super::judge::Judges;
use super::notify::Notifier;
use super::outbox::Outbox;
use super::serve::ParentError;
use super::units::Units;
use crate::credential::{refuse, write};
use crate::ipc::channel::{ParentEnd, Passed};
use crate::ipc::wire::{RequestId, ToParent, ToWorker};
use crate::sys::peer::{self, Mark};

/// How long units may take to read why they do not start, when the parent ends.
const LAST_WORDS: Duration = Duration::from_secs(5);

pub(super) struct Credentials {
    engine: Rc<Engine>,
    outbox: Outbox,
    judges: Rc<Judges>,
    units: Rc<Units>,
    notifier: Rc<Notifier>,
    in_flight: Rc<InFlight>,
    most: u32,
    phase: watch::Sender<Phase>,
    held: Cell<usize>,
    done: Notify,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Serving,
    /// Nobody waits any more; what is being fetched may still come.
    Ending,
    /// Refused is what has no value now.
    Ended,
}

/// One connection among those that are held.
struct Held {
    among: Rc<Credentials>,
    /// What the worker calls it, if it came from there.
    handed: Option<(u64, Open)>,
}

impl Drop for Held {
    fn drop(&mut self) {
        // Whatever came of it, it is at its end for all who have it: the worker closes its own descriptor.
        if let Some((id, open)) = self.handed.take() {
            self.among.outbox.say(ToWorker::CredentialEnded { id, ended: true }, None, Some(open));
        }
        self.among.held.set(self.among.held.get() - 1);
        self.among.done.notify_waiters();
    }
}

impl Credentials {
    /// At most `most` are held: an honest worker hands over no more.
    pub(super) fn new(
        (engine, outbox, judges): (Rc<Engine>, Outbox, Rc<Judges>),
        units: Rc<Units>,
        notifier: Rc<Notifier>,
        most: u32,
    ) -> Rc<Self> {
        Rc::new(Self {
            engine,
            outbox,
            judges,
            units,
            notifier,
            in_flight: InFlight::new(most),
            most,
            phase: watch::Sender::new(Phase::Serving),
            held: Cell::default(),
            done: Notify::new(),
        })
    }

    /// One that the worker hands over. The worker keeps its descriptor until it is told the end.
    pub(super) fn take(self: &Rc<Self>, id: u64, request: RequestId, passed: Passed) -> Result<(), ParentError> {
        let open = self.in_flight.open(id)?;
        let socket = match passed {
            Passed::One(socket) => socket,
            Passed::Lost => {
                self.hand_back(id, open);
                return Ok(());
            }
            Passed::Nothing => return Err(ParentError::Protocol("a message out of order")),
        };
        let looked = claim::look(socket.as_fd(), &self.judges, &self.units)?;
        let (Some(claim), Ok(stream)) = (looked, connected(socket)) else {
            self.hand_back(id, open);
            return Ok(());
        };
        let asks = matches!(claim.said, Said::True { .. });
        // As soon as can be: if both roles are killed from here on, the unit waits for the next broker.
        let kept = !asks || self.notifier.keep_now(stream.as_fd());
        let held = self.hold(Some((id, open)));
        let of = answer::Asked { credentials: self.clone(), claim, request, begun: false };
        tokio::task::spawn_local(async move {
            let keeping = async {
                if !kept {
                    held.among.notifier.keep(stream.as_fd()).await;
                }
                std::future::pending::<()>().await;
            };
            // A value that is there does not wait for the manager.
            tokio::select! {
                biased;
                () = of.answer(&stream) => {}
                () = keeping => {}
            }
            // In this order: what the worker has is not the last one before this is at its end.
            drop(held);
            drop(stream);
        });
        Ok(())
    }

    /// Those that the service manager has kept of an earlier broker's. They are judged as if they came just now; one that
    /// something was written to is refused, since nobody knows how much that was.
    pub(super) fn resume(self: &Rc<Self>, kept: Vec<OwnedFd>) {
        for (number, socket) in (0..).zip(kept) {
            let begun = [Mark::Begun, Mark::Refused].iter().any(|mark| peer::is_marked(socket.as_fd(), *mark));
            let looked = claim::look(socket.as_fd(), &self.judges, &self.units);
            let stream = match connected(socket) {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::error!(%error, "a connection that systemd has kept is lost: its unit has an empty credential");
                    continue;
                }
            };
            let held = self.hold(None);
            let (credentials, request) = (self.clone(), RequestId(number));
            tokio::task::spawn_local(async move {
                match looked {
                    Ok(Some(claim)) => answer::Asked { credentials, claim, request, begun }.answer(&stream).await,
                    Ok(None) | Err(_) => {
                        tracing::error!(%request, "credential refused: systemd has kept what cannot be looked at any more");
                        deny(&stream).await;
                    }
                }
                drop(held);
            });
        }
    }

    fn hold(self: &Rc<Self>, handed: Option<(u64, Open)>) -> Held {
        self.held.set(self.held.get() + 1);
        Held { among: self.clone(), handed }
    }

    /// There is no descriptor or memory for it here: the worker refuses it.
    fn hand_back(&self, id: u64, open: Open) {
        tracing::error!("out of file descriptors: a credential is refused");
        self.outbox.say(ToWorker::CredentialEnded { id, ended: false }, None, Some(open));
    }

    /// Units that wait for a value do not start.
    pub(super) fn end(&self) {
        self.phase.send_replace(Phase::Ending);
    }

    /// Refuses all that are held, and what is on its way here; then shuts the channel. The caller ends after this.
    pub(super) async fn finish(self: &Rc<Self>, channel: &ParentEnd) {
        self.phase.send_replace(Phase::Ended);
        for _ in 0..=self.most {
            let Ok(Ok(Some((message, passed)))) = timeout(Duration::ZERO, channel.recv()).await else { break };
            if let ToParent::Credential { id, request } = message
                && self.take(id, request, passed).is_err()
            {
                break;
            }
        }
        let done = async {
            loop {
                let one = self.done.notified();
                if self.held.get() == 0 {
                    return;
                }
                one.await;
            }
        };
        if timeout(LAST_WORDS, done).await.is_err() {
            tracing::error!(
                count = self.held.get(),
                "units do not read that they have no credential: they may start with a broken one"
            );
        }
        // Whoever broke a rule is told nothing more, and the worker ends now and not when all is sealed. Not before: it refuses what it
        // has then, and two that write into one connection could end it with a mixture of both.
        channel.shut();
    }
}

fn connected(socket: OwnedFd) -> std::io::Result<UnixStream> {
    let stream = std::os::unix::net::UnixStream::from(socket);
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

/// Writes all of a value, then ends what the peer can read.
async fn serve(stream: &UnixStream, mut bytes: &[u8]) -> std::io::Result<()> {
    peer::mark(stream.as_fd(), Mark::Begun);
    while !bytes.is_empty() {
        bytes = &bytes[write(stream, bytes).await?..];
    }
    // The worker ends, and has begun to refuse it: value and refusal are mixed, and may be short enough together.
    if peer::is_marked(stream.as_fd(), Mark::Refused) {
        refuse(stream).await?;
        return Err(std::io::ErrorKind::BrokenPipe.into());
    }
    peer::end(stream.as_fd())
}

/// The same for what has no value.
async fn deny(stream: &UnixStream) {
    // A peer that has gone starts nothing.
    let _ = refuse(stream).await;
}
