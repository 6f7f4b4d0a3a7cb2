//! Drills: for a while, failures stand in for the fetches of some keys, so that an outage can be seen before there is one.
//!
//! Nothing goes upstream for what a drill covers, and nothing of it stays: no refusal, no remembered failure, no back-off,
//! nothing on disk. It ends by its time, with whoever began it, and on a reload.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until};

use super::Engine;
use super::documents::Origin;
use crate::acl::Pattern;
use crate::config::{Document, TokenName};
use crate::ipc::wire::{Detail, FailureReply, Forward, Reply, Verdict};
use crate::outcome::{Class, Failure, Reason};
use crate::parent::pace::{Circumstances, Pace};
use crate::secret::KeyPath;
use crate::staleness::{Decision, View, decide};
use crate::sys::clock::boot_nanos;

/// The longest one.
pub(in crate::parent) const LONGEST: Duration = Duration::from_secs(60 * 60);
/// Lines of a report; what goes beyond is one number.
const LINES: usize = 1000;

/// What a drill is about.
pub(in crate::parent) enum Covers {
    Keys(Pattern),
    Token(TokenName),
    Origin(String),
}

/// What stands in for the upstream's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::parent) enum Fail {
    #[serde(rename = "connect")]
    Connect,
    #[serde(rename = "timeout")]
    Timeout,
    #[serde(rename = "503")]
    Unavailable,
    #[serde(rename = "401")]
    TokenRefused,
    #[serde(rename = "403")]
    Refused,
}

/// Why a drill is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(in crate::parent) enum Over {
    Time,
    /// The operator said so.
    Asked,
    HungUp,
    Reload,
}

/// Who was served what.
#[derive(Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(in crate::parent) struct Report {
    #[serde(skip)]
    rows: BTreeMap<(String, u32, KeyPath), Row>,
    /// Answers of which there is no line.
    others: u64,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Row {
    fresh: u64,
    stale: u64,
    /// The age of the oldest stale value, in seconds.
    oldest: Option<u64>,
    /// By status.
    failures: BTreeMap<u16, u64>,
}

pub(super) struct Drill {
    id: u64,
    covers: Covers,
    fail: Fail,
    began: Instant,
    until: Instant,
    report: Report,
    /// Back-off of the drill's own, so that only some wait for an upstream that does not answer.
    paces: HashMap<Origin, Pace>,
    ended: oneshot::Sender<(Over, serde_json::Value)>,
}

/// A drill under way; dropping it is hanging up.
pub(in crate::parent) struct Running {
    engine: Rc<Engine>,
    id: u64,
    /// Keys that have a value or are of the configuration.
    pub(in crate::parent) keys: usize,
    pub(in crate::parent) ended: oneshot::Receiver<(Over, serde_json::Value)>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.engine.end_drill(Some(self.id), Over::HungUp);
    }
}

/// Why there is no drill.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::parent) enum NoDrill {
    AlreadyOne,
    /// It would be about nothing.
    Nothing,
}

impl Fail {
    fn failure(self) -> Failure {
        match self {
            Self::Connect => Failure::unavailable(Reason::ConnectRefused),
            Self::Timeout => Failure::unavailable(Reason::Timeout),
            Self::Unavailable => Failure::unavailable(Reason::Status(503)),
            Self::TokenRefused => Failure::new(Class::TokenRefused, Reason::Status(401)),
            Self::Refused => Failure::new(Class::Refused, Reason::Status(403)),
        }
    }
}

impl Covers {
    fn covers(&self, key: &KeyPath, document: &Document) -> bool {
        match self {
            Self::Keys(pattern) => pattern.matches(&key.whole()),
            Self::Token(token) => document.needs(token),
            Self::Origin(origin) => document.asks(origin),
        }
    }

    pub(in crate::parent) fn told(&self) -> String {
        match self {
            Self::Keys(pattern) => format!("key {pattern}"),
            Self::Token(token) => format!("token {token}"),
            Self::Origin(origin) => format!("origin {origin}"),
        }
    }
}

impl Report {
    fn note(&mut self, uid: u32, client: &str, key: &KeyPath, reply: &Reply) {
        let of = (client.to_owned(), uid, key.clone());
        if self.rows.len() >= LINES && !self.rows.contains_key(&of) {
            self.others += 1;
            return;
        }
        let row = self.rows.entry(of).or_default();
        match reply {
            Reply::Value(value) if boot_nanos() < value.lease.fresh_until.0 => row.fresh += 1,
            Reply::Value(value) => {
                let age = boot_nanos().saturating_sub(value.lease.born.0) / 1_000_000_000;
                row.stale += 1;
                row.oldest = row.oldest.max(u64::try_from(age).ok());
            }
            Reply::Failure(failure) => {
                let status = if failure.class == Class::Unavailable { 503 } else { 502 };
                *row.failures.entry(status).or_default() += 1;
            }
            Reply::Denied | Reply::OverBudget { .. } | Reply::Busy | Reply::Raised { .. } => {}
        }
    }

    fn json(&self) -> serde_json::Value {
        let line = |((client, uid, key), row): (&(String, u32, KeyPath), &Row)| {
            serde_json::json!({
                "client": client, "uid": uid, "key": key, "fresh": row.fresh, "stale": row.stale,
                "oldest": row.oldest, "failures": row.failures,
            })
        };
        serde_json::json!({ "served": self.rows.iter().map(line).collect::<Vec<_>>(), "others": self.others })
    }
}

impl Engine {
    /// Begins one; the worker has forgotten what it covers when this returns.
    ///
    /// # Errors
    /// There is one already, or nothing that it would be about.
    pub(in crate::parent) async fn begin_drill(
        self: &Rc<Self>,
        covers: Covers,
        fail: Fail,
        length: Duration,
    ) -> Result<Running, NoDrill> {
        if self.drill.borrow().is_some() {
            return Err(NoDrill::AlreadyOne);
        }
        if !self.is_about_something(&covers) {
            return Err(NoDrill::Nothing);
        }
        let (tell, ended) = oneshot::channel();
        let began = Instant::now();
        let until = began + length.min(LONGEST);
        let id = self.counters.recalls().wrapping_add(u64::try_from(boot_nanos()).unwrap_or(0));
        let drill =
            Drill { id, covers, fail, began, until, report: Report::default(), paces: HashMap::new(), ended: tell };
        *self.drill.borrow_mut() = Some(drill);
        let covered = self.drilled_keys();
        let keys = covered.iter().map(KeyPath::whole).collect::<BTreeSet<_>>().len();
        let running = Running { engine: self.clone(), id, keys, ended };
        let engine = self.clone();
        tokio::task::spawn_local(async move {
            sleep_until(until).await;
            engine.end_drill(Some(id), Over::Time);
        });
        self.forget_leases(&covered).await;
        Ok(running)
    }

    /// Ends what drill there is: a reload does, since it may have changed what the drill was about.
    pub(super) fn end_drills(&self) {
        self.end_drill(None, Over::Reload);
    }

    /// Ends the drill if it is this one, or whichever there is. Whether there was one.
    pub(in crate::parent) fn end_drill(&self, id: Option<u64>, over: Over) -> bool {
        if self.drill.borrow().as_ref().is_none_or(|drill| id.is_some_and(|id| id != drill.id)) {
            return false;
        }
        // Whoever waits for a change is to look what is true again.
        let covered = self.drilled_keys();
        let Some(drill) = self.drill.take() else { return false };
        drop(self.recall_all(&covered));
        let seconds = drill.began.elapsed().as_secs();
        tracing::info!(covers = %drill.covers.told(), ?over, seconds, "the drill is over");
        let mut report = drill.report.json();
        report["covers"] = drill.covers.told().into();
        report["seconds"] = seconds.into();
        // Who began it may have gone.
        let _ = drill.ended.send((over, report));
        true
    }

    pub(in crate::parent) fn has_drill(&self) -> bool {
        self.drill.borrow().is_some()
    }

    /// For the report: an answer to a peer that this client grants the key.
    pub(in crate::parent) fn note_drilled(&self, uid: u32, client: &str, key: &KeyPath, reply: &Reply) {
        let verdict = match reply {
            Reply::Value(value) => value.verdict,
            Reply::Failure(failure) => failure.verdict,
            _ => return,
        };
        if let Some(drill) = self.drill.borrow_mut().as_mut()
            && verdict.detail == Some(Detail::Drill)
        {
            drill.report.note(uid, client, key, reply);
        }
    }

    /// For the operator's status.
    pub(super) fn status_of_drill(&self) -> serde_json::Value {
        let line = |drill: &Drill| {
            let left = drill.until.saturating_duration_since(Instant::now());
            serde_json::json!({ "covers": drill.covers.told(), "fail": drill.fail, "ends-in": left.as_secs() })
        };
        self.drill.borrow().as_ref().map(line).into()
    }

    pub(in crate::parent) fn is_drilled(&self, key: &KeyPath) -> bool {
        if !self.has_drill() {
            return false;
        }
        if let Some(parts) = self.parts_of(key) {
            return parts.iter().any(|part| self.is_drilled(part));
        }
        let (entries, documents) = (self.entries.borrow(), self.documents.borrow());
        let document = entries.get(key).and_then(|entry| documents.get(entry.document));
        document.is_some_and(|state| self.is_covered(key, &state.document))
    }

    pub(super) fn is_covered(&self, key: &KeyPath, document: &Document) -> bool {
        self.drill.borrow().as_ref().is_some_and(|drill| drill.covers.covers(key, document))
    }

    fn drilled_keys(&self) -> Vec<KeyPath> {
        let entries = self.entries.borrow();
        entries.keys().filter(|key| self.is_drilled(key)).cloned().collect()
    }

    fn is_about_something(&self, covers: &Covers) -> bool {
        let (entries, documents, tables) = (self.entries.borrow(), self.documents.borrow(), self.expanded.borrow());
        let mut fixed = entries.iter().filter_map(|(key, entry)| Some((key, documents.get(entry.document)?)));
        let of_tables = || {
            tables.iter().any(|table| match covers {
                Covers::Keys(pattern) => {
                    let paths = table.key.template.as_patterns();
                    paths.iter().any(|path| Pattern::parse(path).is_ok_and(|path| path.overlaps(pattern)))
                }
                Covers::Token(token) => table.key.source.any_document().needs(token),
                Covers::Origin(origin) => table.key.source.any_document().asks(origin),
            })
        };
        fixed.any(|(key, state)| covers.covers(key, &state.document)) || of_tables()
    }

    /// The answer under a drill; `None` where none covers the key, or not any more.
    pub(super) async fn ask_drilled(&self, key: &KeyPath, revalidate: bool) -> Option<Reply> {
        let (decision, origin, had_value) = {
            let (entries, documents) = (self.entries.borrow(), self.documents.borrow());
            let entry = entries.get(key)?;
            let state = documents.get(entry.document)?;
            if !self.is_covered(key, &state.document) {
                return None;
            }
            let age = entry.age(self.clock.now()).filter(|_| entry.has_bytes());
            let view = View { age, in_flight: None, attempt_due: true, revalidate };
            (decide(&entry.settings, &view), state.origin.clone(), age.is_some())
        };
        let detail = Some(Detail::Drill);
        let hit = Verdict { forward: Forward::Hit, fwd_status: None, stored: false, collapsed: false, detail };
        let Decision::Wait { up_to } = decision else { return Some(self.value(key, hit)) };
        let fail = self.drill.borrow().as_ref()?.fail;
        let asks = fail != Fail::Timeout || self.wait_in_vain(&origin, up_to).await?;
        if fail == Fail::Timeout {
            self.recollect(key).await;
            // It may have ended meanwhile, or be about something else.
            if !self.is_drilled(key) {
                return None;
            }
        }
        let forward = match (asks, revalidate, had_value) {
            (false, ..) => Forward::Hit,
            (true, true, _) => Forward::Request,
            (true, false, true) => Forward::Stale,
            (true, false, false) => Forward::UriMiss,
        };
        let failure = fail.failure();
        let verdict = Verdict { forward, fwd_status: failure.status().filter(|_| asks), ..hit };
        if self.entries.borrow().get(key)?.is_usable(self.clock.now()) {
            return Some(self.value(key, verdict));
        }
        let (class, reason, retry_after) = (failure.class, failure.reason, Duration::from_secs(1));
        Some(Reply::Failure(FailureReply { class, reason, verdict, retry_after }))
    }

    /// As for an upstream that does not answer: the first to ask wait, then nobody does until another attempt would be due.
    /// Whether this one waited; `None` when the drill is over.
    async fn wait_in_vain(&self, origin: &Origin, up_to: Duration) -> Option<bool> {
        let id = {
            let mut drill = self.drill.borrow_mut();
            let drill = drill.as_mut()?;
            let pace = drill.paces.entry(origin.clone()).or_default();
            if !pace.permits(Instant::now()) {
                return Some(false);
            }
            pace.begin();
            drill.id
        };
        let asked = Instant::now();
        sleep(up_to).await;
        let mut drill = self.drill.borrow_mut();
        let drill = drill.as_mut().filter(|drill| drill.id == id)?;
        let why = Circumstances { now: Instant::now(), retry_after: None, wanted: false, random: 0 };
        drill.paces.entry(origin.clone()).or_default().fail_since(asked, why);
        Some(true)
    }
}
