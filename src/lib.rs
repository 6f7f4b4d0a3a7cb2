//! keyhatch: a privilege-separated secret broker.

pub mod acl;
pub mod config;
pub mod ipc;
pub mod outcome;
pub mod secret;
pub mod staleness;
