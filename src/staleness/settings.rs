//! The settings of one key, resolved: its own, else its preset's, else `[defaults]`, else the table here.

use std::time::Duration;

/// A length of time that may have no end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub enum Span {
    Finite(Duration),
    Forever,
}

impl Span {
    pub const ZERO: Self = Self::Finite(Duration::ZERO);

    /// Whether something of this age is still within the span (exclusive: an age equal to it is not).
    pub fn covers(self, age: Duration) -> bool {
        match self {
            Self::Finite(length) => age < length,
            Self::Forever => true,
        }
    }

    /// The two spans one after the other.
    pub fn plus(self, other: Self) -> Self {
        match (self, other) {
            (Self::Finite(a), Self::Finite(b)) => a.checked_add(b).map_or(Self::Forever, Self::Finite),
            _ => Self::Forever,
        }
    }

    /// What is left of the span at this age; `None` when it has no end.
    pub fn left(self, age: Duration) -> Option<Duration> {
        match self {
            Self::Finite(length) => Some(length.saturating_sub(age)),
            Self::Forever => None,
        }
    }
}

/// When refusals make a value be given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Revocation {
    Never,
    /// This many refusals in a row, spread over at least this long.
    After {
        refusals: u32,
        over: Duration,
    },
}

/// What becomes of a credential that is asked for while there is nothing legal to serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum OnMissing {
    /// The unit does not start.
    Fail,
    /// It starts when there is a value; systemd bounds how long that takes.
    Wait,
}

/// Section 4 of the contract, for one key. All durations are exact; `timeout` etc. are of one request.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Settings {
    /// Younger than this: answered from memory, no upstream call.
    pub max_age: Span,
    /// For this long after `max_age`: answered at once, refreshed behind.
    pub stale_while_revalidate: Span,
    /// For this long after `max_age`: answered when the upstream is unavailable.
    pub stale_if_error: Span,
    /// Longest wait for the upstream when there is nothing to fall back on.
    pub timeout: Duration,
    /// Longest wait when there is something to fall back on.
    pub failover_timeout: Duration,
    /// Ends the call itself; at least `timeout`.
    pub fetch_timeout: Duration,
    /// How long a failure with nothing to fall back on is remembered.
    pub negative_max_age: Duration,
    /// Fetch in the background this often, and at start.
    pub refresh: Option<Duration>,
    pub revocation: Revocation,
    /// How long a key that left the configuration keeps its sealed file.
    pub forget_after: Span,
    /// Of credentials alone: no HTTP request waits for it.
    pub on_missing: OnMissing,
}

impl Default for Settings {
    fn default() -> Self {
        let day = Duration::from_secs(24 * 60 * 60);
        Self {
            max_age: Span::ZERO,
            stale_while_revalidate: Span::ZERO,
            stale_if_error: Span::Finite(7 * day),
            timeout: Duration::from_secs(5),
            failover_timeout: Duration::from_secs(5),
            fetch_timeout: Duration::from_secs(30),
            negative_max_age: Duration::from_secs(1),
            refresh: None,
            revocation: Revocation::After { refusals: 3, over: Duration::from_secs(600) },
            forget_after: Span::Finite(7 * day),
            on_missing: OnMissing::Fail,
        }
    }
}
