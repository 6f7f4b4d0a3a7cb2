//! One request: judged, then answered from memory while the lease lasts, else by the parent.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body as _, Incoming};
use hyper::{Method, Request, StatusCode};
use serde_json::json;
use tokio::net::UnixStream;
use tokio::sync::{Notify, watch};

use super::answer::{self, Answer, Problem};
use super::link::Link;
use super::request::{self, Accepts, Target};
use crate::acl::Peer;
use crate::ipc::wire::{
    Body, BootInstant, Forward, KeyState, Lease, Reply, RequestId, State, Survey, Tag, ValueReply, Verdict,
    WorkerConfig, WorkerKey,
};
use crate::secret::{KeyPath, SecretValue};
use crate::sys::{clock, peer};
use zeroize::Zeroizing;

/// What all connections have in common.
pub(super) struct Shared {
    pub(super) config: WorkerConfig,
    pub(super) connections: Rc<Connections>,
    keys: HashMap<KeyPath, WorkerKey>,
    held: RefCell<HashMap<KeyPath, Rc<Held>>>,
    link: Rc<Link>,
    requests: Cell<u64>,
    /// Becomes true when connections are to end after the request in hand.
    ending: watch::Sender<bool>,
}

/// A value under a lease.
struct Held {
    json: Bytes,
    /// With its tag, if the value is a scalar.
    text: Option<(Bytes, Tag)>,
    tag: Tag,
    lease: Lease,
}

/// Keeps the bytes of a value until the last answer that carries them is written, then wipes them.
struct Wiped(SecretValue);

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        self.0.json()
    }
}

struct WipedText(Zeroizing<String>);

impl AsRef<[u8]> for WipedText {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl Held {
    fn new(reply: ValueReply) -> Option<(Self, Verdict)> {
        let Body::Inline(mut bytes) = reply.body else { return None };
        let value = SecretValue::from_json(Zeroizing::new(std::mem::take(&mut bytes.0)));
        let text = value.text().map(|text| Bytes::from_owner(WipedText(text))).zip(reply.etag_text);
        let held = Self { json: Bytes::from_owner(Wiped(value)), text, tag: reply.etag, lease: reply.lease };
        Some((held, reply.verdict))
    }
}

/// Counts connections, of each user and of all.
#[derive(Default)]
pub(super) struct Connections {
    all: Cell<u32>,
    strangers: Cell<u32>,
    by_user: RefCell<HashMap<u32, u32>>,
    /// Those over a limit that are about to be closed.
    turned_away: Rc<()>,
    ended: Notify,
}

/// The most connections over the limit that are not closed at once.
const LINGERING: usize = 32;

impl Connections {
    /// Held while a connection over the limit waits for its peer; `None` when too many do.
    pub(super) fn place_to_linger(&self) -> Option<Rc<()>> {
        (Rc::strong_count(&self.turned_away) <= LINGERING).then(|| self.turned_away.clone())
    }

    /// Resolves when no connection is left.
    pub(super) async fn drained(&self) {
        while self.all.get() > 0 {
            self.ended.notified().await;
        }
    }
}

/// One connection and who is at its other end.
pub(super) struct Connection {
    peer: Peer,
    /// A second fd of the peer's socket: the parent judges from it.
    pub(super) socket: OwnedFd,
    pub(super) permit: Rc<Permit>,
}

/// Counts as a connection of this user for as long as it lives.
pub(super) struct Permit {
    uid: u32,
    stranger: bool,
    counted: Rc<Connections>,
}

impl Connection {
    /// `None` when a limit of connections is reached.
    pub(super) fn new(stream: &UnixStream, shared: &Shared) -> io::Result<Option<Self>> {
        let credentials = peer::credentials(stream.as_fd())?;
        let peer =
            Peer { uid: credentials.uid, gid: credentials.gid, groups: credentials.groups, pid: credentials.pid };
        let stranger = shared.config.acl.matching(&peer).next().is_none();
        let counted = shared.connections.clone();
        let limits = &shared.config.limits;
        let of_user = counted.by_user.borrow().get(&peer.uid).copied().unwrap_or(0);
        let full = counted.all.get() >= limits.connections
            || of_user >= limits.connections_per_user
            || (stranger && counted.strangers.get() >= (limits.connections / 8).max(1));
        if full {
            return Ok(None);
        }
        let socket = stream.as_fd().try_clone_to_owned()?;
        counted.all.set(counted.all.get() + 1);
        counted.strangers.set(counted.strangers.get() + u32::from(stranger));
        *counted.by_user.borrow_mut().entry(peer.uid).or_default() += 1;
        let permit = Rc::new(Permit { uid: peer.uid, stranger, counted });
        Ok(Some(Self { peer, socket, permit }))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.counted.all.set(self.counted.all.get() - 1);
        self.counted.strangers.set(self.counted.strangers.get() - u32::from(self.stranger));
        let mut by_user = self.counted.by_user.borrow_mut();
        if let Some(count) = by_user.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                by_user.remove(&self.uid);
            }
        }
        self.counted.ended.notify_waiters();
    }
}

impl Shared {
    pub(super) fn new(config: WorkerConfig, link: Rc<Link>) -> Self {
        let keys = config.keys.iter().map(|key| (key.path.clone(), key.clone())).collect();
        let mut start = [0; 8];
        // Ids need to be different, not unpredictable: zero is a start, too.
        let _ = aws_lc_rs::rand::fill(&mut start);
        Self {
            config,
            connections: Rc::default(),
            keys,
            held: RefCell::default(),
            link,
            requests: Cell::new(u64::from_le_bytes(start)),
            ending: watch::Sender::new(false),
        }
    }

    /// No connection takes another request.
    pub(super) fn end_connections(&self) {
        self.ending.send_replace(true);
    }

    /// Resolves when connections are to end.
    pub(super) async fn ending(&self) {
        // The sender lives as long as this does.
        let _ = self.ending.subscribe().wait_for(|ending| *ending).await;
    }

    pub(super) fn forget(&self, key: &KeyPath) {
        self.held.borrow_mut().remove(key);
    }

    pub(super) fn forget_all(&self) {
        self.held.borrow_mut().clear();
    }

    pub(super) fn forget_expired(&self) {
        let now = clock::boot_nanos();
        self.held.borrow_mut().retain(|_, held| held.lease.usable_until.0 > now);
    }

    fn next_request(&self) -> RequestId {
        let id = self.requests.get();
        self.requests.set(id.wrapping_add(1));
        RequestId(id)
    }

    /// A value that may be given without asking, and what to say of it.
    fn remembered(&self, key: &KeyPath, now: BootInstant) -> Option<(Rc<Held>, Verdict)> {
        let held = self.held.borrow().get(key)?.clone();
        let detail = if now < held.lease.fresh_until {
            None
        } else if now < held.lease.usable_until {
            Some(held.lease.stale_detail)
        } else {
            return None;
        };
        Some((held, Verdict { forward: Forward::Hit, fwd_status: None, stored: false, collapsed: false, detail }))
    }
}

/// Answers one request, whatever it is.
pub(super) async fn serve(shared: &Shared, connection: &Connection, request: &Request<Incoming>) -> Answer {
    let id = shared.next_request();
    match judge(shared, connection, request, id).await {
        Ok(answer) => answer,
        Err(problem) => {
            let (status, code) = (problem.status.as_u16(), problem.code);
            let peer = &connection.peer;
            // The target is the peer's own text, and only well-formed targets are told.
            let key = request::target(request.uri()).map(|_| request.uri().path()).unwrap_or_default();
            tracing::info!(uid = peer.uid, pid = peer.pid, key, status, code, request = %id, "refused");
            problem.answer(id)
        }
    }
}

async fn judge(
    shared: &Shared,
    connection: &Connection,
    request: &Request<Incoming>,
    id: RequestId,
) -> Result<Answer, Problem> {
    let malformed = || Problem::new(StatusCode::BAD_REQUEST, "malformed", "the request target is no key path");
    let target = request::target(request.uri()).ok_or_else(malformed)?;
    let peer = &connection.peer;
    if let Target::Key(key) = &target
        && (!shared.keys.contains_key(key) || shared.config.acl.judge(peer, key).is_none())
    {
        return Err(denied());
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err(Problem::new(StatusCode::METHOD_NOT_ALLOWED, "malformed", "only GET and HEAD are served here"));
    }
    if !request.body().is_end_stream() {
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "malformed", "a request has no body here"));
    }
    let key = match target {
        Target::Key(key) => key,
        Target::Whoami => return Ok(answer::own(&whoami(shared, peer))),
        Target::Health | Target::Keys => {
            let survey = shared.link.survey(id, connection).await;
            let survey = survey.map_err(|wait| wait.map_or_else(not_answering, over_budget))?;
            return Ok(answer::own(&if target == Target::Keys { keys(&survey) } else { health(shared, &survey) }));
        }
    };
    let accepts = request::accepts(request.headers());
    if accepts == Accepts::Neither {
        return Err(not_acceptable());
    }
    let revalidate = request::revalidates(request.headers());
    let now = BootInstant(clock::boot_nanos());
    let remembered = if revalidate { None } else { shared.remembered(&key, now) };
    let (held, verdict) = match remembered {
        Some(found) => found,
        None => ask(shared, connection, &key, id, revalidate).await?,
    };
    represent(request, accepts, &held, &verdict)
}

fn represent(request: &Request<Incoming>, accepts: Accepts, held: &Held, verdict: &Verdict) -> Result<Answer, Problem> {
    let (media_type, body, tag) = match (accepts, &held.text) {
        (Accepts::Text { .. }, Some((text, tag))) => ("text/plain; charset=utf-8", text, tag),
        (Accepts::Text { or_json: false }, None) => return Err(not_acceptable()),
        _ => ("application/json", &held.json, &held.tag),
    };
    let tag = tag.to_string();
    let now = BootInstant(clock::boot_nanos());
    let (status, body) = if request::has_tag(request.headers(), &tag) {
        (StatusCode::NOT_MODIFIED, Bytes::new())
    } else {
        (StatusCode::OK, body.clone())
    };
    Ok(answer::value(status, media_type, body, &tag, verdict, &held.lease, now))
}

async fn ask(
    shared: &Shared,
    connection: &Connection,
    key: &KeyPath,
    id: RequestId,
    revalidate: bool,
) -> Result<(Rc<Held>, Verdict), Problem> {
    let patience = shared.keys.get(key).ok_or_else(denied)?.patience;
    let largest = shared.config.limits.value_size;
    let reply = shared.link.fetch(key, id, revalidate, connection, patience, largest).await;
    let replied = reply.ok_or_else(not_answering)?;
    match replied.reply {
        Reply::Value(value) => {
            let (held, verdict) = Held::new(value).ok_or_else(not_answering)?;
            let held = Rc::new(held);
            let recalled = replied.recalls != shared.link.recalls();
            if !recalled && held.lease.usable_until.0 > clock::boot_nanos() {
                shared.held.borrow_mut().insert(key.clone(), held.clone());
            }
            Ok((held, verdict))
        }
        Reply::Failure(failure) => {
            let mut problem = Problem::upstream(failure.class, &failure.reason);
            problem.retry_after = (problem.status == StatusCode::SERVICE_UNAVAILABLE).then_some(failure.retry_after);
            problem.verdict = Some(failure.verdict);
            Err(problem)
        }
        Reply::Denied => Err(denied()),
        Reply::OverBudget { retry_after } => Err(over_budget(retry_after)),
        Reply::Busy => Err(not_answering()),
    }
}

fn not_answering() -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "keyhatch is not answering")
}

fn over_budget(retry_after: Duration) -> Problem {
    let detail = "too many fetches for this user; try again later";
    let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "over-budget", detail);
    Problem { retry_after: Some(retry_after), ..problem }
}

/// One and the same answer for what is not granted and what does not exist.
fn denied() -> Problem {
    Problem::new(
        StatusCode::FORBIDDEN,
        "denied",
        "this key is not granted to you; GET /-/whoami shows who you are here",
    )
}

fn not_acceptable() -> Problem {
    let detail = "the value is JSON, or text/plain if it is one scalar; Accept allows neither";
    Problem::new(StatusCode::NOT_ACCEPTABLE, "malformed", detail)
}

/// Counts among the keys that the peer may read.
fn health(shared: &Shared, survey: &Survey) -> serde_json::Value {
    let count = |state| survey.keys.iter().filter(|key| key.state == state).count();
    json!({
        "status": if shared.config.degraded { "degraded" } else { "ok" },
        "keys": {
            "fresh": count(State::Fresh),
            "stale": count(State::Stale),
            "failing": count(State::Failing),
            "revoked": count(State::Revoked),
            "never-fetched": count(State::NeverFetched),
        },
    })
}

fn whoami(shared: &Shared, peer: &Peer) -> serde_json::Value {
    let clients: Vec<&str> = shared.config.acl.matching(peer).map(|client| client.name.as_str()).collect();
    json!({ "uid": peer.uid, "gid": peer.gid, "groups": peer.groups, "pid": peer.pid, "clients": clients })
}

fn keys(survey: &Survey) -> serde_json::Value {
    let key = |one: &KeyState| json!({ "key": one.key, "state": one.state, "age": one.age.map(|age| age.as_secs()) });
    json!({ "keys": survey.keys.iter().map(key).collect::<Vec<_>>() })
}
