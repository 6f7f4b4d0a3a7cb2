//! What an upstream did, in the classes that decide what may be served instead.
#![forbid(unsafe_code)]

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The outcome classes of the staleness contract, without the good one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// Refused connection, DNS, TLS, timeout, reset, 408, 425, 429, 5xx, a body that is not what was announced.
    Unavailable,
    /// 401, or 403 for every document of the token.
    TokenRefused,
    /// 403 for this document.
    Refused,
    /// 404, 410, or the field is missing.
    Gone,
    /// Other 4xx, redirect to another origin or in a loop, an answer over its size limit.
    Misconfigured,
}

impl Class {
    /// The `code` of the problem document and of the log.
    pub fn code(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::TokenRefused | Self::Refused => "refused",
            Self::Gone => "gone",
            Self::Misconfigured => "misconfigured",
        }
    }

    /// The name in the log, which tells a refused token from a refused document.
    pub fn name(self) -> &'static str {
        match self {
            Self::TokenRefused => "token-refused",
            other => other.code(),
        }
    }
}

/// What exactly went wrong; each has a token for `Cache-Status: …; detail=` (RFC 9211 section 2.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    ConnectRefused,
    ConnectFailed,
    Dns,
    Tls,
    Timeout,
    Reset,
    Status(u16),
    /// The upstream says by something else than 429 that there were too many requests; the status that it said it with.
    RateLimited(u16),
    EmptyBody,
    InvalidBody,
    FieldMissing,
    RedirectElsewhere,
    RedirectLoop,
    DocumentTooLarge,
    ValueTooLarge,
    SourceReplaced,
    SourceUnreadable,
    /// A program ended with this exit code.
    Exit(u8),
    /// A program was ended by this signal.
    Killed(u8),
    /// A program could not be started.
    NotStarted,
    /// The token that the source needs could not be found at start.
    TokenMissing,
    /// A Hawk reply whose `Server-Authorization` does not verify.
    ReplyNotAuthentic,
    /// The two clocks differ and the upstream gave no trustworthy time.
    ClockSkew,
    /// There is no session: where it comes from refused the credentials. Or a message broker refuses user and password.
    LoginRefused,
    /// There is no session: where it comes from is down, or gave none.
    LoginFailed,
    /// A message broker returned a call: no queue takes it.
    NoConsumer,
    /// A message broker took a call, and no reply came in time.
    NoReply,
    /// A message broker closed the channel or the connection, or refused a message.
    BrokerClosed,
    /// A message broker refuses what the configuration names: virtual host, exchange, a permission.
    BrokerRefused,
    /// What came from a message broker is no frame that may come there.
    InvalidFrame,
}

impl Reason {
    /// The token that stands in `Cache-Status` and in the log.
    pub fn detail(self) -> &'static str {
        match self {
            Self::ConnectRefused => "connect-refused",
            Self::ConnectFailed => "connect-failed",
            Self::Dns => "dns",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::Reset => "reset",
            Self::Status(429) | Self::RateLimited(_) => "rate-limited",
            Self::Status(_) => "status",
            Self::EmptyBody => "empty-body",
            Self::InvalidBody => "invalid-body",
            Self::FieldMissing => "field-missing",
            Self::RedirectElsewhere => "redirect-elsewhere",
            Self::RedirectLoop => "redirect-loop",
            Self::DocumentTooLarge => "document-too-large",
            Self::ValueTooLarge => "value-too-large",
            Self::SourceReplaced => "source-replaced",
            Self::SourceUnreadable => "source-unreadable",
            Self::Exit(_) => "exit-code",
            Self::Killed(_) => "killed",
            Self::NotStarted => "not-started",
            Self::TokenMissing => "token-missing",
            Self::ReplyNotAuthentic => "reply-not-authentic",
            Self::ClockSkew => "clock-skew",
            Self::LoginRefused => "login-refused",
            Self::LoginFailed => "login-failed",
            Self::NoConsumer => "no-consumer",
            Self::NoReply => "no-reply",
            Self::BrokerClosed => "broker-closed",
            Self::BrokerRefused => "broker-refused",
            Self::InvalidFrame => "invalid-frame",
        }
    }

    /// Whether this says something of the whole origin, not of one document of it.
    pub fn is_of_origin(self) -> bool {
        matches!(
            self,
            Self::ConnectRefused
                | Self::ConnectFailed
                | Self::Dns
                | Self::Tls
                | Self::Timeout
                | Self::Status(429)
                | Self::RateLimited(_)
                | Self::LoginFailed
                | Self::BrokerClosed
                | Self::InvalidFrame
        )
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(code) => write!(f, "status {code}"),
            Self::RateLimited(code) => write!(f, "rate-limited with status {code}"),
            Self::Exit(code) => write!(f, "exit code {code}"),
            Self::Killed(signal) => write!(f, "killed by signal {signal}"),
            other => f.write_str(other.detail()),
        }
    }
}

/// A call that gave no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub class: Class,
    pub reason: Reason,
    /// What the upstream asked for (`Retry-After`, or the reset of its rate limit), capped by the caller.
    pub retry_after: Option<Duration>,
}

impl Failure {
    pub fn new(class: Class, reason: Reason) -> Self {
        Self { class, reason, retry_after: None }
    }

    pub fn unavailable(reason: Reason) -> Self {
        Self::new(Class::Unavailable, reason)
    }

    pub fn misconfigured(reason: Reason) -> Self {
        Self::new(Class::Misconfigured, reason)
    }

    /// The HTTP status of the upstream's answer, if it gave one that counts.
    pub fn status(&self) -> Option<u16> {
        match self.reason {
            Reason::Status(code) | Reason::RateLimited(code) => Some(code),
            _ => None,
        }
    }

    /// Whether back-off of the origin with its token applies, beside that of the document.
    pub fn is_of_origin(&self) -> bool {
        self.class == Class::Unavailable
            && (self.reason.is_of_origin() || (self.reason == Reason::Status(503) && self.retry_after.is_some()))
    }
}
