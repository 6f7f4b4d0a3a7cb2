//! Values under a lease: as answers that are ready to go, within the memory that the limits give them.
//!
//! Never keeps a value longer than the parent said, and wipes what it drops.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use hyper::HeaderMap;
use hyper::header::HeaderValue;
use zeroize::Zeroizing;

use super::alive::{Alive, Value};
use super::answer;
use super::expanded::{EXPANDED, Expanded};
use super::log::Hits;
use super::watch::Watch;
use crate::ipc::wire::{Body, BootInstant, Forward, Lease, Tag, ValueReply, Verdict, WorkerKey, WorkerTemplate};
use crate::secret::{KeyPath, SecretValue};

/// Everything that is held, by key.
pub(super) struct Slots {
    by_path: HashMap<KeyPath, Rc<Slot>>,
    /// Those of paths of keys with parameters, which come and go.
    pub(super) expanded: Expanded,
    /// Bytes of values.
    used: Cell<u64>,
    limit: u64,
}

/// One key of the configuration, or one path of a key with parameters.
pub(super) struct Slot {
    /// Its place among the keys of the configuration; from [`EXPANDED`] on that of a path.
    pub(super) number: usize,
    pub(super) path: KeyPath,
    /// How long to wait for the parent's reply.
    pub(super) patience: Duration,
    /// Answers from memory that have no line in the log.
    pub(super) hits: Hits,
    /// Of a path: answers from memory that the parent does not know of.
    pub(super) uses: Cell<u32>,
    pub(super) held: RefCell<Option<Rc<Held>>>,
    /// What came last, as long as it is held or on its way: what is the same need not be there twice.
    recent: RefCell<Option<(Tag, Weak<Value>)>>,
    /// If peers have waited for it to change.
    watch: RefCell<Option<Box<Watch>>>,
}

/// A value under a lease.
pub(super) struct Held {
    json: Form,
    /// What the text form is made of when it is first asked for: few peers do.
    value: Arc<Value>,
    text_tag: Option<Tag>,
    text: OnceCell<Option<Box<Form>>>,
    lease: Lease,
    last_used: Cell<i64>,
}

/// One representation, and the header fields of a hit that stand until the next second.
pub(super) struct Form {
    media_type: &'static str,
    pub(super) body: Bytes,
    etag: HeaderValue,
    ready: RefCell<Ready>,
}

struct Ready {
    until: i64,
    age: HeaderValue,
    cache_status: HeaderValue,
}

/// Keeps a value until the last answer that carries its bytes is written; then they are wiped.
struct Wiped(Arc<Value>);

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        self.0.json()
    }
}

struct WipedText(Arc<Value>);

impl AsRef<[u8]> for WipedText {
    fn as_ref(&self) -> &[u8] {
        self.0.text().unwrap_or_default().as_bytes()
    }
}

impl Form {
    fn new(media_type: &'static str, body: Bytes, tag: Tag) -> Self {
        let nothing = HeaderValue::from_static("");
        let ready = Ready { until: i64::MIN, age: nothing.clone(), cache_status: nothing };
        Self { media_type, body, etag: answer::etag(&tag), ready: RefCell::new(ready) }
    }

    /// With its quotes.
    pub(super) fn etag(&self) -> &HeaderValue {
        &self.etag
    }

    /// The header fields of an answer from memory. `Age` and `Cache-Status` are made anew when they have changed.
    pub(super) fn headers_of_hit(&self, lease: &Lease, verdict: &Verdict, now: BootInstant) -> HeaderMap {
        let mut ready = self.ready.borrow_mut();
        if now.0 >= ready.until {
            *ready = Ready {
                until: answer::changes_at(lease, now).0,
                age: answer::age_of_hit(lease, now),
                cache_status: answer::cache_status_of_hit(verdict, answer::ttl(lease, now)),
            };
        }
        answer::value_headers(self.media_type, self.etag.clone(), ready.age.clone(), ready.cache_status.clone())
    }

    pub(super) fn headers(&self, lease: &Lease, verdict: &Verdict, now: BootInstant) -> HeaderMap {
        let cache_status = answer::cache_status(verdict, Some(answer::ttl(lease, now)));
        let age = HeaderValue::from(answer::age(lease, now));
        answer::value_headers(self.media_type, self.etag.clone(), age, cache_status)
    }
}

impl Held {
    /// `None` if the body is not in the reply. The bytes are those that the slot has already, if they are the same.
    pub(super) fn new(reply: ValueReply, slot: &Slot, alive: &Alive) -> Option<(Self, Verdict)> {
        let Body::Inline(mut bytes) = reply.body else { return None };
        let mut recent = slot.recent.borrow_mut();
        let same = recent.as_ref().filter(|(tag, _)| *tag == reply.etag).and_then(|(_, value)| value.upgrade());
        let value = same.unwrap_or_else(|| {
            let json = SecretValue::from_json(Zeroizing::new(std::mem::take(&mut bytes.0)));
            let value = Arc::new(alive.count(json));
            *recent = Some((reply.etag, Arc::downgrade(&value)));
            value
        });
        let json = Form::new("application/json", Bytes::from_owner(Wiped(value.clone())), reply.etag);
        let (text, last_used) = (OnceCell::new(), Cell::new(0));
        Some((Self { json, value, text_tag: reply.etag_text, text, lease: reply.lease, last_used }, reply.verdict))
    }

    pub(super) fn json(&self) -> &Form {
        &self.json
    }

    /// If the value is a scalar.
    pub(super) fn text(&self) -> Option<&Form> {
        let made = self.text.get_or_init(|| {
            let (_, tag) = self.value.text().zip(self.text_tag)?;
            let body = Bytes::from_owner(WipedText(self.value.clone()));
            Some(Box::new(Form::new("text/plain; charset=utf-8", body, tag)))
        });
        made.as_deref()
    }

    pub(super) fn lease(&self) -> &Lease {
        &self.lease
    }

    fn size(&self) -> u64 {
        // As if the text form were there: it may be made any time.
        (self.json.body.len() * if self.text_tag.is_some() { 2 } else { 1 }) as u64
    }
}

impl Slot {
    pub(super) fn new(number: usize, path: KeyPath, patience: Duration) -> Self {
        Self {
            number,
            path,
            patience,
            hits: Hits::default(),
            uses: Cell::new(0),
            held: RefCell::default(),
            recent: RefCell::default(),
            watch: RefCell::default(),
        }
    }

    /// Of a path of a key with parameters.
    pub(super) fn is_expanded(&self) -> bool {
        self.number >= EXPANDED
    }

    /// Works on those who wait for a change, if anybody ever did.
    pub(super) fn watchers<T>(&self, work: impl FnOnce(&mut Watch) -> T) -> Option<T> {
        self.watch.borrow_mut().as_mut().map(|watch| work(watch))
    }

    pub(super) fn watch<T>(&self, work: impl FnOnce(&mut Watch) -> T) -> T {
        work(self.watch.borrow_mut().get_or_insert_default())
    }
}

impl Slots {
    /// `limit` is in bytes of values.
    pub(super) fn new(keys: &[WorkerKey], templates: Vec<WorkerTemplate>, limit: u64) -> Self {
        let slot = |(number, key): (usize, &WorkerKey)| {
            (key.path.clone(), Rc::new(Slot::new(number, key.path.clone(), key.patience)))
        };
        let by_path = keys.iter().enumerate().map(slot).collect();
        Self { by_path, expanded: Expanded::new(templates), used: Cell::new(0), limit }
    }

    pub(super) fn find(&self, path: &str) -> Option<&Rc<Slot>> {
        self.by_path.get(path)
    }

    /// The slot of a key, or that of a path as long as there is one.
    pub(super) fn known(&self, path: &str) -> Option<Rc<Slot>> {
        self.find(path).cloned().or_else(|| self.expanded.find(path))
    }

    pub(super) fn for_each(&self, mut act: impl FnMut(&Rc<Slot>)) {
        self.by_path.values().for_each(&mut act);
        self.expanded.for_each(act);
    }

    /// A value that may be given without asking, and what to say of it.
    pub(super) fn remembered(&self, slot: &Rc<Slot>, now: BootInstant) -> Option<(Rc<Held>, Verdict)> {
        let held = slot.held.borrow().clone()?;
        let detail = if now < held.lease.fresh_until {
            None
        } else if now < held.lease.usable_until {
            Some(held.lease.stale_detail)
        } else {
            return None;
        };
        held.last_used.set(now.0);
        if slot.is_expanded() {
            self.expanded.count(slot);
        }
        Some((held, Verdict { forward: Forward::Hit, fwd_status: None, stored: false, collapsed: false, detail }))
    }

    pub(super) fn keep(&self, slot: &Rc<Slot>, held: &Rc<Held>, now: BootInstant) {
        let slot = &self.expanded.registered(slot);
        self.forget(slot);
        if held.size() > self.limit {
            return;
        }
        held.last_used.set(now.0);
        self.used.set(self.used.get() + held.size());
        *slot.held.borrow_mut() = Some(held.clone());
        if self.used.get() > self.limit {
            self.make_room();
        }
    }

    /// Forgets those that were asked for longest ago, and an eighth more, so that this is seldom.
    fn make_room(&self) {
        let mut by_use: Vec<(i64, Rc<Slot>)> = Vec::new();
        self.for_each(|slot| {
            let last_used = slot.held.borrow().as_ref().map(|held| held.last_used.get());
            by_use.extend(last_used.map(|last_used| (last_used, slot.clone())));
        });
        by_use.sort_unstable_by_key(|(used, _)| *used);
        for (_, slot) in by_use {
            if self.used.get() <= self.limit / 8 * 7 {
                return;
            }
            self.forget(&slot);
        }
    }

    pub(super) fn forget(&self, slot: &Slot) {
        if let Some(held) = slot.held.borrow_mut().take() {
            self.used.set(self.used.get() - held.size());
        }
    }

    pub(super) fn forget_where(&self, mut gone: impl FnMut(&Slot, &Lease) -> bool) {
        self.for_each(|slot| {
            if slot.held.borrow().as_ref().is_some_and(|held| gone(slot, &held.lease)) {
                self.forget(slot);
            }
        });
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::ipc::wire::Detail;
    use crate::secret::WireBytes;

    fn slots(count: usize, limit: u64) -> Slots {
        let key = |n| WorkerKey { path: KeyPath::parse(&format!("/k{n}")).unwrap(), patience: Duration::ZERO };
        Slots::new(&(0..count).map(key).collect::<Vec<_>>(), Vec::new(), limit)
    }

    pub(in crate::worker) fn held(size: usize) -> Rc<Held> {
        let lease = Lease {
            born: BootInstant(0),
            fresh_until: BootInstant(100),
            usable_until: BootInstant(200),
            stale_detail: Detail::BreakerOpen,
        };
        let verdict =
            Verdict { forward: Forward::UriMiss, fwd_status: None, stored: true, collapsed: false, detail: None };
        let body = Body::Inline(WireBytes(vec![b'1'; size]));
        let reply = ValueReply { verdict, lease, etag: Tag([0; 16]), etag_text: None, body };
        let slot = Slot::new(0, KeyPath::parse("/k0").unwrap(), Duration::ZERO);
        Rc::new(Held::new(reply, &slot, &Alive::new(0)).unwrap().0)
    }

    #[test]
    fn a_lease_is_fresh_then_stale_then_over() {
        let slots = slots(1, 1000);
        let slot = slots.find("/k0").unwrap();
        slots.keep(slot, &held(1), BootInstant(0));
        let detail = |now| slots.remembered(slot, BootInstant(now)).map(|(_, verdict)| verdict.detail);
        assert_eq!(detail(99), Some(None));
        assert_eq!(detail(100), Some(Some(Detail::BreakerOpen)));
        assert_eq!(detail(200), None);
    }

    #[test]
    fn beyond_its_memory_it_forgets_what_was_asked_for_longest_ago() {
        let slots = slots(10, 1000);
        let slot = |n: i64| slots.find(&format!("/k{n}")).unwrap();
        (0..10).for_each(|n| slots.keep(slot(n), &held(100), BootInstant(n)));
        slots.remembered(slot(0), BootInstant(50)).unwrap();
        slots.keep(slot(9), &held(200), BootInstant(51));
        let left: Vec<i64> = (0..10).filter(|n| slots.remembered(slot(*n), BootInstant(60)).is_some()).collect();
        assert_eq!(left, [0, 4, 5, 6, 7, 8, 9]);
        assert_eq!(slots.used.get(), 800);
        slots.keep(slot(1), &held(1001), BootInstant(70));
        assert!(slots.remembered(slot(1), BootInstant(70)).is_none(), "one that never fits is not kept");
        slots.forget_where(|_, _| true);
        assert_eq!(slots.used.get(), 0);
    }
}
