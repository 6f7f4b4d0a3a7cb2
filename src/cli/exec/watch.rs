//! `keyhatch exec --watch`: the parent of the command, which waits for changes, passes signals on, and ends as the command does.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::process::Child;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::options::OnChange;
use super::plan::Binding;
use super::{command, files, not_started, unfit};
use crate::cli::get::{WAIT, exit_of, tell_failure};
use crate::cli::tell;
use crate::client::{Client, Value, http};
use crate::exit::Exit;
use crate::sys::memfd;
use crate::sys::supervise::{self, Came, Signal, Signals};

/// Changes that come so soon after one another are one: keys of one document change together.
const SETTLE: Duration = Duration::from_millis(200);
/// Between attempts that are refused, and not for want of an upstream.
const REFUSED_PAUSE: Duration = Duration::from_secs(30);
/// Who sends one of these wants the command to be gone, not restarted.
const ENDING: [Signal; 4] = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM];

/// The command, and what it was given last.
pub(super) struct Job {
    words: Vec<OsString>,
    bindings: Vec<Binding>,
    values: Vec<Arc<Value>>,
    /// Opened by the command by way of this process: a number stays, what is behind it is replaced.
    files: Vec<Option<OwnedFd>>,
    on_change: OnChange,
    grace: Duration,
}

impl Job {
    pub(super) fn new(
        words: &[OsString],
        bindings: Vec<Binding>,
        values: Vec<Arc<Value>>,
        on_change: OnChange,
        grace: Duration,
    ) -> std::io::Result<Self> {
        let files = files(&bindings, &values, memfd::shown)?;
        Ok(Self { words: words.to_vec(), bindings, values, files, on_change, grace })
    }

    fn start(&self, signals: &Signals) -> std::io::Result<Child> {
        let process = std::process::id().to_string();
        supervise::spawn(&mut command(&self.words, &self.bindings, &self.values, &self.files, &process), signals)
    }

    /// Whether it is another one than the command was given: a tag alone changes with the broker's seal key. One that cannot be
    /// given is told and left.
    fn take(&mut self, value: &Arc<Value>) -> std::io::Result<bool> {
        let mut changed = false;
        for ((binding, known), file) in self.bindings.iter().zip(&mut self.values).zip(&mut self.files) {
            if known.key() != value.key() || known.as_str() == value.as_str() {
                continue;
            }
            if let Some(why) = unfit(binding, value) {
                tell(&format_args!("{}: {why}", value.key()));
                continue;
            }
            if let Some(file) = file {
                memfd::show_instead(file, value.as_str().as_bytes())?;
            }
            (*known, changed) = (value.clone(), true);
        }
        Ok(changed)
    }
}

/// The exit code of the command.
///
/// # Errors
/// Of the system, before the command is started or while it runs; it is ended then.
pub(super) fn run(job: Job, client: &Client) -> std::io::Result<u8> {
    let signals = Signals::take()?;
    http::runtime()?.block_on(supervised(job, client, signals))
}

/// What the command is in.
enum Phase {
    Runs,
    /// It was told to end, and will be killed then.
    Ends {
        kill_at: Instant,
    },
}

async fn supervised(mut job: Job, client: &Client, signals: Signals) -> std::io::Result<u8> {
    #[expect(
        deprecated,
        reason = "unsound for types that change their descriptor; this one keeps it open and the same"
    )]
    let signals = AsyncFd::with_interest(signals, Interest::READABLE)?;
    let (told, mut changes) = mpsc::channel(job.values.len().max(1));
    let mut watched: Vec<&str> = Vec::new();
    for value in &job.values {
        if !watched.contains(&value.key()) {
            watched.push(value.key());
            tokio::spawn(watch(client.clone(), value.clone(), told.clone()));
        }
    }
    let mut child = match job.start(signals.get_ref()) {
        Ok(child) => child,
        Err(error) => return Ok(not_started(&job.words, &error)),
    };
    let mut phase = Phase::Runs;
    let mut changed_at: Option<Instant> = None;
    // Somebody wants it to end while it is restarted: then it is not started again.
    let mut to_end = false;
    loop {
        let settled = changed_at.map(|at| at + SETTLE).filter(|_| matches!(phase, Phase::Runs));
        let kill_at = if let Phase::Ends { kill_at } = phase { Some(kill_at) } else { None };
        tokio::select! {
            ready = signals.readable() => {
                let mut ready = ready?;
                let Some(came) = signals.get_ref().next()? else {
                    ready.clear_ready();
                    continue;
                };
                if let Came::Signal { signal, by_terminal } = came {
                    to_end |= ENDING.contains(&signal);
                    if !by_terminal {
                        supervise::send(&child, signal);
                    }
                }
            }
            Some(value) = changes.recv() => {
                if job.take(&value)? {
                    changed_at.get_or_insert_with(Instant::now);
                }
            }
            () = until(settled) => {
                changed_at = None;
                match job.on_change {
                    OnChange::Signal(signal) => supervise::send(&child, signal),
                    OnChange::Restart => {
                        tell(&"a value has changed: the command is restarted");
                        to_end = false;
                        supervise::send(&child, Signal::SIGTERM);
                        phase = Phase::Ends { kill_at: Instant::now() + job.grace };
                    }
                }
            }
            () = until(kill_at) => {
                tell(&format_args!("the command did not end within {:?}: it is killed", job.grace));
                supervise::send(&child, Signal::SIGKILL);
                phase = Phase::Ends { kill_at: Instant::now() + job.grace.max(SETTLE) };
            }
        }
        if let Some(status) = child.try_wait()? {
            if to_end || matches!(phase, Phase::Runs) {
                return Ok(supervise::exit_code(status));
            }
            // With all that has changed until now.
            (phase, changed_at) = (Phase::Runs, None);
            child = match job.start(signals.get_ref()) {
                Ok(child) => child,
                Err(error) => return Ok(not_started(&job.words, &error)),
            };
        }
    }
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// Tells each change of one value. Whatever goes wrong, the command keeps what it has: each trouble is told once.
async fn watch(client: Client, mut known: Arc<Value>, told: mpsc::Sender<Arc<Value>>) {
    let mut trouble = Exit::Ok;
    loop {
        match client.changed(&known, WAIT).await {
            Ok(changed) => {
                trouble = Exit::Ok;
                if let Some(value) = changed {
                    known = Arc::new(value);
                    if told.send(known.clone()).await.is_err() {
                        return;
                    }
                }
            }
            Err(error) => {
                if exit_of(&error) != trouble {
                    trouble = tell_failure(known.key(), &error);
                }
                // A grant that was withdrawn, or a value that was given up, may come back.
                tokio::time::sleep(if error.is_temporary() { error.retry_after() } else { REFUSED_PAUSE }).await;
            }
        }
    }
}
