//! Long documents are read in a thread of the blocking pool: the event loop serves others meanwhile.

use zeroize::Zeroizing;

use super::DocumentBody;
use super::project::project;
use crate::config::{Format, Projection};
use crate::outcome::{Failure, Reason};
use crate::secret::SecretValue;

/// Up to this many bytes, changing threads takes longer than the work.
const SHORT: usize = 32 << 10;
/// Nor is it much work to find this many values.
const FEW: usize = 64;

/// [`DocumentBody::parse`].
pub(super) async fn parse_aside(bytes: Zeroizing<Vec<u8>>, format: Format) -> Result<DocumentBody, Failure> {
    if bytes.len() <= SHORT {
        return DocumentBody::parse(bytes, format);
    }
    aside(move || DocumentBody::parse(bytes, format)).await?
}

/// The value that each projection selects, at most `value_size` bytes of JSON, in their order.
///
/// # Errors
/// All fail as unavailable, `InvalidBody`, when there is no thread to do it; each by itself as its value does.
pub async fn project_aside(
    body: DocumentBody,
    projections: Vec<Projection>,
    value_size: u64,
) -> Result<Vec<Result<SecretValue, Failure>>, Failure> {
    if body.len() <= SHORT && projections.len() <= FEW {
        return Ok(project(&body, &projections, value_size));
    }
    aside(move || project(&body, &projections, value_size)).await
}

async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    // Only the end of the process takes a thread away from its work.
    tokio::task::spawn_blocking(work).await.map_err(|_| Failure::unavailable(Reason::InvalidBody))
}
