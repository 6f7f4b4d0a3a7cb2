//! The frames between the parent and the runner: types alone, in the codec of [`super::wire`].
//!
//! What can be run is fixed at the start: the runner has a list of it from the root phase. The parent can name one by its
//! number, and nothing else.

use serde::{Deserialize, Serialize};

use super::wire::Layer;

/// Raised with every change of a frame.
pub const PROTOCOL: u16 = 1;

/// So many runs at a time. Who asks for more is not the parent.
pub const AT_ONCE: usize = 8;

/// The longest list, in bytes: more than a configuration can hold.
pub const LONGEST_LIST: u64 = 64 << 20;

/// The longest frame of the parent, in bytes.
pub const LONGEST: usize = 32;

/// What the parent says. Never with a descriptor.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToRunner {
    /// `id` is of no run that has not ended.
    Run { id: u64, program: u32 },
    /// Kill it, and all that it has started. It may have ended.
    Stop { id: u64 },
}

/// What the runner says.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromRunner {
    /// The first frame.
    Ready { protocol: u16, version: String, layers: Vec<Layer> },
    /// With one descriptor: what the program writes is read there.
    Output { id: u64 },
    /// With one descriptor: the token is written there.
    Token { id: u64 },
    /// Nothing of it is left. `said` is how many bytes it has written to its standard error.
    Ended { id: u64, end: End, said: u64 },
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    Exited(u8),
    /// By this signal.
    Killed(u8),
    /// errno of what failed.
    NotStarted(i32),
}
