//! The time that ages are told by: never goes back, and never stands while the machine runs.
//!
//! The later of the wall clock and of what it said before plus `CLOCK_BOOTTIME` since: a wall clock that is set back makes
//! no value younger, one that was wrong at boot and is set forward makes all values as old as they are.

use std::cell::Cell;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::sys::clock::boot_nanos;

pub(super) struct Clock {
    /// Milliseconds since the epoch, and nanoseconds since the boot at which they were told.
    last: Cell<(u64, i64)>,
}

impl Clock {
    /// `reached` is the newest instant that was sealed: time goes on from there at least.
    pub(super) fn new(reached: u64) -> Self {
        Self { last: Cell::new((reached, boot_nanos())) }
    }

    /// Milliseconds since the epoch.
    pub(super) fn now(&self) -> u64 {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let told = advance(self.last.get(), u64::try_from(wall.as_millis()).unwrap_or(u64::MAX), boot_nanos());
        self.last.set(told);
        told.0
    }
}

fn advance(last: (u64, i64), wall: u64, boot: i64) -> (u64, i64) {
    let elapsed = u64::try_from(boot.saturating_sub(last.1) / 1_000_000).unwrap_or(0);
    let carried = last.0.saturating_add(elapsed);
    if wall >= carried {
        (wall, boot)
    } else if elapsed == 0 {
        // Less than a millisecond: keep the older anchor, or time would stand under frequent questions.
        last
    } else {
        (carried, last.1.saturating_add(i64::try_from(elapsed).unwrap_or(0).saturating_mul(1_000_000)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400_000;
    const SECOND: i64 = 1_000_000_000;

    #[test]
    fn a_wall_clock_set_back_changes_nothing() {
        assert_eq!(advance((10 * DAY, 0), 9 * DAY, 5 * SECOND), (10 * DAY + 5000, 5 * SECOND));
    }

    #[test]
    fn a_wall_clock_set_forward_is_believed() {
        assert_eq!(advance((10 * DAY, 0), 11 * DAY, SECOND), (11 * DAY, SECOND));
    }

    proptest::proptest! {
        #[test]
        fn it_never_goes_back_and_never_falls_behind_the_boot_clock(
            steps in proptest::collection::vec((0..30 * DAY, 0..100_000_000i64), 1..50)
        ) {
            let (mut told, mut boot) = ((15 * DAY, 0), 0);
            for (wall, elapsed) in steps {
                boot += elapsed;
                let next = advance(told, wall, boot);
                proptest::prop_assert!(next.0 >= told.0);
                let since_start = u64::try_from(boot / 1_000_000).unwrap();
                proptest::prop_assert!(next.0 >= 15 * DAY + since_start);
                told = next;
            }
        }
    }
}
