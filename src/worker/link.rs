//! Requests to the parent, matched to its replies by number.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::WorkerError;
use super::connection::{PeerSocket, Permit};
use super::service::Shared;
use super::standing::{Facts, Standing};
use super::tally::Tally;
use super::watch::Watch;
use crate::arguments::Arguments;
use crate::ipc::channel::{Passed, WorkerEnd};
use crate::ipc::wire::{
    Body, FetchRequest, MAX_INLINE, Recall, Reply, RequestId, SentArguments, Survey, ToParent, ToWorker, decode_payload,
};
use crate::secret::{KeyPath, WireBytes};
use crate::sys::memfd;

/// What the parent said.
enum Said {
    Replied(Replied),
    Surveyed {
        payload: Passed,
        len: u64,
    },
    SurveyRefused {
        retry_after: Option<Duration>,
    },
    /// Whether it was; what was attested stands in the connection's [`Standing`].
    Attested(bool),
}

/// The longest survey: some 600 bytes for each of the most keys that a configuration can hold.
const MAX_SURVEY: u64 = 64 << 20;

/// A reply to a fetch, and how many recalls had come before it: one that comes after it may mean this value.
pub(super) struct Replied {
    pub(super) reply: Reply,
    pub(super) recalls: u64,
    /// Of the configuration that it was said under.
    pub(super) generation: u64,
    payload: Passed,
}

/// A value that the parent is asked for.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'w> {
    pub(super) key: &'w KeyPath,
    pub(super) request: RequestId,
    pub(super) revalidate: bool,
    /// Of a call.
    pub(super) arguments: Option<&'w Arc<Arguments>>,
}

/// A request that the parent has not answered. It stays when whoever asked has gone: the parent has it all the same, and
/// it counts as a connection of its user until then, so that hanging up and asking again gains nothing.
struct Waiting {
    say: oneshot::Sender<Said>,
    _counted: Rc<Permit>,
}

pub(super) struct Link {
    channel: Rc<WorkerEnd>,
    next: Cell<u64>,
    waiting: RefCell<HashMap<u64, Waiting>>,
    /// The most requests that the parent takes at a time.
    most: usize,
    recalls: Cell<u64>,
    pub(super) facts: Facts,
}

/// A request that is not sent yet: forgotten when it never will be.
struct Unsent<'a> {
    link: &'a Link,
    id: u64,
}

impl Drop for Unsent<'_> {
    fn drop(&mut self) {
        self.link.waiting.borrow_mut().remove(&self.id);
        self.link.facts.unask(self.id);
    }
}

impl Link {
    pub(super) fn new(channel: Rc<WorkerEnd>, most: usize, facts: Facts) -> Self {
        Self { channel, next: Cell::new(0), waiting: RefCell::new(HashMap::new()), most, recalls: Cell::new(0), facts }
    }

    /// The parent's reply, with its body in place; `None` when there is none within `patience`.
    pub(super) async fn fetch(
        &self,
        wanted: &Wanted<'_>,
        peer: PeerSocket,
        patience: Duration,
        largest: u64,
    ) -> Option<Replied> {
        let Wanted { key, request, revalidate, arguments } = *wanted;
        let ask =
            |id, arguments| ToParent::Fetch(FetchRequest { id, request, key: key.alone(), revalidate, arguments });
        let said = match arguments {
            Some(long) if long.json().len() > MAX_INLINE => {
                let ask = |id| ask(id, Some(SentArguments::Before));
                self.ask_in_parts(ask, long.clone(), peer, patience).await
            }
            short => {
                let inline =
                    |short: &Arc<Arguments>| SentArguments::Inline(WireBytes(short.json().as_bytes().to_vec()));
                self.ask(|id| ask(id, short.map(inline)), peer, patience).await
            }
        };
        let Said::Replied(mut replied) = said? else { return None };
        if let Reply::Value(value) = &mut replied.reply
            && let Body::Memfd { len } = value.body
        {
            let Passed::One(payload) = std::mem::replace(&mut replied.payload, Passed::Nothing) else { return None };
            let mut bytes = memfd::read_sealed(payload, len, largest).ok()?;
            value.body = Body::Inline(WireBytes(std::mem::take(&mut *bytes)));
        }
        Some(replied)
    }

    /// Tells how often values were given that the parent gave once. Before a fetch: what that brings may make one too many.
    pub(super) async fn tell_uses(&self, uses: Vec<(KeyPath, u32)>) {
        if !uses.is_empty() {
            // A parent that is gone ends this process soon.
            let _ = self.channel.send(&ToParent::Used { uses }, None).await;
        }
    }

    /// Tells what was answered, in as many frames as that takes.
    pub(super) async fn tell_counts(&self, tally: &Tally, connections: u32) {
        while let Some(counted) = tally.take(connections) {
            // A parent that is gone ends this process soon.
            if self.channel.send(&ToParent::Counted(counted), None).await.is_err() {
                return;
            }
        }
    }

    /// The keys that the peer may read, as the parent judges, and their states.
    ///
    /// # Errors
    /// How long to wait, if the peer is over its budget; else `None`: the parent does not answer.
    pub(super) async fn survey(&self, request: RequestId, peer: PeerSocket) -> Result<Survey, Option<Duration>> {
        let ask = |id| ToParent::Survey { id, request };
        match self.ask(ask, peer, Duration::from_secs(5)).await {
            Some(Said::Surveyed { payload: Passed::One(payload), len }) => {
                let bytes = memfd::read_sealed(payload, len, MAX_SURVEY).map_err(|_| None)?;
                decode_payload(&bytes).map_err(|_| None)
            }
            Some(Said::SurveyRefused { retry_after }) => Err(retry_after),
            _ => Err(None),
        }
    }

    /// Lets the parent attest the unit of a connection: false when it does not answer.
    pub(super) async fn attest(&self, standing: &Rc<Standing>, peer: PeerSocket) -> bool {
        let ask = |id| {
            self.facts.ask(id, standing);
            ToParent::Attest { id }
        };
        matches!(self.ask(ask, peer, Duration::from_secs(5)).await, Some(Said::Attested(true)))
    }

    /// The connection that this fact was about has ended.
    pub(super) async fn part(&self, fact: u64) {
        self.facts.forget(fact);
        // A parent that is gone ends this process soon.
        let _ = self.channel.send(&ToParent::Parted { fact }, None).await;
    }

    /// A place among those that wait, which counts as the connection that asks; `None` when there are too many.
    fn number(&self, permit: Rc<Permit>) -> Option<(u64, oneshot::Receiver<Said>)> {
        if self.waiting.borrow().len() >= self.most {
            return None;
        }
        let id = self.next.get();
        self.next.set(id + 1);
        let (say, said) = oneshot::channel();
        self.waiting.borrow_mut().insert(id, Waiting { say, _counted: permit });
        Some((id, said))
    }

    async fn ask(&self, ask: impl Fn(u64) -> ToParent, peer: PeerSocket, patience: Duration) -> Option<Said> {
        let (id, said) = self.number(peer.permit)?;
        let asked = async {
            let unsent = Unsent { link: self, id };
            self.channel.send(&ask(id), Some(peer.fd.as_fd())).await.ok()?;
            // The parent has its own now.
            drop(peer.fd);
            std::mem::forget(unsent);
            said.await.ok()
        };
        timeout(patience, asked).await.ok().flatten()
    }

    /// The same with arguments that fill several frames. They and the request are sent whole, whether or not somebody still
    /// waits: the parent is left with no half of them.
    async fn ask_in_parts(
        &self,
        ask: impl FnOnce(u64) -> ToParent,
        arguments: Arc<Arguments>,
        peer: PeerSocket,
        patience: Duration,
    ) -> Option<Said> {
        let (id, said) = self.number(peer.permit)?;
        let (channel, request) = (self.channel.clone(), ask(id));
        tokio::task::spawn_local(async move {
            for part in arguments.json().as_bytes().chunks(MAX_INLINE) {
                let part = ToParent::Arguments { id, part: WireBytes(part.to_vec()) };
                // A parent that is gone ends this process soon.
                if channel.send(&part, None).await.is_err() {
                    return;
                }
            }
            let _ = channel.send(&request, Some(peer.fd.as_fd())).await;
        });
        timeout(patience, said).await.ok()?.ok()
    }

    fn hand_out(&self, id: u64, said: Said) -> Result<(), WorkerError> {
        let waiting = self.waiting.borrow_mut().remove(&id);
        let waiting = waiting.ok_or(WorkerError::Protocol("a reply to what was never asked"))?;
        // Who asked may have gone.
        let _ = waiting.say.send(said);
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
                    let (recalls, generation) = (self.recalls.get(), shared.current().config.generation);
                    self.hand_out(id, Said::Replied(Replied { reply, recalls, generation, payload: fd }))?;
                }
                ToWorker::SurveyReply { id, len } => self.hand_out(id, Said::Surveyed { payload: fd, len })?,
                ToWorker::SurveyRefused { id, retry_after } => {
                    self.hand_out(id, Said::SurveyRefused { retry_after })?
                }
                ToWorker::Attested { id, attestation } => {
                    match &attestation {
                        Some(told) => self.facts.learn(id, told),
                        None => self.facts.unask(id),
                    }
                    self.hand_out(id, Said::Attested(attestation.is_some()))?;
                }
                ToWorker::CredentialEnded { id, ended } => shared.credentials.end(id, ended)?,
                ToWorker::Unattested { fact } => self.facts.take_back(fact),
                ToWorker::Recall { serial, keys } => {
                    self.recalls.set(self.recalls.get() + 1);
                    let current = shared.current();
                    match keys {
                        Recall::All => {
                            current.slots.forget_where(|_, _| true);
                            current.slots.for_each(|slot| slot.watchers(Watch::recalled).unwrap_or_default());
                        }
                        Recall::Keys(keys) => {
                            keys.iter().filter_map(|key| current.slots.known(key.as_str())).for_each(|slot| {
                                current.slots.forget(&slot);
                                slot.watchers(Watch::recalled);
                            });
                        }
                    }
                    self.channel.send(&ToParent::Recalled { serial }, None).await?;
                }
                ToWorker::Ping { serial } => self.channel.send(&ToParent::Pong { serial }, None).await?,
                ToWorker::Configure { generation, len } => {
                    let config = super::configuration(generation, len, fd)?;
                    if generation <= shared.current().config.generation {
                        return Err(WorkerError::Protocol("a configuration that is older than the one that holds"));
                    }
                    shared.configure(config);
                    self.channel.send(&ToParent::Configured { generation }, None).await?;
                }
                ToWorker::Drain { within } => return Ok(within),
                _ => return Err(WorkerError::Protocol("a message out of order")),
            }
        }
    }
}
