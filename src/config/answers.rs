//! What of an upstream's answer counts: which part of it is the value, and what else it is taken for.

use crate::template::Whole;

/// What of a document is the value.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Projection {
    Whole,
    /// The whole document, also when it is `null`: what a call returned.
    Returned,
    /// The object with these fields, in this order. Never empty.
    Fields(Vec<String>),
    /// The value at this JSON pointer (RFC 6901): its unescaped tokens.
    Pointer(Vec<String>),
    /// What these come to, one after the other. Never empty.
    Steps(Vec<Step>),
}

/// One step on the way to the value.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Step {
    Pointer(Vec<String>),
    Fields(Vec<String>),
    /// The first object of a list that has this member with this value, a string or another scalar.
    Where {
        member: String,
        value: String,
    },
    /// What is written in a string.
    Decode(Coding),
    /// The object whose members are what is written in those of this one.
    DecodeEach,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Coding {
    /// Text in base64 (RFC 4648 section 4), with or without padding.
    Base64,
    Json,
}

/// What an answer is taken for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct OutcomeRule {
    /// Empty is every status that is no good answer and no redirect.
    pub statuses: Vec<u16>,
    /// In lower case.
    pub header: Option<String>,
    /// Into the body, as in [`Projection::Pointer`].
    pub pointer: Option<Vec<String>>,
    pub test: Test,
    pub class: OutcomeClass,
}

/// What stands in the header, or at the pointer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Test {
    /// Something, that is not null.
    There,
    OneOf(Vec<String>),
    Matches(Whole),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum OutcomeClass {
    Unavailable,
    /// Unavailable, and so is all of the origin for this token.
    RateLimited,
    TokenRefused,
    Refused,
    Gone,
    Misconfigured,
}

/// Names of headers, in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct RateLimit {
    /// How many requests are left.
    pub remaining: String,
    /// Seconds, or the instant, until there are more.
    pub reset: Option<String>,
}
