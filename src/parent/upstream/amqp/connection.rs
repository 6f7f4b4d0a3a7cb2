//! One connection to a broker, and the calls that share it.
//!
//! A task reads and a task writes, so that a broker which stops reading does not stop replies. Both end when the last
//! holder of the connection does, or when the broker is heard of no more.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt, BufWriter, WriteHalf, split};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::Transport;
use super::handshake::{self, Login, Reader};
use super::replies::{Next, Replies};
use super::wire::{CHANNEL, Frame, HEARTBEAT, around_body};
use crate::arguments::Arguments;
use crate::outcome::{Failure, Reason};

/// So many calls wait to be written; whoever makes more waits.
const QUEUED: usize = 64;
/// How long a broker may take to end what it was told to end.
const LINGER: Duration = Duration::from_secs(1);

/// The body of a reply.
pub(in crate::parent::upstream) struct Message {
    pub(in crate::parent::upstream) body: Zeroizing<Vec<u8>>,
    /// It says that it is JSON, or nothing.
    pub(in crate::parent::upstream) json: bool,
}

/// What is called.
pub(in crate::parent::upstream) struct Call<'c> {
    pub(in crate::parent::upstream) exchange: &'c str,
    pub(in crate::parent::upstream) routing_key: &'c str,
    pub(in crate::parent::upstream) arguments: Arc<Arguments>,
    /// Different for each call; also what the call is known by in the service's own context.
    pub(in crate::parent::upstream) id: String,
}

pub(in crate::parent::upstream) struct Connection {
    queue: mpsc::Sender<Outgoing>,
    shared: Rc<Shared>,
    reply_to: String,
}

struct Shared {
    replies: RefCell<Replies>,
    /// Messages published so far: their numbers, for the broker's confirmations.
    published: Cell<u64>,
    /// Why it has ended.
    ended: watch::Sender<Option<Failure>>,
}

enum Outgoing {
    Call { head: Zeroizing<Vec<u8>>, arguments: Arc<Arguments> },
    Frame(Zeroizing<Vec<u8>>),
}

impl Connection {
    /// Logs in and makes ready; the caller bounds the time. `limit` is the longest reply, in bytes.
    ///
    /// # Errors
    /// The broker is lost, or refuses.
    pub(in crate::parent::upstream) async fn open<T: Transport + 'static>(
        stream: T,
        login: &Login<'_>,
        limit: usize,
    ) -> Result<Self, Failure> {
        let (read, mut write) = split(stream);
        let mut reader = Reader::new(read);
        let agreed = handshake::begin(&mut reader, &mut write, login).await?;
        let (queue, queued) = mpsc::channel(QUEUED);
        let shared = Rc::new(Shared {
            replies: RefCell::new(Replies::new(limit)),
            published: Cell::new(0),
            ended: watch::Sender::new(None),
        });
        let writer = Writer { shared: shared.clone(), longest_part: agreed.longest_part, beat: agreed.heartbeat };
        tokio::task::spawn_local(writer.run(write, queued));
        tokio::task::spawn_local(read_on(reader, shared.clone(), queue.downgrade(), agreed.heartbeat * 2));
        Ok(Self { queue, shared, reply_to: login.reply_to.to_owned() })
    }

    pub(in crate::parent::upstream) fn is_open(&self) -> bool {
        self.shared.ended.borrow().is_none()
    }

    /// One call and its reply. Can be dropped at any moment: nobody waits then for what comes.
    ///
    /// # Errors
    /// The broker is lost, or nobody takes the call, or the reply is too long.
    pub(in crate::parent::upstream) async fn call(&self, call: Call<'_>) -> Result<Message, Failure> {
        let mut ended = self.shared.ended.subscribe();
        let waited = Waited { shared: &self.shared, correlation: &call.id };
        let gone = |shared: &Shared| shared.ended.borrow().unwrap_or(Failure::unavailable(Reason::Reset));
        let head = self.head(&call);
        let outgoing = Outgoing::Call { head, arguments: call.arguments };
        // Its number is that of its place in the queue.
        let permit = self.queue.reserve().await.map_err(|_| gone(&self.shared))?;
        let tag = self.shared.published.get() + 1;
        self.shared.published.set(tag);
        let reply = self.shared.replies.borrow_mut().wait(call.id.clone(), tag);
        permit.send(outgoing);
        let reply = tokio::select! {
            biased;
            reply = reply => reply.unwrap_or_else(|_| Err(gone(&self.shared))),
            _ = ended.wait_for(Option::is_some) => Err(gone(&self.shared)),
        };
        drop(waited);
        reply
    }

    /// The frames before the body: to be routed or returned, persistent as Nameko's own calls are.
    fn head(&self, call: &Call<'_>) -> Zeroizing<Vec<u8>> {
        let publish = Frame::method(CHANNEL, 60, 40).short(0);
        let publish = publish.short_string(call.exchange).short_string(call.routing_key).octet(1).finish();
        let id = format!("keyhatch.call.{}", call.id);
        let content = Frame::content(call.arguments.json().len() as u64, 0b1111_1110_0000_0000)
            .short_string("application/json")
            .short_string("utf-8")
            .table(|headers| {
                // A list of one string: a table without names, but for its letter.
                let list = headers.short_string("nameko.call_id_stack").octet(b'A');
                list.table(|list| list.octet(b'S').long_string(&[id.as_bytes()]))
            })
            .octet(2)
            .octet(0)
            .short_string(&call.id)
            .short_string(&self.reply_to)
            .finish();
        let mut head = Zeroizing::new(Vec::with_capacity(publish.len() + content.len()));
        head.extend_from_slice(&publish);
        head.extend_from_slice(&content);
        head
    }
}

/// Somebody waits for a reply, until this is dropped.
struct Waited<'w> {
    shared: &'w Shared,
    correlation: &'w str,
}

impl Drop for Waited<'_> {
    fn drop(&mut self) {
        self.shared.replies.borrow_mut().give_up(self.correlation);
    }
}

impl Shared {
    fn end(&self, why: Failure) {
        if self.ended.borrow().is_none() {
            tracing::debug!(reason = %why.reason, "a connection to a message broker has ended");
            self.ended.send_replace(Some(why));
        }
        self.replies.borrow_mut().fail_all(why);
    }
}

struct Writer {
    shared: Rc<Shared>,
    longest_part: usize,
    beat: Duration,
}

impl Writer {
    async fn run<T: Transport>(self, stream: WriteHalf<T>, mut queued: mpsc::Receiver<Outgoing>) {
        let mut stream = BufWriter::new(stream);
        let mut ended = self.shared.ended.subscribe();
        loop {
            let next = tokio::select! {
                biased;
                _ = ended.wait_for(Option::is_some) => return,
                next = timeout(self.beat / 2, queued.recv()) => next,
            };
            let over = matches!(next, Ok(None));
            // A broker that takes nothing for so long is as good as gone.
            let written = timeout(self.beat, self.write(&mut stream, next.ok())).await;
            match written {
                Ok(Ok(())) if !over => {}
                Ok(Ok(())) => {
                    // It was told to end. It answers, or closes: the reader sees either.
                    let _ = timeout(LINGER, ended.wait_for(Option::is_some)).await;
                    return self.shared.end(Failure::unavailable(Reason::Reset));
                }
                Ok(Err(error)) => return self.shared.end(handshake::lost(&error)),
                Err(_) => return self.shared.end(Failure::unavailable(Reason::Timeout)),
            }
        }
    }

    /// Nothing at all is a heartbeat; the end of the queue is the end of the connection.
    async fn write(
        &self,
        stream: &mut (impl AsyncWrite + Unpin),
        next: Option<Option<Outgoing>>,
    ) -> std::io::Result<()> {
        match next {
            None => stream.write_all(&HEARTBEAT).await?,
            Some(None) => {
                let close = Frame::method(0, 10, 50).short(200).short_string("bye").short(0).short(0);
                stream.write_all(&close.finish()).await?;
            }
            Some(Some(Outgoing::Frame(frame))) => stream.write_all(&frame).await?,
            Some(Some(Outgoing::Call { head, arguments })) => {
                stream.write_all(&head).await?;
                for part in arguments.json().as_bytes().chunks(self.longest_part) {
                    let (before, after) = around_body(part.len());
                    stream.write_all(&before).await?;
                    stream.write_all(part).await?;
                    stream.write_all(&after).await?;
                }
            }
        }
        stream.flush().await
    }
}

async fn read_on<T: Transport>(
    mut reader: Reader<T>,
    shared: Rc<Shared>,
    queue: mpsc::WeakSender<Outgoing>,
    silence: Duration,
) {
    let mut ended = shared.ended.subscribe();
    let why = loop {
        let frame = tokio::select! {
            biased;
            _ = ended.wait_for(Option::is_some) => return,
            frame = timeout(silence, reader.next()) => frame,
        };
        let (kind, channel, payload) = match frame {
            Ok(Ok(frame)) => frame,
            Ok(Err(failure)) => break failure,
            Err(_) => break Failure::unavailable(Reason::Timeout),
        };
        match shared.replies.borrow_mut().take(kind, channel, payload) {
            Ok(Next::Nothing) => {}
            Ok(Next::FlowOk { active }) => {
                let frame = Frame::method(CHANNEL, 20, 21).octet(active.into()).finish();
                // Without room for it the broker is not reading, and waits for nothing.
                if let Some(queue) = queue.upgrade() {
                    let _ = queue.try_send(Outgoing::Frame(frame));
                }
            }
            Ok(Next::Closed) => break Failure::unavailable(Reason::BrokerClosed),
            Err(malformed) => break malformed.into(),
        }
    };
    shared.end(why);
}
