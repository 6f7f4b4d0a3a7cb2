//! `keyhatch reload`, as the parent sees it: takes a configuration and opened files from root's own command, and puts them in
//! the place of what there is, as a whole or not at all.
//!
//! Opens nothing, and believes nothing that it can find out: tokens are read and checked again, settings that need a restart
//! are compared here. Whatever comes that is no use costs the connection that it came by, and nothing else.

mod receive;
mod take;
mod wire;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use self::receive::Received;
pub use self::wire::{
    Given, Greeting, MAX_CONFIG, MAX_DESCRIPTORS, MAX_OFFER, NOTHING, Offer, Offered, Refusal, Step, TokenOutcome,
    UPGRADE,
};
use super::engine::{Engine, NewTokens, Reconfigured, Trial};
use super::greeting::Share;
use super::judge::Judges;
use super::outbox::Outbox;
use super::upstream::{Authorities, SourceInputs};
use super::vault::Vault;
use crate::config::{Fixed, SecretFile, TokenFiles, TokenName, served};
use crate::sys::memfd;
use crate::sys::replaced::{Watch, Watched};

/// How long the command may take to read and open everything.
const OFFER: Duration = Duration::from_secs(30);
/// How long the worker may take to say that it has forgotten.
const CONFIRM: Duration = Duration::from_secs(10);
/// How long the command may take to read a line.
const TELL: Duration = Duration::from_secs(5);
/// So many wait for their turn.
const WAITING: usize = 8;

/// Where the configuration is, and whose word on it counts.
#[derive(Debug, Clone)]
pub struct Origin {
    /// Absolute.
    pub config: PathBuf,
    /// Started as root: the user that this runs as now is nobody who may change anything.
    pub privileged: bool,
}

pub(super) struct Reloader {
    engine: Rc<Engine>,
    outbox: Outbox,
    judges: Rc<Judges>,
    origin: Origin,
    fixed: Fixed,
    /// Where the tokens that there are come from.
    tokens: RefCell<BTreeMap<TokenName, SecretFile>>,
    log_requests: bool,
    turn: Semaphore,
    waiting: Cell<usize>,
}

/// Why nothing was changed.
struct Refused(Refusal, String);

fn no_use(detail: impl Into<String>) -> Refused {
    Refused(Refusal::Configuration, detail.into())
}

/// Why what is wanted cannot be taken over, if so.
pub fn needs_restart(running: &Fixed, wanted: &Fixed) -> Option<String> {
    let refused = running.refused(wanted);
    (!refused.is_empty()).then(|| format!("this needs a restart: {}", refused.join("; ")))
}

impl Reloader {
    pub(super) fn new(
        origin: Origin,
        fixed: Fixed,
        tokens: BTreeMap<TokenName, SecretFile>,
        (engine, outbox, judges): (Rc<Engine>, Outbox, Rc<Judges>),
        log_requests: bool,
    ) -> Rc<Self> {
        Rc::new(Self {
            engine,
            outbox,
            judges,
            origin,
            fixed,
            tokens: RefCell::new(tokens),
            log_requests,
            turn: Semaphore::new(1),
            waiting: Cell::new(0),
        })
    }

    /// What this broker was started with.
    pub(super) fn greeting(&self) -> Greeting {
        Greeting { version: version(), config: self.origin.config.clone(), fixed: self.fixed.clone() }
    }

    /// One conversation, to its end. One after another: each reads the configuration when it is its turn.
    async fn converse(self: Rc<Self>, mut stream: UnixStream) {
        if self.waiting.get() >= WAITING {
            let detail = format!("{WAITING} reloads are waiting for another one to end; try again later");
            return tell(&mut stream, &Step::Refused { why: Refusal::Unavailable, detail }).await;
        }
        self.waiting.set(self.waiting.get() + 1);
        let turn = self.turn.acquire().await;
        self.waiting.set(self.waiting.get() - 1);
        let Ok(turn) = turn else { return };
        if say(&mut stream, &self.greeting()).await.is_none() {
            return;
        }
        let applied = match timeout(OFFER, receive::receive(&stream)).await {
            Ok(Ok(received)) => self.apply(received).await,
            Ok(Err(refused)) => Err(refused),
            Err(_) => Err(no_use("no configuration was offered in time")),
        };
        match applied {
            Ok((step, reconfigured)) => {
                // What others want to change does not wait for upstreams.
                drop(turn);
                tell(&mut stream, &step).await;
                if let Step::Applied { .. } = step {
                    self.tell_tokens(&mut stream, reconfigured).await;
                }
            }
            Err(Refused(why, detail)) => {
                tracing::warn!(detail, "a reload is refused: nothing was changed");
                tell(&mut stream, &Step::Refused { why, detail }).await;
            }
        }
    }

    async fn apply(&self, received: Received) -> Result<(Step, Reconfigured), Refused> {
        let Received { offered, descriptors } = received;
        if let Some(detail) = needs_restart(&self.fixed, &offered.fixed) {
            return Err(Refused(Refusal::NeedsRestart, detail));
        }
        let mut descriptors = descriptors.into_iter();
        let origins: BTreeMap<TokenName, SecretFile> =
            offered.tokens.iter().map(|(name, from, _)| (name.clone(), from.clone())).collect();
        let tokens = self.tokens(offered.tokens, &mut descriptors, &offered.live.token_files())?;
        let inputs = source_inputs(offered.files, offered.authorities, &mut descriptors)?;
        if descriptors.next().is_some() {
            return Err(no_use("more descriptors came than are named"));
        }
        let mut live = offered.live;
        let sources = self.engine.renewed_sources(&live, inputs).map_err(|error| no_use(error.to_string()))?;
        let prepared = self.engine.prepare(&live).await;

        let acl = std::mem::take(&mut live.acl);
        let share = Share {
            generation: self.outbox.next_generation(),
            limits: &live.limits,
            keys: &live.keys,
            templates: &live.templates,
            acl: &acl,
            // A user, group or token that is missing is an error of a reload.
            degraded: false,
            log_requests: self.log_requests,
        };
        let generation = share.generation;
        let bytes = share.encode().ok_or(no_use("the configuration cannot be encoded for the worker"))?;
        let payload = memfd::sealed(&bytes).map_err(|error| Refused(Refusal::Unavailable, error.to_string()))?;
        let (keys, clients, most) =
            (served(&live.keys).count() + live.templates.len(), acl.clients.len(), live.limits.memory);

        let paths = served(&live.keys).map(|key| key.path.whole()).collect();

        // From here to the recall nothing waits and nothing fails.
        self.judges.replace(acl, paths);
        let reconfigured = self.engine.reconfigure(live, prepared, sources, tokens);
        self.tokens.replace(origins);
        self.outbox.set_most(most);
        self.outbox.recall_all();
        self.outbox.configure(payload, bytes.len() as u64);

        tracing::info!(generation, keys, clients, removed = reconfigured.removed, "reloaded");
        tokio::task::spawn_local(self.engine.clone().mark_left());
        if timeout(CONFIRM, self.outbox.until_confirmed()).await.is_err() {
            tracing::error!(generation, "the worker does not say that it judges by the new configuration");
            return Ok((Step::WorkerStuck { generation }, reconfigured));
        }
        let Reconfigured { removed, redefined, .. } = reconfigured;
        Ok((Step::Applied { generation, keys, clients, removed, redefined }, reconfigured))
    }

    /// Reads those that came, and finds those that are to stay.
    fn tokens(
        &self,
        offered: Vec<(TokenName, SecretFile, Given)>,
        descriptors: &mut impl Iterator<Item = OwnedFd>,
        files: &TokenFiles,
    ) -> Result<NewTokens, Refused> {
        let (mut opened, mut kept) = (Vec::new(), Vec::new());
        let vault = self.engine.vault();
        for (name, from, given) in offered {
            match given {
                Given::Opened => {
                    let fd = descriptors.next().ok_or(no_use("fewer descriptors came than are named"))?;
                    opened.push((name, from, Ok(fd)));
                }
                Given::Kept => {
                    let same = self.tokens.borrow().get(&name) == Some(&from);
                    if !same || vault.get(&name).is_none() {
                        return Err(no_use(format!(
                            "token `{name}`: {from} is not there yet, and $CREDENTIALS_DIRECTORY is not set: have the unit \
                             run this, by ExecReload="
                        )));
                    }
                    // It may be needed for something else now.
                    vault.judge(&name, &from, files).map_err(|error| no_use(error.to_string()))?;
                    kept.push(name);
                }
            }
        }
        let given = Vault::read(opened, files).map_err(|error| no_use(error.to_string()))?;
        Ok(NewTokens { given, kept })
    }

    /// Each of the tokens that changed is tried alone, all at a time: a slow upstream holds up its own only.
    async fn tell_tokens(&self, stream: &mut UnixStream, reconfigured: Reconfigured) {
        let mut trials = JoinSet::new();
        for name in reconfigured.taken {
            tell(stream, &Step::Token { token: name.0, outcome: TokenOutcome::Taken, reason: None }).await;
        }
        for (name, candidate) in reconfigured.changed {
            let (engine, reload) = (self.engine.clone(), reconfigured.reload);
            trials.spawn_local(async move {
                let trial = engine.try_token(&name, candidate, reload).await;
                (name, trial)
            });
        }
        let mut refused_tokens = 0;
        while let Some(tried) = trials.join_next().await {
            let Ok((name, trial)) = tried else { continue };
            let (outcome, reason) = match trial {
                Trial::Accepted => (TokenOutcome::Accepted, None),
                Trial::Unused => (TokenOutcome::Taken, None),
                Trial::Refused(reason) => (TokenOutcome::Refused, reason.map(|reason| reason.to_string())),
                Trial::Unproven(reason) => {
                    tracing::warn!(token = %name, %reason, "the new token is unproven: it is tried first from now on");
                    (TokenOutcome::Unproven, Some(reason.to_string()))
                }
                Trial::NothingToTry => {
                    (TokenOutcome::Unproven, Some("nobody has asked for a key of it yet".to_owned()))
                }
                Trial::Overtaken => (TokenOutcome::Overtaken, None),
            };
            refused_tokens += usize::from(outcome == TokenOutcome::Refused);
            tell(stream, &Step::Token { token: name.0, outcome, reason }).await;
        }
        tell(stream, &Step::Done { refused_tokens }).await;
    }
}

fn source_inputs(
    files: Vec<(PathBuf, Option<Watched>)>,
    authorities: Vec<PathBuf>,
    descriptors: &mut impl Iterator<Item = OwnedFd>,
) -> Result<SourceInputs, Refused> {
    let mut inputs = SourceInputs::default();
    let mut next = || descriptors.next().map(File::from).ok_or(no_use("fewer descriptors came than are named"));
    for (path, watched) in files {
        let file = next()?;
        let watch = match watched {
            Some(watched) => Some(Watch::from_parts(path.clone(), next()?.into(), watched)),
            None => None,
        };
        inputs.files.insert(path, (file, watch).into());
    }
    for path in authorities {
        let found = Authorities::read(&next()?).map_err(|error| no_use(format!("{}: {error}", path.display())))?;
        inputs.authorities.insert(path, found);
    }
    Ok(inputs)
}

fn version() -> String {
    env!("CARGO_PKG_VERSION").to_owned()
}

/// One line; a command that has gone misses it.
async fn tell(stream: &mut UnixStream, step: &Step) {
    let _ = say(stream, step).await;
}

async fn say(stream: &mut UnixStream, line: &impl serde::Serialize) -> Option<()> {
    let mut text = serde_json::to_vec(line).ok()?;
    text.push(b'\n');
    timeout(TELL, tokio::io::AsyncWriteExt::write_all(stream, &text)).await.ok()?.ok()
}
