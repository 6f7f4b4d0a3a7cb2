//! keyhatch: a privilege-separated secret broker.
//!
//! `keyhatch serve` is two processes. The [`parent`] holds tokens, fetches, and seals what it got; the [`worker`] speaks
//! HTTP to applications and holds values only under a lease. [`boot`] opens everything as root, starts the worker by
//! re-executing the binary, and drops. The two meet in [`ipc`], and both judge by the same [`acl`] and read keys with
//! parameters by the same [`template`].

pub mod acl;
pub mod arguments;
pub mod boot;
pub mod cli;
pub mod client;
pub mod config;
pub mod credential;
pub mod demo;
pub mod exit;
#[cfg(test)]
mod fuzz;
pub mod import;
pub mod ipc;
pub mod outcome;
pub mod parent;
pub mod runner;
pub mod secret;
mod shown;
pub mod staleness;
pub mod sys;
pub mod telemetry;
pub mod template;
pub mod worker;
