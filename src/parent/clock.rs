//! The time that ages are told by: never goes back, and never stands while the machine runs, also over restarts.
//!
//! The later of the wall clock and of what it said before plus `CLOCK_BOOTTIME` since: a wall clock that is set back makes
//! no value younger, one that was wrong at boot and is set forward makes all values as old as they are. What it said is
//! sealed as a [`Mark`] now and then, with a ceiling that it will not pass before the next one: after a crash it goes on
//! from where nobody can have seen a later instant.

use std::cell::Cell;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::sys::clock::{BootId, boot_nanos};

/// How far beyond its mark time is told before another one is sealed, in milliseconds.
const RENEW: u64 = 60_000;
/// How far a mark reaches: with time for the next one to be sealed. After a crash and a reboot ages may be that much too old.
const REACH: u64 = 75_000;
/// How far the wall clock may run ahead of `CLOCK_BOOTTIME` since the mark before that is sealed.
const STEP: u64 = 1000;

/// What is sealed of the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    /// `None` where the kernel does not say.
    boot: Option<BootId>,
    /// Nanoseconds since that boot.
    since_boot: i64,
    /// Milliseconds since the epoch, told then.
    told: u64,
    /// No later instant is told without another mark.
    ceiling: u64,
}

pub(super) struct Clock {
    /// Milliseconds since the epoch, and nanoseconds since the boot at which they were told.
    last: Cell<(u64, i64)>,
    boot: Option<BootId>,
    /// How far the time was ahead of the boot when that was looked at last, in milliseconds.
    ahead: Cell<u64>,
    /// What is on disk since this start.
    sealed: Cell<Option<Mark>>,
    overrun: Notify,
}

impl Clock {
    /// Goes on after what is sealed: the marks, and the newest instant of a value.
    pub(super) fn resume(marks: &[Mark], newest: u64, boot: Option<BootId>) -> Self {
        let since_boot = boot_nanos();
        let reached = marks.iter().map(|mark| mark.reached(boot, since_boot)).max().unwrap_or(0).max(newest);
        let last = (reached, since_boot);
        let ahead = ahead_of_boot(advance(last, wall(), since_boot));
        Self { last: Cell::new(last), boot, ahead: Cell::new(ahead), sealed: Cell::new(None), overrun: Notify::new() }
    }

    /// Milliseconds since the epoch.
    pub(super) fn now(&self) -> u64 {
        let since_boot = boot_nanos();
        let told = advance(self.last.get(), wall(), since_boot);
        self.last.set(told);
        if self.sealed.get().is_none_or(|mark| !mark.covers(told.0, since_boot)) {
            self.overrun.notify_one();
        }
        told.0
    }

    /// Whether the wall clock was set forward, by more than a second since this last said so: what was told as a length
    /// of `CLOCK_BOOTTIME` ends earlier then. Tells no instant.
    pub(super) fn was_set_forward(&self) -> bool {
        let ahead = ahead_of_boot(advance(self.last.get(), wall(), boot_nanos()));
        let forward = ahead > self.ahead.get().saturating_add(STEP);
        if forward {
            self.ahead.set(ahead);
        }
        forward
    }

    /// Resolves when an instant was told that the mark on disk does not cover.
    pub(super) async fn overrun(&self) {
        self.overrun.notified().await;
    }

    /// What is to be sealed, if the mark on disk does not cover what was told. After the `last` one nothing more is told.
    pub(super) fn mark(&self, last: bool) -> Option<Mark> {
        let (told, since_boot) = self.last.get();
        if !last && self.sealed.get().is_some_and(|mark| mark.covers(told, since_boot)) {
            return None;
        }
        Some(Mark { boot: self.boot, since_boot, told, ceiling: if last { told } else { told.saturating_add(REACH) } })
    }

    /// The mark is on disk.
    pub(super) fn sealed(&self, mark: Mark) {
        self.sealed.set(Some(mark));
    }
}

impl Mark {
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        postcard::from_bytes(bytes).ok()
    }

    /// Later than any instant that was told under this mark.
    fn reached(&self, boot: Option<BootId>, since_boot: i64) -> u64 {
        if boot.is_none() || boot != self.boot || since_boot < self.since_boot {
            return self.ceiling;
        }
        // The time since then is known; only a small step of the wall clock may be missing.
        let ahead = STEP.min(self.ceiling.saturating_sub(self.told));
        self.projected(since_boot).saturating_add(ahead)
    }

    fn projected(&self, since_boot: i64) -> u64 {
        self.told.saturating_add(millis(since_boot.saturating_sub(self.since_boot)))
    }

    fn covers(&self, told: u64, since_boot: i64) -> bool {
        told <= self.told.saturating_add(RENEW) && told <= self.projected(since_boot).saturating_add(STEP)
    }
}

fn millis(nanos: i64) -> u64 {
    u64::try_from(nanos / 1_000_000).unwrap_or(0)
}

/// Milliseconds since the epoch, as this machine has it.
fn wall() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}

/// Of an instant and the time since the boot at which it was told.
fn ahead_of_boot((told, since_boot): (u64, i64)) -> u64 {
    told.saturating_sub(millis(since_boot))
}

fn advance(last: (u64, i64), wall: u64, boot: i64) -> (u64, i64) {
    let elapsed = millis(boot.saturating_sub(last.1));
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
    const THIS: Option<BootId> = Some(BootId([1; 16]));
    const OTHER: Option<BootId> = Some(BootId([2; 16]));

    fn mark(ceiling: u64) -> Mark {
        Mark { boot: THIS, since_boot: 100 * SECOND, told: 10 * DAY, ceiling }
    }

    #[test]
    fn a_wall_clock_set_back_changes_nothing() {
        assert_eq!(advance((10 * DAY, 0), 9 * DAY, 5 * SECOND), (10 * DAY + 5000, 5 * SECOND));
    }

    #[test]
    fn a_wall_clock_set_forward_is_believed() {
        assert_eq!(advance((10 * DAY, 0), 11 * DAY, SECOND), (11 * DAY, SECOND));
    }

    #[test]
    fn within_one_boot_time_goes_on_over_a_restart() {
        let orderly = mark(10 * DAY);
        assert_eq!(orderly.reached(THIS, 160 * SECOND), 10 * DAY + 60_000);
        let crashed = mark(10 * DAY + REACH);
        assert_eq!(crashed.reached(THIS, 160 * SECOND), 10 * DAY + 60_000 + STEP);
    }

    #[test]
    fn over_a_reboot_it_goes_on_from_what_nobody_has_seen() {
        let crashed = mark(10 * DAY + REACH);
        for boot in [OTHER, None] {
            assert_eq!(crashed.reached(boot, 5 * SECOND), 10 * DAY + REACH);
            assert_eq!(mark(10 * DAY).reached(boot, 5 * SECOND), 10 * DAY);
        }
        let no_name = Mark { boot: None, ..crashed };
        assert_eq!(no_name.reached(None, 160 * SECOND), 10 * DAY + REACH, "no id is not the same id");
        assert_eq!(crashed.reached(THIS, 5 * SECOND), 10 * DAY + REACH, "another time namespace");
    }

    #[test]
    fn a_step_of_the_wall_clock_wants_another_mark() {
        let mark = mark(10 * DAY + REACH);
        assert!(mark.covers(10 * DAY + RENEW, 160 * SECOND));
        assert!(!mark.covers(10 * DAY + 20_000, 110 * SECOND), "ten seconds ahead");
        assert!(!mark.covers(10 * DAY + RENEW + 1, 161 * SECOND), "too near to its ceiling");
    }

    #[tokio::test]
    async fn marks_are_asked_for_when_time_is_told() {
        let clock = Clock::resume(&[], 0, THIS);
        let told = clock.now();
        clock.overrun().await;
        let first = clock.mark(false).unwrap();
        assert_eq!((first.told, first.ceiling), (told, told + REACH));
        clock.sealed(first);
        assert_eq!(clock.mark(false), None, "it covers what was told");
        assert_eq!(clock.mark(true).unwrap().ceiling, told);
    }

    #[test]
    fn a_newer_value_or_mark_is_where_time_begins() {
        let far = u64::MAX / 2;
        assert!(Clock::resume(&[], far, THIS).now() >= far);
        let marks = [Mark { ceiling: far, ..mark(0) }, mark(10 * DAY)];
        assert!(Clock::resume(&marks, 0, OTHER).now() >= far);
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

        #[test]
        fn a_crash_makes_no_value_younger(
            walls in proptest::collection::vec((0..30 * DAY, 0..10 * SECOND), 1..30),
            rebooted: bool,
            down in 0..10 * SECOND,
        ) {
            let (mut last, mut boot) = ((15 * DAY, 0), 0);
            let mut sealed: Option<Mark> = None;
            for (wall, elapsed) in walls {
                boot += elapsed;
                last = advance(last, wall, boot);
                if sealed.is_none_or(|mark| !mark.covers(last.0, boot)) {
                    sealed = Some(Mark { boot: THIS, since_boot: boot, told: last.0, ceiling: last.0 + REACH });
                }
            }
            let (id, since) = if rebooted { (OTHER, down) } else { (THIS, boot + down) };
            proptest::prop_assert!(sealed.unwrap().reached(id, since) >= last.0);
        }
    }
}
