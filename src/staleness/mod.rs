//! The staleness contract: the settings of a key, and the decision what to answer now.
//!
//! Pure: no clock is read and nothing is awaited here. The vocabulary is HTTP's (RFC 9111, RFC 5861).
#![forbid(unsafe_code)]

mod decide;
mod settings;

pub use decide::{Decision, View, decide, is_usable};
pub use settings::{OnMissing, Revocation, Settings, Span};
