//! One request to where sessions come from, and its answer under a small limit. Never follows a redirect: what is sent is for
//! the configured place alone.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, StatusCode};
use zeroize::Zeroizing;

use crate::config::Url;
use crate::outcome::{Class, Failure, Reason};
use crate::parent::upstream::connect::Client;
use crate::parent::upstream::request::Wiped;
use crate::parent::upstream::{body, response};

/// The longest answer, in bytes: tokens are short.
const MAX_ANSWER: usize = 256 << 10;

/// A request for a session. Buffers with secrets are wiped when it is done.
pub(super) struct Call<'u> {
    pub(super) method: Method,
    pub(super) url: &'u Url,
    /// In the place of the URL's own path and query.
    pub(super) target: Option<String>,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) body: Zeroizing<Vec<u8>>,
    once: bool,
}

/// A good answer.
pub(super) struct Reply {
    pub(super) body: Zeroizing<Vec<u8>>,
    /// Of the other side, in seconds since the epoch.
    pub(super) date: Option<u64>,
}

/// No session: in the class that counts for the documents that need one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Failed {
    pub(super) failure: Failure,
    /// What exactly happened, for the log.
    pub(super) why: Reason,
    pub(super) date: Option<u64>,
}

impl Failed {
    pub(super) fn unavailable(why: Reason) -> Self {
        Self { failure: Failure::unavailable(Reason::LoginFailed), why, date: None }
    }

    pub(super) fn refused(why: Reason) -> Self {
        Self { failure: Failure::new(Class::TokenRefused, Reason::LoginRefused), why, date: None }
    }

    pub(super) fn misconfigured(why: Reason) -> Self {
        Self { failure: Failure::misconfigured(Reason::LoginFailed), why, date: None }
    }

    pub(super) fn is_refused(&self) -> bool {
        self.failure.class == Class::TokenRefused
    }
}

impl<'u> Call<'u> {
    pub(super) fn new(method: Method, url: &'u Url) -> Self {
        Self { method, url, target: None, headers: Vec::new(), body: Zeroizing::default(), once: false }
    }

    pub(super) fn at(mut self, target: String) -> Self {
        self.target = Some(target);
        self
    }

    /// # Errors
    /// It is not legal there.
    pub(super) fn header(mut self, name: &str, value: Zeroizing<Vec<u8>>) -> Result<Self, Failed> {
        let illegal = || Failed::misconfigured(Reason::InvalidBody);
        let name = HeaderName::try_from(name).map_err(|_| illegal())?;
        let mut value = HeaderValue::from_maybe_shared(Bytes::from_owner(Wiped(value))).map_err(|_| illegal())?;
        value.set_sensitive(true);
        self.headers.push((name, value));
        Ok(self)
    }

    pub(super) fn body(mut self, body: Zeroizing<Vec<u8>>) -> Self {
        self.body = body;
        self
    }

    /// What has become of it without an answer is not known, and it is good for one use: it is never sent twice.
    pub(super) fn once(mut self) -> Self {
        self.once = true;
        self
    }

    /// Sends it, again where a connection that was kept turns out to be gone.
    pub(super) async fn send(mut self, client: &Client, limit: Duration) -> Result<Reply, Failed> {
        match tokio::time::timeout(limit, self.exchange(client)).await {
            Ok(done) => done,
            Err(_) => Err(Failed::unavailable(Reason::Timeout)),
        }
    }

    async fn exchange(&mut self, client: &Client) -> Result<Reply, Failed> {
        // Said of nothing, too: some do not take a POST that does not (RFC 9110 section 8.6).
        let length = (self.method != Method::GET).then(|| HeaderValue::from(self.body.len()));
        self.headers.extend(length.map(|length| (header::CONTENT_LENGTH, length)));
        let body = Bytes::from_owner(Wiped(std::mem::take(&mut self.body)));
        let make = || {
            let target = self.target.as_deref().unwrap_or(&self.url.target);
            let mut request = Request::builder()
                .method(self.method.clone())
                .uri(format!("{}{target}", self.url.origin()))
                .header(header::ACCEPT_ENCODING, "identity")
                .header(header::USER_AGENT, concat!("keyhatch/", env!("CARGO_PKG_VERSION")))
                .body(Full::new(body.clone()))
                .map_err(|_| Failure::misconfigured(Reason::InvalidBody))?;
            request.headers_mut().extend(self.headers.iter().map(|(name, value)| (name.clone(), value.clone())));
            Ok((request, ()))
        };
        let sent = client.request(!self.once, make).await;
        let (answer, ()) = sent.map_err(|failure| Failed {
            failure: Failed::unavailable(failure.reason).failure,
            ..Failed::unavailable(failure.reason)
        })?;
        let (head, incoming) = answer.into_parts();
        let date = date(&head.headers);
        judge(head.status, &head.headers).map_err(|failed| Failed { date, ..failed })?;
        let announced = body::announced(&head.headers);
        let collected = body::collect(incoming, announced, MAX_ANSWER).await;
        let body = collected.map_err(|failure| Failed { date, ..Failed::unavailable(failure.reason) })?;
        Ok(Reply { body, date })
    }
}

pub(in crate::parent::upstream) fn date(headers: &HeaderMap) -> Option<u64> {
    let date = httpdate::parse_http_date(headers.get(header::DATE)?.to_str().ok()?).ok()?;
    date.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs())
}

/// The class of an answer to a login.
fn judge(status: StatusCode, headers: &HeaderMap) -> Result<(), Failed> {
    let why = Reason::Status(status.as_u16());
    match status.as_u16() {
        200 | 201 | 203 if response::is_plain(headers) => Ok(()),
        200..=299 => Err(Failed::unavailable(Reason::InvalidBody)),
        // OAuth says `invalid_grant` and `invalid_client` by 400, as Vault says that a secret id is wrong.
        400 | 401 | 403 => Err(Failed::refused(why)),
        // 412, 472 and 473: a node of Vault that cannot answer just now.
        408 | 412 | 425 | 429 | 472 | 473 | 500.. => {
            let failed = Failed::unavailable(why);
            let retry_after = response::retry_after(headers, SystemTime::now());
            Err(Failed { failure: Failure { retry_after, ..failed.failure }, ..failed })
        }
        _ => Err(Failed::misconfigured(why)),
    }
}
