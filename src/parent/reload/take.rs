//! The connection that a reload goes over, from the operator's socket.

use std::rc::Rc;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use super::Reloader;

impl Reloader {
    /// The rest of a connection that was upgraded, if nothing stands between us and its descriptors.
    pub(in crate::parent) async fn take(self: Rc<Self>, upgrade: OnUpgrade) {
        let Ok(upgraded) = upgrade.await else { return };
        let Ok(parts) = upgraded.downcast::<TokioIo<UnixStream>>() else { return };
        // Descriptors beside bytes that were read too early are lost: nothing comes before the greeting.
        if parts.read_buf.is_empty() {
            self.converse(parts.io.into_inner()).await;
        }
    }
}
