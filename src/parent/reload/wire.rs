//! What `keyhatch reload` and the parent say to each other, once the operator's connection is theirs alone.
//!
//! The parent greets with a line, the command offers a configuration with what it has opened, and the parent tells what
//! became of it, a line for each step. Lines are JSON; what is offered crosses as a sealed memfd and descriptors.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::{Fixed, Live, SecretFile, TokenName};
use crate::sys::replaced::Watched;

/// What the connection is upgraded to (RFC 9110 section 7.8).
pub const UPGRADE: &str = "keyhatch-reload";
/// The longest offer, in bytes.
pub const MAX_OFFER: usize = 1024;
/// The longest configuration, in bytes.
pub const MAX_CONFIG: u64 = 64 << 20;
/// The most descriptors: tokens, files and authorities together.
pub const MAX_DESCRIPTORS: u32 = 4096;

/// The parent's first line.
#[derive(Debug, Serialize, Deserialize)]
pub struct Greeting {
    pub version: String,
    /// What the broker was started with.
    pub config: PathBuf,
    /// What it cannot take over, so that the command need not open what is refused anyway.
    pub fixed: Fixed,
}

/// What a command sends that has nothing to offer: the configuration did not pass, and it has told why.
pub const NOTHING: [u8; 4] = [0; 4];

/// After its length as four bytes, the lowest first; with one descriptor, the memfd with the postcard encoding of
/// [`Offered`]. The others follow beside single bytes.
#[derive(Debug, Serialize, Deserialize)]
pub struct Offer {
    pub version: String,
    /// Of the memfd.
    pub len: u64,
    pub descriptors: u32,
}

/// Descriptors come in the order of these: tokens that are given, files each with what it is watched by, authorities.
#[derive(Debug, Serialize, Deserialize)]
pub struct Offered {
    pub fixed: Fixed,
    pub live: Live,
    pub tokens: Vec<(TokenName, SecretFile, Given)>,
    pub files: Vec<(PathBuf, Option<Watched>)>,
    pub authorities: Vec<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Given {
    /// There is a descriptor.
    Opened,
    /// A credential that the command does not see: the broker's own stays.
    Kept,
}

/// What became of a reload, step by step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum Step {
    /// Nothing was changed.
    Refused {
        why: Refusal,
        detail: String,
    },
    /// Both roles judge by the new configuration, and nothing of the old one is left in memory.
    Applied {
        generation: u64,
        keys: usize,
        clients: usize,
        /// Keys that are not in the configuration any more.
        removed: usize,
        /// Keys whose source is defined otherwise, with the values that are lost with that.
        redefined: usize,
    },
    Token {
        token: String,
        outcome: TokenOutcome,
        reason: Option<String>,
    },
    /// The parent judges by the new configuration, and the worker does not say whether it does. The last one.
    WorkerStuck {
        generation: u64,
    },
    /// The last one, if anything was applied.
    Done {
        refused_tokens: usize,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    NeedsRestart,
    /// What was offered is no use.
    Configuration,
    /// Nothing is wrong with it: there is no room, or others are first.
    Unavailable,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TokenOutcome {
    /// There was none of this name, or nothing needs it.
    Taken,
    Accepted,
    /// The one before stays.
    Refused,
    /// Both stay: the new one is tried first at every fetch.
    Unproven,
    /// Another reload has brought another one.
    Overtaken,
}
