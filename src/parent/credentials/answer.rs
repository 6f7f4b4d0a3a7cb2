//! One credential: judged, fetched or waited for, written or refused, told.

use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use zeroize::Zeroizing;

use super::claim::{self, Claim, Said};
use super::{Credentials, Phase, deny};
use crate::acl::Unit;
use crate::credential::LARGEST;
use crate::ipc::wire::{Body, Reply, RequestId, Served, ValueReply};
use crate::outcome::Class;
use crate::parent::engine::Asker;
use crate::secret::{KeyPath, SecretValue};

/// Who waits looks again this often: the upstream is not asked more often for that, as back-off says when.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How long a unit waits for its turn at a budget that many units share, whatever `on-missing` says.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection with what it asks for.
pub(super) struct Asked {
    pub(super) credentials: Rc<Credentials>,
    pub(super) claim: Claim,
    pub(super) request: RequestId,
    /// Something was written to it, by a broker that was killed.
    pub(super) begun: bool,
}

/// What is written: never empty, and never too long.
struct Given {
    client: String,
    key: KeyPath,
    bytes: Zeroizing<Vec<u8>>,
    served: Served,
    detail: Option<&'static str>,
}

struct Refused {
    client: Option<String>,
    key: Option<KeyPath>,
    served: Served,
    why: String,
}

impl Refused {
    fn denied(why: impl Into<String>) -> Self {
        Self { client: None, key: None, served: Served::Denied, why: why.into() }
    }
}

impl Asked {
    /// To its end: the peer has read all of a value, more than it takes, or is gone.
    pub(super) async fn answer(self, stream: &AsyncFd<OwnedFd>) {
        let Self { credentials, claim: Claim { pid, said }, request, begun } = self;
        let counts = &credentials.engine;
        let (unit, id, answer) = match said {
            Said::True { unit, id, .. } if begun => {
                let why = "something was written before the broker was killed".to_owned();
                (unit, id, Err(Refused { client: None, key: None, served: Served::Unavailable, why }))
            }
            Said::True { unit, id, process } => {
                let found = Search { credentials: &credentials, unit: &unit, id: &id, pid, request, process };
                let found = found.run().await;
                (unit, id, found)
            }
            Said::False { unit, id, within } => {
                let within = within.map_or("in no unit".to_owned(), |unit| format!("in {unit}"));
                (unit, id, Err(Refused::denied(format!("its process is {within}"))))
            }
            Said::Malformed => {
                counts.count_credential(None, Served::Denied, None);
                tracing::warn!(pid, %request, "credential refused: an address that systemd does not make");
                return deny(stream).await;
            }
        };
        let refused = match answer {
            Ok(Given { client, key, bytes, served, detail }) => match credentials.serve(stream, &bytes).await {
                Ok(false) => {
                    let why = "the broker ends in the middle of its value".to_owned();
                    Refused { client: Some(client), key: Some(key), served: Served::Unavailable, why }
                }
                written => {
                    counts.count_credential(Some(&client), served, Some(&key));
                    let verdict = served.name();
                    if written.is_ok() {
                        tracing::info!(%unit, id, %key, client, verdict, detail, pid, %request, "credential");
                    } else {
                        tracing::info!(%unit, id, %key, client, verdict, pid, %request, "credential: the unit has gone");
                    }
                    return;
                }
            },
            Err(refused) => refused,
        };
        let Refused { client, key, served, why } = refused;
        counts.count_credential(client.as_deref(), served, None);
        let (key, verdict) = (key.map(tracing::field::display), served.name());
        tracing::warn!(%unit, id, key, client, verdict, why, pid, %request, "credential refused");
        deny(stream).await;
    }
}

struct Search<'a> {
    credentials: &'a Credentials,
    unit: &'a Unit,
    id: &'a str,
    pid: i32,
    request: RequestId,
    process: AsyncFd<OwnedFd>,
}

/// What is looked out for while anything is waited for.
struct Watches {
    phase: watch::Receiver<Phase>,
    reloads: watch::Receiver<u64>,
}

impl Search<'_> {
    /// The value as things are in the end: judged anew with each reload, and waited for where that is wanted.
    async fn run(&self) -> Result<Given, Refused> {
        let Credentials { engine, judges, .. } = self.credentials;
        let mut watches = Watches { phase: self.credentials.phase.subscribe(), reloads: engine.reloads() };
        let (began, mut told) = (Instant::now(), false);
        loop {
            watches.reloads.mark_unchanged();
            let judge = judges.now();
            let Some((client, key)) = judge.credential(self.unit, self.id) else {
                return Err(Refused::denied("no client grants it to the unit"));
            };
            let client = client.to_owned();
            let refused = |served, why: String| {
                Err(Refused { client: Some(client.clone()), key: Some(key.clone()), served, why })
            };
            let asker = Asker { uid: 0, pid: self.pid, request: self.request, arguments: None };
            let reply = tokio::select! {
                biased;
                _ = watches.reloads.changed() => continue,
                _ = self.process.readable() => return refused(Served::Unavailable, "the unit has gone".into()),
                _ = watches.phase.wait_for(|phase| *phase == Phase::Ended) => {
                    return refused(Served::Unavailable, "the broker ends".into());
                }
                reply = engine.ask(&key, asker.clone(), false) => reply,
            };
            if engine.has_drill() {
                engine.note_drilled(0, &client, &key, &reply);
            }
            let waits = engine.waits_for(&key);
            let (served, why, wait) = match reply {
                Reply::Value(value) => return self.give(client, key, value),
                Reply::Denied => return refused(Served::Denied, "no key of the configuration is at its path".into()),
                Reply::Failure(failure) => {
                    let unavailable = failure.class == Class::Unavailable;
                    let served = if unavailable { Served::Unavailable } else { Served::Refused };
                    (
                        served,
                        format!("{}: {}", failure.class.name(), failure.reason),
                        waits.then_some(failure.retry_after),
                    )
                }
                // Nobody calls for a credential: it has no arguments.
                Reply::Raised { .. } => return refused(Served::Refused, "the service raised an exception".into()),
                Reply::OverBudget { retry_after } => {
                    let patient = waits || began.elapsed() < PATIENCE;
                    (Served::OverBudget, "over the budget of fetches".into(), patient.then_some(retry_after))
                }
                Reply::Busy => {
                    let patient = waits || began.elapsed() < PATIENCE;
                    (Served::Unavailable, "the parent is busy".into(), patient.then_some(LOOK_AGAIN))
                }
            };
            let Some(wait) = wait else { return refused(served, why) };
            if !std::mem::replace(&mut told, true) {
                tracing::info!(unit = %self.unit, id = self.id, %key, why, request = %self.request, "credential: the unit waits");
            }
            if let ControlFlow::Break(end) = self.wait(&mut watches, wait).await {
                return refused(served, format!("{end}; {why}"));
            }
        }
    }

    /// Until it is time to look again, or why that will not be.
    async fn wait(&self, watches: &mut Watches, wait: Duration) -> ControlFlow<&'static str> {
        tokio::select! {
            biased;
            _ = watches.reloads.changed() => ControlFlow::Continue(()),
            _ = self.process.readable() => ControlFlow::Break("the unit has gone"),
            _ = watches.phase.wait_for(|phase| *phase > Phase::Serving) => ControlFlow::Break("the broker ends"),
            () = sleep(wait.min(LOOK_AGAIN)) => ControlFlow::Continue(()),
        }
    }

    fn give(&self, client: String, key: KeyPath, value: ValueReply) -> Result<Given, Refused> {
        let (served, detail) = (Served::of_value(&value.verdict), value.verdict.detail.map(|detail| detail.token()));
        let refused =
            |served, why: String| Err(Refused { client: Some(client.clone()), key: Some(key.clone()), served, why });
        if claim::has_ended(&self.process) {
            return refused(Served::Unavailable, "the unit has gone".into());
        }
        // The engine's own answers are never anywhere else.
        let Body::Inline(mut json) = value.body else { return refused(Served::Refused, "no value".into()) };
        let value = SecretValue::from_json(Zeroizing::new(std::mem::take(&mut json.0)));
        let bytes = match value.text() {
            Some(mut text) => Zeroizing::new(std::mem::take(&mut *text).into_bytes()),
            None => Zeroizing::new(value.json().to_vec()),
        };
        if bytes.is_empty() {
            return refused(Served::Refused, "the value is empty, as it would be if there were none".into());
        }
        if bytes.len() + self.id.len() >= LARGEST {
            return refused(Served::Refused, format!("the value has {} bytes, and systemd takes 1 MiB", bytes.len()));
        }
        Ok(Given { client, key, bytes, served, detail })
    }
}
