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
/// The ledger of very many keys is written the less often: this many of its bytes in a millisecond, on average.
const LEDGER_PACE: u64 = 64;

pub(super) struct StateDue {
    /// The ledger is to be written in the next round, whatever its pace.
    pub(super) ledger_wanted: Cell<bool>,
    /// When its pace lets it be written again.
    pub(super) ledger_due: Cell<Instant>,
    /// When it is looked whether the worker holds leases.
    pub(super) leases_due: Cell<Instant>,
}

impl StateDue {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self { ledger_wanted: Cell::new(false), ledger_due: Cell::new(now), leases_due: Cell::new(now) }
    }

    pub(super) fn ledger_may(&self) -> bool {
        self.ledger_due.get() <= Instant::now()
    }

    pub(super) fn mark_is_sealed(&self) {
        self.leases_due.set(Instant::now() + LEASES_EVERY);
    }
}

impl Engine {
    /// The worker tells ages by itself while its leases last.
    pub(super) fn tell_time_of_leases(&self) {
        self.scribe.state.leases_due.set(Instant::now() + LEASES_EVERY);
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

    /// For a round: the clock if its mark has come to its end, the ledger if it is `wanted` or owed.
    pub(super) fn add_state(&self, last: bool, wanted: bool, items: &mut Vec<Item>, all: &mut Vec<Written>) {
        if last {
            self.clock.now();
        }
        if let Some(mark) = self.clock.mark(last) {
            all.push(Written::Clock(mark));
            items.extend(all.last().and_then(Written::item));
        }
        let (state, mut ledger) = (&self.scribe.state, self.ledger.borrow_mut());
        let owed = ledger.is_owed() && state.ledger_may();
        if !(state.ledger_wanted.take() || wanted || last || owed) {
            return;
        }
        if let Some(bytes) = ledger.encode(self.clock.now()) {
            state.ledger_due.set(Instant::now() + Duration::from_millis(bytes.len() as u64 / LEDGER_PACE));
            all.push(Written::Ledger);
            items.push(Item::State(State::Ledger, bytes));
        }
    }
}
