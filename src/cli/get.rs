//! `keyhatch get`: one request to the broker's socket.

use std::io::{IsTerminal, Write};
use std::path::Path;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::client::legacy::Client;
use hyperlocal::{UnixClientExt, UnixConnector};
use zeroize::Zeroizing;

use super::tell;
use crate::exit::Exit;

struct Answer {
    status: u16,
    /// Of a stale value: what `Cache-Status` says.
    stale: Option<String>,
    body: Zeroizing<Vec<u8>>,
}

pub(super) fn run(key: &str, socket: &Path, json: bool, fresh: bool) -> Exit {
    let answer = match ask(key, socket, json, fresh) {
        Ok(answer) => answer,
        Err(error) => {
            tell(&format_args!("no broker answers at {}: {error}", socket.display()));
            return Exit::Unavailable;
        }
    };
    let exit = Exit::of_status(answer.status);
    if exit != Exit::Ok {
        let problem: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let detail = problem.get("detail").and_then(|detail| detail.as_str()).unwrap_or("the broker refused");
        tell(&format_args!("{key}: {} {detail}", answer.status));
        return exit;
    }
    if let Some(note) = answer.stale {
        tell(&format_args!("{key}: stale ({note})"));
    }
    let mut out = std::io::stdout().lock();
    let newline: &[u8] = if out.is_terminal() { b"\n" } else { b"" };
    match out.write_all(&answer.body).and_then(|()| out.write_all(newline)).and_then(|()| out.flush()) {
        Ok(()) => Exit::Ok,
        Err(_) => Exit::Other,
    }
}

fn ask(key: &str, socket: &Path, json: bool, fresh: bool) -> Result<Answer, Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client: Client<UnixConnector, Full<Bytes>> = Client::unix();
        let accept = if json { "application/json" } else { "text/plain, application/json;q=0.5" };
        let mut request = Request::get(hyper::Uri::from(hyperlocal::Uri::new(socket, key))).header("accept", accept);
        if fresh {
            request = request.header("cache-control", "no-cache");
        }
        let response = client.request(request.body(Full::default())?).await?;
        let status = response.status().as_u16();
        let verdict = response.headers().get("cache-status").and_then(|value| value.to_str().ok());
        let stale = verdict.filter(|verdict| verdict.contains("ttl=-") && verdict.contains("detail="));
        let stale = stale.map(str::to_owned);
        let body = Zeroizing::new(response.into_body().collect().await?.to_bytes().to_vec());
        Ok(Answer { status, stale, body })
    })
}
