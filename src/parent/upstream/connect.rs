//! Connections to upstreams: names, TCP, TLS with the roots of a source, a proxy; and what a failed call died of.
//!
//! Proxy variables and `.netrc` are not read.

use std::error::Error;
use std::fmt;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::http::uri::Scheme;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::{Request, Response, Uri};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::dns::{GaiAddrs, GaiResolver, Name};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::yield_now;
use tower_service::Service;

use crate::outcome::{Failure, Reason};

/// For all addresses of a name together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections that wait for the next request, of each origin; and for how long.
const MAX_IDLE: usize = 2;
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);

/// So many bytes of one connection are read before all others have their turn, and so long a head may be. Heads that are
/// no answer (RFC 9110 section 15.2) are read one after the other as long as there are more, and some have no end.
const TURN: usize = 64 << 10;

pub(super) struct Client {
    inner: legacy::Client<HttpsConnector<Route>, Full<Bytes>>,
    /// How many connections were begun.
    begun: Arc<AtomicUsize>,
}

impl Client {
    /// Sends a request that `make` makes, again where a connection that was kept turns out to be gone. Only requests
    /// that may be repeated are: what has become of the first is not known.
    pub(super) async fn request<T>(
        &self,
        repeatable: bool,
        mut make: impl FnMut() -> Result<(Request<Full<Bytes>>, T), Failure>,
    ) -> Result<(Response<Incoming>, T), Failure> {
        let mut left = if repeatable { MAX_IDLE } else { 0 };
        loop {
            let begun = self.begun.load(Ordering::Relaxed);
            let (request, of_request) = make()?;
            let reason = match self.inner.request(request).await {
                Ok(response) => return Ok((response, of_request)),
                Err(error) => call_failed(&error),
            };
            let was_kept = self.begun.load(Ordering::Relaxed) == begun;
            if reason != Reason::Reset || !was_kept || left == 0 {
                return Err(Failure::unavailable(reason));
            }
            left -= 1;
        }
    }
}

type BoxError = Box<dyn Error + Send + Sync>;
type BoxFuture<T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send>>;

/// A client that trusts these roots alone and goes through this proxy, if any.
pub(super) fn client(roots: RootCertStore, proxy: Option<Uri>) -> Result<Client, rustls::Error> {
    let begun = Arc::<AtomicUsize>::default();
    let connector = connector(roots, proxy, begun.clone())?;
    let inner = legacy::Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(MAX_IDLE)
        .http1_max_buf_size(TURN)
        .build(connector);
    Ok(Client { inner, begun })
}

/// TLS cannot be set up.
pub(super) type TlsFault = rustls::Error;

/// Connections for something else than HTTP, made and judged in the same way.
pub(super) struct Connector(HttpsConnector<Route>);

impl Connector {
    /// They trust these roots alone.
    pub(super) fn new(roots: RootCertStore) -> Result<Self, TlsFault> {
        connector(roots, None, Arc::default()).map(Self)
    }

    /// `host` is written as in a URL. The caller bounds the time.
    pub(super) async fn connect(
        &self,
        tls: bool,
        host: &str,
        port: u16,
    ) -> Result<impl AsyncRead + AsyncWrite + Unpin + use<>, Failure> {
        let scheme = if tls { "https" } else { "http" };
        let uri: Result<Uri, _> = format!("{scheme}://{host}:{port}/").parse();
        let uri = uri.map_err(|_| Failure::unavailable(Reason::ConnectFailed))?;
        let connecting = self.0.clone().call(uri).await;
        let failed = |error: BoxError| causes(&*error).find_map(reason).unwrap_or(Reason::ConnectFailed);
        connecting.map(TokioIo::new).map_err(|error| Failure::unavailable(failed(error)))
    }
}

fn connector(
    roots: RootCertStore,
    proxy: Option<Uri>,
    begun: Arc<AtomicUsize>,
) -> Result<HttpsConnector<Route>, TlsFault> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut tcp = HttpConnector::new_with_resolver(Resolver(GaiResolver::new()));
    tcp.enforce_http(false);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    tcp.set_nodelay(true);
    let builder = hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1();
    Ok(builder.wrap_connector(Route { tcp, proxy, begun }))
}

/// The system's resolver, with an error that can be told from others.
#[derive(Clone)]
pub(super) struct Resolver(GaiResolver);

#[derive(Debug)]
struct DnsFailure;

impl fmt::Display for DnsFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name cannot be resolved")
    }
}

impl Error for DnsFailure {}

impl Service<Name> for Resolver {
    type Response = GaiAddrs;
    type Error = BoxError;
    type Future = BoxFuture<GaiAddrs>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let resolving = self.0.call(name);
        Box::pin(async move { resolving.await.map_err(|_| DnsFailure.into()) })
    }
}

/// TCP to the origin, or to its proxy: with CONNECT where TLS goes through it (RFC 9110 section 9.3.6).
#[derive(Clone)]
pub(super) struct Route {
    tcp: HttpConnector<Resolver>,
    proxy: Option<Uri>,
    begun: Arc<AtomicUsize>,
}

impl Service<Uri> for Route {
    type Response = Stream;
    type Error = BoxError;
    type Future = BoxFuture<Stream>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        self.begun.fetch_add(1, Ordering::Relaxed);
        let mut tcp = self.tcp.clone();
        match self.proxy.clone() {
            None => Box::pin(async move { Ok(Stream::new(tcp.call(to).await?, false)) }),
            Some(proxy) if to.scheme() == Some(&Scheme::HTTPS) => {
                let connecting = Tunnel::new(proxy, tcp).call(to);
                Box::pin(async move { Ok(Stream::new(connecting.await?, false)) })
            }
            Some(proxy) => Box::pin(async move { Ok(Stream::new(tcp.call(proxy).await?, true)) }),
        }
    }
}

/// A connection, and whether requests on it name the origin (RFC 9112 section 3.2.2).
pub(super) struct Stream {
    io: TokioIo<TcpStream>,
    absolute_form: bool,
    /// How much of its turn is left.
    left: usize,
}

impl Stream {
    fn new(io: TokioIo<TcpStream>, absolute_form: bool) -> Self {
        Self { io, absolute_form, left: TURN }
    }
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        self.io.connected().proxy(self.absolute_form)
    }
}

impl Read for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        if self.left == 0 {
            self.left = TURN;
            // Its first poll has this task woken once the event loop has gone round.
            let _ = pin!(yield_now()).poll(cx);
            return Poll::Pending;
        }
        // At most so much comes: how much it was is not told.
        self.left = self.left.saturating_sub(into.remaining());
        Pin::new(&mut self.io).poll_read(cx, into)
    }
}

impl Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bytes)
    }
}

/// What a call died of that brought no answer.
fn call_failed(error: &legacy::Error) -> Reason {
    let otherwise = if error.is_connect() { Reason::ConnectFailed } else { Reason::Reset };
    causes(error).find_map(reason).unwrap_or(otherwise)
}

/// What an answer died of that had begun.
pub(super) fn body_failed(error: &hyper::Error) -> Reason {
    causes(error).find_map(reason).unwrap_or(Reason::Reset)
}

/// The error and what it came of; an `io::Error` leaves out of its `source` what it wraps itself.
fn causes<'e>(error: &'e (dyn Error + 'static)) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(wrapped) => Some(wrapped as &(dyn Error + 'static)),
        None => error.source(),
    })
}

fn reason(error: &(dyn Error + 'static)) -> Option<Reason> {
    if error.is::<DnsFailure>() {
        return Some(Reason::Dns);
    }
    if error.is::<rustls::Error>() {
        return Some(Reason::Tls);
    }
    if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse) {
        return Some(Reason::InvalidBody);
    }
    match error.downcast_ref::<io::Error>()?.kind() {
        io::ErrorKind::ConnectionRefused => Some(Reason::ConnectRefused),
        io::ErrorKind::TimedOut => Some(Reason::Timeout),
        _ => None,
    }
}
