//! The operator's socket: what the broker knows of each key, for root and a group that may look.
//!
//! Reads only, and never a value. The file's mode keeps others out; the kernel's word on the peer is checked all the same.

use std::convert::Infallible;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, body::Incoming, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use super::engine::Engine;
use super::reload::{self, Reloader};
use crate::sys::{creds, peer};

/// The longest that one connection may last: commands ask once.
const LONGEST: Duration = Duration::from_secs(30);

/// Serves until the process ends. `layers` are what confines each role, as it was told at start.
pub(super) async fn serve(
    listener: UnixListener,
    engine: Rc<Engine>,
    layers: Rc<serde_json::Value>,
    group: Option<u32>,
    reloader: Rc<Reloader>,
) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                if may_look(&stream, group) {
                    let reloader = reloader.clone();
                    tokio::task::spawn_local(converse(stream, engine.clone(), layers.clone(), reloader));
                }
            }
            Err(error) => {
                tracing::error!(%error, "accept on the admin socket");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Root, the user that this runs as, and the group that the configuration names.
fn may_look(stream: &UnixStream, group: Option<u32>) -> bool {
    let Ok(peer) = peer::credentials(stream.as_fd()) else { return false };
    let of_group = |gid| peer.gid == gid || peer.groups.contains(&gid);
    let may = peer.uid == 0 || peer.uid == creds::own_uid() || group.is_some_and(of_group);
    if !may {
        tracing::warn!(uid = peer.uid, pid = peer.pid, "denied on the admin socket");
    }
    may
}

async fn converse(stream: UnixStream, engine: Rc<Engine>, layers: Rc<serde_json::Value>, reloader: Rc<Reloader>) {
    let may_change = peer::credentials(stream.as_fd()).is_ok_and(|peer| reloader.may_change(&peer));
    let service = service_fn(move |request| {
        let (engine, layers, reloader) = (engine.clone(), layers.clone(), reloader.clone());
        async move {
            Ok::<_, Infallible>(if request.uri().path() == "/reload" {
                reload::answer(request, may_change, reloader)
            } else {
                answer(&request, &engine, &layers)
            })
        }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(5));
    // A client that goes away ends its own connection only.
    let _ = timeout(LONGEST, http.serve_connection(TokioIo::new(stream), service).with_upgrades()).await;
}

fn answer(request: &Request<Incoming>, engine: &Engine, layers: &serde_json::Value) -> Response<Full<Bytes>> {
    let status = || {
        let mut status = engine.status();
        status["layers"] = layers.clone();
        status
    };
    let (status, body) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/status") => (StatusCode::OK, status()),
        (_, "/status") => (StatusCode::METHOD_NOT_ALLOWED, serde_json::json!({ "detail": "only GET is served here" })),
        _ => (StatusCode::NOT_FOUND, serde_json::json!({ "detail": "there are /status and /reload" })),
    };
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}
