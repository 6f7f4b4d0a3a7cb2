//! What the log says of answers: the first of each kind by a line, the others by a number every ten seconds.
//!
//! Never blocks and never grows with what peers send: what does not fit is counted, and the count is told.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io::Write;
use std::time::Duration;

use super::connection::Connection;
use super::held::Slots;
use crate::ipc::record::{Event, Record};
use crate::ipc::wire::RequestId;
use crate::secret::KeyPath;

/// How often counted answers are told.
pub(super) const INTERVAL: Duration = Duration::from_secs(10);
/// Lines of one event in one interval: denials cannot drown grants.
const LINES: u32 = 500;
/// Lines of one event by one user in one interval.
const LINES_OF_USER: u32 = 50;
/// Different things that are counted apart in one interval.
const COUNTED: usize = 4096;

pub(super) struct Log {
    /// One line for each answer, as long as the pipe takes them.
    each: bool,
    window: RefCell<Window>,
    dropped: Cell<u64>,
}

#[derive(Default)]
struct Window {
    counts: HashMap<What, u64>,
    lines: HashMap<(Event, u32), u32>,
    lines_of_all: HashMap<Event, u32>,
    /// Beyond what is counted apart.
    others: u64,
    short: Cell<bool>,
}

/// Of one key: how many hits each user had, of which kind. Few users read one key, so a list is quicker than a map.
#[derive(Default)]
pub(super) struct Hits {
    counts: RefCell<Vec<(u32, &'static str, u16, u64)>>,
}

impl Hits {
    pub(super) fn is_empty(&self) -> bool {
        self.counts.borrow().is_empty()
    }

    pub(super) fn count(&self, uid: u32, verdict: &'static str, status: u16) {
        let mut counts = self.counts.borrow_mut();
        let same = |entry: &&mut (u32, &str, u16, u64)| (entry.0, entry.1, entry.2) == (uid, verdict, status);
        match counts.iter_mut().find(same) {
            Some(entry) => entry.3 += 1,
            None => {
                // There is one of these for each key, and mostly with one entry.
                counts.reserve_exact(1);
                counts.push((uid, verdict, status, 1));
            }
        }
    }
}

/// What is counted together.
#[derive(PartialEq, Eq, Hash)]
struct What {
    uid: u32,
    key: Option<KeyPath>,
    verdict: &'static str,
    status: u16,
}

/// One answer, for the log.
pub(super) struct Told<'a> {
    pub(super) connection: &'a Connection,
    pub(super) event: Event,
    pub(super) key: Option<&'a KeyPath>,
    /// The client that grants.
    pub(super) client: Option<&'a str>,
    /// A few words: `hit`, `stale`, the code of a problem.
    pub(super) verdict: &'static str,
    pub(super) status: u16,
    pub(super) millis: u64,
    pub(super) request: RequestId,
}

impl Log {
    pub(super) fn new(each: bool) -> Self {
        Self { each, window: RefCell::default(), dropped: Cell::new(0) }
    }

    /// Tests may not fill the log of the tests.
    #[cfg(test)]
    pub(super) fn silence(&self) {
        let all = [Event::Answer, Event::Denied, Event::Refused];
        self.window.borrow_mut().lines_of_all.extend(all.map(|event| (event, LINES)));
    }

    /// Whether one more line of this kind may be written in this interval.
    pub(super) fn has_room(&self, event: Event, uid: u32) -> bool {
        self.window.borrow().has_room(event, uid)
    }

    /// Whether an answer that is not the first needs no line.
    pub(super) fn only_counts(&self) -> bool {
        !self.each
    }

    /// Counts it, and writes a line if `first` or if it is the first of its kind in this interval and no hit.
    pub(super) fn tell(&self, told: &Told<'_>, first: bool) {
        let uid = told.connection.uid();
        let line = {
            let mut window = self.window.borrow_mut();
            let what = What { uid, key: told.key.map(KeyPath::alone), verdict: told.verdict, status: told.status };
            let known = window.counts.get(&what).copied();
            let wanted = self.each || first || (told.event != Event::Answer && known.is_none());
            let line = wanted && (self.each || window.take_room(told.event, uid));
            if line {
                // It is known from now on, without having been counted.
                if window.counts.len() < COUNTED {
                    window.counts.entry(what).or_default();
                }
            } else if known.is_some() || window.counts.len() < COUNTED {
                *window.counts.entry(what).or_default() += 1;
            } else {
                window.others += 1;
            }
            line
        };
        if line {
            self.write(&Record {
                uid: Some(uid),
                pid: Some(told.connection.pid()),
                key: told.key.map(|key| key.path().to_owned()),
                decision: Some(match (told.client, told.event) {
                    (Some(client), _) => format!("granted by {client}"),
                    (None, Event::Denied) => "denied".to_owned(),
                    (None, _) => "-".to_owned(),
                }),
                verdict: Some(told.verdict.to_owned()),
                status: Some(told.status),
                millis: Some(told.millis),
                request: Some(told.request),
                ..Record::of(told.event)
            });
        }
    }

    /// There are no descriptors or no memory for a connection: told once in each interval.
    pub(super) fn tell_shortage(&self, error: &std::io::Error) {
        if !self.window.borrow().short.replace(true) {
            tracing::error!(%error, "no connection can be accepted");
        }
    }

    /// Tells what was counted, and begins a new interval.
    pub(super) fn flush(&self, slots: &Slots) {
        let mut window = std::mem::take(&mut *self.window.borrow_mut());
        slots.for_each(|slot| {
            for (uid, verdict, status, count) in slot.hits.counts.take() {
                let what = What { uid, key: Some(slot.path.alone()), verdict, status };
                *window.counts.entry(what).or_default() += count;
            }
        });
        let mut counted: Vec<(What, u64)> = window.counts.into_iter().filter(|(_, count)| *count > 0).collect();
        // What was granted first: whoever is denied can make up keys without end.
        counted.sort_by_key(|(what, _)| what.status);
        let mut others = window.others;
        for (told, (what, count)) in counted.into_iter().enumerate() {
            if told >= LINES as usize {
                others += count;
                continue;
            }
            self.write(&Record {
                uid: Some(what.uid),
                key: what.key.map(|key| key.path().to_owned()),
                verdict: Some(what.verdict.to_owned()),
                status: Some(what.status),
                count: Some(count),
                ..Record::of(Event::Counted)
            });
        }
        if others > 0 {
            self.write(&Record { count: Some(others), ..Record::of(Event::Counted) });
        }
        let dropped = self.dropped.replace(0);
        if dropped > 0 {
            self.write(&Record { count: Some(dropped), ..Record::of(Event::Dropped) });
        }
    }

    /// The pipe takes a line whole or, when it is full, not at all.
    fn write(&self, record: &Record) {
        let written = record.line().is_some_and(|line| std::io::stderr().write_all(&line).is_ok());
        if !written {
            self.dropped.set(self.dropped.get() + record.count.unwrap_or(1));
        }
    }
}

impl Window {
    fn has_room(&self, event: Event, uid: u32) -> bool {
        self.lines_of_all.get(&event).is_none_or(|all| *all < LINES)
            && self.lines.get(&(event, uid)).is_none_or(|of_user| *of_user < LINES_OF_USER)
    }

    fn take_room(&mut self, event: Event, uid: u32) -> bool {
        let all = self.lines_of_all.entry(event).or_default();
        let of_user = self.lines.entry((event, uid)).or_default();
        let room = *all < LINES && *of_user < LINES_OF_USER;
        if room {
            *all += 1;
            *of_user += 1;
        }
        room
    }
}
