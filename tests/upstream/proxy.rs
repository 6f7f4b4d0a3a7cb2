//! An HTTP proxy: CONNECT to whatever is named, as long as it is on this machine.

use hyper::Request;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;

use crate::answer::{Answer, status, streamed};

pub(crate) fn tunnel(request: Request<Incoming>) -> Answer {
    let Some(to) = request.uri().authority().map(ToString::to_string) else { return status(400) };
    // A name that only the proxy knows: the client must not have looked it up.
    let to = to.replace("known-to-the-proxy.invalid", "127.0.0.1");
    tokio::task::spawn_local(async move {
        let Ok(upgraded) = hyper::upgrade::on(request).await else { return };
        let Ok(mut there) = crate::connect(&to).await else { return };
        // Either side may end it.
        let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(upgraded), &mut there).await;
    });
    streamed(async |_| {})
}
