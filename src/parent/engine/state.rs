//! When the clock and the ledger are to be written: small files of all keys, and each at most once a minute for the sake of one.
//!
//! Waits for no disk; `scribe.rs` writes.

use std::cell::Cell;

use tokio::time::{Duration, Instant};

use super::Engine;
use super::scribe::Written;
use crate::parent::cache::{Item, State};
use crate::sys::clock::boot_nanos;

/// How long after a mark of the clock the next one is asked for, if the worker holds leases.
const LEASES_EVERY: Duration = Duration::from_secs(60);
/// How long what could not be written waits for another try.
const RETRY_AFTER: Duration = Duration::from_secs(20);
/// The ledger of very many keys is written the less often: this many of its bytes in a millisecond, on average.
const LEDGER_PACE: u64 = 64;

pub(super) struct StateDue {
    /// The ledger is to be written in the next round, whatever its pace.
    ledger_wanted: Cell<bool>,
    /// When its pace lets it be written again.
    ledger_due: Cell<Instant>,
    /// When it is looked whether the worker holds leases.
    leases_due: Cell<Instant>,
    /// Something could not be written: until then only what is new is tried.
    rests_until: Cell<Instant>,
}

impl StateDue {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        let due = || Cell::new(now);
        Self { ledger_wanted: Cell::new(false), ledger_due: due(), leases_due: due(), rests_until: due() }
    }

    pub(super) fn want_ledger(&self) {
        self.ledger_wanted.set(true);
    }

    pub(super) fn ledger_may(&self) -> bool {
        self.ledger_due.get().max(self.rests_until.get()) <= Instant::now()
    }

    pub(super) fn mark_is_sealed(&self) {
        self.leases_due.set(Instant::now() + LEASES_EVERY);
    }

    pub(super) fn rest(&self) {
        self.rests_until.set(Instant::now() + RETRY_AFTER);
    }

    pub(super) fn rests(&self) -> bool {
        self.rests_until.get() > Instant::now()
    }

    /// When there is something to do next, if nothing comes before that.
    pub(super) fn next(&self, ledger_is_owed: bool) -> Instant {
        let (leases, rested) = (self.leases_due.get(), self.rests_until.get());
        let ledger = if ledger_is_owed { self.ledger_due.get().max(rested) } else { leases };
        let next = leases.min(ledger);
        if self.rests() { next.min(rested) } else { next }
    }
}

impl Engine {
    /// The worker tells ages by itself while its leases last.
    pub(super) fn tell_time_of_leases(&self) {
        let due = &self.scribe.state.leases_due;
        if due.get() > Instant::now() {
            return;
        }
        due.set(Instant::now() + LEASES_EVERY);
        if self.entries.borrow().values().any(|entry| entry.leased_until > boot_nanos()) {
            self.clock.now();
        }
    }

    /// Has what the ledger owes written, without waiting for it.
    pub(super) fn settle_ledger(&self) {
        if self.ledger.borrow().is_owed() {
            self.scribe.wake.notify_one();
        }
    }

    /// For a round: the clock if its mark has come to its end, the ledger if it is owed. What `buries` is tried whatever failed before.
    pub(super) fn add_state(&self, last: bool, buries: bool, items: &mut Vec<Item>, all: &mut Vec<Written>) {
        let state = &self.scribe.state;
        if state.rests() && !last && !buries {
            return;
        }
        if last {
            self.clock.now();
        }
        if let Some(mark) = self.clock.mark(last) {
            all.push(Written::Clock(mark));
            items.extend(all.last().and_then(Written::item));
        }
        let mut ledger = self.ledger.borrow_mut();
        let owed = ledger.is_owed() && state.ledger_may();
        if !(state.ledger_wanted.take() || buries || last || owed) {
            return;
        }
        if let Some(bytes) = ledger.encode(self.clock.now()) {
            state.ledger_due.set(Instant::now() + Duration::from_millis(bytes.len() as u64 / LEDGER_PACE));
            all.push(Written::Ledger);
            items.push(Item::State(State::Ledger, bytes));
        }
    }
}
