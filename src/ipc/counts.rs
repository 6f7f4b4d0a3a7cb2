//! What the worker tells of its answers, for the operator's counts. Decides nothing.

use serde::{Deserialize, Serialize};

use super::wire::{Detail, Forward, Verdict};
use crate::secret::KeyPath;

/// What the worker has answered. Names that the parent does not know are not counted.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// How many there are now.
    pub connections: u32,
    /// By the client that grants; `None` where none does.
    pub requests: Vec<(Option<String>, Served, u32)>,
    /// Answers with a value of each key.
    pub serves: Vec<(KeyPath, u32)>,
}

/// How a request ended, for the operator's counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Served {
    /// A value from memory, as fresh as is wanted.
    Hit,
    /// A value that the upstream gave or confirmed for this request.
    Fetched,
    /// A value with a `detail`.
    Stale,
    /// A value, fresh or stale, while a drill stood in for the upstream.
    Drill,
    /// 403.
    Denied,
    /// 429.
    OverBudget,
    /// 502.
    Refused,
    /// 503.
    Unavailable,
    /// Any other status.
    Malformed,
}

impl Served {
    pub const ALL: [Self; 9] = [
        Self::Hit,
        Self::Fetched,
        Self::Stale,
        Self::Drill,
        Self::Denied,
        Self::OverBudget,
        Self::Refused,
        Self::Unavailable,
        Self::Malformed,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Fetched => "fetched",
            Self::Stale => "stale",
            Self::Drill => "drill",
            Self::Denied => "denied",
            Self::OverBudget => "over-budget",
            Self::Refused => "refused",
            Self::Unavailable => "unavailable",
            Self::Malformed => "malformed",
        }
    }

    /// Of an answer with a value.
    pub fn of_value(verdict: &Verdict) -> Self {
        match (verdict.detail, verdict.forward) {
            (Some(Detail::Drill), _) => Self::Drill,
            (Some(_), _) => Self::Stale,
            (None, Forward::Hit) => Self::Hit,
            (None, _) => Self::Fetched,
        }
    }

    /// Of an answer without a value.
    pub fn of_status(status: u16) -> Self {
        match status {
            403 => Self::Denied,
            429 => Self::OverBudget,
            502 => Self::Refused,
            503 => Self::Unavailable,
            _ => Self::Malformed,
        }
    }
}
