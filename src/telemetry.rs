//! Log lines on stderr: written as they come while there is one thread, and by a thread of their own from then on.
//!
//! A reader that does not read never holds up an answer: what does not fit is dropped, counted, and told.
#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::sync::OnceLock;

use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::fmt::MakeWriter;

use crate::ipc::record::{Event, Record};

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

/// Begins the log of this process, with lines of `level` and more serious ones; starts no thread.
pub fn start(json: bool, level: tracing::Level, colour: bool) {
    let lines = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(Lines)
        .with_target(false)
        .with_ansi(colour && !json);
    if json {
        lines.json().flatten_event(true).init();
    } else {
        lines.compact().init();
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
        Event::Answer => line!(info, "answer"),
        Event::Denied => line!(warn, "denied"),
        Event::Refused => line!(info, "refused"),
        Event::Counted => line!(info, "counted"),
        Event::Dropped => line!(warn, "lines dropped"),
    }
}
