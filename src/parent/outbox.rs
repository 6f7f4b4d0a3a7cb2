//! Everything that goes to the worker, in the order in which it was said: a value that is recalled must not arrive after its recall.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use tokio::sync::{mpsc, oneshot};

use super::in_flight::Open;
use crate::ipc::channel::ParentEnd;
use crate::ipc::wire::{Body, MAX_INLINE, Recall, Reply, ToWorker};
use crate::sys::memfd;

/// The queue before the channel.
#[derive(Clone)]
pub(super) struct Outbox {
    queue: mpsc::UnboundedSender<Outgoing>,
    /// Bytes of values that wait for a worker that does not read.
    waiting: Rc<Cell<u64>>,
    most: u64,
    recalls: Rc<Cell<u64>>,
    /// Who waits for the worker to have forgotten, by the number of the recall, in its order.
    awaited: Rc<RefCell<VecDeque<Awaited>>>,
}

type Awaited = (u64, oneshot::Sender<()>);

/// What the worker is to forget, and who wants to know when it has.
pub(super) struct Recalling {
    pub(super) keys: Recall,
    pub(super) done: Option<oneshot::Sender<()>>,
}

struct Outgoing {
    message: ToWorker,
    fd: Option<OwnedFd>,
    /// The request that this answers counts as in flight until it is sent.
    open: Option<Open>,
    size: u64,
}

impl Outbox {
    /// `most` bytes of values wait at a time. The task that sends ends with the channel.
    pub(super) fn new(channel: Rc<ParentEnd>, most: u64) -> Self {
        let (queue, mut queued) = mpsc::unbounded_channel::<Outgoing>();
        let waiting = Rc::new(Cell::new(0_u64));
        let counted = waiting.clone();
        tokio::task::spawn_local(async move {
            while let Some(next) = queued.recv().await {
                if let Err(error) = channel.send(&next.message, next.fd.as_ref().map(AsFd::as_fd)).await {
                    // Whoever reads the channel learns of its end, too.
                    tracing::debug!(%error, "the channel takes nothing more");
                    return;
                }
                counted.set(counted.get().saturating_sub(next.size));
                drop(next.open);
            }
        });
        Self { queue, waiting, most, recalls: Rc::default(), awaited: Rc::default() }
    }

    /// How many recalls were said.
    pub(super) fn recalls(&self) -> u64 {
        self.recalls.get()
    }

    pub(super) fn say(&self, message: ToWorker, fd: Option<OwnedFd>, open: Option<Open>) {
        self.put(Outgoing { message, fd, open, size: 0 });
    }

    /// The worker has forgotten what this recall and those before it named.
    pub(super) fn recalled(&self, serial: u64) {
        let mut awaited = self.awaited.borrow_mut();
        while let Some((_, done)) = awaited.pop_front_if(|(of, _)| *of <= serial) {
            // Who waited may be gone.
            let _ = done.send(());
        }
    }

    pub(super) fn recall(&self, Recalling { keys, done }: Recalling) {
        let serial = self.recalls.get() + 1;
        self.recalls.set(serial);
        self.awaited.borrow_mut().extend(done.map(|done| (serial, done)));
        self.say(ToWorker::Recall { serial, keys }, None, None);
    }

    /// Says these as they come.
    pub(super) async fn relay(self, mut recalls: mpsc::UnboundedReceiver<Recalling>) {
        while let Some(recalling) = recalls.recv().await {
            self.recall(recalling);
        }
    }

    /// A reply, with its value beside the frame where it is large.
    pub(super) fn reply(&self, id: u64, mut reply: Reply, open: Open) {
        let mut fd = None;
        let mut size = 0;
        if let Reply::Value(value) = &mut reply
            && let Body::Inline(bytes) = &value.body
        {
            size = bytes.0.len() as u64;
            if size.saturating_add(self.waiting.get()) > self.most.max(size) {
                tracing::error!("the worker does not take its replies: a request is refused");
                return self.say(ToWorker::Reply { id, reply: Reply::Busy }, None, Some(open));
            }
            if bytes.0.len() > MAX_INLINE {
                match memfd::sealed(&bytes.0) {
                    Ok(sealed) => {
                        fd = Some(sealed);
                        value.body = Body::Memfd { len: size };
                    }
                    Err(error) => {
                        tracing::error!(%error, "no room for a value on its way to the worker");
                        return self.say(ToWorker::Reply { id, reply: Reply::Busy }, None, Some(open));
                    }
                }
            }
        }
        self.waiting.set(self.waiting.get() + size);
        self.put(Outgoing { message: ToWorker::Reply { id, reply }, fd, open: Some(open), size });
    }

    fn put(&self, outgoing: Outgoing) {
        // A closed queue means that the channel is: the event loop ends by itself.
        let _ = self.queue.send(outgoing);
    }
}
