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
use crate::ipc::channel::WorkerEnd;
use crate::ipc::wire::{Body, FetchRequest, Recall, Reply, RequestId, ToParent, ToWorker};
use crate::secret::KeyPath;
use crate::sys::memfd;

/// What the parent said, and how many recalls had come before it: one that comes after it may mean this value.
pub(super) struct Replied {
    pub(super) reply: Reply,
    pub(super) recalls: u64,
    payload: Option<OwnedFd>,
}

pub(super) struct Link {
    channel: Rc<WorkerEnd>,
    next: Cell<u64>,
    waiting: RefCell<HashMap<u64, oneshot::Sender<Replied>>>,
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
        let id = self.next.get();
        self.next.set(id + 1);
        let (reply, replied) = oneshot::channel();
        self.waiting.borrow_mut().insert(id, reply);
        let ask = ToParent::Fetch(FetchRequest { id, request, key: key.clone(), revalidate });
        let asked = async {
            self.channel.send(&ask, Some(peer)).await.ok()?;
            replied.await.ok()
        };
        let answered = timeout(patience, asked).await.ok().flatten();
        self.waiting.borrow_mut().remove(&id);
        let mut replied = answered?;
        if let Reply::Value(value) = &mut replied.reply
            && let Body::Memfd { len } = value.body
        {
            let mut bytes = memfd::read_sealed(replied.payload.take()?, len, largest).ok()?;
            value.body = Body::Inline(crate::secret::WireBytes(std::mem::take(&mut *bytes)));
        }
        Some(replied)
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
                    if id >= self.next.get() {
                        return Err(WorkerError::Protocol("a reply to what was never asked"));
                    }
                    // Who asked may have gone.
                    if let Some(waiting) = self.waiting.borrow_mut().remove(&id) {
                        let _ = waiting.send(Replied { reply, recalls: self.recalls.get(), payload: fd });
                    }
                }
                ToWorker::Recall { serial, keys } => {
                    self.recalls.set(self.recalls.get() + 1);
                    match keys {
                        Recall::All => shared.forget_all(),
                        Recall::Keys(keys) => keys.iter().for_each(|key| shared.forget(key)),
                    }
                    self.channel.send(&ToParent::Recalled { serial }, None).await?;
                }
                ToWorker::Drain { within } => return Ok(within),
                _ => return Err(WorkerError::Protocol("a message out of order")),
            }
        }
    }
}
