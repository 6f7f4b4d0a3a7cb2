//! One key: its value, how its last fetch ended, and how often it was refused. No I/O.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::documents::DocumentId;
use super::memory::InMemory;
use super::ranking::Owner;
use super::scribe::OnDisk;
use crate::config::Projection;
use crate::ipc::wire::{State, Tag};
use crate::outcome::{Class, Failure};
use crate::parent::cache::{Definition, Record, SealKey, Validators, ValueLabel, tags};
use crate::parent::pace::Pace;
use crate::secret::KeyPath;
use crate::staleness::{Revocation, Settings, Span, is_usable};

pub(super) struct Entry {
    pub(super) document: DocumentId,
    pub(super) projection: Projection,
    pub(super) definition: Definition,
    pub(super) settings: Settings,
    pub(super) standing: Standing,
    /// Held by each request that is being answered from it, too.
    pub(super) in_hand: Rc<()>,
    pub(super) held: Option<Held>,
    /// How the last fetch ended, if it brought no value.
    pub(super) failure: Option<Failure>,
    /// The status of the last good answer, where the source has such a thing.
    pub(super) status: Option<u16>,
    /// Of this key alone: its field is missing from a document that is there.
    pub(super) pace: Pace,
    /// A failure with nothing to fall back on is remembered until then.
    pub(super) negative_until: Option<Instant>,
    /// Up to when the worker may hold the value without asking, in nanoseconds of `CLOCK_BOOTTIME`.
    pub(super) leased_until: i64,
    /// What it was leased as: a value that is past its `max-age`.
    pub(super) leased_stale: bool,
    /// When the last fetch ended.
    pub(super) ended: Option<Instant>,
    /// When it was purged: what was asked for before is not kept.
    pub(super) purged: Option<Instant>,
    /// Answers with its value since the start, as the worker says.
    pub(super) serves: u64,
    refusals: Option<Refusals>,
    given_up: Option<GivenUp>,
}

/// Whether the entry is there to stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Of a key of the configuration.
    Fixed,
    /// Of a path of the key with parameters that has this number, until it is evicted.
    Lasting(usize),
    /// Of a path that somebody has asked for and that has never had a value.
    Passing(usize),
    /// Evicted, and there until those who had asked before are answered.
    Leaving(usize, Owner),
}

/// In a row, all of one effect.
struct Refusals {
    effect: GivenUp,
    count: u32,
    since: Instant,
}

/// What refusals have led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GivenUp {
    /// The token was refused: out of memory, but the sealed file stays for when a token is accepted.
    Withheld,
    /// The value itself was: out of memory and off the disk.
    Shredded,
}

/// What the upstream gave last.
#[derive(Clone)]
pub(super) struct Held {
    /// Its bytes; `None` while only the sealed file has them.
    pub(super) value: Option<Rc<InMemory>>,
    /// Milliseconds since the epoch.
    pub(super) fetched_at: u64,
    /// Where exactly this value is on disk.
    pub(super) on_disk: Rc<OnDisk>,
    pub(super) tag: Tag,
    pub(super) tag_text: Option<Tag>,
    pub(super) validators: Validators,
}

impl Held {
    /// From the upstream.
    pub(super) fn new(
        seal: &SealKey,
        key: &KeyPath,
        value: Rc<InMemory>,
        validators: Validators,
        fetched_at: u64,
    ) -> Self {
        let (tag, tag_text) = tags(seal, key, value.get());
        Self { value: Some(value), fetched_at, on_disk: Rc::default(), tag, tag_text, validators }
    }

    /// What is sealed, and the upstream last gave at `fetched_at`.
    pub(super) fn sealed(label: &ValueLabel, fetched_at: u64) -> Self {
        Self {
            value: None,
            fetched_at,
            on_disk: Rc::new(OnDisk { sealed: Cell::new(Some(label.fetched_at)), placed: Cell::new(true) }),
            tag: label.tag,
            tag_text: label.tag_text,
            validators: label.validators.clone(),
        }
    }

    /// What is to be sealed of it. `None` when its bytes are on disk alone.
    pub(super) fn record(&self, key: &KeyPath, entry: &Entry) -> Option<Record> {
        let value = self.value.as_ref()?.get().clone();
        let label = ValueLabel {
            key: key.clone(),
            definition: entry.definition,
            forget_after: entry.forget_after(),
            fetched_at: self.fetched_at,
            size: value.len() as u64,
            tag: self.tag,
            tag_text: self.tag_text,
            validators: self.validators.clone(),
        };
        Some(Record { label, value })
    }

    /// What is only in the sealed file whose `fetched_at` is this.
    pub(super) fn is_only_in(&self, fetched_at: u64) -> bool {
        self.value.is_none() && self.on_disk.sealed.get() == Some(fetched_at)
    }
}

impl Entry {
    pub(super) fn new(
        document: DocumentId,
        projection: Projection,
        definition: Definition,
        settings: Settings,
        held: Option<Held>,
    ) -> Self {
        Self {
            document,
            projection,
            definition,
            settings,
            standing: Standing::Fixed,
            in_hand: Rc::default(),
            held,
            failure: None,
            status: None,
            pace: Pace::default(),
            negative_until: None,
            leased_until: 0,
            leased_stale: false,
            ended: None,
            purged: None,
            serves: 0,
            refusals: None,
            given_up: None,
        }
    }

    pub(super) fn age(&self, now: u64) -> Option<Duration> {
        let held = self.held.as_ref()?;
        Some(Duration::from_millis(now.saturating_sub(held.fetched_at)))
    }

    /// Nothing is known of its source: no value, and no fetch that ended.
    pub(super) fn is_blank(&self) -> bool {
        self.held.is_none() && self.failure.is_none() && self.given_up.is_none()
    }

    /// Is there to stay, as far as peers are told.
    pub(super) fn is_listed(&self) -> bool {
        matches!(self.standing, Standing::Fixed | Standing::Lasting(_))
    }

    /// As before, by another configuration. No lease of it is left.
    pub(super) fn move_to(&mut self, document: DocumentId, settings: Settings, standing: Standing) {
        (self.document, self.settings, self.standing) = (document, settings, standing);
        (self.leased_until, self.leased_stale) = (0, false);
    }

    /// Some request is being answered from it.
    pub(super) fn is_in_hand(&self) -> bool {
        Rc::strong_count(&self.in_hand) > 1
    }

    /// Of a path of a key with parameters, with a place of its own.
    pub(super) fn is_lasting(&self) -> bool {
        matches!(self.standing, Standing::Lasting(_))
    }

    /// Has bytes to serve, whatever their age.
    pub(super) fn has_bytes(&self) -> bool {
        self.held.as_ref().is_some_and(|held| held.value.is_some())
    }

    pub(super) fn is_usable(&self, now: u64) -> bool {
        self.age(now).is_some_and(|age| is_usable(&self.settings, age))
    }

    /// In milliseconds, as labels say it.
    pub(super) fn forget_after(&self) -> u64 {
        match self.settings.forget_after {
            Span::Finite(length) => u64::try_from(length.as_millis()).unwrap_or(u64::MAX),
            Span::Forever => u64::MAX,
        }
    }

    pub(super) fn is_withheld(&self) -> bool {
        self.given_up == Some(GivenUp::Withheld)
    }

    pub(super) fn state(&self, now: u64) -> State {
        match (self.age(now), self.failure) {
            _ if self.given_up.is_some() => State::Revoked,
            (_, Some(_)) => State::Failing,
            (Some(age), None) if self.settings.max_age.covers(age) => State::Fresh,
            (Some(_), None) => State::Stale,
            (None, None) => State::NeverFetched,
        }
    }

    /// The upstream gave a value; says whether it is another one than before.
    pub(super) fn accept(&mut self, held: Held) -> bool {
        let changed = self.held.as_ref().is_none_or(|before| before.tag != held.tag);
        (self.failure, self.refusals, self.given_up, self.negative_until) = (None, None, None, None);
        self.pace.succeed();
        self.held = Some(held);
        changed
    }

    /// The service raised an exception: what it gave before stays, and so do refusals.
    pub(super) fn raise(&mut self, now: Instant) {
        (self.failure, self.negative_until, self.status, self.ended) = (None, None, None, Some(now));
        self.pace.succeed();
    }

    /// As if it had never been fetched.
    pub(super) fn purge(&mut self, now: Instant) {
        (self.held, self.failure, self.status, self.ended) = (None, None, None, None);
        (self.refusals, self.given_up, self.negative_until) = (None, None, None);
        self.pace.succeed();
        self.purged = Some(now);
    }

    /// As before the restart, or before the key left: what is sealed, unless it is not to be served.
    pub(super) fn find(&mut self, held: Option<Held>, withheld: bool) {
        self.given_up = (withheld && held.is_some()).then_some(GivenUp::Withheld);
        self.held = held.filter(|_| !withheld);
    }

    /// What was withheld serves again.
    pub(super) fn restore(&mut self, held: Option<Held>) {
        (self.given_up, self.refusals) = (None, None);
        self.held = held;
    }

    /// The upstream gave none. `Some` when this makes the value be given up, which it then is in memory.
    pub(super) fn refuse(&mut self, failure: Failure, now: Instant) -> Option<GivenUp> {
        self.failure = Some(failure);
        let effect = match failure.class {
            Class::TokenRefused => GivenUp::Withheld,
            Class::Refused | Class::Gone => GivenUp::Shredded,
            // Says nothing about the value: neither one more refusal nor the end of a row of them.
            Class::Unavailable | Class::Misconfigured => return None,
        };
        let before = self.refusals.take().filter(|before| before.effect == effect);
        let refusals = before.map_or(Refusals { effect, count: 1, since: now }, |before| Refusals {
            count: before.count.saturating_add(1),
            ..before
        });
        let confirmed = match self.settings.revocation {
            Revocation::Never => false,
            Revocation::After { refusals: enough, over } => {
                refusals.count >= enough && now.saturating_duration_since(refusals.since) >= over
            }
        };
        self.refusals = Some(refusals);
        // A value that is withheld can still be shredded; one that is shredded cannot be withheld.
        let done = self.given_up == Some(effect) || self.given_up == Some(GivenUp::Shredded);
        if !confirmed || done || (self.held.is_none() && self.given_up.is_none()) {
            return None;
        }
        self.held = None;
        self.given_up = Some(effect);
        self.given_up
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::Memory;
    use super::*;
    use crate::outcome::Reason;
    use crate::parent::cache::new_seal_key_text;
    use crate::secret::SecretValue;

    fn entry() -> Entry {
        let key = KeyPath::parse("/a").unwrap();
        let seal = SealKey::parse(new_seal_key_text().unwrap().as_bytes()).unwrap();
        let held =
            Held::new(&seal, &key, Memory::new(0).take(SecretValue::from_text("v")), Validators::default(), 1000);
        let definition = Definition::of("");
        Entry::new(DocumentId(0), Projection::Whole, definition, Settings::default(), Some(held))
    }

    const MINUTE: Duration = Duration::from_secs(60);

    fn failure(class: Class) -> Failure {
        Failure::new(class, Reason::Status(403))
    }

    #[test]
    fn it_takes_the_number_and_the_time() {
        let start = Instant::now();
        let mut quick = entry();
        assert!((0..100).all(|_| quick.refuse(failure(Class::Gone), start).is_none()), "too quick");
        let mut slow = entry();
        assert_eq!(slow.refuse(failure(Class::Gone), start), None);
        assert_eq!(slow.refuse(failure(Class::Gone), start + 20 * MINUTE), None, "too few");
        assert_eq!(slow.refuse(failure(Class::Gone), start + 21 * MINUTE), Some(GivenUp::Shredded));
        assert!(slow.held.is_none());
        assert_eq!(slow.refuse(failure(Class::Gone), start + 22 * MINUTE), None, "once");
    }

    #[test]
    fn outages_between_refusals_neither_count_nor_interrupt() {
        let start = Instant::now();
        let mut entry = entry();
        entry.refuse(failure(Class::TokenRefused), start);
        (1..9).for_each(|n| assert!(entry.refuse(failure(Class::Unavailable), start + n * MINUTE).is_none()));
        entry.refuse(failure(Class::TokenRefused), start + 9 * MINUTE);
        let third = entry.refuse(failure(Class::TokenRefused), start + 11 * MINUTE);
        assert_eq!(third, Some(GivenUp::Withheld));
        assert_eq!(entry.state(2000), State::Revoked);
    }

    #[test]
    fn refusals_of_another_effect_begin_anew() {
        let start = Instant::now();
        let mut entry = entry();
        entry.refuse(failure(Class::TokenRefused), start);
        entry.refuse(failure(Class::TokenRefused), start + MINUTE);
        assert_eq!(entry.refuse(failure(Class::Gone), start + 30 * MINUTE), None);
        assert!(entry.held.is_some());
    }

    #[test]
    fn never_means_never() {
        let start = Instant::now();
        let mut entry = entry();
        entry.settings.revocation = Revocation::Never;
        assert!((0..50).all(|n| entry.refuse(failure(Class::Gone), start + n * MINUTE).is_none()));
    }
}
