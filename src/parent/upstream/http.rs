//! One fetch over HTTP: its requests, the answer under its limit, and the class of what happened.
//!
//! The token goes to the configured origin alone; a redirect elsewhere is refused, never followed.

use std::fmt;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use hyper::header::{self, HeaderMap};
use hyper::{StatusCode, Uri};

use super::ahead::Ahead;
use super::aside::parse_aside;
use super::authorities::Trusted;
use super::body::{self, DocumentBody};
use super::connect::{self, Client};
use super::exchange::Exchange;
use super::outcomes;
use super::redirect::{self, Redirect};
use super::request::{self, Hop};
use super::response::{self, Meaning};
use super::session::{self, Sessions};
use super::ways::{Way, Ways};
use super::{Answer, Fetched};
use crate::config::{HttpDocument, Method, Url};
use crate::outcome::{Failure, Reason};
use crate::parent::cache::Validators;
use crate::parent::vault::Vault;

/// Redirects within the origin that one fetch follows.
const MAX_REDIRECTS: u32 = 5;

/// The clients that all HTTP documents share.
pub(super) struct HttpUpstream {
    pub(super) clients: Ways<Client>,
    limit: usize,
    pub(super) ahead: Ahead,
    /// Also of the configuration before, until it is gone.
    pub(super) sessions: Rc<Sessions>,
    /// One document of each session.
    shows: Vec<HttpDocument>,
}

/// An upstream that cannot be set up at all.
#[derive(Debug)]
pub struct TlsSetupError(rustls::Error);

impl fmt::Display for TlsSetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TLS cannot be set up: {}", self.0)
    }
}

impl std::error::Error for TlsSetupError {}

impl From<connect::TlsFault> for TlsSetupError {
    fn from(fault: connect::TlsFault) -> Self {
        Self(fault)
    }
}

impl HttpUpstream {
    /// `limit` is the longest document, in bytes. Of `before` stay the connections of clients that are as they were, and what is
    /// known of clocks, and sessions.
    pub(super) fn new<'d>(
        limit: usize,
        documents: impl Iterator<Item = &'d HttpDocument>,
        trusted: Trusted,
        before: Option<&Self>,
    ) -> Result<Self, TlsSetupError> {
        let documents: Vec<&HttpDocument> = documents.collect();
        let ways = documents.iter().flat_map(|document| [Some(way(document)), way_of_endpoint(document)]);
        let make = |way: &Way, roots| {
            let proxy = way.proxy.as_ref().and_then(|proxy| proxy.origin().parse::<Uri>().ok());
            connect::client(roots, proxy).map_err(TlsSetupError)
        };
        let clients = Ways::new(ways.flatten(), trusted, before.map(|before| &before.clients), make)?;
        let ahead = before.map(|before| before.ahead.clone()).unwrap_or_default();
        let sessions = before.map(|before| before.sessions.clone()).unwrap_or_default();
        Ok(Self { clients, limit, ahead, sessions, shows: session::shown_by(&documents) })
    }

    /// Drops the sessions of no document, and of tokens that are not in use.
    pub(super) fn forget_sessions(&self, vault: &Vault) {
        self.sessions.retain(&self.shows, vault);
    }

    pub(super) async fn fetch(&self, document: &HttpDocument, known: &Validators, vault: &Vault) -> Fetched {
        let mut quota_spent = None;
        let answer = self.follow(document, known, vault, &mut quota_spent).await;
        Fetched { answer, quota_spent }
    }

    async fn follow(
        &self,
        document: &HttpDocument,
        known: &Validators,
        vault: &Vault,
        quota_spent: &mut Option<Duration>,
    ) -> Result<Answer, Failure> {
        let mut hop = Hop::first(document);
        let mut redirects = 0;
        let nothing = Validators::default();
        loop {
            // What a redirect leads to is another document: its tags mean nothing of ours.
            let known = if redirects == 0 { known } else { &nothing };
            let exchange = self.exchange(document, &hop, known, vault).await?;
            let (status, headers) = (exchange.response.status(), exchange.response.headers());
            tracing::debug!(
                origin = document.url.origin(),
                status = status.as_u16(),
                redirects,
                "the upstream answered"
            );
            let now = SystemTime::now();
            let quota = response::quota_spent(headers, document.rate_limit.as_ref(), now);
            *quota_spent = quota.max(*quota_spent);
            if let Some(next) = redirected(document, &hop, status, headers)? {
                redirects += 1;
                if redirects > MAX_REDIRECTS {
                    return Err(Failure::misconfigured(Reason::RedirectLoop));
                }
                hop = next;
                continue;
            }
            let meaning = match response::meaning(status, headers, !known.is_empty(), quota, now) {
                Ok(meaning) => meaning,
                Err(failure) => return Err(self.judged(document, exchange, failure).await),
            };
            match meaning {
                Meaning::NotModified => return Ok(Answer::NotModified),
                Meaning::Good => {
                    // What was redirected to may be another document the next time; and only GET is conditional.
                    let lasting = redirects == 0 && document.method == Method::Get;
                    let validators = if lasting { response::validators(headers) } else { Validators::default() };
                    let body = self.good_body(exchange, vault, document).await?;
                    return Ok(Answer::Answered { body, validators, status: Some(status.as_u16()) });
                }
            }
        }
    }

    /// The failure that an answer is, by the rules of its source where one holds.
    async fn judged(&self, document: &HttpDocument, exchange: Exchange, failure: Failure) -> Failure {
        let (head, body) = exchange.response.into_parts();
        let status = head.status.as_u16();
        let rules: Vec<_> = outcomes::of_head(&document.outcomes, status, &head.headers, false).collect();
        let body = match rules.iter().any(|rule| rule.pointer.is_some()) {
            // What does not come, or is too long, is not looked at: the status has a class without it.
            true => body::collect(body, body::announced(&head.headers), outcomes::MAX_BODY).await.ok(),
            false => None,
        };
        match outcomes::judge(rules.into_iter(), body.as_deref().map(Vec::as_slice)) {
            Some(class) => outcomes::failure(class, status, Some(failure)),
            None => failure,
        }
    }

    /// The body of a good answer, whole and within the limit.
    async fn good_body(
        &self,
        exchange: Exchange,
        vault: &Vault,
        document: &HttpDocument,
    ) -> Result<DocumentBody, Failure> {
        let (head, body) = exchange.response.into_parts();
        let bytes = body::collect(body, body::announced(&head.headers), self.limit).await?;
        if let (Some(hash), Some(credentials)) = (exchange.vouched, request::hawk(&document.auth, vault)?) {
            let content_type = head.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
            let verified = credentials.verify_payload(&hash, content_type.unwrap_or_default(), &bytes);
            verified.map_err(|_| Failure::unavailable(Reason::ReplyNotAuthentic))?;
        }
        let body = parse_aside(bytes, document.format).await?;
        let status = head.status.as_u16();
        let rules = outcomes::of_head(&document.outcomes, status, &head.headers, true);
        match outcomes::judge(rules, Some(body.bytes()).filter(|_| body.as_text().is_none())) {
            Some(class) => Err(outcomes::failure(class, status, None)),
            None => Ok(body),
        }
    }
}

pub(super) fn way(document: &HttpDocument) -> Way {
    way_to(&document.url, document)
}

/// How the session of a document is asked for: as the document is, but for metadata, which no proxy is on the way to.
pub(super) fn way_of_endpoint(document: &HttpDocument) -> Option<Way> {
    let url = document.auth.endpoint()?;
    let way = way_to(url, document);
    Some(Way { proxy: way.proxy.filter(|_| !document.auth.is_metadata()), ..way })
}

fn way_to(url: &Url, document: &HttpDocument) -> Way {
    let ca_file = document.ca_file.clone().filter(|_| url.https);
    Way { tls: url.https, ca_file, proxy: document.proxy.clone() }
}

/// The next request, if this answer is a redirect that may be followed.
fn redirected(
    document: &HttpDocument,
    hop: &Hop,
    status: StatusCode,
    headers: &HeaderMap,
) -> Result<Option<Hop>, Failure> {
    let method = match status {
        StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => hop.method,
        // As all clients do, though RFC 9110 section 15.4 would have POST repeated.
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND | StatusCode::SEE_OTHER => Method::Get,
        _ => return Ok(None),
    };
    let location = headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
    match location.map(|location| redirect::resolve(&document.url, &hop.target, location)) {
        Some(Redirect::Within(target)) => Ok(Some(Hop { method, target })),
        Some(Redirect::Elsewhere) => Err(Failure::misconfigured(Reason::RedirectElsewhere)),
        None | Some(Redirect::Unreadable) => Ok(None),
    }
}
