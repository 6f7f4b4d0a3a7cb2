//! The parent's side of the runner: asks for runs by their numbers, and hears how they end. Holds no program to run, and could
//! name none.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;

use crate::config::Command;
use crate::ipc::channel::{ChannelEnd, ChannelError, Passed};
use crate::ipc::run::{AT_ONCE, End, FromRunner, PROTOCOL, ToRunner};
use crate::ipc::wire::Layer;

/// What the root phase has started.
pub struct RunnerInputs {
    pub channel: OwnedFd,
    /// What it may run, in the order of its numbers.
    pub commands: Vec<Command>,
}

/// Why there is no runner any more.
#[derive(Debug)]
pub enum RunnerGone {
    /// It has ended, or never begun.
    Ended,
    Channel(ChannelError),
    /// It is of another version, or said something out of order.
    Protocol(&'static str),
}

impl fmt::Display for RunnerGone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended => write!(f, "the runner is gone"),
            Self::Channel(error) => write!(f, "the runner: {error}"),
            Self::Protocol(what) => write!(f, "the runner broke the protocol: {what}"),
        }
    }
}

impl From<ChannelError> for RunnerGone {
    fn from(error: ChannelError) -> Self {
        Self::Channel(error)
    }
}

impl RunnerInputs {
    pub(super) fn started(self) -> Started {
        let (out, said) = mpsc::unbounded_channel();
        let (asked, next) = (RefCell::default(), Cell::new(0));
        let runner = Runner { commands: self.commands, out, asked, next, room: Arc::new(Semaphore::new(AT_ONCE)) };
        Started { channel: self.channel, said, runner: Rc::new(runner) }
    }
}

type RunnerEnd = ChannelEnd<ToRunner, FromRunner>;

/// What becomes of a run, in its order.
pub(super) enum Event {
    /// What the program writes is read there.
    Output(OwnedFd),
    /// The token is written there.
    Token(OwnedFd),
    /// Nothing of it is left.
    Ended { end: End, said: u64 },
}

/// A run that was asked for.
struct Asked {
    events: mpsc::UnboundedSender<Event>,
    /// Its place among those that run at a time: until it has ended, whoever still waits for it.
    _room: OwnedSemaphorePermit,
}

/// A runner that has not been heard of yet.
pub(super) struct Started {
    channel: OwnedFd,
    /// What is to be said to it.
    said: mpsc::UnboundedReceiver<ToRunner>,
    pub(super) runner: Rc<Runner>,
}

/// What tells the end of a runner.
pub(super) type Ending = Pin<Box<dyn Future<Output = RunnerGone>>>;

/// Who asks.
pub(super) struct Runner {
    commands: Vec<Command>,
    out: mpsc::UnboundedSender<ToRunner>,
    asked: RefCell<HashMap<u64, Asked>>,
    next: Cell<u64>,
    room: Arc<Semaphore>,
}

impl Runner {
    /// Has this run as soon as there is room. `None`: it was not listed at start.
    pub(super) async fn begin(self: &Rc<Self>, command: &Command) -> Option<Run> {
        let number = self.commands.iter().position(|listed| listed == command)?;
        let room = self.room.clone().acquire_owned().await.ok()?;
        let id = self.next.replace(self.next.get() + 1);
        let (events, heard) = mpsc::unbounded_channel();
        self.asked.borrow_mut().insert(id, Asked { events, _room: room });
        // A runner that is gone ends the broker.
        let _ = self.out.send(ToRunner::Run { id, program: u32::try_from(number).ok()? });
        Some(Run { runner: self.clone(), id, heard })
    }

    /// The first frame: one version on both sides.
    async fn greet(channel: &RunnerEnd) -> Result<Vec<Layer>, RunnerGone> {
        match channel.recv().await? {
            Some((FromRunner::Ready { protocol: PROTOCOL, version, layers }, Passed::Nothing))
                if version == env!("CARGO_PKG_VERSION") =>
            {
                Ok(layers)
            }
            Some(_) => Err(RunnerGone::Protocol("no greeting of this version")),
            None => Err(RunnerGone::Ended),
        }
    }

    /// Until the runner is gone.
    async fn serve(&self, channel: RunnerEnd, mut said: mpsc::UnboundedReceiver<ToRunner>) -> RunnerGone {
        loop {
            let heard = tokio::select! {
                heard = channel.recv() => heard,
                Some(frame) = said.recv() => match channel.send(&frame, None).await {
                    Ok(()) => continue,
                    Err(error) => return error.into(),
                },
            };
            match heard {
                Ok(Some((frame, passed))) => {
                    if let Err(gone) = self.hear(frame, passed) {
                        return gone;
                    }
                }
                Ok(None) => return RunnerGone::Ended,
                Err(error) => return error.into(),
            }
        }
    }

    fn hear(&self, frame: FromRunner, passed: Passed) -> Result<(), RunnerGone> {
        let (id, event) = match (frame, passed) {
            (FromRunner::Output { id }, Passed::One(fd)) => (id, Event::Output(fd)),
            (FromRunner::Token { id }, Passed::One(fd)) => (id, Event::Token(fd)),
            (FromRunner::Output { id } | FromRunner::Token { id }, Passed::Lost) => {
                tracing::error!("out of file descriptors: a command is stopped");
                let _ = self.out.send(ToRunner::Stop { id });
                return Ok(());
            }
            (FromRunner::Ended { id, end, said }, Passed::Nothing) => (id, Event::Ended { end, said }),
            _ => return Err(RunnerGone::Protocol("a message out of order")),
        };
        let ended = matches!(event, Event::Ended { .. });
        let mut asked = self.asked.borrow_mut();
        let run = asked.get(&id).ok_or(RunnerGone::Protocol("a run that was not asked for"))?;
        // Nobody may be waiting any more.
        let _ = run.events.send(event);
        if ended {
            asked.remove(&id);
        }
        Ok(())
    }
}

impl Started {
    /// Its layers, and what tells its end. Within a `LocalSet`.
    pub(super) async fn greeted(self, within: Duration) -> Result<(Vec<Layer>, Ending), RunnerGone> {
        let channel = RunnerEnd::new(self.channel).map_err(|error| RunnerGone::Channel(ChannelError::Io(error)))?;
        let greeted = timeout(within, Runner::greet(&channel)).await;
        let layers = greeted.unwrap_or(Err(RunnerGone::Protocol("no greeting in time")))?;
        let (runner, said) = (self.runner, self.said);
        let served = tokio::task::spawn_local(async move { runner.serve(channel, said).await });
        Ok((layers, Box::pin(async { served.await.unwrap_or(RunnerGone::Ended) })))
    }
}

/// A run that somebody waits for. Dropped before its end, it is stopped.
pub(super) struct Run {
    runner: Rc<Runner>,
    id: u64,
    heard: mpsc::UnboundedReceiver<Event>,
}

impl Run {
    /// What has become of it next; `None` after its end.
    pub(super) async fn next(&mut self) -> Option<Event> {
        self.heard.recv().await
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if self.runner.asked.borrow().contains_key(&self.id) {
            let _ = self.runner.out.send(ToRunner::Stop { id: self.id });
        }
    }
}
