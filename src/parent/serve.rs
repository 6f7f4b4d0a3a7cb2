//! The parent's event loop: the channel, the worker's log, the signals that end both roles.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use tokio::net::unix::pipe;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::admin;
use super::cache::{KeyRing, Store};
use super::calls::Calls;
use super::credentials::Credentials;
use super::engine::{Asker, Engine};
use super::greeting;
use super::in_flight::{InFlight, Open};
use super::judge::{Attested, Judges};
use super::notify::{Notifier, ServiceManager};
use super::outbox::Outbox;
use super::relay::{self, LogOptions};
use super::reload::{Origin, Reloader};
use super::repeats;
use super::runner::{RunnerGone, RunnerInputs};
use super::units::{UnitSource, Units};
use super::upstream::{SourceInputs, Sources};
use super::vault::Vault;
use crate::config::{Config, Fixed, SecretFile, TokenName, served};
use crate::credential::Kept;
use crate::ipc::channel::{ChannelError, ParentEnd, Passed};
use crate::ipc::wire::{FetchRequest, Layer, Reply, RequestId, ToParent, ToWorker};
use crate::secret::KeyPath;
use crate::sys::cleaner::Unfinished;
use crate::sys::clock::BootId;
use crate::sys::{memfd, process};

/// How long requests in flight may go on after the signal to end.
const DRAIN: Duration = Duration::from_secs(5);
/// How much longer the worker may take to say that it is done.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long the worker may take to drop, and to read its configuration.
pub(super) const GREETING: Duration = Duration::from_secs(20);

/// How long the worker may take to close its log after it has closed the channel.
const LAST_LINES: Duration = Duration::from_millis(500);

/// What the root phase hands over: everything open, nothing read that is a token.
pub struct ParentInputs {
    pub config: Config,
    pub channel: OwnedFd,
    pub worker_log: OwnedFd,
    pub cache: CacheInputs,
    pub tokens: Vec<(TokenName, SecretFile, Result<OwnedFd, String>)>,
    pub sources: SourceInputs,
    /// The paths of our listeners, as `getsockname` gives them for an accepted connection.
    pub listeners: Vec<PathBuf>,
    /// Where the configuration is, for `keyhatch reload`.
    pub origin: Origin,
    /// What runs commands, if some source is one.
    pub runner: Option<RunnerInputs>,
    /// What tells the units of peers, if some client has one.
    pub units: Option<UnitSource>,
    /// The operator's socket.
    pub admin: Option<std::os::unix::net::UnixListener>,
    /// Who is told how this goes.
    pub manager: Option<ServiceManager>,
    /// Connections of an earlier broker, which the manager has kept.
    pub kept: Kept,
    /// What confines this process.
    pub layers: Vec<Layer>,
    /// Removes what the root phase has made, if this does not come to serve.
    pub start: Option<Unfinished>,
    /// Then only root may change anything by the operator's socket; else also the user that this runs as.
    pub started_as_root: bool,
}

pub struct CacheInputs {
    pub directory: OwnedFd,
    /// In the order of the configuration.
    pub seal_keys: Vec<std::fs::File>,
    pub boot: Option<BootId>,
}

/// Why the parent ended, other than by being told to.
#[derive(Debug)]
pub enum ParentError {
    /// At start; a person must mend something.
    Start(String),
    Io(io::Error),
    Channel(ChannelError),
    /// The worker is of another version, or said something out of order.
    Protocol(&'static str),
    WorkerGone,
    /// The worker does what it is told no more, and cannot be ended from here: it is of another user.
    WorkerStuck,
    Runner(RunnerGone),
}

impl fmt::Display for ParentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start(message) => f.write_str(message),
            Self::Io(error) => write!(f, "the event loop cannot run: {error}"),
            Self::Channel(error) => write!(f, "{error}"),
            Self::Protocol(what) => write!(f, "the worker broke the protocol: {what}"),
            Self::WorkerGone => write!(f, "the worker is gone"),
            Self::WorkerStuck => write!(f, "the worker does not answer"),
            Self::Runner(gone) => write!(f, "{gone}"),
        }
    }
}

impl std::error::Error for ParentError {}

impl From<ChannelError> for ParentError {
    fn from(error: ChannelError) -> Self {
        Self::Channel(error)
    }
}

/// Reads the tokens, then serves until SIGTERM or SIGINT (`Ok`) or until the worker is gone.
pub fn run(mut inputs: ParentInputs, log: LogOptions) -> Result<(), ParentError> {
    process::share_heap();
    let start = |error: &dyn fmt::Display| ParentError::Start(error.to_string());
    let vault = Vault::read(inputs.tokens, &inputs.config.token_files()).map_err(|error| start(&error))?;
    let named = inputs.config.cache.seal_keys.iter().zip(inputs.cache.seal_keys);
    let keys = KeyRing::read(named).map_err(ParentError::Start)?;
    let store = Store::open(inputs.cache.directory, keys, inputs.config.limits.value_size).map_err(|e| start(&e))?;
    let mut sources = Sources::new(&inputs.config, inputs.sources).map_err(|error| start(&error))?;
    let runner = inputs.runner.map(RunnerInputs::started);
    if let Some(started) = &runner {
        sources = sources.with_runner(started.runner.clone());
    }

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ParentError::Io)?;
    let local = LocalSet::new();
    let (recalls, recalled) = mpsc::unbounded_channel();
    let engine =
        Engine::new(&inputs.config, store, inputs.cache.boot, sources, vault, recalls).map_err(ParentError::Io)?;
    let engine = Rc::new(engine);
    let ended = local.block_on(&runtime, async move {
        let channel = Rc::new(ParentEnd::new(inputs.channel).map_err(ParentError::Io)?);
        let worker_log = pipe::Receiver::from_owned_fd(inputs.worker_log).map_err(ParentError::Io)?;
        let dropped_lines = log.dropped.clone();
        let relayed = tokio::task::spawn_local(relay::relay(worker_log, log.dropped));
        let outbox = Outbox::new(channel.clone(), inputs.config.limits.memory);
        tokio::task::spawn_local(outbox.clone().relay(recalled));
        tokio::task::spawn_local(repeats::tell(engine.clone()));
        tokio::task::spawn_local(engine.clone().keep_sealed());
        let greeted = timeout(GREETING, greeting::greet(&channel, &inputs.config, log.requests)).await;
        let of_worker = match greeted.unwrap_or(Err(ParentError::WorkerStuck)) {
            Ok(layers) => layers,
            Err(error) => {
                // It says why, if it can.
                let _ = timeout(LAST_LINES, relayed).await;
                return Err(error);
            }
        };
        let (of_runner, runner_gone) = greeting::greet_runner(runner).await?;
        let layers = greeting::tell_layers(inputs.layers, of_worker, of_runner)?;
        tokio::task::spawn_local(engine.clone().tidy());
        tokio::task::spawn_local(engine.clone().forget_passing());
        tokio::task::spawn_local(engine.clone().watch_clock());
        let most = inputs.config.limits.connections;
        let units = Units::new(inputs.units, most, outbox.clone());
        let paths = served(&inputs.config.keys).map(|key| key.path.whole()).collect();
        let acl = std::mem::take(&mut inputs.config.acl);
        let fixed = Fixed::of(&inputs.config, acl.has_units());
        let judges = Judges::new(acl, paths, inputs.listeners, units.clone());
        let of_broker = (engine.clone(), outbox.clone(), judges.clone());
        let reloader = Reloader::new(inputs.origin, fixed, inputs.config.tokens, of_broker, log.requests);
        // The engine has what it needs of them, and ten thousand keys are ten megabytes.
        drop((std::mem::take(&mut inputs.config.keys), std::mem::take(&mut inputs.config.templates)));
        engine.refresh_ahead();
        if let Some(admin) = inputs.admin {
            admin.set_nonblocking(true).map_err(ParentError::Io)?;
            let listener = tokio::net::UnixListener::from_std(admin).map_err(ParentError::Io)?;
            let group = inputs.config.server.admin_group.map(|gid| gid.as_raw());
            let who = admin::Who::new(group, inputs.started_as_root);
            let desk = admin::Desk { engine: engine.clone(), layers, dropped_lines, reloader };
            tokio::task::spawn_local(admin::serve(listener, Rc::new(desk), who));
        }
        let notifier = Notifier::ready(inputs.manager, &engine, &outbox).map_err(ParentError::Io)?;
        let in_flight = InFlight::new(most);
        let of_broker = (engine.clone(), outbox.clone(), judges.clone());
        let credentials = Credentials::new(of_broker, units.clone(), notifier.clone(), most);
        let calls = Calls::new(&inputs.config.limits);
        let broker = Broker { engine: engine.clone(), outbox, judges, units, in_flight, notifier, credentials, calls };
        if let Some(start) = inputs.start {
            start.finished();
        }
        broker.credentials.resume(inputs.kept.take());
        let served = tokio::select! {
            served = broker.serve(&channel) => served,
            gone = runner_gone => Err(ParentError::Runner(gone)),
        };
        // Who does not read a refusal does not keep the last state from the disk.
        tokio::join!(broker.credentials.finish(&channel), engine.close());
        // What the worker said last: it may be why it ended.
        let _ = timeout(LAST_LINES, relayed).await;
        served
    });
    // A name that is being resolved, or a file on a mount that hangs, does not keep us.
    runtime.shutdown_background();
    ended
}

/// What the event loop works with.
struct Broker {
    engine: Rc<Engine>,
    outbox: Outbox,
    judges: Rc<Judges>,
    units: Rc<Units>,
    in_flight: Rc<InFlight>,
    notifier: Rc<Notifier>,
    credentials: Rc<Credentials>,
    calls: Calls,
}

impl Broker {
    async fn serve(&self, channel: &ParentEnd) -> Result<(), ParentError> {
        let mut terminate = signal(SignalKind::terminate()).map_err(ParentError::Io)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(ParentError::Io)?;
        let mut hangup = signal(SignalKind::hangup()).map_err(ParentError::Io)?;
        process::release_free_memory();
        tracing::info!("serving");
        let mut end: Option<Instant> = None;
        loop {
            let received = tokio::select! {
                received = channel.recv() => received?,
                _ = terminate.recv(), if end.is_none() => { end = Some(self.drain()); continue }
                _ = interrupt.recv(), if end.is_none() => { end = Some(self.drain()); continue }
                _ = hangup.recv() => { tracing::warn!("SIGHUP is ignored: `keyhatch reload` has the configuration read again"); continue }
                () = sleep_until(end.unwrap_or_else(Instant::now)), if end.is_some() => {
                    return Err(ParentError::WorkerStuck);
                }
            };
            match received {
                Some((ToParent::Fetch(request), Passed::One(peer))) => self.fetch(request, peer)?,
                Some((ToParent::Arguments { id, part }, Passed::Nothing)) => self.calls.add(id, part)?,
                Some((ToParent::Survey { id, .. }, Passed::One(peer))) => self.survey(id, peer)?,
                Some((ToParent::Fetch(FetchRequest { id, .. }), Passed::Lost)) => {
                    tracing::error!("out of file descriptors: a request is refused");
                    self.calls.forget(id);
                    self.outbox.reply(id, Reply::Busy, self.in_flight.open(id)?);
                }
                Some((ToParent::Survey { id, .. }, Passed::Lost)) => {
                    tracing::error!("out of file descriptors: a request is refused");
                    refuse_survey(&self.outbox, id, None, self.in_flight.open(id)?);
                }
                Some((ToParent::Attest { id }, Passed::One(peer))) => {
                    let open = self.in_flight.open(id)?;
                    let attestation = self.judges.now().attest_unit(peer)?;
                    self.outbox.say(ToWorker::Attested { id, attestation }, None, Some(open));
                }
                Some((ToParent::Attest { id }, Passed::Lost)) => {
                    let open = self.in_flight.open(id)?;
                    self.outbox.say(ToWorker::Attested { id, attestation: None }, None, Some(open));
                }
                Some((ToParent::Credential { id, request }, passed)) => self.credentials.take(id, request, passed)?,
                Some((ToParent::Parted { fact }, Passed::Nothing)) => self.units.forget(fact)?,
                Some((ToParent::Used { uses }, Passed::Nothing)) => self.engine.count_uses(&uses),
                Some((ToParent::Counted(counted), Passed::Nothing)) => self.engine.count_served(&counted),
                Some((ToParent::Pong { serial }, Passed::Nothing)) => self.notifier.answered(serial)?,
                Some((ToParent::Recalled { serial }, Passed::Nothing)) if self.outbox.confirm_recall(serial) => {}
                Some((ToParent::Configured { generation }, Passed::Nothing))
                    if self.outbox.confirm_configuration(generation) => {}
                Some((ToParent::Drained, Passed::Nothing)) if end.is_some() => return Ok(()),
                // It says why in its log, and waits for the channel to be shut.
                Some((ToParent::Drained, Passed::Nothing)) => return Err(ParentError::WorkerGone),
                Some(_) => return Err(ParentError::Protocol("a message out of order")),
                None if end.is_some() => return Ok(()),
                None => return Err(ParentError::WorkerGone),
            }
        }
    }

    /// Tells the worker to end; the instant by which it must have done so.
    fn drain(&self) -> Instant {
        tracing::info!("ending: no new requests, {} s for those in flight", DRAIN.as_secs());
        self.notifier.stopping();
        self.credentials.end();
        self.outbox.say(ToWorker::Drain { within: DRAIN }, None, None);
        Instant::now() + DRAIN + PATIENCE
    }

    /// Judges from the peer's own socket, closes it, then answers.
    fn fetch(&self, request: FetchRequest, socket: OwnedFd) -> Result<(), ParentError> {
        let attested = self.judges.now().attest(socket)?;
        let open = self.in_flight.open(request.id)?;
        let FetchRequest { id, request, key, revalidate, arguments } = request;
        if key.part_name().is_some() {
            return Err(ParentError::Protocol("a part of a key is asked for"));
        }
        if key.arguments().is_some() {
            return Err(ParentError::Protocol("a key with a digest of the worker's own making"));
        }
        // Whatever becomes of the request, its parts are gone.
        let sent = self.calls.take(id, arguments)?;
        let Some(attested) = attested else {
            tracing::error!("out of file descriptors: a request is refused");
            self.outbox.reply(id, Reply::Busy, open);
            return Ok(());
        };
        let (engine, outbox, judges) = (self.engine.clone(), self.outbox.clone(), self.judges.clone());
        let judge = judges.now();
        let Some(client) = judge.granted_by(&attested, &key) else {
            self.deny(&attested, &key, request);
            outbox.reply(id, Reply::Denied, open);
            return Ok(());
        };
        // For the report of a drill alone.
        let client = engine.has_drill().then(|| client.to_owned());
        let arguments = match sent.map(|sent| self.calls.read(sent, attested.peer.uid)).transpose()? {
            None => None,
            Some(Some(arguments)) => Some(arguments),
            Some(None) => {
                tracing::error!("too many arguments of calls are in memory: a request is refused");
                outbox.reply(id, Reply::Busy, open);
                return Ok(());
            }
        };
        // The entry is told by what was read here.
        let entry = arguments.as_ref().map_or_else(|| key.clone(), |arguments| key.of_call(&arguments.digest()));
        let asker = Asker { uid: attested.peer.uid, pid: attested.peer.pid, request, arguments };
        tokio::task::spawn_local(async move {
            let mut reloads = engine.reloads();
            let reply = loop {
                reloads.mark_unchanged();
                if judges.now().granted_by(&attested, &key).is_none() {
                    break Reply::Denied;
                }
                tokio::select! {
                    biased;
                    // Whatever it waits for: it is judged again, and begins anew.
                    _ = reloads.changed() => {}
                    reply = engine.ask(&entry, asker.clone(), revalidate) => {
                        // It may have waited for long.
                        break if judges.now().granted_by(&attested, &key).is_some() { reply } else { Reply::Denied };
                    }
                }
            };
            if let Some(client) = client {
                engine.note_drilled(asker.uid, &client, &key, &reply);
            }
            outbox.reply(id, reply, open);
        });
        Ok(())
    }

    fn deny(&self, attested: &Attested, key: &KeyPath, request: RequestId) {
        let peer = &attested.peer;
        if self.engine.repeats().is_first(peer.uid, key, "denied") {
            tracing::warn!(uid = peer.uid, pid = peer.pid, %key, %request, "denied");
        }
    }

    /// The states of the keys that the peer may read.
    fn survey(&self, id: u64, socket: OwnedFd) -> Result<(), ParentError> {
        let attested = self.judges.now().attest(socket)?;
        let open = self.in_flight.open(id)?;
        let Some(attested) = attested else {
            tracing::error!("out of file descriptors: a request is refused");
            refuse_survey(&self.outbox, id, None, open);
            return Ok(());
        };
        if let Err(wait) = self.engine.charge(attested.peer.uid) {
            refuse_survey(&self.outbox, id, Some(wait), open);
            return Ok(());
        }
        let (engine, outbox, judges) = (self.engine.clone(), self.outbox.clone(), self.judges.clone());
        tokio::task::spawn_local(async move {
            let survey = judges.survey(&engine, &attested).await;
            let bytes = survey.and_then(|survey| postcard::to_stdvec(&survey).ok());
            match bytes.as_ref().map(|bytes| (bytes.len(), memfd::sealed(bytes))) {
                Some((len, Ok(payload))) => {
                    let said = ToWorker::SurveyReply { id, len: len as u64 };
                    outbox.say(said, Some(payload), Some(open));
                }
                Some((_, Err(error))) => {
                    tracing::error!(%error, "no room for a survey: a request is refused");
                    refuse_survey(&outbox, id, None, open);
                }
                None => refuse_survey(&outbox, id, None, open),
            }
        });
        Ok(())
    }
}

fn refuse_survey(outbox: &Outbox, id: u64, retry_after: Option<Duration>, open: Open) {
    outbox.say(ToWorker::SurveyRefused { id, retry_after }, None, Some(open));
}
