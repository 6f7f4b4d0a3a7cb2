//! One request of a fetch and the head of its answer: signed and shown as `auth` says, and sent once more where a clock that
//! differs, or a session that has ended, was all that was wrong.

use std::rc::Rc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap};
use hyper::{Request, Response, StatusCode};

use super::ahead::Clock;
use super::hawk::{self, Artifacts, Challenge};
use super::http::{HttpUpstream, way};
use super::request::{self, Hop};
use super::session::{self, Session};
use super::sigv4;
use crate::config::{Auth, HttpDocument, Method};
use crate::outcome::{Failure, Reason};
use crate::parent::cache::Validators;
use crate::parent::vault::Vault;

/// The head of an answer, its body still to come.
pub(super) struct Exchange {
    pub(super) response: Response<Incoming>,
    /// The hash of the body that a Hawk reply vouches for.
    pub(super) vouched: Option<String>,
}

/// How a request was signed.
enum Signed {
    Not,
    Hawk(Artifacts),
    /// At this time.
    Aws(u64),
}

impl HttpUpstream {
    pub(super) async fn exchange(
        &self,
        document: &HttpDocument,
        hop: &Hop,
        known: &Validators,
        vault: &Vault,
    ) -> Result<Exchange, Failure> {
        let client = self.clients.get(&way(document)).ok_or(Failure::unavailable(Reason::ConnectFailed))?;
        let slot = self.slot(document, vault)?;
        let hawk = request::hawk(&document.auth, vault)?;
        let clock: Clock = (document.url.origin(), document.auth.token().cloned());
        let (mut resynchronized, mut begun_anew) = (false, false);
        loop {
            let session = match &slot {
                Some(slot) => Some(slot.session().await?),
                None => None,
            };
            let make = || {
                let mut request = request::request(document, hop, known)?;
                let signed = sign(&mut request, document, hop, vault, session.as_deref(), self.ahead.of(&clock))?;
                Ok((request, signed))
            };
            let (response, signed) = client.request(hop.method == Method::Get, make).await?;
            let (status, headers) = (response.status(), response.headers());
            let refused = matches!(status, StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
            match (&signed, &hawk) {
                (Signed::Hawk(artifacts), Some(credentials)) => {
                    if status == StatusCode::UNAUTHORIZED {
                        match challenge(credentials, headers) {
                            Challenge::Refused => {}
                            Challenge::Time(time) if !resynchronized => {
                                resynchronized = true;
                                self.ahead.set_time(&clock, time);
                                continue;
                            }
                            Challenge::Time(_) | Challenge::Untrusted => {
                                return Err(Failure::unavailable(Reason::ClockSkew));
                            }
                        }
                    }
                    let vouched = vouched(credentials, artifacts, headers)?;
                    return Ok(Exchange { response, vouched });
                }
                // Whatever else it says: no other signature would have been taken.
                (Signed::Aws(at), _) if refused && self.ahead.differs(*at, session::date(headers)) => {
                    if resynchronized || !self.ahead.set(&clock, session::date(headers)) {
                        return Err(Failure::unavailable(Reason::ClockSkew));
                    }
                    resynchronized = true;
                    continue;
                }
                _ => {}
            }
            if let (Some(slot), Some(session)) = (&slot, &session)
                && refused
                && !begun_anew
                && is_of_session(&document.auth, status)
            {
                begun_anew = true;
                match slot.another(session).await {
                    Ok(Some(_)) => continue,
                    Ok(None) => {}
                    // That the session was at fault is a guess, and the answer says more.
                    Err(_) if status == StatusCode::BAD_REQUEST => {}
                    Err(failure) => return Err(failure),
                }
            }
            return Ok(Exchange { response, vouched: None });
        }
    }

    /// The place of the session that a document shows, if it shows one.
    fn slot(&self, document: &HttpDocument, vault: &Vault) -> Result<Option<Rc<session::Slot>>, Failure> {
        let Some(way) = super::http::way_of_endpoint(document) else {
            return self.sessions.of(document, vault, None, &self.ahead);
        };
        let client = self.clients.get(&way).ok_or(Failure::unavailable(Reason::ConnectFailed))?;
        self.sessions.of(document, vault, Some(client), &self.ahead)
    }
}

/// Whether this can be the session's fault: AWS says by 400 that a token has expired.
fn is_of_session(auth: &Auth, status: StatusCode) -> bool {
    status != StatusCode::BAD_REQUEST || matches!(auth, Auth::AwsSigV4(_))
}

/// Adds what `auth` asks for, last of all headers; `ahead` is by how many seconds the upstream's clock is.
fn sign(
    request: &mut Request<Full<Bytes>>,
    document: &HttpDocument,
    hop: &Hop,
    vault: &Vault,
    session: Option<&Session>,
    ahead: i64,
) -> Result<Signed, Failure> {
    match &document.auth {
        Auth::Hawk { .. } => {
            let Some(credentials) = request::hawk(&document.auth, vault)? else { return Ok(Signed::Not) };
            request::sign(request, document, hop, &credentials, ahead).map(Signed::Hawk)
        }
        Auth::AwsSigV4(aws) => {
            let credentials = request::aws(aws, vault, session)?;
            let at = request::seconds().saturating_add_signed(ahead);
            sign_aws(request, document, hop, &credentials, at)?;
            Ok(Signed::Aws(at))
        }
        auth => request::authorize(request.headers_mut(), auth, vault, session).map(|()| Signed::Not),
    }
}

fn sign_aws(
    request: &mut Request<Full<Bytes>>,
    document: &HttpDocument,
    hop: &Hop,
    credentials: &sigv4::Credentials<'_>,
    at: u64,
) -> Result<(), Failure> {
    let body = hop.body(document);
    let headers = request.headers_mut();
    headers.insert("x-amz-date", request::value(request::stamp(at).into_bytes())?);
    if let Some(session) = credentials.session {
        headers.insert("x-amz-security-token", request::value(session.to_vec())?);
    }
    if credentials.service == "s3" {
        headers.insert("x-amz-content-sha256", request::value(sigv4::hash(body).into_bytes())?);
    }
    let host = request::host(&document.url);
    let method = if hop.method == Method::Get { "GET" } else { "POST" };
    let parts = sigv4::Parts { method, target: &hop.target, host: &host, headers, body };
    let authorization = credentials.authorization(&parts, at);
    headers.insert(header::AUTHORIZATION, request::value(authorization.into_bytes())?);
    Ok(())
}

/// What the challenges of a 401 say of the time.
fn challenge(credentials: &hawk::Credentials<'_>, headers: &HeaderMap) -> Challenge {
    let challenges = headers.get_all(header::WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
    let mut found = challenges.map(|value| credentials.challenge(value));
    found.find(|challenge| *challenge != Challenge::Refused).unwrap_or(Challenge::Refused)
}

/// Verifies what a reply says of itself, if it does: many servers do not, and then TLS alone vouches for it.
fn vouched(
    credentials: &hawk::Credentials<'_>,
    request: &Artifacts,
    headers: &HeaderMap,
) -> Result<Option<String>, Failure> {
    let Some(header) = headers.get("server-authorization") else { return Ok(None) };
    let verified = header.to_str().ok().map(|header| credentials.verify_reply(request, header));
    match verified {
        Some(Ok(hash)) => Ok(hash),
        _ => Err(Failure::unavailable(Reason::ReplyNotAuthentic)),
    }
}
