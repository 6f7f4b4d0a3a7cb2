//! Remote calls of Nameko services: as Nameko's own proxies make them, and what their replies mean.
//!
//! An exception of the service is an answer: the service was there. It goes to who asked, is no value, and says nothing
//! against the values that there are.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use zeroize::Zeroizing;

use super::amqp::{Call, Connection, Login, Message};
use super::authorities::Trusted;
use super::connect::{Connector, TlsFault};
use super::ways::{Way, Ways};
use super::{Answer, DocumentBody};
use crate::config::{Broker, Format, NamekoDocument, TokenName};
use crate::outcome::{Failure, Reason};
use crate::parent::cache::Validators;
use crate::parent::token::ApiToken;
use crate::parent::vault::Vault;
use crate::sys::random;

/// TCP, TLS and login together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The most of an exception that is passed on, in bytes of JSON: so much fits beside a frame's other parts.
const MAX_EXCEPTION: usize = 24 << 10;

/// Whose connection it is, and where: nothing else may use it.
type Place = (Broker, String, TokenName, String);

/// The brokers of all documents.
pub(super) struct NamekoUpstream {
    ways: Ways<Reached>,
    limit: usize,
}

/// What is reached in one way.
struct Reached {
    connector: Connector,
    /// Each with whoever is connecting there.
    places: RefCell<HashMap<Place, Rc<Mutex<Connections>>>>,
}

/// To one place.
#[derive(Default)]
struct Connections {
    kept: Vec<Kept>,
    /// When the last attempt to make one failed, with which token, and how.
    failed: Option<(Instant, Weak<ApiToken>, Failure)>,
}

/// A connection that was made with this token.
struct Kept {
    token: Weak<ApiToken>,
    connection: Rc<Connection>,
}

impl NamekoUpstream {
    /// `limit` is the longest reply, in bytes. Of `before` the connections stay that would be made in the same way.
    pub(super) fn new<'d>(
        limit: usize,
        documents: impl Iterator<Item = &'d NamekoDocument>,
        trusted: Trusted,
        before: Option<&Self>,
    ) -> Result<Self, TlsFault> {
        let documents: Vec<&NamekoDocument> = documents.collect();
        let before = before.filter(|before| before.limit == limit).map(|before| &before.ways);
        let reached = |connector| Reached { connector, places: RefCell::default() };
        let make = |_: &Way, roots| Connector::new(roots).map(reached);
        let ways = Ways::new(documents.iter().map(|document| way(document)), trusted, before, make)?;
        let needed: HashSet<Place> = documents.into_iter().map(place).collect();
        // What nobody needs any more ends with the last call of before.
        ways.iter().for_each(|reached| reached.places.borrow_mut().retain(|place, _| needed.contains(place)));
        Ok(Self { ways, limit })
    }

    /// Calls the service; without arguments, only the broker is asked whether it takes the token.
    pub(super) async fn fetch(&self, document: &NamekoDocument, vault: &Vault) -> Result<Answer, Failure> {
        let connection = self.connection(document, vault).await?;
        let Some(arguments) = document.carried.get() else { return Ok(Answer::Reached) };
        let call = Call {
            exchange: &document.exchange,
            routing_key: &document.routing_key,
            arguments: arguments.clone(),
            id: id()?,
        };
        read_aside(connection.call(call).await?).await
    }

    /// The connection that calls of this document share, made anew if there is none.
    async fn connection(&self, document: &NamekoDocument, vault: &Vault) -> Result<Rc<Connection>, Failure> {
        let reached = self.ways.get(&way(document)).ok_or(Failure::unavailable(Reason::ConnectFailed))?;
        let token = vault.shared(&document.token).ok_or(Failure::unavailable(Reason::TokenMissing))?;
        let place = reached.places.borrow_mut().entry(place(document)).or_default().clone();
        // One connects, and all others wait for what becomes of that.
        let waits_since = Instant::now();
        let mut place = place.lock().await;
        place.kept.retain(|one| one.connection.is_open() && one.token.strong_count() > 0);
        let is_token = |known: &Weak<ApiToken>| known.upgrade().is_some_and(|known| Rc::ptr_eq(&known, &token));
        if let Some(one) = place.kept.iter().find(|one| is_token(&one.token)) {
            return Ok(one.connection.clone());
        }
        if let Some((at, with, failure)) = &place.failed
            && *at > waits_since
            && is_token(with)
        {
            return Err(*failure);
        }
        let opened = timeout(CONNECT_TIMEOUT, open(&reached.connector, document, &token, self.limit)).await;
        match opened.unwrap_or(Err(Failure::unavailable(Reason::ConnectFailed))) {
            Ok(connection) => {
                let connection = Rc::new(connection);
                tracing::info!(broker = document.broker.origin(), "connected");
                place.kept.push(Kept { token: Rc::downgrade(&token), connection: connection.clone() });
                Ok(connection)
            }
            Err(failure) => {
                place.failed = Some((Instant::now(), Rc::downgrade(&token), failure));
                Err(failure)
            }
        }
    }

    /// Whether there is a connection that calls of this document go by.
    pub(super) fn is_connected(&self, document: &NamekoDocument) -> bool {
        let Some(reached) = self.ways.get(&way(document)) else { return false };
        let places = reached.places.borrow();
        // Whoever holds it is connecting.
        let connections = places.get(&place(document)).and_then(|place| place.try_lock().ok());
        connections.is_some_and(|place| place.kept.iter().any(|one| one.connection.is_open()))
    }
}

fn way(document: &NamekoDocument) -> Way {
    Way { tls: document.broker.tls, ca_file: document.ca_file.clone(), proxy: None }
}

fn place(document: &NamekoDocument) -> Place {
    let NamekoDocument { broker, user, token, exchange, .. } = document;
    (broker.clone(), user.clone(), token.clone(), exchange.clone())
}

async fn open(
    connector: &Connector,
    document: &NamekoDocument,
    token: &ApiToken,
    limit: usize,
) -> Result<Connection, Failure> {
    let broker = &document.broker;
    let stream = connector.connect(broker.tls, &broker.host, broker.port).await?;
    let login = Login {
        vhost: &broker.vhost,
        user: &document.user,
        password: token.bytes(),
        exchange: &document.exchange,
        reply_to: &id()?,
    };
    Connection::open(stream, &login, limit).await
}

/// A random UUID (RFC 9562 section 5.4).
fn id() -> Result<String, Failure> {
    let mut bytes = [0; 16];
    random::fill(&mut bytes).map_err(|_| Failure::unavailable(Reason::ConnectFailed))?;
    let number = u128::from_be_bytes(bytes) & !(0xf000 << 64) & !(0xc000 << 48) | (0x4000 << 64) | (0x8000 << 48);
    let digits = format!("{number:032x}");
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| digits.get(part).unwrap_or_default().to_owned());
    Ok(parts.join("-"))
}

/// What a service sends.
#[derive(Deserialize)]
struct Reply<'r> {
    #[serde(borrow)]
    result: &'r RawValue,
    #[serde(borrow, default)]
    error: Option<&'r RawValue>,
}

/// What `nameko.exceptions.serialize` makes of an exception.
#[derive(Deserialize, serde::Serialize)]
struct Raised<'r> {
    #[serde(default)]
    exc_type: Option<String>,
    #[serde(default)]
    exc_path: Option<String>,
    #[serde(borrow, default)]
    exc_args: Option<&'r RawValue>,
    #[serde(default, borrow)]
    value: Option<&'r RawValue>,
}

async fn read_aside(message: Message) -> Result<Answer, Failure> {
    const SHORT: usize = 32 << 10;
    if !message.json {
        return Err(invalid());
    }
    if message.body.len() <= SHORT {
        return read(&message.body);
    }
    // Only the end of the process takes a thread away from its work.
    tokio::task::spawn_blocking(move || read(&message.body)).await.map_err(|_| invalid())?
}

fn invalid() -> Failure {
    Failure::unavailable(Reason::InvalidBody)
}

/// A value, or what was raised.
pub(super) fn read(body: &[u8]) -> Result<Answer, Failure> {
    let reply: Reply<'_> = serde_json::from_slice(body).map_err(|_| invalid())?;
    if let Some(error) = reply.error.filter(|error| error.get() != "null") {
        return raised(error.get());
    }
    let result = Zeroizing::new(reply.result.get().as_bytes().to_vec());
    let body = DocumentBody::parse(result, Format::Json)?;
    Ok(Answer::Answered { body, validators: Validators::default(), status: None })
}

fn raised(error: &str) -> Result<Answer, Failure> {
    let mut raised: Raised<'_> = serde_json::from_str(error).map_err(|_| invalid())?;
    let length = |part: Option<&RawValue>| part.map_or(0, |part| part.get().len());
    // What is too long to pass on is left out; its type is not.
    for name in [&mut raised.exc_type, &mut raised.exc_path].into_iter().flatten() {
        name.truncate(name.floor_char_boundary(256));
    }
    if length(raised.exc_args) + length(raised.value) > MAX_EXCEPTION {
        raised.exc_args = None;
        raised.value = raised.value.filter(|value| value.get().len() <= MAX_EXCEPTION);
    }
    let json = serde_json::to_vec(&raised).map_err(|_| invalid())?;
    Ok(Answer::Raised(Arc::new(Zeroizing::new(json))))
}
