//! Everything that goes to the worker, in the order in which it was said: a value that is recalled must not arrive after its recall.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use tokio::sync::{mpsc, oneshot, watch};

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
    most: Rc<Cell<u64>>,
    recalls: Rc<Cell<u64>>,
    generation: Rc<Cell<u64>>,
    confirmed: Rc<watch::Sender<Confirmed>>,
    /// Who waits for the worker to have forgotten, by the number of the recall, in its order.
    awaited: Rc<RefCell<VecDeque<Awaited>>>,
}

type Awaited = (u64, oneshot::Sender<()>);

/// What the worker is to forget, and who wants to know when it has.
pub(super) struct Recalling {
    pub(super) keys: Recall,
    pub(super) done: Option<oneshot::Sender<()>>,
}

/// What the worker has said that it has done.
struct Confirmed {
    recalled: u64,
    generation: u64,
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
        let confirmed = watch::Sender::new(Confirmed { recalled: 0, generation: 1 });
        Self {
            queue,
            waiting,
            most: Rc::new(Cell::new(most)),
            recalls: Rc::default(),
            generation: Rc::new(Cell::new(1)),
            confirmed: Rc::new(confirmed),
            awaited: Rc::default(),
        }
    }

    pub(super) fn set_most(&self, most: u64) {
        self.most.set(most);
    }

    /// Recalls are confirmed one after another, and none that was not said; whether this one is in its order.
    pub(super) fn confirm_recall(&self, serial: u64) -> bool {
        let in_order = serial == self.confirmed.borrow().recalled + 1 && serial <= self.recalls.get();
        if in_order {
            self.confirmed.send_modify(|confirmed| confirmed.recalled = serial);
            let mut awaited = self.awaited.borrow_mut();
            while let Some((_, done)) = awaited.pop_front_if(|(of, _)| *of <= serial) {
                // Who waited may be gone.
                let _ = done.send(());
            }
        }
        in_order
    }

    /// The same for configurations.
    pub(super) fn confirm_configuration(&self, generation: u64) -> bool {
        let in_order = generation == self.confirmed.borrow().generation + 1 && generation <= self.generation.get();
        if in_order {
            self.confirmed.send_modify(|confirmed| confirmed.generation = generation);
        }
        in_order
    }

    /// Resolves when the worker has done all that was said to it until now: forgotten, and taken over.
    pub(super) async fn until_confirmed(&self) {
        let (recalls, generation) = (self.recalls.get(), self.generation.get());
        let mut confirmed = self.confirmed.subscribe();
        // The sender lives as long as this does.
        let _ = confirmed.wait_for(|c| c.recalled >= recalls && c.generation >= generation).await;
    }

    /// The number of the configuration that comes next.
    pub(super) fn next_generation(&self) -> u64 {
        self.generation.get() + 1
    }

    /// `payload` holds the configuration of the next generation, `len` bytes.
    pub(super) fn configure(&self, payload: OwnedFd, len: u64) {
        let generation = self.next_generation();
        self.generation.set(generation);
        self.say(ToWorker::Configure { generation, len }, Some(payload), None);
    }

    pub(super) fn say(&self, message: ToWorker, fd: Option<OwnedFd>, open: Option<Open>) {
        self.put(Outgoing { message, fd, open, size: 0 });
    }

    pub(super) fn recall_all(&self) {
        self.recall(Recalling { keys: Recall::All, done: None });
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
            if size.saturating_add(self.waiting.get()) > self.most.get().max(size) {
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
