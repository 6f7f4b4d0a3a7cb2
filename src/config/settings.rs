//! The staleness settings of `[defaults]` and of a key, how many values a key with parameters may have, and what
//! contradicts in them.

use std::time::Duration;

use super::diagnostic::{Diagnostic, Place, Report};
use super::table::{Node, Table};
use super::{Eviction, names, values};
use crate::staleness::{Revocation, Settings, Span};

/// Where nothing else is written.
const MAX_ENTRIES: u32 = 100;
/// Each is a file that is opened at the start.
const MOST_ENTRIES: u32 = 100_000;

/// A setting that somebody wrote, with its place.
type Written<T> = Option<(T, Place)>;

/// What one table says; the rest comes from elsewhere.
#[derive(Default, Clone)]
pub(super) struct Partial {
    max_age: Written<Span>,
    stale_while_revalidate: Written<Span>,
    stale_if_error: Written<Span>,
    timeout: Written<Duration>,
    failover_timeout: Written<Duration>,
    fetch_timeout: Written<Duration>,
    negative_max_age: Written<Duration>,
    refresh: Written<Option<Duration>>,
    revoked_after: Written<Option<u32>>,
    revoked_over: Written<Duration>,
    forget_after: Written<Duration>,
    max_entries: Written<u32>,
    eviction: Written<Eviction>,
}

fn written<T>(node: Option<Node<'_>>, parse: impl FnOnce(&Node<'_>) -> Option<T>) -> Written<T> {
    let node = node?;
    Some((parse(&node)?, node.place()))
}

impl Partial {
    pub(super) fn read(table: &Table<'_>, report: &mut Report<'_>) -> Self {
        let partial = Self {
            max_age: written(table.get("max-age"), |node| values::span(node, report)),
            stale_while_revalidate: written(table.get("stale-while-revalidate"), |node| values::span(node, report)),
            stale_if_error: written(table.get("stale-if-error"), |node| values::span(node, report)),
            timeout: written(table.get("timeout"), |node| values::positive_duration(node, report)),
            failover_timeout: written(table.get("failover-timeout"), |node| failover_timeout(node, report)),
            fetch_timeout: written(table.get("fetch-timeout"), |node| values::positive_duration(node, report)),
            negative_max_age: written(table.get("negative-max-age"), |node| values::duration(node, report)),
            refresh: written(table.get("refresh"), |node| match node.as_str() {
                Some("off") => Some(None),
                _ => values::positive_duration(node, report).map(Some),
            }),
            revoked_after: written(table.get("revoked-after"), |node| revoked_after(node, report)),
            revoked_over: written(table.get("revoked-over"), |node| values::duration(node, report)),
            forget_after: written(table.get("forget-after"), |node| values::duration(node, report)),
            max_entries: written(table.get("max-entries"), |node| node.integer(report, 1, MOST_ENTRIES)),
            eviction: written(table.get("eviction"), |node| match node.word(report, names::EVICTIONS)? {
                "lfu" => Some(Eviction::Lfu),
                _ => Some(Eviction::Lru),
            }),
        };
        if let (Some((None, never)), Some((_, over))) = (&partial.revoked_after, &partial.revoked_over) {
            report.error(
                Diagnostic::at(over.clone(), "`revoked-over` says nothing when values are never given up")
                    .also(never.clone(), "never given up")
                    .help("leave one of the two out"),
            );
        }
        partial
    }

    /// What is written here, else what is written in `below`.
    pub(super) fn over(&self, below: &Self) -> Self {
        let (upper, lower) = (self.clone(), below.clone());
        Self {
            max_age: upper.max_age.or(lower.max_age),
            stale_while_revalidate: upper.stale_while_revalidate.or(lower.stale_while_revalidate),
            stale_if_error: upper.stale_if_error.or(lower.stale_if_error),
            timeout: upper.timeout.or(lower.timeout),
            failover_timeout: upper.failover_timeout.or(lower.failover_timeout),
            fetch_timeout: upper.fetch_timeout.or(lower.fetch_timeout),
            negative_max_age: upper.negative_max_age.or(lower.negative_max_age),
            refresh: upper.refresh.or(lower.refresh),
            revoked_after: upper.revoked_after.or(lower.revoked_after),
            revoked_over: upper.revoked_over.or(lower.revoked_over),
            forget_after: upper.forget_after.or(lower.forget_after),
            max_entries: upper.max_entries.or(lower.max_entries),
            eviction: upper.eviction.or(lower.eviction),
        }
    }

    /// How many values a key with parameters may have, and which of them goes first.
    pub(super) fn capacity(&self) -> (usize, Eviction) {
        let max_entries = self.max_entries.as_ref().map_or(MAX_ENTRIES, |(count, _)| *count);
        let eviction = self.eviction.as_ref().map_or(Eviction::Lru, |(eviction, _)| *eviction);
        (usize::try_from(max_entries).unwrap_or(usize::MAX), eviction)
    }

    /// Where `max-entries` and `eviction` were written.
    pub(super) fn places_of_capacity(&self) -> [Option<&Place>; 2] {
        [place(&self.max_entries), place(&self.eviction)]
    }

    /// The settings, where nothing is written those of the table in the documentation.
    pub(super) fn resolve(&self) -> Settings {
        fn value<T: Clone>(written: &Written<T>, default: T) -> T {
            written.as_ref().map_or(default, |(value, _)| value.clone())
        }
        let default = Settings::default();
        let timeout = value(&self.timeout, default.timeout);
        let revocation = match (value(&self.revoked_after, Some(3)), value(&self.revoked_over, REVOKED_OVER)) {
            (Some(refusals), over) => Revocation::After { refusals, over },
            (None, _) => Revocation::Never,
        };
        Settings {
            max_age: value(&self.max_age, default.max_age),
            stale_while_revalidate: value(&self.stale_while_revalidate, default.stale_while_revalidate),
            stale_if_error: value(&self.stale_if_error, default.stale_if_error),
            timeout,
            failover_timeout: value(&self.failover_timeout, timeout),
            fetch_timeout: value(&self.fetch_timeout, default.fetch_timeout.max(timeout)),
            negative_max_age: value(&self.negative_max_age, default.negative_max_age),
            refresh: value(&self.refresh, default.refresh),
            revocation,
            on_missing: default.on_missing,
            forget_after: self.forget_after.as_ref().map_or(default.forget_after, |(value, _)| Span::Finite(*value)),
        }
    }

    /// Settings that cannot both be meant. `own` is the part that was written in the table at hand: what
    /// `[defaults]` contradicts in itself is reported there and not again for every key.
    pub(super) fn check(&self, own: &Self, report: &mut Report<'_>) {
        let settings = self.resolve();
        let failover = (place(&own.failover_timeout), place(&self.failover_timeout));
        let timeout = (place(&own.timeout), place(&self.timeout));
        let fetch = (place(&own.fetch_timeout), place(&self.fetch_timeout));
        let refresh = (place(&own.refresh), place(&self.refresh));
        let max_age = (place(&own.max_age), place(&self.max_age));
        let stale = (place(&own.stale_if_error), place(&self.stale_if_error));
        if settings.failover_timeout > settings.timeout {
            contradiction(
                report,
                &[failover, timeout],
                "`failover-timeout` is longer than `timeout`",
                "with a value to fall back on the wait is shorter, not longer; `timeout` is \"5s\" unless set",
            );
        }
        if settings.fetch_timeout < settings.timeout {
            contradiction(
                report,
                &[fetch, timeout],
                "`fetch-timeout` is shorter than `timeout`",
                "`fetch-timeout` ends the call that `timeout` waits for; `timeout` is \"5s\" unless set",
            );
        }
        let Some(every) = settings.refresh else { return };
        if settings.max_age == Span::Forever {
            contradiction(
                report,
                &[max_age, refresh],
                "`max-age = \"forever\"` together with `refresh`",
                "a value that is fresh forever is never fetched again; set another `max-age`, or refresh = \"off\"",
            );
        } else if settings.max_age.plus(settings.stale_if_error) < Span::Finite(every) {
            contradiction(
                report,
                &[refresh, max_age, stale],
                "`refresh` is longer than `max-age` and `stale-if-error` together",
                "the value would be too old to serve before it is fetched again; refresh more often",
            );
        }
    }
}

/// Reports settings that contradict each other, each given as its place in the table at hand and its place
/// wherever it was written, at the first one of the table at hand. Without one it is reported elsewhere.
fn contradiction(report: &mut Report<'_>, settings: &[(Option<&Place>, Option<&Place>)], title: &str, help: &str) {
    let Some(primary) = settings.iter().find_map(|(own, _)| *own) else { return };
    let error = Diagnostic::at(primary.clone(), title).help(help);
    let others = settings.iter().filter_map(|(_, written)| *written).filter(|place| *place != primary);
    report.error(others.fold(error, |error, place| error.also(place.clone(), "contradicted by this")));
}

const REVOKED_OVER: Duration = Duration::from_secs(600);

fn place<T>(written: &Written<T>) -> Option<&Place> {
    written.as_ref().map(|(_, place)| place)
}

fn failover_timeout(node: &Node<'_>, report: &mut Report<'_>) -> Option<Duration> {
    let wait = values::duration(node, report)?;
    if wait.is_zero() {
        report.error(
            node.error("`failover-timeout` cannot be zero: every call would count as too late")
                .help("to be answered at once while a fresh value is fetched, set `stale-while-revalidate`"),
        );
        return None;
    }
    Some(wait)
}

fn revoked_after(node: &Node<'_>, report: &mut Report<'_>) -> Option<Option<u32>> {
    match node.as_str() {
        Some("never") => Some(None),
        Some(_) => {
            report.error(node.expected("an integer, or \"never\""));
            None
        }
        None => node.integer(report, 1, 1_000_000).map(Some),
    }
}
