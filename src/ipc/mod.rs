//! The channel between the two roles.
#![forbid(unsafe_code)]

pub mod channel;
mod counts;
#[cfg(test)]
mod fuzz;
pub mod record;
pub mod run;
pub mod wire;
