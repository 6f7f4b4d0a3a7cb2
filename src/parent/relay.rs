//! The worker's log: its lines are capped, paced, freed of control characters and marked as its own.
//!
//! Trusts none of them: a worker that is taken over can fill a log with lies about itself, but neither stop nor forge ours.

use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::unix::pipe;
use tokio::time::{Instant, interval};
use tracing_appender::non_blocking::ErrorCounter;

use crate::ipc::record::{MAX_RECORD, Record};
use crate::telemetry;

/// Lines of the worker per second; several times what an honest one writes.
const PER_SECOND: u32 = 1000;
const REPORT: Duration = Duration::from_secs(10);

/// How the log of both roles is.
pub struct LogOptions {
    /// One line for each request.
    pub requests: bool,
    /// Counts the lines that whoever reads our stderr was too slow for.
    pub dropped: ErrorCounter,
}

/// Relays until the worker closes its end.
pub(super) async fn relay(pipe: pipe::Receiver, dropped: ErrorCounter) {
    let mut reader = BufReader::new(pipe);
    let mut line = Vec::new();
    let mut pace = Pace { since: Instant::now(), lines: 0, refused: 0 };
    let mut report = interval(REPORT);
    let mut told = 0;
    loop {
        line.clear();
        let mut limited = (&mut reader).take(MAX_RECORD as u64);
        let read = limited.read_until(b'\n', &mut line);
        tokio::pin!(read);
        let read = loop {
            tokio::select! {
                read = &mut read => break read,
                _ = report.tick() => {
                    let lost = dropped.dropped_lines();
                    if lost > told {
                        tracing::warn!(count = lost - told, "log lines were dropped: whoever reads them is too slow");
                        told = lost;
                    }
                    let refused = std::mem::take(&mut pace.refused);
                    if refused > 0 {
                        tracing::warn!(count = refused, "lines of the worker were dropped: it writes too many");
                    }
                }
            }
        };
        if !matches!(read, Ok(1..)) {
            return;
        }
        if pace.permits(Instant::now()) {
            match Record::parse(&line) {
                Some(record) => telemetry::relay(&record),
                None => tracing::info!(role = "worker", "{}", line.trim_ascii_end().escape_ascii()),
            }
        }
    }
}

struct Pace {
    since: Instant,
    lines: u32,
    refused: u64,
}

impl Pace {
    fn permits(&mut self, now: Instant) -> bool {
        if now.duration_since(self.since) >= Duration::from_secs(1) {
            (self.since, self.lines) = (now, 0);
        }
        let permitted = self.lines < PER_SECOND;
        if permitted {
            self.lines += 1;
        } else {
            self.refused += 1;
        }
        permitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_to_its_pace_and_counted() {
        let start = Instant::now();
        let mut pace = Pace { since: start, lines: 0, refused: 0 };
        let passed = (0..5000).filter(|_| pace.permits(start)).count();
        assert_eq!((passed, pace.refused), (1000, 4000));
        assert!(pace.permits(start + Duration::from_secs(1)));
    }
}
