//! The channel between the two roles.
#![forbid(unsafe_code)]

pub mod channel;
mod counts;
pub mod record;
pub mod wire;
