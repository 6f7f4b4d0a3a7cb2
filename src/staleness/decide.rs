//! What to answer now: a pure function of the settings, the age, what happened before, and the time.

use std::time::Duration;

use super::Settings;

/// What is known of a key at the time of a request.
#[derive(Debug, Clone, Copy)]
pub struct View {
    /// Of the value held, unless there is none or it is withheld.
    pub age: Option<Duration>,
    /// How long the fetch under way has been running.
    pub in_flight: Option<Duration>,
    /// Back-off allows a new fetch.
    pub attempt_due: bool,
    /// The peer said `Cache-Control: no-cache`.
    pub revalidate: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The value, younger than `max-age`.
    Fresh,
    /// The value at once, and a fetch behind it.
    StaleAndRefresh,
    /// The value at once; the upstream is not to be asked now.
    Stale,
    /// Start or join the fetch, and wait until it has run for this long.
    Wait { up_to: Duration },
    /// Nothing legal to serve, and the upstream is not to be asked now.
    Fail,
}

/// Whether a value of this age may be served at all.
pub fn is_usable(settings: &Settings, age: Duration) -> bool {
    settings.max_age.covers(age) || settings.max_age.plus(settings.stale_if_error).covers(age)
}

pub fn decide(settings: &Settings, view: &View) -> Decision {
    let fallback = view.age.filter(|age| is_usable(settings, *age));
    let fresh = fallback.is_some_and(|age| settings.max_age.covers(age));
    // Who asks for a new value and cannot have one now gets what everybody gets.
    let barred = view.in_flight.is_none() && !view.attempt_due;
    if fresh && (barred || !view.revalidate) {
        return Decision::Fresh;
    }
    let up_to = if fallback.is_some() { settings.failover_timeout } else { settings.timeout };
    let overdue = view.in_flight.is_some_and(|elapsed| elapsed >= up_to);
    if overdue || barred {
        return if fallback.is_some() { Decision::Stale } else { Decision::Fail };
    }
    let window = settings.max_age.plus(settings.stale_while_revalidate);
    match view.age {
        Some(age) if !view.revalidate && window.covers(age) => Decision::StaleAndRefresh,
        _ => Decision::Wait { up_to },
    }
}

#[cfg(test)]
mod tests {
    use super::super::Span;
    use super::*;

    const QUIET: View = View { age: None, in_flight: None, attempt_due: true, revalidate: false };

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn settings() -> Settings {
        Settings {
            max_age: Span::Finite(seconds(10)),
            stale_while_revalidate: Span::Finite(seconds(20)),
            stale_if_error: Span::Finite(seconds(100)),
            failover_timeout: seconds(1),
            ..Settings::default()
        }
    }

    fn at(age: u64) -> View {
        View { age: Some(seconds(age)), ..QUIET }
    }

    #[test]
    fn the_windows_follow_one_another() {
        assert_eq!(decide(&settings(), &at(9)), Decision::Fresh);
        assert_eq!(decide(&settings(), &at(10)), Decision::StaleAndRefresh);
        assert_eq!(decide(&settings(), &at(29)), Decision::StaleAndRefresh);
        assert_eq!(decide(&settings(), &at(30)), Decision::Wait { up_to: seconds(1) });
        assert_eq!(decide(&settings(), &at(109)), Decision::Wait { up_to: seconds(1) });
        assert_eq!(decide(&settings(), &at(110)), Decision::Wait { up_to: seconds(5) }, "nothing to fall back on");
    }

    #[test]
    fn while_backing_off_nobody_waits() {
        let barred = |view| View { attempt_due: false, ..view };
        assert_eq!(decide(&settings(), &barred(at(50))), Decision::Stale);
        assert_eq!(decide(&settings(), &barred(at(110))), Decision::Fail);
        assert_eq!(decide(&settings(), &barred(QUIET)), Decision::Fail);
        assert_eq!(decide(&settings(), &barred(at(9))), Decision::Fresh);
    }

    #[test]
    fn who_joins_a_fetch_past_its_deadline_is_answered_at_once() {
        let late = |view, elapsed| View { in_flight: Some(elapsed), attempt_due: false, ..view };
        assert_eq!(decide(&settings(), &late(at(50), seconds(1))), Decision::Stale);
        assert_eq!(decide(&settings(), &late(at(50), Duration::ZERO)), Decision::Wait { up_to: seconds(1) });
        assert_eq!(decide(&settings(), &late(QUIET, seconds(5))), Decision::Fail);
    }

    #[test]
    fn no_cache_asks_the_upstream_and_keeps_the_fallback() {
        let asked = |view| View { revalidate: true, ..view };
        assert_eq!(decide(&settings(), &asked(at(1))), Decision::Wait { up_to: seconds(1) });
        let barred = |view| View { attempt_due: false, ..asked(view) };
        assert_eq!(decide(&settings(), &barred(at(1))), Decision::Fresh, "within max-age it is not stale");
        assert_eq!(decide(&settings(), &barred(at(50))), Decision::Stale);
        assert_eq!(decide(&settings(), &barred(at(110))), Decision::Fail);
    }
}
