//! The worker: speaks HTTP to peers and asks the parent. Holds no token, opens no file, connects to nothing.
//!
//! Must never outlive the channel: the parent's end of it is the worker's reason to run.
#![forbid(unsafe_code)]

mod answer;
mod link;
mod request;
mod service;

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::LocalSet;
use tokio::time::timeout;

use crate::ipc::channel::{ChannelError, Passed, WorkerEnd};
use crate::ipc::wire::{Layer, PROTOCOL, ToParent, ToWorker, WorkerConfig, decode_payload};
use crate::sys::memfd;
use link::Link;
use service::{Connection, Shared};

/// The longest configuration that the parent may send, in bytes.
const MAX_CONFIG: u64 = 64 << 20;

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
            Self::ParentGone => write!(f, "the parent is gone"),
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

/// Serves until the parent says to drain (`Ok`) or is gone. `layers` confine this process already.
pub fn run(listener: OwnedFd, channel: OwnedFd, layers: Vec<Layer>) -> Result<(), WorkerError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async move {
        let listener = std::os::unix::net::UnixListener::from(listener);
        listener.set_nonblocking(true)?;
        let listener = UnixListener::from_std(listener)?;
        let channel = Rc::new(WorkerEnd::new(channel)?);
        let config = introduce(&channel).await?;
        let most = usize::try_from(config.limits.connections).unwrap_or(usize::MAX);
        let link = Rc::new(Link::new(channel.clone(), most));
        let shared = Rc::new(Shared::new(config, link.clone()));
        channel.send(&ToParent::Ready { layers }, None).await?;
        let accepting = tokio::task::spawn_local(accept(listener, shared.clone()));
        let sweeping = tokio::task::spawn_local(sweep(shared.clone()));
        let within = link.listen(&shared).await?;
        accepting.abort();
        shared.end_connections();
        let finished = async {
            // What is in flight still needs the parent's replies.
            tokio::select! {
                () = shared.connections.drained() => Ok(()),
                ended = link.listen(&shared) => Err(ended.err().unwrap_or(WorkerError::Protocol("told to end twice"))),
            }
        };
        // What is not finished in time is cut.
        timeout(within, finished).await.unwrap_or(Ok(()))?;
        sweeping.abort();
        channel.send(&ToParent::Drained, None).await?;
        Ok(())
    })
}

async fn introduce(channel: &WorkerEnd) -> Result<WorkerConfig, WorkerError> {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    channel.send(&ToParent::Hello { protocol: PROTOCOL, version }, None).await?;
    match channel.recv().await? {
        Some((ToWorker::Configure { len, .. }, Passed::One(payload))) => {
            let bytes = memfd::read_sealed(payload, len, MAX_CONFIG)?;
            decode_payload(&bytes).map_err(|_| WorkerError::Protocol("a configuration that does not decode"))
        }
        Some(_) => Err(WorkerError::Protocol("no configuration after the greeting")),
        None => Err(WorkerError::ParentGone),
    }
}

/// Values whose lease has ended are wiped within a second.
async fn sweep(shared: Rc<Shared>) {
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    loop {
        tick.tick().await;
        shared.forget_expired();
    }
}

async fn accept(listener: UnixListener, shared: Rc<Shared>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let shared = shared.clone();
                tokio::task::spawn_local(async move { converse(stream, shared).await });
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                // Out of fds or memory: others must end first, and a tight loop helps nobody.
                tracing::error!(%error, "accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Says 503 without reading, and closes.
async fn turn_away(stream: &UnixStream, shared: &Shared) {
    // A fresh connection has room, once tokio has found out.
    if stream.writable().await.is_ok() {
        let _ = stream.try_write(answer::TOO_MANY_CONNECTIONS);
    }
    // Some clients take a close that comes before their request is sent for a failure to connect.
    if let Some(_place) = shared.connections.place_to_linger() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn converse(stream: UnixStream, shared: Rc<Shared>) {
    let Ok(connection) = Connection::new(&stream, &shared) else { return };
    let Some(connection) = connection else { return turn_away(&stream, &shared).await };
    let connection = Rc::new(connection);
    let limits = &shared.config.limits;
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .half_close(true)
        .max_buf_size(usize::try_from(limits.header_size).unwrap_or(usize::MAX).max(8192));
    let service = hyper::service::service_fn({
        let (shared, connection) = (shared.clone(), connection.clone());
        move |request| {
            let (shared, connection) = (shared.clone(), connection.clone());
            async move { Ok::<_, std::convert::Infallible>(service::serve(&shared, &connection, &request).await) }
        }
    });
    let mut serving = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        // A peer that goes away or sends garbage ends its own connection only.
        _ = serving.as_mut() => return,
        () = shared.ending() => serving.as_mut().graceful_shutdown(),
    }
    let _ = serving.await;
}
