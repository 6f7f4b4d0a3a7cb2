//! The operator's socket: what the broker knows of its keys, for root and a group that may look, and what root does to them.
//!
//! Never a value. The file's mode keeps others out; who is asking is the kernel's word all the same, at each connection.
//! Few connections, one request on each, bounded in size and time: who hangs here hurts nobody.

mod act;
mod answer;
mod drill;
mod look;
mod request;
mod routes;

use std::cell::Cell;
use std::convert::Infallible;
use std::os::fd::AsFd;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{Instant, sleep_until};
use tracing_appender::non_blocking::ErrorCounter;

use self::answer::{Answer, Problem};
use super::engine::Engine;
use super::reload::Reloader;
use crate::sys::{creds, peer};

/// Connections at a time, and how many of them those may have who only look.
const MOST: usize = 32;
const MOST_LOOKING: usize = 24;
/// Connections beside those, of whoever may do nothing here and is told so.
const MOST_DENIED: usize = 4;
/// How long a request may take to come whole.
const COMING: Duration = Duration::from_secs(5);

/// What is administered.
pub(super) struct Desk {
    pub(super) engine: Rc<Engine>,
    /// What confines each role, as it was told at start.
    pub(super) layers: serde_json::Value,
    pub(super) dropped_lines: ErrorCounter,
    pub(super) reloader: Rc<Reloader>,
}

/// Who may do what here.
#[derive(Clone, Copy)]
pub(super) struct Who {
    group: Option<u32>,
    /// Beside root: whoever the broker runs as, unless it was started as root.
    owner: u32,
}

/// What somebody may do, from less to more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Right {
    Look,
    Change,
}

/// Who is at the other end.
#[derive(Clone, Copy)]
struct Operator {
    uid: u32,
    pid: i32,
    /// `None`: nothing at all.
    right: Option<Right>,
}

/// The connections that there are, as so many owners of each.
#[derive(Default)]
struct Places {
    changing: Rc<()>,
    looking: Rc<()>,
    denied: Rc<()>,
}

impl Places {
    /// What a connection holds while it lasts; `None` where there are too many.
    fn take(&self, right: Option<Right>) -> Option<Rc<()>> {
        let taken = |of: &Rc<()>| Rc::strong_count(of) - 1;
        let all = taken(&self.changing) + taken(&self.looking);
        let (place, has_room) = match right {
            None => (&self.denied, taken(&self.denied) < MOST_DENIED),
            Some(Right::Look) => (&self.looking, taken(&self.looking) < MOST_LOOKING && all < MOST),
            Some(Right::Change) => (&self.changing, all < MOST),
        };
        has_room.then(|| place.clone())
    }
}

impl Who {
    pub(super) fn new(group: Option<u32>, started_as_root: bool) -> Self {
        Self { group, owner: if started_as_root { 0 } else { creds::own_uid() } }
    }

    fn right(self, uid: u32, gid: u32, groups: &[u32]) -> Option<Right> {
        let is_of = |group| gid == group || groups.contains(&group);
        match uid {
            uid if uid == 0 || uid == self.owner => Some(Right::Change),
            _ if self.group.is_some_and(is_of) => Some(Right::Look),
            _ => None,
        }
    }
}

/// Serves until the process ends.
pub(super) async fn serve(listener: UnixListener, desk: Rc<Desk>, who: Who) {
    let places = Places::default();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let Some(operator) = attest(&stream, who) else { continue };
                let Some(place) = places.take(operator.right) else {
                    tracing::warn!(uid = operator.uid, pid = operator.pid, "too many connections to the admin socket");
                    continue;
                };
                let desk = desk.clone();
                tokio::task::spawn_local(async move {
                    converse(stream, desk, operator).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::error!(%error, "accept on the admin socket");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Who it is, if the kernel says.
fn attest(stream: &UnixStream, who: Who) -> Option<Operator> {
    let peer = peer::credentials(stream.as_fd()).ok()?;
    let right = who.right(peer.uid, peer.gid, &peer.groups);
    if right.is_none() {
        tracing::warn!(uid = peer.uid, pid = peer.pid, "denied on the admin socket");
    }
    Some(Operator { uid: peer.uid, pid: peer.pid, right })
}

/// One request and its answer.
async fn converse(stream: UnixStream, desk: Rc<Desk>, operator: Operator) {
    // Until the request has come, and is known.
    let end = Rc::new(Cell::new(Instant::now() + COMING));
    let service = service_fn(|request: Request<Incoming>| {
        let (desk, end) = (desk.clone(), end.clone());
        async move { Ok::<Answer, Infallible>(route(desk, operator, request, &end).await) }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(COMING).keep_alive(false);
    let mut serving = pin!(http.serve_connection(TokioIo::new(stream), service).with_upgrades());
    loop {
        tokio::select! {
            // A client that goes away ends its own connection only.
            _ = serving.as_mut() => return,
            () = sleep_until(end.get()) => if end.get() <= Instant::now() { return },
        }
    }
}

async fn route(desk: Rc<Desk>, operator: Operator, request: Request<Incoming>, end: &Cell<Instant>) -> Answer {
    // Not even what there is to ask; it is in the log already.
    let Some(right) = operator.right else { return Problem::stranger().into() };
    let route = match routes::find(request.method(), request.uri().path()) {
        Ok(route) => route,
        Err(problem) => return problem.into(),
    };
    if right < route.right {
        tracing::warn!(uid = operator.uid, pid = operator.pid, path = route.path, "denied on the admin socket");
        return Problem::denied().into();
    }
    end.set(Instant::now() + route.longest);
    let call = match request::read(desk, operator, request).await {
        Ok(call) => call,
        Err(problem) => return problem.into(),
    };
    (route.handler)(call).await.unwrap_or_else(Problem::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_do_less_leaves_room_for_who_may_do_more() {
        let places = Places::default();
        let take = |right, most: usize| {
            let taken: Vec<_> = std::iter::from_fn(|| places.take(right)).take(most + 1).collect();
            assert_eq!(taken.len(), most, "{right:?}");
            taken
        };
        let denied = take(None, MOST_DENIED);
        let looking = take(Some(Right::Look), MOST_LOOKING);
        let changing = take(Some(Right::Change), MOST - MOST_LOOKING);
        assert!(places.take(Some(Right::Look)).is_none());
        drop((denied, looking));
        assert_eq!(take(Some(Right::Look), MOST_LOOKING).len() + changing.len(), MOST);
    }

    #[test]
    fn root_changes_the_group_looks_and_nobody_else_does_anything() {
        let who = Who { group: Some(50), owner: 0 };
        assert_eq!(who.right(0, 0, &[]), Some(Right::Change));
        assert_eq!(who.right(7, 50, &[]), Some(Right::Look));
        assert_eq!(who.right(7, 7, &[1, 50]), Some(Right::Look));
        assert_eq!(who.right(7, 7, &[51]), None);
        let own = Who { group: None, owner: 7 };
        assert_eq!(own.right(7, 7, &[]), Some(Right::Change));
        assert_eq!(own.right(8, 0, &[0]), None, "no group is not group 0");
    }
}
