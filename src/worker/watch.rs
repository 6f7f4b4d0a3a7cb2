//! Peers that wait for a value to change: one of them asks the parent now and then, for all of them.
//!
//! Holds no value: what is new goes straight into the answers of those who wait.

use std::rc::Rc;

use hyper::header::HeaderValue;
use tokio::sync::oneshot;

use super::answer;
use super::held::Held;
use crate::ipc::wire::{BootInstant, Lease, Verdict};

/// The upstream is asked for the sake of those who wait no more often than this, in nanoseconds.
const INTERVAL: i64 = 10_000_000_000;

/// What is known of a key's value without the value.
pub(super) struct Known {
    json: HeaderValue,
    text: Option<HeaderValue>,
    pub(super) lease: Lease,
    pub(super) verdict: Verdict,
}

impl Known {
    fn of(held: &Held, verdict: Verdict) -> Self {
        let text = held.text().map(|text| text.etag().clone());
        Self { json: held.json().etag().clone(), text, lease: *held.lease(), verdict }
    }

    /// Of the text form if it is wanted and there is one.
    pub(super) fn etag(&self, text: bool) -> &HeaderValue {
        self.text.as_ref().filter(|_| text).unwrap_or(&self.json)
    }
}

/// Why a waiting request goes on.
pub(super) enum News {
    /// The value is another one.
    Changed(Rc<Held>, Verdict),
    /// Something happened: look again.
    Look,
}

/// Those who wait for one key.
#[derive(Default)]
pub(super) struct Watch {
    pub(super) known: Option<Known>,
    asked_at: i64,
    waiting: Vec<oneshot::Sender<News>>,
}

impl Watch {
    pub(super) fn join(&mut self) -> oneshot::Receiver<News> {
        self.waiting.retain(|waiting| !waiting.is_closed());
        let (tell, told) = oneshot::channel();
        self.waiting.push(tell);
        told
    }

    /// Whether it is time to ask again; who is told so is the one to do it.
    pub(super) fn is_due(&mut self, now: BootInstant) -> bool {
        let due = self.next() <= now.0;
        if due {
            self.asked_at = now.0;
        }
        due
    }

    /// When to ask again: at the value's `max-age`, but not too often.
    pub(super) fn next(&self) -> i64 {
        let fresh_until = self.known.as_ref().map_or(i64::MIN, |known| known.lease.fresh_until.0);
        fresh_until.max(self.asked_at.saturating_add(INTERVAL))
    }

    /// A value has come from the parent. Others than it was before go to all who wait.
    pub(super) fn offer(&mut self, held: &Rc<Held>, verdict: Verdict, now: BootInstant) {
        let before = self.known.replace(Known::of(held, verdict));
        self.asked_at = now.0;
        if before.is_none_or(|before| before.json != *held.json().etag()) {
            let verdict = Verdict { collapsed: true, ..verdict };
            for waiting in self.waiting.drain(..) {
                // Who waited may be gone.
                let _ = waiting.send(News::Changed(held.clone(), verdict));
            }
        }
    }

    /// The parent took the value back: one of those who wait is to look what there is now.
    pub(super) fn recalled(&mut self) {
        self.asked_at = i64::MIN;
        self.known = None;
        while let Some(waiting) = self.waiting.pop() {
            if waiting.send(News::Look).is_ok() {
                return;
            }
        }
    }

    /// There is no value any more: all are to look for themselves.
    pub(super) fn lost(&mut self) {
        self.known = None;
        self.waiting.drain(..).for_each(|waiting| drop(waiting.send(News::Look)));
    }
}

impl Known {
    /// The header fields of a 304 at the end of a wait.
    pub(super) fn headers(&self, text: bool, now: BootInstant) -> hyper::HeaderMap {
        let cache_status = answer::cache_status(&self.verdict, Some(answer::ttl(&self.lease, now)));
        let age = HeaderValue::from(answer::age(&self.lease, now));
        answer::value_headers("", self.etag(text).clone(), age, cache_status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::wire::{Body, Detail, Forward, Tag, ValueReply};
    use crate::secret::{KeyPath, WireBytes};
    use crate::worker::alive::Alive;
    use crate::worker::held::Slot;

    const VERDICT: Verdict =
        Verdict { forward: Forward::Hit, fwd_status: None, stored: false, collapsed: false, detail: None };

    fn held(tag: u8, fresh_until: i64) -> Rc<Held> {
        let (born, fresh_until) = (BootInstant(0), BootInstant(fresh_until));
        let lease = Lease { born, fresh_until, usable_until: fresh_until, stale_detail: Detail::BreakerOpen };
        let body = Body::Inline(WireBytes(b"1".to_vec()));
        let reply = ValueReply { verdict: VERDICT, lease, etag: Tag([tag; 16]), etag_text: None, body };
        let slot = Slot::new(0, KeyPath::parse("/k").unwrap(), std::time::Duration::ZERO);
        Rc::new(Held::new(reply, &slot, &Alive::new(0)).unwrap().0)
    }

    #[test]
    fn only_another_value_is_news() {
        let mut watch = Watch::default();
        watch.offer(&held(1, 0), VERDICT, BootInstant(0));
        let mut waiting = watch.join();
        watch.offer(&held(1, 0), VERDICT, BootInstant(1));
        assert!(waiting.try_recv().is_err());
        watch.offer(&held(2, 0), VERDICT, BootInstant(2));
        assert!(
            matches!(waiting.try_recv(), Ok(News::Changed(new, _)) if new.json().etag() == held(2, 0).json().etag())
        );
    }

    #[test]
    fn one_asks_for_all_and_not_too_often() {
        let mut watch = Watch::default();
        watch.offer(&held(1, 0), VERDICT, BootInstant(0));
        assert!(!watch.is_due(BootInstant(INTERVAL - 1)));
        assert!(watch.is_due(BootInstant(INTERVAL)));
        assert!(!watch.is_due(BootInstant(INTERVAL)), "the next one finds it done");
        watch.offer(&held(1, 5 * INTERVAL), VERDICT, BootInstant(INTERVAL));
        assert!(!watch.is_due(BootInstant(4 * INTERVAL)), "a fresh value is not asked for");
        assert!(watch.is_due(BootInstant(5 * INTERVAL)));
    }

    #[test]
    fn a_recall_makes_one_look_and_a_loss_all() {
        let mut watch = Watch::default();
        watch.offer(&held(1, 0), VERDICT, BootInstant(0));
        let (mut first, second) = (watch.join(), watch.join());
        drop(second);
        watch.recalled();
        assert!(matches!(first.try_recv(), Ok(News::Look)));
        let mut third = watch.join();
        watch.lost();
        assert!(matches!(third.try_recv(), Ok(News::Look)));
    }
}
