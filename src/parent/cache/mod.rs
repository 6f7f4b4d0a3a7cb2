//! The last known good on disk: sealed, bound to its key and its source, with its true age.
//!
//! Must never give a value to another key or another source than the one it was sealed for, and never an empty one.
//!
//! A start lists the directory once and reads the head of each file: 10,000 keys take some 50 ms, most of it the kernel's
//! for opening them. Values are opened when they are first needed, so that their size is no matter at the start, and
//! what a label says (age, tags, validators) is known without them.

mod archive;
mod bundle;
mod format;
#[cfg(test)]
mod fuzz;
mod inspect;
mod lane;
mod ledger;
mod reseal;
mod seal;
mod store;

pub use archive::{Archive, Listing, Loaded, Problem, Sealed};
pub use bundle::{BUNDLE_FILES, BUNDLE_SIZE};
pub use format::{Definition, Label, State, Tombstone, Unreadable, Validators, ValueLabel};
pub use inspect::{Inspected, Inspection, Standing};
pub use lane::Lane;
pub use ledger::Ledger;
pub use reseal::{ResealError, tags};
pub use seal::{KeyRing, SealKey, SealKeyError, new_seal_key_text};
pub use store::{Item, Record, Store, StoreError};
