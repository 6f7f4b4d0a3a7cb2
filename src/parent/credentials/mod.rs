//! `LoadCredential=` of systemd: connections that the worker hands over, each held until its value is written.
//!
//! Must never close one without its whole value or a refusal by over-length: the unit would start with an empty credential.

mod answer;
mod claim;

use std::cell::Cell;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use tokio::io::unix::AsyncFd;
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
use crate::credential::{refuse, watched, watched_in_time, write};
use crate::ipc::channel::{ParentEnd, Passed};
use crate::ipc::wire::{RequestId, ToParent, ToWorker};
use crate::sys::peer::{self, Mark};

/// How long units may take to read why they do not start, when the parent ends. With the drain before it, less than the 10 s
/// after which systemd and others end it by force.
const LAST_WORDS: Duration = Duration::from_secs(3);

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
        let (Some(claim), Ok(stream)) = (looked, watched(socket)) else {
            self.hand_back(id, open);
            return Ok(());
        };
        let asks = matches!(claim.said, Said::True { .. });
        // As soon as can be: if both roles are killed from here on, the unit waits for the next broker.
        let kept = !asks || self.notifier.keep_now(stream.get_ref().as_fd());
        let held = self.hold(Some((id, open)));
        let of = answer::Asked { credentials: self.clone(), claim, request, begun: false };
        tokio::task::spawn_local(async move {
            let keeping = async {
                if !kept {
                    held.among.notifier.keep(stream.get_ref().as_fd()).await;
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
    /// something was written to is refused, since nobody knows how much that was. One that has ended, and that its unit may not
    /// have read yet, needs nothing.
    pub(super) fn resume(self: &Rc<Self>, kept: Vec<OwnedFd>) {
        for (number, socket) in (0..).zip(kept) {
            if peer::is_ended(socket.as_fd()) {
                continue;
            }
            let begun = [Mark::Begun, Mark::Refused].iter().any(|mark| peer::is_marked(socket.as_fd(), *mark));
            let looked = claim::look(socket.as_fd(), &self.judges, &self.units);
            let held = self.hold(None);
            let (credentials, request) = (self.clone(), RequestId(number));
            tokio::task::spawn_local(async move {
                // Until then the manager has it, and its unit waits.
                let stream = watched_in_time(socket).await;
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

    /// Writes all of a value, then ends what the peer can read. `false`: this process ends first, and the worker writes, too;
    /// what the peer reads has to be made too long by both.
    async fn serve(&self, stream: &AsyncFd<OwnedFd>, mut bytes: &[u8]) -> std::io::Result<bool> {
        let mut phase = self.phase.subscribe();
        peer::mark(stream.get_ref().as_fd(), Mark::Begun);
        while !bytes.is_empty() {
            tokio::select! {
                biased;
                _ = phase.wait_for(|phase| *phase == Phase::Ended) => return Ok(false),
                written = write(stream, bytes) => bytes = &bytes[written?..],
            }
        }
        // Nothing is waited for between this look and the end. The mark is the worker's, if it has not waited for that.
        if *phase.borrow() == Phase::Ended || peer::is_marked(stream.get_ref().as_fd(), Mark::Refused) {
            return Ok(false);
        }
        peer::end(stream.get_ref().as_fd())?;
        Ok(true)
    }

    /// Shuts the channel, and refuses all that are held and what is on its way here. The caller ends after this.
    pub(super) async fn finish(self: &Rc<Self>, channel: &ParentEnd) {
        // In this order: the worker refuses what it holds when the channel is shut, and no value is ended from here on. Whoever broke
        // a rule is told nothing more.
        self.phase.send_replace(Phase::Ended);
        channel.shut();
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
    }
}

/// For what has no value.
async fn deny(stream: &AsyncFd<OwnedFd>) {
    // A peer that has gone starts nothing.
    let _ = refuse(stream).await;
}
