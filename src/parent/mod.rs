//! The parent: the only process that holds tokens, and the one that fetches.
//!
//! Judges every fetch again from the peer's own socket, and ends at the first surprise on the channel.
#![forbid(unsafe_code)]

mod admin;
pub mod cache;
mod calls;
mod clock;
mod credentials;
mod engine;
mod greeting;
mod in_flight;
mod judge;
mod notify;
mod openmetrics;
mod outbox;
mod pace;
mod relay;
pub mod reload;
mod repeats;
mod runner;
mod serve;
mod token;
mod units;
pub mod upstream;
mod vault;

pub use notify::ServiceManager;
pub use relay::LogOptions;
pub use runner::RunnerInputs;
pub use serve::{CacheInputs, ParentError, ParentInputs, run};
pub use units::UnitSource;
pub use upstream::{Authorities, SourceFile, SourceInputs};
pub use vault::{Vault, VaultError};
