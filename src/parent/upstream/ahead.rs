//! By how much the clocks of others are ahead of ours, as far as signatures need to know.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use super::request::seconds;
use crate::config::TokenName;

/// An origin; and with which key, where that is what vouches for the time.
pub(super) type Clock = (String, Option<TokenName>);

/// What a `Date` may differ by and still be a clock that nobody has set right: more than any zone.
const SENSIBLE: u64 = 24 * 3600;
/// What no signature is refused for.
const NEAR: u64 = 60;

/// Shared by all who sign.
#[derive(Clone, Default)]
pub(super) struct Ahead(Rc<RefCell<HashMap<Clock, i64>>>);

impl Ahead {
    /// In seconds; zero where nothing is known.
    pub(super) fn of(&self, clock: &Clock) -> i64 {
        self.0.borrow().get(clock).copied().unwrap_or(0)
    }

    /// Whether this `Date` is not about the time that was signed.
    pub(super) fn differs(&self, signed: u64, date: Option<u64>) -> bool {
        date.is_some_and(|date| date.abs_diff(signed) > NEAR)
    }

    /// Believes a `Date`, if that is sensible; whether it does.
    pub(super) fn set(&self, clock: &Clock, date: Option<u64>) -> bool {
        let now = seconds();
        let Some(date) = date.filter(|date| date.abs_diff(now) <= SENSIBLE) else {
            tracing::error!(origin = clock.0, "the date of an answer is more than a day off: it is not believed");
            return false;
        };
        self.set_time(clock, date);
        true
    }

    /// This is the time there.
    pub(super) fn set_time(&self, clock: &Clock, time: u64) {
        let ahead = i64::try_from(i128::from(time) - i128::from(seconds())).unwrap_or(0);
        tracing::warn!(origin = clock.0, seconds = ahead, "the upstream's clock is ahead by this");
        self.0.borrow_mut().insert(clock.clone(), ahead);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_believed_for_a_day_and_no_more() {
        let (ahead, clock) = (Ahead::default(), ("https://a.example:443".to_owned(), None));
        let now = seconds();
        assert!(
            !ahead.differs(now, Some(now + 59)) && !ahead.differs(now, None) && ahead.differs(now, Some(now - 600))
        );
        assert!(ahead.set(&clock, Some(now - 600)));
        assert!((ahead.of(&clock) + 600).abs() <= 1);
        assert!(
            !ahead.set(&clock, Some(now + 2 * SENSIBLE)) && !ahead.set(&clock, None) && !ahead.set(&clock, Some(0))
        );
        assert!((ahead.of(&clock) + 600).abs() <= 1, "it stays what it was");
    }
}
