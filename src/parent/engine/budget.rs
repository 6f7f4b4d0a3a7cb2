//! `fetches-per-user`: how many fetches a uid may start. Bounded memory, whoever asks.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

/// Above this many uids, those that have their whole burst again are forgotten.
const REMEMBERED: usize = 4096;

/// Virtual scheduling (GCRA): per uid the instant up to which its fetches are paid for.
pub(super) struct Budget {
    interval: Duration,
    burst: Duration,
    paid: HashMap<u32, Instant>,
}

impl Budget {
    /// `per_second` fetches, with a burst of twice that.
    pub(super) fn new(per_second: u32) -> Self {
        let interval = Duration::from_secs(1) / per_second.max(1);
        Self { interval, burst: interval * per_second.max(1).saturating_mul(2), paid: HashMap::new() }
    }

    /// From now on. Another rate begins with the whole burst for all.
    pub(super) fn set_rate(&mut self, per_second: u32) {
        let new = Self::new(per_second);
        if new.interval != self.interval {
            *self = new;
        }
    }

    /// Takes one fetch, or says how long to wait for it.
    pub(super) fn take(&mut self, uid: u32, now: Instant) -> Result<(), Duration> {
        if self.paid.len() > REMEMBERED {
            self.paid.retain(|_, until| *until > now);
        }
        let until = self.paid.get(&uid).copied().unwrap_or(now).max(now) + self.interval;
        let over = until.saturating_duration_since(now + self.burst);
        if over > Duration::ZERO {
            return Err(over);
        }
        self.paid.insert(uid, until);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_rate_and_each_uid_for_itself() {
        let start = Instant::now();
        let mut budget = Budget::new(50);
        assert_eq!((0..150).filter(|_| budget.take(1, start).is_ok()).count(), 100);
        assert!(budget.take(2, start).is_ok());
        let wait = budget.take(1, start).unwrap_err();
        assert_eq!(wait, Duration::from_millis(20));
        assert!(budget.take(1, start + wait).is_ok());
        let second = start + Duration::from_secs(10);
        assert_eq!((0..150).filter(|_| budget.take(1, second).is_ok()).count(), 100);
    }

    #[test]
    fn memory_is_bounded_by_who_is_active() {
        let start = Instant::now();
        let mut budget = Budget::new(50);
        for uid in 0..20_000 {
            let _ = budget.take(uid, start + Duration::from_millis(u64::from(uid)));
        }
        assert!(budget.paid.len() <= REMEMBERED + 1);
    }
}
