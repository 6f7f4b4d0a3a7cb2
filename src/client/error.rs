//! Why there is no value. Never holds one.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::http::{Answer, Failed, reason};
use super::value::text;
use crate::secret::KeyPathError;
use crate::shown;

/// Why a request came to nothing.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The text is no key; nobody was asked.
    Key(KeyPathError),
    /// Nobody answers at the socket, or not in whole.
    NoBroker { socket: PathBuf, source: Failed },
    /// The client's own timeout is over.
    TimedOut { after: Duration },
    /// 400, 405, 406 and the like: asking again will not help.
    Malformed(Problem),
    /// 403: not granted to this process, or no such key.
    Denied(Problem),
    /// 429: this user has asked too much.
    OverBudget(Problem),
    /// 502: the upstream refuses or has no such value, and there is no older one that may be served.
    Refused(Problem),
    /// 503: the upstream is down and there is no older value that may be served; or the broker has no room.
    Unavailable(Problem),
    /// An answer that no broker gives.
    Unexpected(Problem),
    /// The blocking client was called within an asynchronous runtime, which it would stop.
    WithinRuntime,
}

/// What the broker says of a refusal (RFC 9457).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Problem {
    #[serde(skip)]
    pub status: u16,
    /// For programs: `denied`, `unavailable`, `refused`, `gone`, `misconfigured`, `over-budget` or `malformed`.
    #[serde(default)]
    pub code: String,
    /// For people.
    #[serde(default)]
    pub detail: String,
    /// Stands in the broker's log, too.
    #[serde(default, rename = "request-id")]
    pub request_id: String,
    #[serde(skip)]
    pub retry_after: Option<Duration>,
}

impl Problem {
    /// Nothing else is known.
    pub(super) fn of_status(status: u16) -> Self {
        let nothing = String::new;
        Self { status, code: nothing(), detail: nothing(), request_id: nothing(), retry_after: None }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let detail = if self.detail.is_empty() { "the broker refused" } else { &self.detail };
        write!(f, "{} {}", self.status, shown::part(detail))
    }
}

impl Error {
    /// Of an answer without a value.
    pub(super) fn of(answer: &Answer) -> Self {
        let mut problem: Problem =
            serde_json::from_slice(&answer.body).unwrap_or_else(|_| Problem::of_status(answer.status));
        problem.status = answer.status;
        let after = text(&answer.headers, "retry-after").and_then(|seconds| seconds.parse().ok());
        problem.retry_after = after.map(Duration::from_secs);
        match problem.status {
            403 => Self::Denied(problem),
            429 => Self::OverBudget(problem),
            502 => Self::Refused(problem),
            503 => Self::Unavailable(problem),
            400..=499 => Self::Malformed(problem),
            _ => Self::Unexpected(problem),
        }
    }

    /// Whether the same request may get a value later, without anybody doing anything.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::NoBroker { .. } | Self::TimedOut { .. } | Self::OverBudget(_) | Self::Unavailable(_))
    }

    /// When to try again: what the broker asks for, 1 to 5 s; 200 ms where nobody said anything, as while it restarts.
    pub fn retry_after(&self) -> Duration {
        match self.problem().and_then(|problem| problem.retry_after) {
            Some(asked) => asked.clamp(Duration::from_secs(1), Duration::from_secs(5)),
            None => Duration::from_millis(200),
        }
    }

    /// What the broker said, if it said anything.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Malformed(problem)
            | Self::Denied(problem)
            | Self::OverBudget(problem)
            | Self::Refused(problem)
            | Self::Unavailable(problem)
            | Self::Unexpected(problem) => Some(problem),
            Self::Key(_) | Self::NoBroker { .. } | Self::TimedOut { .. } | Self::WithinRuntime => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(error) => write!(f, "{error}"),
            Self::NoBroker { socket, source } => {
                write!(f, "no broker answers at {}: {}", socket.display(), reason(source))
            }
            Self::TimedOut { after } => write!(f, "the broker did not answer within {after:?}"),
            Self::WithinRuntime => write!(f, "the blocking client was called within an asynchronous runtime"),
            Self::Malformed(problem)
            | Self::Denied(problem)
            | Self::OverBudget(problem)
            | Self::Refused(problem)
            | Self::Unavailable(problem)
            | Self::Unexpected(problem) => write!(f, "{problem}"),
        }
    }
}

// The source of `NoBroker` is in its text already.
impl std::error::Error for Error {}
