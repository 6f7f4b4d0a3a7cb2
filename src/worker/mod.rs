//! The worker: speaks HTTP to peers and asks the parent. Holds no token, opens no file, connects to nothing.
//!
//! Must never outlive the channel: the parent's end of it is the worker's reason to run.
#![forbid(unsafe_code)]

mod accept;
mod alive;
mod answer;
mod ask;
mod body;
mod call;
mod connection;
mod credentials;
mod expanded;
#[cfg(test)]
mod fuzz;
mod held;
mod link;
mod log;
mod own;
mod pace;
mod request;
mod service;
mod standing;
mod stream;
mod tally;
mod turns;
mod wait;
mod watch;

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use hyper::StatusCode;
use hyper_util::rt::TokioIo;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, LocalSet};
use tokio::time::timeout;

use self::answer::Problem;
use self::body::AnswerBody;
use self::connection::Connection;
use self::credentials::Credentials;
use self::link::Link;
use self::service::Shared;
use self::standing::Facts;
use self::stream::{Conversation, Phase, Watched};
use crate::config::Limits;
use crate::ipc::channel::{ChannelError, Passed, WorkerEnd};
use crate::ipc::wire::{Layer, PROTOCOL, ToParent, ToWorker, WorkerConfig, decode_payload};
use crate::sys::clock::boot_nanos;
use crate::sys::memfd;

/// The longest configuration that the parent may send, in bytes.
const MAX_CONFIG: u64 = 64 << 20;

/// How long after it was accepted a connection is waited for at the end although it says nothing.
const FIRST_WORDS: Duration = Duration::from_secs(2);

/// Why the worker ended, other than by being told to.
#[derive(Debug)]
pub enum WorkerError {
    Io(io::Error),
    Channel(ChannelError),
    Protocol(&'static str),
    ParentGone,
}

impl fmt::Display for WorkerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "the worker cannot run: {error}"),
            Self::Channel(error) => write!(f, "{error}"),
            Self::Protocol(what) => write!(f, "the parent broke the protocol: {what}"),
            Self::ParentGone => write!(f, "the parent is gone, or has shut the channel"),
        }
    }
}

impl std::error::Error for WorkerError {}

impl From<ChannelError> for WorkerError {
    fn from(error: ChannelError) -> Self {
        Self::Channel(error)
    }
}

impl From<io::Error> for WorkerError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Serves until the parent says to drain (`Ok`) or is gone. `layers` confine this process already. `aside`: so many connections
/// over a limit may wait for their refusal.
pub fn run(listener: OwnedFd, channel: OwnedFd, layers: Vec<Layer>, aside: usize) -> Result<(), WorkerError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async move {
        let listener = UnixListener::from(listener);
        listener.set_nonblocking(true)?;
        #[expect(
            deprecated,
            reason = "unsound for types that change their descriptor; a listener keeps it open and the same"
        )]
        let listener = AsyncFd::with_interest(listener, Interest::READABLE)?;
        let channel = Rc::new(WorkerEnd::new(channel)?);
        // Never closed but by the end of the process: seccomp allows it no more, so that nothing else can take its number.
        std::mem::forget(channel.clone());
        let config = introduce(&channel).await?;
        let most = usize::try_from(config.limits.connections).unwrap_or(usize::MAX);
        let (facts, partings) = Facts::new();
        let link = Rc::new(Link::new(channel.clone(), most, facts));
        let credentials = Credentials::new(channel.clone(), most);
        let shared = Rc::new(Shared::new(config, link.clone(), credentials.clone()));
        channel.send(&ToParent::Ready { layers }, None).await?;
        let parting = tokio::task::spawn_local(part(link, partings));
        let accepting = tokio::task::spawn_local(let_in(listener, aside, shared.clone()));
        let ended = serve(&shared, &accepting).await;
        accepting.abort();
        parting.abort();
        credentials.take_leave().await;
        ended
    })
}

/// Until the parent says to drain, and that is done, or until it is gone.
async fn serve(shared: &Rc<Shared>, accepting: &JoinHandle<()>) -> Result<(), WorkerError> {
    let link = &shared.link;
    let going_round = tokio::task::spawn_local(go_round(shared.clone()));
    let keeping_pace = tokio::task::spawn_local(keep_pace(shared.clone()));
    let sweeping = tokio::task::spawn_local(sweep(shared.clone()));
    let telling = tokio::task::spawn_local(tell(shared.clone()));
    let counting = tokio::task::spawn_local(tell_counts(shared.clone()));
    let within = link.listen(shared).await?;
    accepting.abort();
    shared.end_connections();
    let finished = async {
        // What is in flight still needs the parent's replies.
        tokio::select! {
            ((), ()) = async { tokio::join!(shared.connections.drained(), shared.credentials.drained()) } => Ok(()),
            ended = link.listen(shared) => Err(ended.err().unwrap_or(WorkerError::Protocol("told to end twice"))),
        }
    };
    // What is not finished in time is cut.
    timeout(within, finished).await.unwrap_or(Ok(()))?;
    sweeping.abort();
    telling.abort();
    counting.abort();
    going_round.abort();
    keeping_pace.abort();
    shared.log.flush(&shared.current().slots);
    Ok(())
}

async fn introduce(channel: &WorkerEnd) -> Result<WorkerConfig, WorkerError> {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    channel.send(&ToParent::Hello { protocol: PROTOCOL, version }, None).await?;
    match channel.recv().await? {
        Some((ToWorker::Configure { generation, len }, payload)) => configuration(generation, len, payload),
        Some(_) => Err(WorkerError::Protocol("no configuration after the greeting")),
        None => Err(WorkerError::ParentGone),
    }
}

/// What the parent has sent beside its frame.
fn configuration(generation: u64, len: u64, payload: Passed) -> Result<WorkerConfig, WorkerError> {
    let Passed::One(payload) = payload else {
        return Err(WorkerError::Protocol("a configuration without its payload"));
    };
    let bytes = memfd::read_sealed(payload, len, MAX_CONFIG)?;
    let config: Result<WorkerConfig, _> = decode_payload(&bytes);
    config
        .ok()
        .filter(|config| config.generation == generation)
        .ok_or(WorkerError::Protocol("a configuration that does not decode, or is another one than announced"))
}

/// Values whose lease has ended are wiped within a second.
async fn sweep(shared: Rc<Shared>) {
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    loop {
        tick.tick().await;
        let now = boot_nanos();
        let current = shared.current();
        current.slots.forget_where(|_, lease| lease.usable_until.0 <= now);
        current.slots.expanded.drop_idle();
    }
}

/// Tells what was counted, at every interval.
async fn tell(shared: Rc<Shared>) {
    let mut tick = tokio::time::interval(log::INTERVAL);
    loop {
        tick.tick().await;
        shared.log.flush(&shared.current().slots);
    }
}

/// Tells the parent which connections have ended, of those whose unit it has attested.
async fn part(link: Rc<Link>, mut partings: mpsc::UnboundedReceiver<u64>) {
    while let Some(fact) = partings.recv().await {
        link.part(fact).await;
    }
}

/// Tells the parent once a second what was answered, if anything was.
async fn tell_counts(shared: Rc<Shared>) {
    let mut tick = tokio::time::interval(tally::INTERVAL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        shared.link.tell_counts(&shared.tally, shared.connections.count()).await;
    }
}

/// Begins rounds in which every user has its turns.
async fn go_round(shared: Rc<Shared>) {
    shared.turns.go_round().await;
}

async fn keep_pace(shared: Rc<Shared>) {
    shared.pace.keep().await;
}

async fn let_in(listener: AsyncFd<UnixListener>, aside: usize, shared: Rc<Shared>) {
    let converse = |stream, connection| {
        tokio::task::spawn_local(converse(stream, connection, shared.clone()));
    };
    accept::accept(listener, aside, &shared, converse).await;
}

/// One connection, to its end.
async fn converse(stream: UnixStream, connection: Connection, shared: Rc<Shared>) {
    let header_size = shared.current().config.limits.header_size;
    let seat = shared.turns.seat(connection.uid(), connection.is_named());
    seat.begin().await;
    let conversation = Rc::new(Conversation::new(stream, seat));
    shared.alive.watch(&conversation);
    let mut http = hyper::server::conn::http1::Builder::new();
    http.half_close(true).max_buf_size(usize::try_from(header_size).unwrap_or(usize::MAX).max(8192));
    let service = hyper::service::service_fn(|request| {
        let (shared, connection, conversation) = (&shared, &connection, &conversation);
        async move {
            let answer = service::serve(shared, connection, conversation, request).await;
            Ok::<_, std::convert::Infallible>(answer.map(|bytes| AnswerBody::new(bytes, conversation.clone())))
        }
    });
    let mut serving = pin!(http.serve_connection(TokioIo::new(Watched(conversation.clone())), service));
    // Whoever was accepted just now and has not asked yet may still do so.
    let first_words = tokio::time::Instant::now() + FIRST_WORDS;
    let mut draining = pin!(async {
        shared.ending().await;
        // Who is silent for longer is as good as idle.
        let _ = tokio::time::timeout_at(first_words, conversation.when_spoken()).await;
    });
    let mut cut = pin!(conversation.when_cut());
    let mut drains = false;
    let end = loop {
        let current = shared.current();
        let limits = &current.config.limits;
        let left = deadline(&conversation, limits).saturating_sub(boot_nanos());
        // Looks again in time for any phase that may begin meanwhile, so that no request has to set a timer.
        let wait =
            Duration::from_nanos(u64::try_from(left).unwrap_or(0)).min(limits.header_timeout).min(limits.idle_timeout);
        tokio::select! {
            biased;
            // A peer that goes away or sends garbage ends its own connection only.
            done = serving.as_mut() => break End::Served(done.err().is_some_and(|error| error.is_parse())),
            () = draining.as_mut(), if !drains => {
                drains = true;
                serving.as_mut().graceful_shutdown();
            }
            () = cut.as_mut() => break End::Cut,
            () = tokio::time::sleep(wait) => {
                if deadline(&conversation, limits) <= boot_nanos() {
                    break End::Late;
                }
            }
        }
    };
    let unparsed = match end {
        End::Late if matches!(conversation.phase().0, Phase::Head | Phase::Body) => Some(StatusCode::REQUEST_TIMEOUT),
        // There are bytes that hyper has no answer to, such as HTTP/2.
        End::Served(true) => conversation.unparsed().or(Some(StatusCode::BAD_REQUEST)),
        _ => None,
    };
    if let Some(status) = unparsed {
        shared.pace.turn(connection.uid()).await;
        let id = shared.next_request();
        service::tell_unparsed(&shared, &connection, status, id);
        conversation.last_words(&Problem::unparsed(status).last_words(id));
    }
}

enum End {
    /// Whether the last bytes were no request.
    Served(bool),
    Late,
    /// It does not take its answer, and the memory is needed.
    Cut,
}

/// When the connection ends if nothing more happens, in nanoseconds of `CLOCK_BOOTTIME`.
fn deadline(conversation: &Conversation, limits: &Limits) -> i64 {
    let (phase, since) = conversation.phase();
    let longest = match phase {
        Phase::Head | Phase::Body => limits.header_timeout,
        // A peer that does not read its answer is idle, too.
        Phase::Idle | Phase::Answered => limits.idle_timeout,
        // The fetch has deadlines of its own.
        Phase::Exchange => return i64::MAX,
    };
    since.saturating_add(i64::try_from(longest.as_nanos()).unwrap_or(i64::MAX))
}
