//! Connections of systemd's in an event loop, which may have no room for one more just now (epoll_ctl(2), `ENOSPC`).
//!
//! Must never lose one for that: it would be closed without a value or a refusal.

use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::sleep;

/// How often it is tried again.
const AGAIN: Duration = Duration::from_millis(100);

/// To be written to as there is room. It is never read from, and may be set to block.
///
/// # Errors
/// With the connection itself, when it cannot be watched now.
pub fn watched<F: AsRawFd>(connection: F) -> Result<AsyncFd<F>, (F, io::Error)> {
    #[expect(
        deprecated,
        reason = "unsound for types that change their descriptor; those of connections keep it open and the same"
    )]
    AsyncFd::try_with_interest(connection, Interest::WRITABLE)
        .map_err(tokio::io::unix::AsyncFdRegisterError::into_parts)
}

/// The same, as soon as it can be watched: its peer waits meanwhile.
pub async fn watched_in_time<F: AsRawFd>(mut connection: F) -> AsyncFd<F> {
    let mut told = false;
    loop {
        let error = match watched(connection) {
            Ok(watched) => return watched,
            Err((back, error)) => {
                connection = back;
                error
            }
        };
        if !std::mem::replace(&mut told, true) {
            tracing::error!(%error, "no room to watch a connection that asks for a credential: its unit waits");
        }
        sleep(AGAIN).await;
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::rc::Rc;

    use super::*;

    #[test]
    fn what_cannot_be_watched_now_is_kept_until_it_can() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (ours, _theirs) = UnixStream::pair().unwrap();
            let ours = Rc::new(ours);
            let first = watched(ours.clone()).unwrap();
            // A descriptor is watched once at a time.
            let (again, error) = watched(ours.clone()).map(drop).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
            let mut second = std::pin::pin!(watched_in_time(again));
            tokio::select! {
                biased;
                _ = second.as_mut() => panic!("it is watched twice"),
                () = std::future::ready(()) => {}
            }
            drop(first);
            assert!(second.await.writable().await.is_ok());
        });
    }
}
