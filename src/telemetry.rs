//! Log lines on stderr: written as they come while there is one thread, and by a thread of their own from then on.
//!
//! A reader that does not read never holds up an answer: what does not fit is dropped, counted, and told.
#![forbid(unsafe_code)]

use std::fmt;
use std::io::{self, Write};
use std::sync::OnceLock;

use tracing::{Event, Level, Subscriber};
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

use crate::ipc::record::{Event as Kind, Record};

/// How many lines may wait for whoever reads stderr.
const WAITING: usize = 8192;

static QUEUE: OnceLock<NonBlocking> = OnceLock::new();

/// stderr, or the queue before it once there is one.
struct Lines;

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Box<dyn Write>;

    fn make_writer(&'a self) -> Self::Writer {
        match QUEUE.get() {
            Some(queue) => Box::new(queue.clone()),
            None => Box::new(io::stderr()),
        }
    }
}

/// What stderr is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stderr {
    Terminal,
    /// The journal: it takes priorities before lines (sd-daemon(3)), and has a clock of its own.
    Journal,
    Other,
}

/// Begins the log of this process, with lines of `level` and more serious ones; starts no thread.
pub fn start(json: bool, level: tracing::Level, stderr: Stderr) {
    let lines = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(Lines)
        .with_target(false)
        .with_ansi(stderr == Stderr::Terminal && !json);
    match (json, stderr) {
        (true, Stderr::Journal) => lines.json().flatten_event(true).map_event_format(Prioritised).init(),
        (true, _) => lines.json().flatten_event(true).init(),
        (false, Stderr::Journal) => lines.compact().without_time().map_event_format(Prioritised).init(),
        (false, _) => lines.compact().init(),
    }
}

/// The priority of an error before a line, where the journal reads it.
pub const ERROR: &str = "<3>";

/// Each line with its priority before it.
struct Prioritised<F>(F);

impl<S, N, F> FormatEvent<S, N> for Prioritised<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut to: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        to.write_str(match *event.metadata().level() {
            Level::ERROR => ERROR,
            Level::WARN => "<4>",
            Level::INFO => "<6>",
            Level::DEBUG | Level::TRACE => "<7>",
        })?;
        self.0.format_event(context, to, event)
    }
}

/// Lines are written by a thread of their own until the guard is dropped, which waits for those that are queued.
pub fn detach() -> (WorkerGuard, ErrorCounter) {
    let (queue, guard) =
        NonBlockingBuilder::default().lossy(true).buffered_lines_limit(WAITING).thread_name("log").finish(io::stderr());
    let dropped = queue.error_counter();
    // A second call would be a defect of ours; its queue is then simply not used.
    let _ = QUEUE.set(queue);
    (guard, dropped)
}

/// One line of the worker's.
pub fn relay(record: &Record) {
    let request = record.request.map(tracing::field::display);
    let (uid, pid, status, millis, count) = (record.uid, record.pid, record.status, record.millis, record.count);
    let text = |field: &Option<String>| field.clone().map(tracing::field::display);
    let (key, decision, verdict) = (text(&record.key), text(&record.decision), text(&record.verdict));
    macro_rules! line {
        ($level:ident, $message:literal) => {
            tracing::$level!(
                role = "worker",
                uid,
                pid,
                key,
                decision,
                verdict,
                status,
                millis,
                request,
                count,
                $message
            )
        };
    }
    match record.event {
        Kind::Answer => line!(info, "answer"),
        Kind::Denied => line!(warn, "denied"),
        Kind::Refused => line!(info, "refused"),
        Kind::Counted => line!(info, "counted"),
        Kind::Dropped => line!(warn, "lines dropped"),
    }
}
