//! One HTTP call: the request with its token, the answer under its limit, and the class of what happened.
//!
//! The token goes to the configured origin alone; a redirect elsewhere is refused, never followed.

use std::error::Error as _;
use std::io;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Response, StatusCode, body::Incoming};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use std::time::Duration;
use zeroize::Zeroizing;

use super::body::{Collector, DocumentBody};
use crate::config::{Auth, HttpDocument, Method};
use crate::outcome::{Class, Failure, Reason};
use crate::parent::vault::Vault;

type Connector = HttpsConnector<HttpConnector>;

/// The client that all HTTP documents share.
pub struct HttpUpstream {
    client: Client<Connector, Full<Bytes>>,
    limit: usize,
}

/// An upstream that cannot be set up at all.
#[derive(Debug)]
pub struct TlsSetupError(rustls::Error);

impl std::fmt::Display for TlsSetupError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TLS cannot be set up: {}", self.0)
    }
}

impl std::error::Error for TlsSetupError {}

impl HttpUpstream {
    /// `limit` is the longest document, in bytes. The system's roots are read only if some document needs them.
    pub fn new(limit: u64, with_tls: bool) -> Result<Self, TlsSetupError> {
        let mut roots = rustls::RootCertStore::empty();
        if with_tls {
            let (added, refused) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            tracing::debug!(added, refused, "system TLS roots");
        }
        let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsSetupError)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(15))
            .pool_max_idle_per_host(2)
            .build(connector);
        Ok(Self { client, limit: usize::try_from(limit).unwrap_or(usize::MAX) })
    }

    /// Fetches a document. The caller bounds the time.
    pub async fn fetch(&self, document: &HttpDocument, vault: &Vault) -> Result<DocumentBody, Failure> {
        let request = request(document, vault)?;
        let response = self.client.request(request).await.map_err(|error| Failure::unavailable(transport(&error)))?;
        check_status(&response)?;
        let announced = response.headers().get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
        if announced.is_some_and(|length: usize| length > self.limit) {
            return Err(Failure::misconfigured(Reason::DocumentTooLarge));
        }
        let mut collector = Collector::new(self.limit, announced);
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| Failure::unavailable(Reason::Reset))?;
            if let Some(part) = frame.data_ref() {
                collector.push(part)?;
            }
        }
        DocumentBody::parse(collector.finish(), document.format)
    }
}

fn request(document: &HttpDocument, vault: &Vault) -> Result<Request<Full<Bytes>>, Failure> {
    let invalid = |_| Failure::misconfigured(Reason::InvalidBody);
    let method = match document.method {
        Method::Get => hyper::Method::GET,
        Method::Post => hyper::Method::POST,
    };
    let body = document.body.clone().map(Bytes::from).unwrap_or_default();
    let mut request = Request::builder()
        .method(method)
        .uri(format!("{}{}", document.url.origin(), document.url.target))
        .header(header::ACCEPT_ENCODING, "identity")
        .header(header::USER_AGENT, concat!("keyhatch/", env!("CARGO_PKG_VERSION")))
        .body(Full::new(body))
        .map_err(invalid)?;
    let headers = request.headers_mut();
    for (name, value) in &document.headers {
        let name = HeaderName::try_from(name.as_str()).map_err(|_| Failure::misconfigured(Reason::InvalidBody))?;
        let value = HeaderValue::try_from(value.as_str()).map_err(|_| Failure::misconfigured(Reason::InvalidBody))?;
        headers.insert(name, value);
    }
    authorize(headers, &document.auth, vault)?;
    Ok(request)
}

/// A buffer that hyper reads the token from, wiped when the request is done.
struct Wiped(Zeroizing<Vec<u8>>);

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

fn authorize(headers: &mut HeaderMap, auth: &Auth, vault: &Vault) -> Result<(), Failure> {
    let Some(name) = auth.token() else { return Ok(()) };
    let token = vault.get(name).ok_or(Failure::unavailable(Reason::TokenMissing))?;
    // Room for all that is added, so that the token never moves and leaves a copy.
    let mut value = Zeroizing::new(Vec::with_capacity(token.bytes().len() * 2 + 1024));
    let mut target = header::AUTHORIZATION;
    match auth {
        Auth::Bearer { .. } => value.extend_from_slice(b"Bearer "),
        Auth::Header { name, prefix, .. } => {
            target = HeaderName::try_from(name.as_str()).map_err(|_| Failure::misconfigured(Reason::InvalidBody))?;
            value.extend_from_slice(prefix.as_bytes());
        }
        Auth::Basic { user, .. } => {
            let mut pair = Zeroizing::new(Vec::with_capacity(user.len() + 1 + token.bytes().len()));
            pair.extend_from_slice(user.as_bytes());
            pair.push(b':');
            pair.extend_from_slice(token.bytes());
            value.extend_from_slice(b"Basic ");
            value.extend_from_slice(Zeroizing::new(STANDARD.encode(&*pair)).as_bytes());
        }
        Auth::Hawk { .. } | Auth::None => return Err(Failure::misconfigured(Reason::TokenMissing)),
    }
    if !matches!(auth, Auth::Basic { .. }) {
        value.extend_from_slice(token.bytes());
    }
    let mut value = HeaderValue::from_maybe_shared(Bytes::from_owner(Wiped(value)))
        .map_err(|_| Failure::unavailable(Reason::TokenMissing))?;
    value.set_sensitive(true);
    headers.insert(target, value);
    Ok(())
}

fn check_status(response: &Response<Incoming>) -> Result<(), Failure> {
    let status = response.status();
    let reason = Reason::Status(status.as_u16());
    let class = match status {
        StatusCode::OK | StatusCode::NON_AUTHORITATIVE_INFORMATION => return Ok(()),
        StatusCode::NO_CONTENT => return Err(Failure::unavailable(Reason::EmptyBody)),
        StatusCode::UNAUTHORIZED => Class::TokenRefused,
        StatusCode::FORBIDDEN => Class::Refused,
        StatusCode::NOT_FOUND | StatusCode::GONE => Class::Gone,
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => Class::Unavailable,
        _ if status.is_server_error() => Class::Unavailable,
        _ if status.is_redirection() => return Err(Failure::misconfigured(Reason::RedirectElsewhere)),
        _ if status.is_success() => return Err(Failure::unavailable(Reason::InvalidBody)),
        _ => Class::Misconfigured,
    };
    let seconds = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    // An hour is the longest that an upstream may silence us.
    let retry_after = seconds.map(|seconds: u64| Duration::from_secs(seconds.min(3600)));
    Err(Failure { class, reason, retry_after })
}

/// What a call that brought no answer died of, found in the chain of its error.
fn transport(error: &hyper_util::client::legacy::Error) -> Reason {
    let mut next = error.source();
    while let Some(cause) = next {
        if cause.is::<rustls::Error>() {
            return Reason::Tls;
        }
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            if io.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) {
                return Reason::Tls;
            }
            match io.kind() {
                io::ErrorKind::ConnectionRefused => return Reason::ConnectRefused,
                io::ErrorKind::TimedOut => return Reason::Timeout,
                _ => {}
            }
        }
        if cause.to_string().starts_with("dns error") {
            return Reason::Dns;
        }
        next = cause.source();
    }
    if error.is_connect() { Reason::ConnectFailed } else { Reason::Reset }
}
