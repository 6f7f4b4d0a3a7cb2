//! One request to a broker's socket.

use std::path::Path;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{HeaderMap, Request};
use hyper_util::client::legacy::Client;
use hyperlocal::{UnixClientExt, UnixConnector};
use zeroize::Zeroizing;

pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Zeroizing<Vec<u8>>,
}

/// GET, with these headers beside those that HTTP wants.
pub(super) fn ask(
    socket: &Path,
    path: &str,
    headers: &[(&'static str, &str)],
) -> Result<Answer, Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client: Client<UnixConnector, Full<Bytes>> = Client::unix();
        let mut request = Request::get(hyper::Uri::from(hyperlocal::Uri::new(socket, path)));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = client.request(request.body(Full::default())?).await?;
        let (head, body) = response.into_parts();
        let body = Zeroizing::new(body.collect().await?.to_bytes().to_vec());
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
    })
}
