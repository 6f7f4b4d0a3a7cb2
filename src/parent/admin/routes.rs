//! What can be asked on the operator's socket: method, path, who may, how long it may take, and who answers.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use hyper::{Method, StatusCode};

use super::answer::{Answer, Problem};
use super::request::Call;
use super::{Right, act, drill, look};
use crate::parent::engine::LONGEST_DRILL;

type Answering = Pin<Box<dyn Future<Output = Result<Answer, Problem>>>>;

pub(super) struct Route {
    method: Method,
    pub(super) path: &'static str,
    pub(super) right: Right,
    /// Until its answer is written.
    pub(super) longest: Duration,
    pub(super) handler: fn(Call) -> Answering,
}

const SOON: Duration = Duration::from_secs(30);
/// More than the longest calls that a refresh may wait for, one after the other.
const PATIENT: Duration = Duration::from_secs(10 * 60);

pub(super) const ROUTES: &[Route] = &[
    Route {
        method: Method::GET,
        path: "/status",
        right: Right::Look,
        longest: SOON,
        handler: |call| Box::pin(look::status(call)),
    },
    Route {
        method: Method::GET,
        path: "/metrics",
        right: Right::Look,
        longest: SOON,
        handler: |call| Box::pin(look::metrics(call)),
    },
    Route {
        method: Method::POST,
        path: "/refresh",
        right: Right::Change,
        longest: PATIENT,
        handler: |call| Box::pin(act::refresh(call)),
    },
    Route {
        method: Method::POST,
        path: "/purge",
        right: Right::Change,
        longest: PATIENT,
        handler: |call| Box::pin(act::purge(call)),
    },
    Route {
        method: Method::GET,
        path: "/reload",
        right: Right::Change,
        longest: SOON,
        handler: |call| Box::pin(look::started_with(call)),
    },
    Route {
        method: Method::POST,
        path: "/reload",
        right: Right::Change,
        longest: SOON,
        handler: |call| Box::pin(act::reload(call)),
    },
    Route {
        method: Method::POST,
        path: "/drill",
        right: Right::Change,
        longest: LONGEST_DRILL.saturating_add(SOON),
        handler: |call| Box::pin(drill::begin(call)),
    },
    Route {
        method: Method::DELETE,
        path: "/drill",
        right: Right::Change,
        longest: SOON,
        handler: |call| Box::pin(drill::end(call)),
    },
];

/// # Errors
/// There is no such path, or not with this method.
pub(super) fn find(method: &Method, path: &str) -> Result<&'static Route, Problem> {
    let mut of_path = ROUTES.iter().filter(|route| route.path == path).peekable();
    if of_path.peek().is_none() {
        let mut paths: Vec<&str> = ROUTES.iter().map(|route| route.path).collect();
        paths.dedup();
        return Err(Problem::new(StatusCode::NOT_FOUND, "malformed", format!("there are {}", paths.join(", "))));
    }
    let methods = ROUTES.iter().filter(|route| route.path == path).map(|route| route.method.as_str());
    let methods = methods.collect::<Vec<_>>().join(" and ");
    of_path
        .find(|route| route.method == *method)
        .ok_or_else(|| Problem::new(StatusCode::METHOD_NOT_ALLOWED, "malformed", format!("{path} takes {methods}")))
}
