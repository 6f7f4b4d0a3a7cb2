//! Requests to the parent, matched to its replies by number.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::WorkerError;
use super::service::Shared;
use super::watch::Watch;
use crate::ipc::channel::WorkerEnd;
use crate::ipc::wire::{Body, FetchRequest, Recall, Reply, RequestId, Survey, ToParent, ToWorker, decode_payload};
use crate::secret::KeyPath;
use crate::sys::memfd;

/// What the parent said.
enum Said {
    Replied(Replied),
    Surveyed { payload: Option<OwnedFd>, len: u64 },
    SurveyRefused { retry_after: Option<Duration> },
}

/// The longest survey: some 600 bytes for each of the most keys that a configuration can hold.
const MAX_SURVEY: u64 = 64 << 20;

/// A reply to a fetch, and how many recalls had come before it: one that comes after it may mean this value.
pub(super) struct Replied {
    pub(super) reply: Reply,
    pub(super) recalls: u64,
    payload: Option<OwnedFd>,
}

pub(super) struct Link {
    channel: Rc<WorkerEnd>,
    next: Cell<u64>,
    waiting: RefCell<HashMap<u64, oneshot::Sender<Said>>>,
    recalls: Cell<u64>,
}

impl Link {
    pub(super) fn new(channel: Rc<WorkerEnd>) -> Self {
        Self { channel, next: Cell::new(0), waiting: RefCell::new(HashMap::new()), recalls: Cell::new(0) }
    }

    /// The parent's reply, with its body in place; `None` when there is none within `patience`.
    pub(super) async fn fetch(
        &self,
        key: &KeyPath,
        request: RequestId,
        revalidate: bool,
        peer: BorrowedFd<'_>,
        patience: Duration,
        largest: u64,
    ) -> Option<Replied> {
        let ask = |id| ToParent::Fetch(FetchRequest { id, request, key: key.clone(), revalidate });
        let Said::Replied(mut replied) = self.ask(ask, peer, patience).await? else { return None };
        if let Reply::Value(value) = &mut replied.reply
            && let Body::Memfd { len } = value.body
        {
            let mut bytes = memfd::read_sealed(replied.payload.take()?, len, largest).ok()?;
            value.body = Body::Inline(crate::secret::WireBytes(std::mem::take(&mut *bytes)));
        }
        Some(replied)
    }

    /// The keys that the peer may read, as the parent judges, and their states.
    ///
    /// # Errors
    /// How long to wait, if the peer is over its budget; else `None`: the parent does not answer.
    pub(super) async fn survey(&self, request: RequestId, peer: BorrowedFd<'_>) -> Result<Survey, Option<Duration>> {
        let ask = |id| ToParent::Survey { id, request };
        match self.ask(ask, peer, Duration::from_secs(5)).await {
            Some(Said::Surveyed { payload: Some(payload), len }) => {
                let bytes = memfd::read_sealed(payload, len, MAX_SURVEY).map_err(|_| None)?;
                decode_payload(&bytes).map_err(|_| None)
            }
            Some(Said::SurveyRefused { retry_after }) => Err(retry_after),
            _ => Err(None),
        }
    }

    async fn ask(&self, ask: impl Fn(u64) -> ToParent, peer: BorrowedFd<'_>, patience: Duration) -> Option<Said> {
        let id = self.next.get();
        self.next.set(id + 1);
        let (say, said) = oneshot::channel();
        self.waiting.borrow_mut().insert(id, say);
        let asked = async {
            self.channel.send(&ask(id), Some(peer)).await.ok()?;
            said.await.ok()
        };
        let answered = timeout(patience, asked).await.ok().flatten();
        self.waiting.borrow_mut().remove(&id);
        answered
    }

    fn hand_out(&self, id: u64, said: Said) -> Result<(), WorkerError> {
        if id >= self.next.get() {
            return Err(WorkerError::Protocol("a reply to what was never asked"));
        }
        // Who asked may have gone.
        if let Some(waiting) = self.waiting.borrow_mut().remove(&id) {
            let _ = waiting.send(said);
        }
        Ok(())
    }

    /// How many recalls there have been.
    pub(super) fn recalls(&self) -> u64 {
        self.recalls.get()
    }

    /// Hands out what the parent says, until it says to drain: the time for that.
    pub(super) async fn listen(&self, shared: &Shared) -> Result<Duration, WorkerError> {
        loop {
            let (message, fd) = self.channel.recv().await?.ok_or(WorkerError::ParentGone)?;
            match message {
                ToWorker::Reply { id, reply } => {
                    self.hand_out(id, Said::Replied(Replied { reply, recalls: self.recalls.get(), payload: fd }))?;
                }
                ToWorker::SurveyReply { id, len } => self.hand_out(id, Said::Surveyed { payload: fd, len })?,
                ToWorker::SurveyRefused { id, retry_after } => {
                    self.hand_out(id, Said::SurveyRefused { retry_after })?
                }
                ToWorker::Recall { serial, keys } => {
                    self.recalls.set(self.recalls.get() + 1);
                    match keys {
                        Recall::All => {
                            shared.slots.forget_where(|_, _| true);
                            shared.slots.all().for_each(|slot| slot.watchers(Watch::recalled).unwrap_or_default());
                        }
                        Recall::Keys(keys) => {
                            keys.iter().filter_map(|key| shared.slots.find(key.as_str())).for_each(|slot| {
                                shared.slots.forget(slot);
                                slot.watchers(Watch::recalled);
                            });
                        }
                    }
                    self.channel.send(&ToParent::Recalled { serial }, None).await?;
                }
                ToWorker::Drain { within } => return Ok(within),
                _ => return Err(WorkerError::Protocol("a message out of order")),
            }
        }
    }
}
