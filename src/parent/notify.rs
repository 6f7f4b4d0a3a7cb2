//! What the service manager hears (sd_notify(3)): ready, how the keys are, that both event loops go on, and the end.
//!
//! Sent by the parent alone. A manager that does not listen costs a line in the log and never the service.

use std::cell::Cell;
use std::fmt::Write;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use tokio::io::Interest;
use tokio::net::UnixDatagram;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::engine::{Engine, Health};
use super::outbox::Outbox;
use super::serve::ParentError;
use crate::credential::KEPT;
use crate::ipc::wire::ToWorker;
use crate::shown;
use crate::sys::pass;

/// How often the state of the keys is looked at, and so the most often that it is told.
const LOOK: Duration = Duration::from_secs(3);

/// Connected by the root phase.
pub struct ServiceManager {
    /// Never blocks.
    pub socket: std::os::unix::net::UnixDatagram,
    /// It ends us when it has not heard for so long that we are alive.
    pub watchdog: Option<Duration>,
    /// It keeps descriptors for the next broker (`FDSTORE`, systemd.exec(5)).
    pub keeps: bool,
}

pub(super) struct Notifier {
    manager: Option<Manager>,
    /// What the worker was asked and has not answered.
    asked: Cell<Option<u64>>,
    ending: Cell<bool>,
    /// The last message did not get through.
    unheard: Cell<bool>,
}

struct Manager {
    socket: UnixDatagram,
    watchdog: Option<Duration>,
    keeps: bool,
}

impl Notifier {
    /// From now on requests are answered: says so, and begins to tell the rest.
    pub(super) fn ready(
        manager: Option<ServiceManager>,
        engine: &Rc<Engine>,
        outbox: &Outbox,
    ) -> std::io::Result<Rc<Self>> {
        let manager = match manager {
            Some(ServiceManager { socket, watchdog, keeps }) => {
                Some(Manager { socket: UnixDatagram::from_std(socket)?, watchdog, keeps })
            }
            None => None,
        };
        let (asked, ending, unheard) = (Cell::new(None), Cell::new(false), Cell::new(false));
        let own = Rc::new(Self { manager, asked, ending, unheard });
        if let Some(Manager { watchdog, .. }) = &own.manager {
            tokio::task::spawn_local(own.clone().tell(engine.clone()));
            if let Some(longest) = watchdog {
                tokio::task::spawn_local(own.clone().ask(*longest / 4, outbox.clone()));
            }
        }
        Ok(own)
    }

    async fn tell(self: Rc<Self>, engine: Rc<Engine>) {
        let mut told = status(&engine.health());
        self.say(&format!("READY=1\nSTATUS={told}")).await;
        loop {
            sleep(LOOK).await;
            let status = status(&engine.health());
            if status != told && !self.ending.get() {
                self.say(&format!("STATUS={status}")).await;
                told = status;
            }
        }
    }

    /// Asks the worker again and again, and not again before it has answered: this loop and that of the worker both have to
    /// go round for the manager to hear of it.
    async fn ask(self: Rc<Self>, every: Duration, outbox: Outbox) {
        let mut tick = interval(every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for serial in 1.. {
            tick.tick().await;
            while self.asked.get().is_some() {
                tick.tick().await;
            }
            self.asked.set(Some(serial));
            outbox.say(ToWorker::Ping { serial }, None, None);
        }
    }

    /// The worker's answer.
    pub(super) fn answered(self: &Rc<Self>, serial: u64) -> Result<(), ParentError> {
        if self.asked.take() != Some(serial) {
            return Err(ParentError::Protocol("a message out of order"));
        }
        let own = self.clone();
        tokio::task::spawn_local(async move { own.say("WATCHDOG=1").await });
        Ok(())
    }

    /// The end has begun. It is not waited for that this is heard.
    pub(super) fn stopping(&self) {
        self.ending.set(true);
        if let Some(Manager { socket, .. }) = &self.manager {
            self.heard(socket.try_send(b"STOPPING=1\nSTATUS=ending").map(drop));
        }
    }

    /// Has a connection kept until it is at its end, which the manager sees by itself. `false`: not yet, as its queue is full.
    pub(super) fn keep_now(&self, connection: BorrowedFd<'_>) -> bool {
        let Some(Manager { socket, keeps: true, .. }) = &self.manager else { return true };
        match pass::send(socket.as_fd(), format!("FDSTORE=1\nFDNAME={KEPT}").as_bytes(), &[connection]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            sent => {
                self.heard(sent.map(drop));
                true
            }
        }
    }

    /// The same, as soon as there is room for it.
    pub(super) async fn keep(&self, connection: BorrowedFd<'_>) {
        while let Some(Manager { socket, .. }) = &self.manager
            && !self.keep_now(connection)
        {
            // The event loop does not know that it is full: the message went past it.
            let full = || Err::<(), _>(ErrorKind::WouldBlock.into());
            let _ = socket.try_io(Interest::WRITABLE, full);
            if socket.writable().await.is_err() {
                return;
            }
        }
    }

    async fn say(&self, message: &str) {
        if let Some(Manager { socket, .. }) = &self.manager {
            self.heard(socket.send(message.as_bytes()).await.map(drop));
        }
    }

    fn heard(&self, sent: std::io::Result<()>) {
        if let Err(error) = &sent
            && !self.unheard.get()
        {
            tracing::warn!(%error, "the service manager does not hear us");
        }
        self.unheard.set(sent.is_err());
    }
}

/// One line for `systemctl status`.
fn status(health: &Health) -> String {
    let mut told = shown::counted(health.keys, "key");
    for (count, what) in [(health.stale, "stale"), (health.failing, "failing"), (health.without, "without a value")] {
        if count > 0 {
            // A String takes all that is written to it.
            let _ = write!(told, ", {count} {what}");
            if let ("stale", Some(since)) = (what, health.stale_since)
                && let Some(since) = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(since))
            {
                let _ = write!(told, " (since {})", humantime::format_rfc3339_seconds(since));
            }
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_names_what_is_not_as_it_should_be() {
        let good = Health { keys: 3, stale: 0, stale_since: None, failing: 0, without: 0 };
        assert_eq!(status(&good), "3 keys");
        let told = status(&Health { stale: 2, stale_since: Some(86_400_999), failing: 1, without: 1, ..good });
        assert_eq!(told, "3 keys, 2 stale (since 1970-01-02T00:00:00Z), 1 failing, 1 without a value");
    }
}
