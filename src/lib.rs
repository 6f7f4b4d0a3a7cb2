//! keyhatch: a privilege-separated secret broker.

pub mod acl;
pub mod boot;
pub mod config;
pub mod ipc;
pub mod outcome;
pub mod parent;
pub mod secret;
pub mod staleness;
pub mod sys;
pub mod worker;
