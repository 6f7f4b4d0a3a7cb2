//! The log line of a fetch. Names keys by their paths: never a value, and nothing of a call's arguments.

use tokio::time::Instant;

use super::Asker;
use crate::config::Document;
use crate::outcome::Failure;
use crate::parent::upstream::Answer;
use crate::secret::KeyPath;

/// One line for each call, with whoever made it begin: nobody, when it refreshes ahead.
pub(super) fn tell(
    document: &Document,
    keys: &[KeyPath],
    asker: Option<&Asker>,
    started: Instant,
    answer: &Result<Answer, Failure>,
) {
    let millis = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let (uid, pid) = (asker.map(|asker| asker.uid), asker.map(|asker| asker.pid));
    let request = asker.map(|asker| tracing::field::display(asker.request));
    let key = keys.first().map(tracing::field::display);
    let more_keys = (keys.len() > 1).then(|| keys.len() - 1);
    let origin = document.origin();
    let (outcome, status) = match answer {
        Ok(Answer::Answered { status, .. }) => ("answered", *status),
        Ok(Answer::NotModified) => ("not-modified", Some(304)),
        Ok(Answer::Raised(_)) => ("exception", None),
        Ok(Answer::Reached) => ("reached", None),
        Err(failure) => {
            let (outcome, reason) = (failure.class.name(), tracing::field::display(failure.reason));
            let status = failure.status();
            tracing::warn!(origin, key, more_keys, uid, pid, request, millis, outcome, reason, status, "fetch");
            return;
        }
    };
    tracing::info!(origin, key, more_keys, uid, pid, request, millis, outcome, status, "fetch");
}
