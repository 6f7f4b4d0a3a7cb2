//! A request for a document, with its token where the token goes.

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use zeroize::Zeroizing;

use super::hawk::{Artifacts, Credentials};
use super::session::{Grant, Session};
use super::sigv4;
use crate::config::{Auth, AwsCredentials, AwsSigV4, HttpDocument, Method, Url};
use crate::outcome::{Failure, Reason};
use crate::parent::cache::Validators;
use crate::parent::token::ApiToken;
use crate::parent::vault::Vault;

/// One request of a fetch: the first is the document's, a redirect makes others.
pub(super) struct Hop {
    pub(super) method: Method,
    /// Path and query, at the document's origin.
    pub(super) target: String,
}

impl Hop {
    pub(super) fn first(document: &HttpDocument) -> Self {
        Self { method: document.method, target: document.url.target.clone() }
    }

    pub(super) fn body<'d>(&self, document: &'d HttpDocument) -> &'d [u8] {
        match (&document.body, self.method) {
            (Some(body), Method::Post) => body.as_bytes(),
            _ => &[],
        }
    }
}

/// What cannot be put into a request; the configuration refuses it before.
fn invalid<E>(_: E) -> Failure {
    Failure::misconfigured(Reason::InvalidBody)
}

pub(super) fn request(document: &HttpDocument, hop: &Hop, known: &Validators) -> Result<Request<Full<Bytes>>, Failure> {
    let method = match hop.method {
        Method::Get => hyper::Method::GET,
        Method::Post => hyper::Method::POST,
    };
    let mut request = Request::builder()
        .method(method)
        .uri(format!("{}{}", document.url.origin(), hop.target))
        .header(header::ACCEPT_ENCODING, "identity")
        .header(header::USER_AGENT, concat!("keyhatch/", env!("CARGO_PKG_VERSION")))
        .body(Full::new(Bytes::copy_from_slice(hop.body(document))))
        .map_err(invalid)?;
    let headers = request.headers_mut();
    for (name, value) in &document.headers {
        let name = HeaderName::try_from(name.as_str()).map_err(invalid)?;
        headers.insert(name, HeaderValue::try_from(value.as_str()).map_err(invalid)?);
    }
    if hop.method != document.method {
        headers.remove(header::CONTENT_TYPE);
    }
    if let Some(etag) = &known.etag {
        headers.insert(header::IF_NONE_MATCH, HeaderValue::try_from(etag.as_str()).map_err(invalid)?);
    }
    if let Some(modified) = &known.last_modified {
        headers.insert(header::IF_MODIFIED_SINCE, HeaderValue::try_from(modified.as_str()).map_err(invalid)?);
    }
    Ok(request)
}

/// A buffer that hyper reads the token from, wiped when the request is done.
pub(super) struct Wiped(pub(super) Zeroizing<Vec<u8>>);

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// The value of a header that carries a secret or a proof.
pub(super) fn value(bytes: impl Into<Zeroizing<Vec<u8>>>) -> Result<HeaderValue, Failure> {
    let mut value = HeaderValue::from_maybe_shared(Bytes::from_owner(Wiped(bytes.into())))
        .map_err(|_| Failure::unavailable(Reason::TokenMissing))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Adds the token, or that of the session, where it is shown as it is.
pub(super) fn authorize(
    headers: &mut HeaderMap,
    auth: &Auth,
    vault: &Vault,
    session: Option<&Session>,
) -> Result<(), Failure> {
    let token = match (auth.token(), session.map(|session| &session.grant)) {
        (Some(name), _) => vault.get(name).ok_or(Failure::unavailable(Reason::TokenMissing))?,
        (None, Some(Grant::Token(token))) => token,
        (None, _) => return Ok(()),
    };
    // Room for all that is added, so that the token never moves and leaves a copy.
    let mut shown = Zeroizing::new(Vec::with_capacity(token.bytes().len() * 2 + 1024));
    let mut target = header::AUTHORIZATION;
    match auth {
        Auth::None | Auth::Hawk { .. } | Auth::AwsSigV4(_) => return Ok(()),
        Auth::Bearer { .. } | Auth::OAuth2(_) | Auth::Google(_) => shown.extend_from_slice(b"Bearer "),
        Auth::Header { name, prefix, .. } => {
            target = HeaderName::try_from(name.as_str()).map_err(invalid)?;
            shown.extend_from_slice(prefix.as_bytes());
        }
        Auth::Login(login) => {
            target = HeaderName::try_from(login.header.as_str()).map_err(invalid)?;
            shown.extend_from_slice(login.prefix.as_bytes());
        }
        Auth::Basic { user, .. } => {
            let mut pair = Zeroizing::new(Vec::with_capacity(user.len() + 1 + token.bytes().len()));
            pair.extend_from_slice(user.as_bytes());
            pair.push(b':');
            pair.extend_from_slice(token.bytes());
            shown.extend_from_slice(b"Basic ");
            shown.extend_from_slice(Zeroizing::new(STANDARD.encode(&*pair)).as_bytes());
        }
    }
    if !matches!(auth, Auth::Basic { .. }) {
        shown.extend_from_slice(token.bytes());
    }
    headers.insert(target, value(shown)?);
    Ok(())
}

/// What a document of AWS is signed with.
pub(super) fn aws<'v>(
    aws: &'v AwsSigV4,
    vault: &'v Vault,
    session: Option<&'v Session>,
) -> Result<sigv4::Credentials<'v>, Failure> {
    let missing = Failure::unavailable(Reason::TokenMissing);
    let held = |name| vault.get(name).map(ApiToken::bytes).ok_or(missing);
    let (id, secret, session) = match (&aws.credentials, session.map(|session| &session.grant)) {
        (AwsCredentials::Static { access_key_id, secret_access_key, session_token }, _) => {
            (access_key_id.as_str(), held(secret_access_key)?, session_token.as_ref().map(held).transpose()?)
        }
        (_, Some(Grant::Aws(keys))) => {
            (keys.id.as_str(), keys.secret.bytes(), keys.session.as_ref().map(ApiToken::bytes))
        }
        _ => return Err(missing),
    };
    Ok(sigv4::Credentials { id, secret, session, service: &aws.service, region: &aws.region })
}

/// As hyper writes it: with the port where it is not that of the scheme.
pub(super) fn host(url: &Url) -> String {
    let default = if url.https { 443 } else { 80 };
    if url.port == default { url.host.clone() } else { format!("{}:{}", url.host, url.port) }
}

/// A time as AWS writes it: `20150830T123600Z`.
pub(super) fn stamp(at: u64) -> String {
    // Beyond the year 9999 nothing is signed.
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(at.min(253_402_300_799));
    humantime::format_rfc3339_seconds(time).to_string().replace(['-', ':'], "")
}

/// The credentials of a document whose `auth` is Hawk.
pub(super) fn hawk<'v>(auth: &'v Auth, vault: &'v Vault) -> Result<Option<Credentials<'v>>, Failure> {
    let Auth::Hawk { id, key, algorithm } = auth else { return Ok(None) };
    let key = vault.get(key).ok_or(Failure::unavailable(Reason::TokenMissing))?;
    Ok(Some(Credentials { id, key: key.bytes(), algorithm: *algorithm }))
}

/// Signs a request; `ahead` is by how many seconds the upstream's clock is.
pub(super) fn sign(
    request: &mut Request<Full<Bytes>>,
    document: &HttpDocument,
    hop: &Hop,
    credentials: &Credentials<'_>,
    ahead: i64,
) -> Result<Artifacts, Failure> {
    let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let artifacts = Artifacts {
        ts: seconds().saturating_add_signed(ahead),
        nonce: nonce()?,
        method: if hop.method == Method::Get { "GET" } else { "POST" },
        target: hop.target.clone(),
        host: document.url.host.clone(),
        port: document.url.port,
        hash: credentials.payload_hash(content_type.unwrap_or_default(), hop.body(document)),
        ext: String::new(),
    };
    let shown = value(credentials.authorization(&artifacts).into_bytes())?;
    request.headers_mut().insert(header::AUTHORIZATION, shown);
    Ok(artifacts)
}

/// Since the epoch, by this machine's clock.
pub(super) fn seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn nonce() -> Result<String, Failure> {
    let mut bytes = [0; 12];
    crate::sys::random::fill(&mut bytes).map_err(|_| Failure::unavailable(Reason::ConnectFailed))?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}
