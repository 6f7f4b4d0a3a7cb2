//! What to answer now, on its own: the function against the tables of `docs/staleness.md`, and against what has to be true of
//! any settings.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::cmp::Ordering;
use std::time::Duration;

use keyhatch::staleness::{Decision, Settings, Span, View, decide};
use proptest::prelude::*;

/// The cells of the table whose first heading is this, without headings and names of rows.
fn table(heading: &str) -> Vec<Vec<String>> {
    let text = include_str!("../docs/staleness.md");
    let lines = text.lines().skip_while(|line| !line.starts_with(&format!("| {heading} |")));
    let rows = lines.skip(2).take_while(|line| line.starts_with('|'));
    let cells = |line: &str| line.trim_matches('|').split(" | ").skip(1).map(|cell| cell.trim().to_owned()).collect();
    rows.map(cells).collect()
}

/// Seconds; `None` is for ever.
fn sum(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    Some(a? + b?)
}

fn within(age: u64, bound: Option<u64>) -> bool {
    bound.is_none_or(|bound| age < bound)
}

/// Settings and situation in plain numbers.
#[derive(Debug, Clone)]
struct Case {
    max_age: Option<u64>,
    while_revalidate: Option<u64>,
    if_error: Option<u64>,
    timeout: u64,
    failover: u64,
    age: Option<u64>,
    in_flight: Option<u64>,
    attempt_due: bool,
    revalidate: bool,
}

impl Case {
    fn decide(&self) -> Decision {
        let span = |seconds: Option<u64>| seconds.map_or(Span::Forever, |n| Span::Finite(Duration::from_secs(n)));
        let settings = Settings {
            max_age: span(self.max_age),
            stale_while_revalidate: span(self.while_revalidate),
            stale_if_error: span(self.if_error),
            timeout: Duration::from_secs(self.timeout),
            failover_timeout: Duration::from_secs(self.failover),
            ..Settings::default()
        };
        let view = View {
            age: self.age.map(Duration::from_secs),
            in_flight: self.in_flight.map(Duration::from_secs),
            attempt_due: self.attempt_due,
            revalidate: self.revalidate,
        };
        decide(&settings, &view)
    }

    fn may_serve(&self) -> bool {
        self.age.is_some_and(|age| within(age, sum(self.max_age, self.if_error)))
    }

    /// In the table, from above.
    fn row(&self) -> usize {
        let Some(age) = self.age else { return 4 };
        match (within(age, sum(self.max_age, self.while_revalidate)), self.may_serve()) {
            _ if within(age, self.max_age) => 0,
            (true, true) => 1,
            (true, false) => 2,
            (false, true) => 3,
            (false, false) => 4,
        }
    }

    /// From the left.
    fn column(&self) -> usize {
        let deadline = if self.may_serve() { self.failover } else { self.timeout };
        match self.in_flight {
            None if self.attempt_due => 0,
            None => 1,
            Some(elapsed) if elapsed < deadline => 2,
            Some(_) => 3,
        }
    }

    /// In the words of the table.
    fn told(&self) -> String {
        match self.decide() {
            Decision::Fresh => "value".into(),
            Decision::StaleAndRefresh => "stale value, call behind".into(),
            Decision::Stale => "stale value".into(),
            Decision::Fail => "failure".into(),
            // Two that are equal cannot be told apart here.
            Decision::Wait { up_to }
                if up_to.as_secs() == self.failover && (self.may_serve() || self.failover != self.timeout) =>
            {
                "wait for `failover-timeout`".into()
            }
            Decision::Wait { up_to } if up_to.as_secs() == self.timeout => "wait for `timeout`".into(),
            Decision::Wait { up_to } => format!("wait for {up_to:?}"),
        }
    }
}

/// Small numbers, so that they often meet.
fn case() -> impl Strategy<Value = Case> {
    let span = || prop_oneof![1 => Just(None), 4 => (0..12_u64).prop_map(Some)];
    let timeouts = (1..6_u64).prop_flat_map(|timeout| (Just(timeout), 1..=timeout));
    let view = (prop::option::weighted(0.9, 0..30_u64), prop::option::of(0..8_u64), any::<bool>(), any::<bool>());
    ((span(), span(), span()), timeouts, view).prop_map(
        |((max_age, while_revalidate, if_error), (timeout, failover), (age, in_flight, attempt_due, revalidate))| {
            Case { max_age, while_revalidate, if_error, timeout, failover, age, in_flight, attempt_due, revalidate }
        },
    )
}

/// How much somebody gets.
fn rank(decision: Decision) -> u8 {
    match decision {
        Decision::Fail => 0,
        Decision::Wait { .. } => 1,
        Decision::Stale | Decision::StaleAndRefresh => 2,
        Decision::Fresh => 3,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn the_tables_of_the_documentation_are_what_is_decided(case in case()) {
        let table = table(if case.revalidate { "with `no-cache`" } else { "a plain request" });
        prop_assert!(table.len() == 5 && table.iter().all(|row| row.len() == 4), "{table:?}");
        prop_assert_eq!(&case.told(), &table[case.row()][case.column()]);
    }

    #[test]
    fn nothing_too_old_is_served_while_the_upstream_fails(case in case()) {
        let serves = !matches!(case.decide(), Decision::Fail | Decision::Wait { .. });
        prop_assert!(!serves || case.age.is_some());
        let failing = case.column() % 2 == 1;
        prop_assert!(!serves || !failing || case.may_serve());
        // And what may be served is, whatever the upstream does.
        prop_assert!(!case.may_serve() || case.decide() != Decision::Fail);
    }

    #[test]
    fn nobody_waits_longer_than_is_allowed_or_where_nothing_can_come(case in case()) {
        if let Decision::Wait { up_to } = case.decide() {
            let longest = if case.may_serve() { case.failover } else { case.timeout };
            prop_assert!(up_to.as_secs() <= longest);
            prop_assert!(case.in_flight.is_some() || case.attempt_due);
            prop_assert!(case.in_flight.is_none_or(|elapsed| elapsed < up_to.as_secs()));
        }
    }

    #[test]
    fn an_older_value_is_never_worth_more(case in case(), more in 0..20_u64) {
        let older = Case { age: case.age.map(|age| age + more), revalidate: false, ..case.clone() };
        let young = Case { revalidate: false, ..case };
        // With a shorter wait the call may be past its deadline for the one and not for the other.
        if young.column() == older.column() {
            prop_assert_ne!(rank(young.decide()).cmp(&rank(older.decide())), Ordering::Less, "{:?} {:?}", young, older);
        }
    }
}
