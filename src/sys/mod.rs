//! The kernel's side of keyhatch: the only folder with `unsafe`, and the only one that names libc, nix, caps and the crates of the
//! sandbox.
//!
//! Knows nothing of the domain: ids, fds and bytes go in and come out.
#![allow(unsafe_code)]

pub mod cleaner;
pub mod clock;
pub mod creds;
pub mod environment;
pub mod file;
pub mod guarded;
pub mod inherited;
pub mod landlock;
pub mod memfd;
pub mod namespaces;
pub mod pass;
pub mod peer;
pub mod proc;
pub mod process;
pub mod random;
pub mod replaced;
pub mod runs;
pub mod seccomp;
pub mod spawn;
pub mod supervise;
pub mod terminal;
pub mod trusted;
pub mod users;
