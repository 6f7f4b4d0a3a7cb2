//! The last known good on disk: sealed, bound to its key and its source, with its true age.
//!
//! Must never give a value to another key or another source than the one it was sealed for, and never an empty one.

mod seal;
mod store;

pub use seal::{SealKey, SealKeyError, new_seal_key_text};
pub use store::{LoadProblem, Loaded, Store, StoreError};
