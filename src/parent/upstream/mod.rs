//! Where documents come from. Borrows a token for one call and keeps nothing of it.

mod body;
mod formats;
mod http;
mod project;

pub use body::DocumentBody;
pub use http::{HttpUpstream, TlsSetupError};
pub use project::project;
