//! The frames between worker and parent: types, and a bounded codec. Bytes in, bytes out; no I/O.
//!
//! Each direction has its own type, so that a message the wrong way does not compile. Anything that
//! does not decode is fatal to the reader: there is no frame to skip.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

pub use super::counts::{Counted, Served};
use crate::acl::{Acl, Unit};
use crate::config::Limits;
use crate::outcome::{Class, Reason};
use crate::secret::{KeyPath, WireBytes};
use crate::template::Template;

/// Raised with every change of a frame.
pub const PROTOCOL: u16 = 9;

/// The longest frame, in bytes. Larger payloads cross as a sealed memfd beside the frame.
pub const MAX_FRAME: usize = 64 * 1024;

/// The largest payload that stands inside a frame.
pub const MAX_INLINE: usize = 32 * 1024;

/// What the worker says.
#[derive(Serialize, Deserialize)]
pub enum ToParent {
    /// The first frame. Both ends must be of one version.
    Hello { protocol: u16, version: String },
    /// The worker is dropped, configured and about to accept.
    Ready { layers: Vec<Layer> },
    /// With exactly one fd: the peer's own socket.
    Fetch(FetchRequest),
    /// A part of the arguments of the [`Fetch`](Self::Fetch) with this number, which follows the last part.
    Arguments { id: u64, part: WireBytes },
    /// With exactly one fd: the peer's own socket. Asks for the states of the keys that the peer may read.
    Survey { id: u64, request: RequestId },
    /// With exactly one fd: the peer's own socket. Asks for the unit that the peer is in.
    Attest { id: u64 },
    /// With exactly one fd: a connection of root's with an address like systemd's. The worker keeps it open, and does nothing
    /// with it, until [`ToWorker::CredentialEnded`].
    Credential { id: u64, request: RequestId },
    /// The connection that this fact was about has ended.
    Parted { fact: u64 },
    /// How often values of keys with parameters were given from memory since the last time. Says which of them go first
    /// when there are too many, and nothing else.
    Used { uses: Vec<(KeyPath, u32)> },
    /// What was answered since the last time, for the operator. Nothing else follows from it.
    Counted(Counted),
    /// The values named by this recall are out of the worker's memory.
    Recalled { serial: u64 },
    /// The answer to [`ToWorker::Ping`].
    Pong { serial: u64 },
    /// Requests are judged by the configuration of this generation, and nothing is left of the one before.
    Configured { generation: u64 },
    /// Nothing is in flight any more; the worker is about to exit.
    Drained,
}

/// One layer of a role's confinement, and how far it reaches; for the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    pub name: String,
    pub level: String,
    pub holds: bool,
}

/// A peer wants this key, and the worker has no value that it may give.
#[derive(Serialize, Deserialize)]
pub struct FetchRequest {
    /// Chosen by the worker, different for each request in flight.
    pub id: u64,
    pub request: RequestId,
    pub key: KeyPath,
    /// `Cache-Control: no-cache`: ask the upstream even if the value is fresh.
    pub revalidate: bool,
    /// Of a call. The key has no digest of them: the parent makes it.
    pub arguments: Option<SentArguments>,
}

/// JSON that the parent reads anew.
#[derive(Serialize, Deserialize)]
pub enum SentArguments {
    Inline(WireBytes),
    /// In the parts before this.
    Before,
}

/// Stands in the log and in error answers: 16 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RequestId(pub u64);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What the parent says.
#[derive(Serialize, Deserialize)]
pub enum ToWorker {
    /// With exactly one fd: a sealed memfd with the postcard encoding of a [`WorkerConfig`]. The first one is answered with
    /// [`ToParent::Ready`], those of reloads with [`ToParent::Configured`].
    Configure { generation: u64, len: u64 },
    /// With one fd if the body is a memfd, else with none.
    Reply { id: u64, reply: Reply },
    /// With one fd: a sealed memfd with the postcard encoding of a [`Survey`].
    SurveyReply { id: u64, len: u64 },
    /// A survey that was not answered: the peer is not who it should be, or is over its budget.
    SurveyRefused { id: u64, retry_after: Option<Duration> },
    /// `None`: the parent is short of descriptors or memory just now.
    Attested { id: u64, attestation: Option<Attestation> },
    /// The process has ended whose unit this fact was about, or the fact is not remembered any more: to be asked again.
    Unattested { fact: u64 },
    /// The connection is at its end for all who have it. Not `ended`: the parent has no descriptor for it, and the worker
    /// refuses it.
    CredentialEnded { id: u64, ended: bool },
    /// The value that the worker may hold of this key was confirmed: its lease is now this one.
    Renew { key: KeyPath, etag: Tag, lease: Lease },
    /// Forget these values, then say [`ToParent::Recalled`].
    Recall { serial: u64, keys: Recall },
    /// Whether the worker's event loop goes round: answered by [`ToParent::Pong`].
    Ping { serial: u64 },
    /// Stop accepting, finish what is in flight within this time, exit.
    Drain { within: Duration },
}

#[derive(Serialize, Deserialize)]
pub enum Recall {
    All,
    Keys(Vec<KeyPath>),
}

/// What the parent knows of the unit of a peer: for this connection, until [`ToWorker::Unattested`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attestation {
    /// Its number; `None` if nothing was looked at, so that nothing can end.
    pub fact: Option<u64>,
    pub unit: Option<Unit>,
}

/// The subset of the configuration that the worker needs. No path, URL or token name is in it.
#[derive(Clone, Serialize, Deserialize)]
pub struct WorkerConfig {
    pub generation: u64,
    pub limits: Limits,
    pub keys: Vec<WorkerKey>,
    /// In the order in which they are tried.
    pub templates: Vec<WorkerTemplate>,
    pub acl: Acl,
    /// A user, group or token of the configuration is missing: health says `degraded`.
    pub degraded: bool,
    /// One log line for each request.
    pub log_requests: bool,
}

#[derive(Clone, Serialize, Deserialize)]
pub struct WorkerKey {
    pub path: KeyPath,
    /// How long the worker waits for a reply before it gives up on the parent: the longest legal wait and some.
    pub patience: Duration,
}

/// A key with parameters.
#[derive(Clone, Serialize, Deserialize)]
pub struct WorkerTemplate {
    pub template: Template,
    pub patience: Duration,
    /// A request says what its source is called with.
    pub takes_arguments: bool,
}

#[derive(Serialize, Deserialize)]
pub enum Reply {
    Value(ValueReply),
    Failure(FailureReply),
    /// The service was called and raised this: a JSON object, at most [`MAX_INLINE`] bytes.
    Raised {
        exception: WireBytes,
        verdict: Verdict,
    },
    /// The parent's own judgement: this peer may not read this key.
    Denied,
    /// The peer is over `fetches-per-user` and there is nothing legal to serve.
    OverBudget {
        retry_after: Duration,
    },
    /// The parent is short of descriptors or memory just now.
    Busy,
}

#[derive(Serialize, Deserialize)]
pub struct ValueReply {
    pub verdict: Verdict,
    pub lease: Lease,
    /// Of the JSON form.
    pub etag: Tag,
    /// Of the text form, if the value has one.
    pub etag_text: Option<Tag>,
    pub body: Body,
}

/// JSON bytes.
#[derive(Serialize, Deserialize)]
pub enum Body {
    Inline(WireBytes),
    /// In the memfd beside the frame.
    Memfd {
        len: u64,
    },
}

/// An entity tag without its quotes: 128 bits of a keyed hash, as 32 hex digits in the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Tag(pub [u8; 16]);

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// How long the worker may answer by itself. Instants of `CLOCK_BOOTTIME`, which both roles share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// When the value had age 0; may lie before the boot.
    pub born: BootInstant,
    /// Until then it is fresh. Equal to or before `born` for values that are never fresh.
    pub fresh_until: BootInstant,
    /// Until then it may be given without asking, though stale; at least `fresh_until`, but for a value that the worker is
    /// not to keep at all.
    pub usable_until: BootInstant,
    /// What `Cache-Status` says of it when stale.
    pub stale_detail: Detail,
}

/// Nanoseconds of `CLOCK_BOOTTIME`; negative before the boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BootInstant(pub i64);

/// What the answer says of the cache, in the terms of RFC 9211; the worker adds `ttl`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    pub forward: Forward,
    /// The status of the upstream's answer, if it gave one.
    pub fwd_status: Option<u16>,
    pub stored: bool,
    /// The request joined a fetch that another one had started.
    pub collapsed: bool,
    pub detail: Option<Detail>,
}

/// Whether the upstream was asked, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Forward {
    /// Not asked: `hit`.
    Hit,
    /// There was no value: `fwd=uri-miss`.
    UriMiss,
    /// The value was stale: `fwd=stale`.
    Stale,
    /// The peer said `no-cache`: `fwd=request`.
    Request,
}

/// The `detail` parameter of `Cache-Status` (RFC 9211 section 2.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Detail {
    /// Stale, and the upstream failed in this way.
    Failed(Reason),
    /// Stale, and the upstream did not answer within `failover-timeout`.
    FailoverTimeout,
    /// Stale within `stale-while-revalidate`; a refresh runs behind the answer.
    Revalidating,
    /// Stale, and the upstream answered with an error status.
    StaleIfError,
    /// The upstream failed, and the next attempt is not due yet.
    BreakerOpen,
    /// Stale, and the peer is over `fetches-per-user`.
    OverBudget,
    /// A drill stands in for the upstream.
    Drill,
}

impl Detail {
    pub fn token(self) -> &'static str {
        match self {
            Self::Failed(reason) => reason.detail(),
            Self::FailoverTimeout => "failover-timeout",
            Self::Revalidating => "revalidating",
            Self::StaleIfError => "stale-if-error",
            Self::BreakerOpen => "breaker-open",
            Self::OverBudget => "over-budget",
            Self::Drill => "drill",
        }
    }
}

#[derive(Serialize, Deserialize)]
pub struct FailureReply {
    pub class: Class,
    pub reason: Reason,
    pub verdict: Verdict,
    /// When asking again can help.
    pub retry_after: Duration,
}

/// What the peer may read, and how it is.
#[derive(Serialize, Deserialize)]
pub struct Survey {
    pub keys: Vec<KeyState>,
    /// A drill covers one of them.
    pub drill: bool,
}

#[derive(Serialize, Deserialize)]
pub struct KeyState {
    pub key: KeyPath,
    pub state: State,
    /// Of the value held, if there is one.
    pub age: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// A value, and the last fetch was good.
    Fresh,
    /// A value past its `max-age` that was not refused: the next request asks the upstream.
    Stale,
    /// The last fetch failed.
    Failing,
    /// Refused often and long enough that the value was withheld or shredded.
    Revoked,
    NeverFetched,
}

/// Why bytes are no frame. Fatal to whoever reads them.
#[derive(Debug)]
pub enum WireError {
    TooLong { len: usize },
    Malformed(postcard::Error),
    Trailing { bytes: usize },
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { len } => write!(f, "a frame of {len} bytes, the longest legal one has {MAX_FRAME}"),
            Self::Malformed(_) => write!(f, "a frame that does not decode"),
            Self::Trailing { bytes } => write!(f, "{bytes} bytes after the end of a frame"),
        }
    }
}

impl std::error::Error for WireError {}

/// Encodes one frame; fails if it would exceed [`MAX_FRAME`].
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, WireError> {
    let bytes = postcard::to_stdvec(message).map_err(WireError::Malformed)?;
    if bytes.len() > MAX_FRAME {
        return Err(WireError::TooLong { len: bytes.len() });
    }
    Ok(bytes)
}

/// Decodes exactly one frame. Allocates no more than the frame's own length times a small constant.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, WireError> {
    if bytes.len() > MAX_FRAME {
        return Err(WireError::TooLong { len: bytes.len() });
    }
    decode_payload(bytes)
}

/// Decodes a payload that crossed as a memfd. The caller has checked its length against a cap of its own.
pub fn decode_payload<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, WireError> {
    let (message, rest) = postcard::take_from_bytes(bytes).map_err(WireError::Malformed)?;
    match rest.len() {
        0 => Ok(message),
        bytes => Err(WireError::Trailing { bytes }),
    }
}
