//! One request to a broker's socket, or to its operator's.
//!
//! Knows HTTP and no key: what an answer means is its caller's business.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{HeaderMap, Request};
use hyper_util::client::legacy::Client;
use hyperlocal::{UnixClientExt, UnixConnector};
use zeroize::Zeroizing;

/// How long a drill's end may take to be taken note of.
const PATIENCE: Duration = Duration::from_secs(2);

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Zeroizing<Vec<u8>>,
}

/// There was no whole answer.
pub(crate) type Failed = Box<dyn std::error::Error + Send + Sync>;

/// What the system says of it, if that is why: the clients of hyper say only in what they were interrupted.
pub(crate) fn system_error(failed: &Failed) -> Option<&std::io::Error> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(&**failed);
    while let Some(error) = next {
        match error.downcast_ref::<std::io::Error>() {
            Some(found) if found.raw_os_error().is_some() => return Some(found),
            _ => next = error.source(),
        }
    }
    None
}

/// For a person.
pub(crate) fn reason(failed: &Failed) -> String {
    system_error(failed).map_or_else(|| failed.to_string(), ToString::to_string)
}

/// GET, with these headers beside those that HTTP wants.
pub(crate) async fn get(socket: &Path, path: &str, headers: &[(&'static str, &str)]) -> Result<Answer, Failed> {
    let mut request = Request::get(hyper::Uri::from(hyperlocal::Uri::new(socket, path)));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    collect(client().request(request.body(Full::default())?).await?).await
}

/// The same, in a runtime of its own.
pub(crate) fn ask(socket: &Path, path: &str, headers: &[(&'static str, &str)]) -> Result<Answer, Failed> {
    runtime()?.block_on(get(socket, path, headers))
}

/// GET where nobody need answer; `None` also where they take longer.
pub(crate) fn ask_within(longest: Duration, socket: &Path, path: &str) -> Option<Answer> {
    let runtime = runtime().ok()?;
    runtime.block_on(async { tokio::time::timeout(longest, get(socket, path, &[])).await }).ok()?.ok()
}

/// POST of a JSON body.
pub(crate) fn post(socket: &Path, path: &str, body: &serde_json::Value) -> Result<Answer, Failed> {
    let request = posting(socket, path, body)?;
    runtime()?.block_on(async { collect(client().request(request).await?).await })
}

fn posting(socket: &Path, path: &str, body: &serde_json::Value) -> Result<Request<Full<Bytes>>, Failed> {
    let request = Request::post(hyper::Uri::from(hyperlocal::Uri::new(socket, path)));
    Ok(request.header("content-type", "application/json").body(Full::from(body.to_string()))?)
}

fn client() -> Client<UnixConnector, Full<Bytes>> {
    Client::unix()
}

/// An event loop on the thread of the caller.
pub(crate) fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

async fn collect(response: hyper::Response<hyper::body::Incoming>) -> Result<Answer, Failed> {
    let (head, body) = response.into_parts();
    let body = Zeroizing::new(body.collect().await?.to_bytes().to_vec());
    Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
}

/// POST whose answer comes line by line; `line` gets each when it is there. On the first Ctrl-C, a DELETE of the same path
/// asks for the end; what comes after that is still told. Gives an answer without a body, or the problem.
pub(crate) fn follow(
    socket: &Path,
    path: &str,
    body: &serde_json::Value,
    mut line: impl FnMut(&str),
) -> Result<Answer, Failed> {
    let request = posting(socket, path, body)?;
    runtime()?.block_on(async {
        let response = client().request(request).await?;
        if !response.status().is_success() {
            return collect(response).await;
        }
        let (head, mut body) = response.into_parts();
        let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
        let mut interrupted = false;
        let mut text = Vec::new();
        loop {
            tokio::select! {
                frame = body.frame() => match frame {
                    Some(frame) => text.extend_from_slice(frame?.data_ref().map_or(&[][..], |data| data)),
                    None => break,
                },
                _ = interrupt.recv() => {
                    if std::mem::replace(&mut interrupted, true) {
                        // It does not answer any more: the end of this connection is enough.
                        break;
                    }
                    let end = Request::delete(hyper::Uri::from(hyperlocal::Uri::new(socket, path)));
                    // If it does not answer either, another Ctrl-C is the way out.
                    let asked = client().request(end.body(Full::default())?);
                    if let Ok(failed) = tokio::time::timeout(PATIENCE, asked).await {
                        failed?;
                    }
                }
            }
            while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                let whole: Vec<u8> = text.drain(..=end).collect();
                line(String::from_utf8_lossy(&whole).trim_end());
            }
        }
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body: Zeroizing::default() })
    })
}
