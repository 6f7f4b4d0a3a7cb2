//! Back-off, of a document, of an origin with its tokens, or of a login: when the next attempt is due. Pure: time is given.

use std::time::Duration;

use tokio::time::Instant;

/// The first wait.
const FIRST: Duration = Duration::from_secs(1);
/// The longest wait.
const LONGEST: Duration = Duration::from_secs(60);
/// The longest wait while some peer has got nothing within the last minute.
const LONGEST_WHILE_WANTED: Duration = Duration::from_secs(5);

/// How often in a row it failed, and when to try again.
#[derive(Debug, Default, Clone, Copy)]
pub(in crate::parent) struct Pace {
    failures: u32,
    due: Option<Instant>,
    /// When it last failed, or was told to rest.
    changed: Option<Instant>,
    /// One attempt is under way to see whether it works again.
    probing: bool,
}

/// What makes a wait longer or shorter than the plain doubling.
#[derive(Debug, Clone, Copy)]
pub(in crate::parent) struct Circumstances {
    pub(in crate::parent) now: Instant,
    /// What the upstream asked for.
    pub(in crate::parent) retry_after: Option<Duration>,
    /// Some peer has got nothing within the last minute.
    pub(in crate::parent) wanted: bool,
    /// Any number: spreads the attempts of many.
    pub(in crate::parent) random: u8,
}

impl Pace {
    pub(in crate::parent) fn permits(&self, now: Instant) -> bool {
        !self.probing && self.due.is_none_or(|due| due <= now)
    }

    /// In a row.
    pub(in crate::parent) fn failures(&self) -> u32 {
        self.failures
    }

    /// When the next attempt is due; `None` when one may be made at once.
    pub(in crate::parent) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// An attempt begins. After a failure it is the only one until it ends.
    pub(in crate::parent) fn begin(&mut self) {
        self.probing = self.failures > 0;
    }

    /// The attempt said nothing about this: another one may be made.
    pub(in crate::parent) fn release(&mut self) {
        self.probing = false;
    }

    pub(in crate::parent) fn succeed(&mut self) {
        *self = Self::default();
    }

    /// Success of an attempt that began then. What has happened since is newer; but one that was counted as late, and
    /// succeeded after all, takes its own failure back.
    pub(in crate::parent) fn succeed_since(&mut self, began: Instant, was_late: bool) {
        if was_late || self.changed.is_none_or(|changed| changed <= began) {
            self.succeed();
        }
    }

    /// Whatever became of the last attempt, the upstream asks for none for so long.
    pub(in crate::parent) fn rest(&mut self, now: Instant, wait: Duration) {
        self.due = self.due.max(Some(now + wait));
        self.changed = Some(now);
    }

    /// Failure of an attempt that began then. Many that were under way at once are one failure.
    pub(in crate::parent) fn fail_since(&mut self, began: Instant, why: Circumstances) {
        if self.failures > 0 && self.changed.is_some_and(|changed| changed > began) {
            self.again(why);
        } else {
            self.fail(why);
        }
    }

    pub(in crate::parent) fn fail(&mut self, why: Circumstances) {
        self.failures = self.failures.saturating_add(1);
        self.again(why);
    }

    /// The end of an attempt that has been counted as a failure already: the wait begins now, and is no longer than it was.
    pub(in crate::parent) fn again(&mut self, why: Circumstances) {
        let doublings = self.failures.saturating_sub(1).min(6);
        let longest = if why.wanted { LONGEST_WHILE_WANTED } else { LONGEST };
        let wait = (FIRST * (1 << doublings)).min(longest);
        // Up to a fifth less, never more: recovery is seen within one interval.
        let spread = wait - wait * u32::from(why.random) / (5 * 255);
        self.due = Some(why.now + spread.max(why.retry_after.unwrap_or_default()));
        self.changed = Some(why.now);
        self.probing = false;
    }
}

/// For spreading only: without randomness, nothing is spread.
pub(in crate::parent) fn random() -> u8 {
    let mut byte = [0];
    let _ = crate::sys::random::fill(&mut byte);
    byte[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(now: Instant) -> Circumstances {
        Circumstances { now, retry_after: None, wanted: false, random: 0 }
    }

    fn wait(pace: &Pace, now: Instant) -> Duration {
        pace.due().unwrap() - now
    }

    #[test]
    fn the_wait_doubles_to_a_minute_and_success_ends_it() {
        let now = Instant::now();
        let mut pace = Pace::default();
        let mut waits = Vec::new();
        for _ in 0..8 {
            pace.fail(why(now));
            waits.push(wait(&pace, now).as_secs());
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        pace.succeed();
        assert!(pace.permits(now));
    }

    #[test]
    fn jitter_only_shortens_and_by_a_fifth_at_most() {
        let now = Instant::now();
        for random in [0, 1, 128, 255] {
            let mut pace = Pace::default();
            pace.fail(Circumstances { random, ..why(now) });
            let wait = wait(&pace, now);
            assert!(wait <= FIRST && wait >= FIRST * 4 / 5, "{wait:?}");
        }
    }

    #[test]
    fn the_upstream_may_ask_for_more_and_waiting_peers_for_less() {
        let now = Instant::now();
        let mut pace = Pace::default();
        (0..7).for_each(|_| pace.fail(Circumstances { wanted: true, ..why(now) }));
        assert_eq!(wait(&pace, now), LONGEST_WHILE_WANTED);
        pace.fail(Circumstances { retry_after: Some(Duration::from_secs(90)), wanted: true, ..why(now) });
        assert_eq!(wait(&pace, now), Duration::from_secs(90));
    }

    #[test]
    fn a_rest_is_kept_and_ends() {
        let now = Instant::now();
        let mut pace = Pace::default();
        pace.rest(now, FIRST);
        assert!(!pace.permits(now) && pace.permits(now + FIRST));
        pace.rest(now, Duration::ZERO);
        assert_eq!(wait(&pace, now), FIRST, "never shorter than what was asked for before");
    }

    #[test]
    fn one_probe_at_a_time_tests_recovery() {
        let now = Instant::now();
        let mut pace = Pace::default();
        pace.begin();
        assert!(pace.permits(now), "nothing has failed: no probe");
        pace.fail(why(now));
        assert!(!pace.permits(now));
        let later = now + FIRST;
        assert!(pace.permits(later));
        pace.begin();
        assert!(!pace.permits(later));
        pace.release();
        assert!(pace.permits(later), "who learns nothing bars nobody");
        pace.begin();
        pace.again(why(later));
        assert!(!pace.permits(later) && pace.permits(later + FIRST));
    }

    #[test]
    fn many_that_were_under_way_at_once_are_one_failure() {
        let began = Instant::now();
        let failed = began + Duration::from_secs(2);
        let mut pace = Pace::default();
        (0..7).for_each(|_| pace.fail_since(began, why(failed)));
        assert_eq!(wait(&pace, failed), FIRST);
        pace.fail_since(failed + FIRST, why(failed + FIRST));
        assert_eq!(wait(&pace, failed + FIRST), 2 * FIRST);
    }

    #[test]
    fn an_older_success_undoes_no_newer_failure() {
        let began = Instant::now();
        let mut pace = Pace::default();
        pace.fail(Circumstances { retry_after: Some(Duration::from_secs(30)), ..why(began + FIRST) });
        pace.succeed_since(began, false);
        assert!(!pace.permits(began + FIRST));
        pace.succeed_since(began + 2 * FIRST, false);
        assert!(pace.permits(began + 2 * FIRST));
        pace.fail(why(began + 3 * FIRST));
        pace.succeed_since(began, true);
        assert!(pace.permits(began + 3 * FIRST), "its own lateness");
    }
}
