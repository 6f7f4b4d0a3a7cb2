//! The configuration: what a file may say, and what every other part of keyhatch works with.
#![forbid(unsafe_code)]

mod load;
mod model;

pub use load::{LoadError, load};
pub use model::*;
