//! What can be looked at.

use super::answer::{Answer, Problem, json, text};
use super::request::Call;
use crate::parent::openmetrics::MEDIA_TYPE;

pub(super) async fn status(call: Call) -> Result<Answer, Problem> {
    let mut status = call.desk.engine.status().await;
    status["layers"] = call.desk.layers.clone();
    Ok(json(&status))
}

/// What a reload would be compared with.
pub(super) async fn started_with(call: Call) -> Result<Answer, Problem> {
    Ok(json(&serde_json::json!(call.desk.reloader.greeting())))
}

pub(super) async fn metrics(call: Call) -> Result<Answer, Problem> {
    let dropped = u64::try_from(call.desk.dropped_lines.dropped_lines()).unwrap_or(u64::MAX);
    Ok(text(call.desk.engine.metrics(dropped), MEDIA_TYPE))
}
