//! One request: judged, then answered from memory while the lease lasts, else by the parent.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body as _, Incoming};
use hyper::{Method, Request, StatusCode};
use tokio::sync::watch;

use super::alive::Alive;
use super::answer::{self, Answer, Problem};
use super::call::Room;
use super::connection::{Connection, Connections};
use super::credentials::Credentials;
use super::expanded::Expansion;
use super::held::{Held, Slot, Slots};
use super::link::Link;
use super::log::{Log, Told};
use super::own;
use super::pace::Pace;
use super::request::{self, Accepts, Target};
use super::stream::{Conversation, Phase};
use super::tally::Tally;
use super::turns::Turns;
use super::watch::Watch;
use crate::arguments::Arguments;
use crate::ipc::record::Event;
use crate::ipc::wire::{BootInstant, Forward, RequestId, Served, Verdict, WorkerConfig};
use crate::secret::KeyPath;
use crate::sys::{clock, random};

/// What all connections have in common.
pub(super) struct Shared {
    current: RefCell<Rc<Current>>,
    pub(super) connections: Rc<Connections>,
    pub(super) turns: Rc<Turns>,
    pub(super) pace: Pace,
    pub(super) alive: Alive,
    pub(super) log: Log,
    pub(super) tally: Tally,
    pub(super) room: Room,
    pub(super) link: Rc<Link>,
    pub(super) credentials: Rc<Credentials>,
    /// Becomes true when connections are to end after the request in hand.
    ending: watch::Sender<bool>,
    requests: Cell<u64>,
}

/// The configuration of one generation, with the slots of its keys.
pub(super) struct Current {
    pub(super) config: WorkerConfig,
    pub(super) slots: Slots,
}

impl Current {
    fn new(config: WorkerConfig) -> Rc<Self> {
        let slots = Slots::new(&config.keys, config.templates.clone(), config.limits.memory);
        Rc::new(Self { config, slots })
    }
}

impl Shared {
    pub(super) fn new(config: WorkerConfig, link: Rc<Link>, credentials: Rc<Credentials>) -> Self {
        let mut start = [0; 8];
        // Ids need to be different, not unpredictable: zero is a start, too.
        let _ = random::fill(&mut start);
        Self {
            connections: Rc::default(),
            turns: Rc::default(),
            pace: Pace::default(),
            alive: Alive::new(config.limits.memory),
            log: Log::new(config.log_requests),
            tally: Tally::default(),
            room: Room::default(),
            link,
            credentials,
            ending: watch::Sender::new(false),
            requests: Cell::new(u64::from_le_bytes(start)),
            current: RefCell::new(Current::new(config)),
        }
    }

    /// What holds now. Who keeps it over a wait asks again whether it still does.
    pub(super) fn current(&self) -> Rc<Current> {
        self.current.borrow().clone()
    }

    /// From now on all requests are judged by this; those that wait are to look what it means for them. Nothing stays of
    /// the values: the parent has taken them back.
    pub(super) fn configure(&self, config: WorkerConfig) {
        self.alive.set_memory(config.limits.memory);
        let before = self.current.replace(Current::new(config));
        self.log.flush(&before.slots);
        before.slots.forget_where(|_, _| true);
        before.slots.for_each(|slot| slot.watchers(Watch::lost).unwrap_or_default());
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

    pub(super) fn next_request(&self) -> RequestId {
        let id = self.requests.get();
        self.requests.set(id.wrapping_add(1));
        RequestId(id)
    }
}

/// One request on its way to its answer.
pub(super) struct Exchange<'a> {
    pub(super) shared: &'a Shared,
    /// As it was when the request came.
    pub(super) current: &'a Rc<Current>,
    pub(super) connection: &'a Connection,
    pub(super) conversation: &'a Conversation,
    pub(super) request: &'a Request<()>,
    pub(super) body: RefCell<Incoming>,
    /// Of a call, once they are read.
    pub(super) arguments: OnceCell<Arc<Arguments>>,
    pub(super) id: RequestId,
    started: BootInstant,
}

/// Answers one request, whatever it is.
pub(super) async fn serve(
    shared: &Shared,
    connection: &Connection,
    conversation: &Conversation,
    request: Request<Incoming>,
) -> Answer {
    conversation.seat.turn().await;
    let started = BootInstant(clock::boot_nanos());
    conversation.enter_at(Phase::Exchange, started.0);
    let current = shared.current();
    let id = shared.next_request();
    let (head, body) = conversation.as_sent(request).into_parts();
    let (request, body, arguments) = (&Request::from_parts(head, ()), RefCell::new(body), OnceCell::new());
    let exchange =
        Exchange { shared, current: &current, connection, conversation, request, body, arguments, id, started };
    let mut granted = None;
    match exchange.answer(&mut granted).await {
        Ok(answer) => answer,
        Err(problem) => {
            exchange.tell_refusal(&problem, granted);
            problem.answer(exchange.id)
        }
    }
}

impl<'a> Exchange<'a> {
    /// `granted` becomes the client that grants.
    async fn answer(&self, granted: &mut Option<&'a str>) -> Result<Answer, Problem> {
        let uri = self.request.uri();
        if let Some(status) = request::too_long(self.request, self.current.config.limits.header_size) {
            return Err(Problem::unparsed(status));
        }
        let wanted = uri.path() == request::WHOAMI;
        let shared = self.shared;
        if !self.connection.attest(&shared.link, self.conversation, &self.current.config, wanted).await {
            return Err(not_answering());
        }
        // What is a key of the configuration, letter by letter, is well-formed.
        let plain = uri.query().is_none() && uri.scheme().is_none() && uri.authority().is_none();
        let target = match if plain { self.current.slots.known(uri.path()) } else { None } {
            Some(slot) => Ok(slot),
            None => match request::target(uri).ok_or_else(malformed)? {
                Target::Key(key) => {
                    if let Some(client) = self.may_call(&key) {
                        *granted = Some(client);
                        let slot = self.call(&key).await?;
                        return self.value(&slot, granted.as_deref()).await;
                    }
                    request::query(uri).map_or(Ok(()), |_| Err(malformed()))?;
                    Ok(self.named(self.current, &key)?)
                }
                _ if request::query(uri).is_some() => return Err(malformed()),
                own => Err(own),
            },
        };
        if let Ok(slot) = &target {
            *granted = Some(self.connection.rights().judge(&self.current.config, slot).ok_or_else(denied)?);
        }
        if !matches!(*self.request.method(), Method::GET | Method::HEAD) {
            return Err(Problem::new(StatusCode::METHOD_NOT_ALLOWED, "malformed", "only GET and HEAD are served here"));
        }
        if self.has_body() {
            return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "malformed", "a request has no body here"));
        }
        match target {
            Ok(slot) => self.value(&slot, granted.as_deref()).await,
            Err(own) => self.own(&own).await,
        }
    }

    /// The slot of a key that is written in some other way, or of a path that nobody has asked for lately.
    pub(super) fn named(&self, current: &Current, key: &KeyPath) -> Result<Rc<Slot>, Problem> {
        let slots = &current.slots;
        if let Some(slot) = slots.known(key.as_str()) {
            return Ok(slot);
        }
        match slots.expanded.read(key) {
            Expansion::Path(slot) => Ok(Rc::new(slot)),
            Expansion::Outside => {
                self.connection.rights().covers(&current.config.acl, key).ok_or_else(denied)?;
                Err(Problem::new(
                    StatusCode::BAD_REQUEST,
                    "malformed",
                    "a parameter in this path is outside its constraint",
                ))
            }
            // Whether it is one is told to those who may call it, and they have.
            Expansion::Call | Expansion::Nothing => Err(denied()),
        }
    }

    pub(super) fn has_body(&self) -> bool {
        !self.body.borrow().is_end_stream()
    }

    async fn own(&self, target: &Target) -> Result<Answer, Problem> {
        if *target == Target::Whoami {
            return Ok(answer::own(&own::whoami(&self.current.config.acl, &self.connection.peer())));
        }
        let peer = self.connection.socket(self.conversation).map_err(|_| not_answering())?;
        let survey = self.shared.link.survey(self.id, peer).await;
        let survey = survey.map_err(|wait| wait.map_or_else(not_answering, over_budget))?;
        let degraded = self.shared.current().config.degraded;
        Ok(answer::own(&if *target == Target::Keys { own::keys(&survey) } else { own::health(degraded, &survey) }))
    }

    async fn value(&self, slot: &Rc<Slot>, client: Option<&str>) -> Result<Answer, Problem> {
        let accepts = request::accepts(self.request.headers());
        if accepts == Accepts::Neither {
            return Err(not_acceptable());
        }
        if let Some(wait) = request::waits(self.request.headers()) {
            let (mut answer, verdict) = self.wait(slot, accepts, wait).await?;
            self.conversation.enter_at(Phase::Exchange, clock::boot_nanos());
            answer::identify(&mut answer, self.id);
            self.tell_answer(answer.status(), slot, client, &verdict, true);
            return Ok(answer);
        }
        let revalidate = request::revalidates(self.request.headers());
        let remembered = if revalidate { None } else { self.current.slots.remembered(slot, self.started) };
        let asked = remembered.is_none();
        let (held, verdict) = match remembered {
            Some(found) => found,
            None => self.ask(self.current, slot, revalidate).await?,
        };
        let now = if asked { BootInstant(clock::boot_nanos()) } else { self.started };
        let mut answer = self.represent(accepts, &held, &verdict, asked, now)?;
        if asked {
            self.conversation.enter_at(Phase::Exchange, now.0);
            answer::identify(&mut answer, self.id);
        }
        self.tell_answer(answer.status(), slot, client, &verdict, asked);
        Ok(answer)
    }

    pub(super) fn represent(
        &self,
        accepts: Accepts,
        held: &Held,
        verdict: &Verdict,
        asked: bool,
        now: BootInstant,
    ) -> Result<Answer, Problem> {
        let form = match (accepts, held.text()) {
            (Accepts::Text { .. }, Some(text)) => text,
            (Accepts::Text { or_json: false }, None) => return Err(not_acceptable()),
            _ => held.json(),
        };
        let headers = if asked {
            form.headers(held.lease(), verdict, now)
        } else {
            form.headers_of_hit(held.lease(), verdict, now)
        };
        Ok(if request::has_tag(self.request.headers(), form.etag().as_bytes()) {
            answer::value(StatusCode::NOT_MODIFIED, headers, Bytes::new())
        } else {
            answer::value(StatusCode::OK, headers, form.body.clone())
        })
    }

    fn tell_answer(&self, status: StatusCode, slot: &Rc<Slot>, client: Option<&str>, verdict: &Verdict, asked: bool) {
        self.shared.tally.count_value(slot, client, verdict);
        let first = self.connection.is_first_answer(slot, asked);
        let log = &self.shared.log;
        if !(first && log.has_room(Event::Answer, self.connection.uid())) && log.only_counts() {
            return slot.hits.count(self.connection.uid(), name(verdict), status.as_u16());
        }
        let told = Told {
            connection: self.connection,
            event: Event::Answer,
            key: Some(&slot.path),
            client,
            verdict: name(verdict),
            status: status.as_u16(),
            millis: if asked { self.millis() } else { 0 },
            request: self.id,
        };
        self.shared.log.tell(&told, first);
    }

    fn millis(&self) -> u64 {
        u64::try_from(clock::boot_nanos().saturating_sub(self.started.0) / 1_000_000).unwrap_or(0)
    }

    fn tell_refusal(&self, problem: &Problem, client: Option<&str>) {
        self.shared.tally.count(client, Served::of_status(problem.status.as_u16()));
        let denied = problem.status == StatusCode::FORBIDDEN;
        // The target is the peer's own text, and only well-formed keys are told.
        let asked = match request::target(self.request.uri()) {
            Some(Target::Key(key)) => Some(key),
            _ => None,
        };
        let told = Told {
            connection: self.connection,
            event: if denied { Event::Denied } else { Event::Refused },
            key: asked.as_ref(),
            client,
            verdict: problem.code,
            status: problem.status.as_u16(),
            millis: self.millis(),
            request: self.id,
        };
        self.shared.log.tell(&told, false);
    }
}

/// Tells of bytes that were no request.
pub(super) fn tell_unparsed(shared: &Shared, connection: &Connection, status: StatusCode, request: RequestId) {
    shared.tally.count(None, Served::Malformed);
    let told = Told {
        connection,
        event: Event::Refused,
        key: None,
        client: None,
        verdict: "malformed",
        status: status.as_u16(),
        millis: 0,
        request,
    };
    shared.log.tell(&told, false);
}

/// A verdict in one word, for the log.
fn name(verdict: &Verdict) -> &'static str {
    match (verdict.forward, verdict.detail) {
        (_, Some(detail)) => detail.token(),
        (Forward::Hit, None) => "hit",
        (Forward::UriMiss, None) => "uri-miss",
        (Forward::Stale, None) => "revalidated",
        (Forward::Request, None) => "request",
    }
}

fn malformed() -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "malformed", "the request target is no key path")
}

pub(super) fn not_answering() -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "keyhatch is not answering")
}

pub(super) fn short_of_memory() -> Problem {
    let detail = "too many answers wait for peers that do not read; try again later";
    let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail);
    Problem { retry_after: Some(Duration::from_secs(1)), ..problem }
}

pub(super) fn over_budget(retry_after: Duration) -> Problem {
    let detail = "too many fetches for this user; try again later";
    let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "over-budget", detail);
    Problem { retry_after: Some(retry_after), ..problem }
}

/// One and the same answer for what is not granted and what does not exist.
pub(super) fn denied() -> Problem {
    Problem::new(
        StatusCode::FORBIDDEN,
        "denied",
        "this key is not granted to you; GET /-/whoami shows who you are here",
    )
}

fn not_acceptable() -> Problem {
    let detail = "the value is JSON, and text/plain only if it is one scalar; Accept does not allow what there is";
    Problem::new(StatusCode::NOT_ACCEPTABLE, "malformed", detail)
}
