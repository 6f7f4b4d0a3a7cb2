//! Keys with several sources: an object of what each of them gives, as old as the oldest and as good as the worst.
//!
//! Each part is a key of its own here, with a document, an age, a sealed file and refusals of its own; peers know the whole.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use zeroize::Zeroizing;

use super::{Asker, Engine};
use crate::ipc::wire::{Body, Detail, FailureReply, Forward, KeyState, Reply, State, ValueReply, Verdict};
use crate::outcome::{Class, Reason};
use crate::parent::cache::tags;
use crate::secret::{KeyPath, SecretValue, WireBytes};

/// The parts of each key that has several, in the order of their names.
pub(super) type Compositions = HashMap<KeyPath, Rc<[KeyPath]>>;

/// Of these keys of a configuration.
pub(super) fn compositions<'k>(keys: impl Iterator<Item = &'k KeyPath>) -> Compositions {
    let mut parts: HashMap<KeyPath, Vec<KeyPath>> = HashMap::new();
    for key in keys.filter(|key| key.part_name().is_some()) {
        parts.entry(key.whole()).or_default().push(key.clone());
    }
    parts.into_iter().map(|(whole, parts)| (whole, parts.into())).collect()
}

const NOBODY_ASKED: Verdict =
    Verdict { forward: Forward::Hit, fwd_status: None, stored: false, collapsed: false, detail: None };

impl Engine {
    /// The parts of a key that has several.
    pub(super) fn parts_of(&self, key: &KeyPath) -> Option<Rc<[KeyPath]>> {
        self.compositions.borrow().get(key).cloned()
    }

    /// Asks for all parts at once.
    pub(super) async fn ask_composed(
        self: &Rc<Self>,
        key: &KeyPath,
        parts: &[KeyPath],
        asker: Asker,
        revalidate: bool,
    ) -> Reply {
        let asked = parts.iter().map(|part| self.ask_one(part, asker.clone(), revalidate));
        let mut values = Vec::with_capacity(parts.len());
        let mut failure: Option<FailureReply> = None;
        for (part, reply) in parts.iter().zip(all(asked).await) {
            match reply {
                Reply::Value(value) => values.push((part, value)),
                Reply::Failure(of_part) => {
                    failure = Some(match failure {
                        None => of_part,
                        Some(known) => worse_failure(known, of_part),
                    });
                }
                // Of the whole, as of the part.
                other => return other,
            }
        }
        match failure {
            Some(failure) => Reply::Failure(failure),
            None => self.compose(key, values),
        }
    }

    fn compose(&self, key: &KeyPath, values: Vec<(&KeyPath, ValueReply)>) -> Reply {
        let name = |part: &KeyPath| part.part_name().map_or(0, str::len);
        // Braces, and for each of them quotes, a colon, and what parts it from the next one.
        let length = 1 + values.iter().map(|(part, value)| name(part) + inline(value).len() + 4).sum::<usize>();
        if length as u64 > self.value_size {
            let verdict = values.first().map_or(NOBODY_ASKED, |(_, value)| value.verdict);
            let (class, reason) = (Class::Misconfigured, Reason::ValueTooLarge);
            return Reply::Failure(FailureReply { class, reason, verdict, retry_after: Duration::from_secs(1) });
        }
        // Room for all, so that it never moves and leaves a copy.
        let mut json = Zeroizing::new(Vec::with_capacity(length));
        let mut whole: Option<ValueReply> = None;
        for (part, value) in values {
            json.extend_from_slice(if whole.is_none() { b"{\"" } else { b",\"" });
            // A name has nothing that JSON would escape.
            json.extend_from_slice(part.part_name().unwrap_or_default().as_bytes());
            json.extend_from_slice(b"\":");
            json.extend_from_slice(inline(&value));
            whole = Some(match whole {
                None => value,
                Some(known) => worse_value(known, value),
            });
        }
        json.push(b'}');
        let Some(whole) = whole else { return Reply::Denied };
        let value = SecretValue::from_json(json);
        let (etag, etag_text) = tags(self.store.keys().first(), key, &value);
        let body = Body::Inline(WireBytes(value.json().to_vec()));
        Reply::Value(ValueReply { etag, etag_text, body, ..whole })
    }

    /// The worst of its parts, and the oldest age; `None` when the key has no parts.
    pub(super) fn state_of_composed(&self, key: &KeyPath) -> Option<KeyState> {
        let parts = self.parts_of(key)?;
        let states = parts.iter().filter_map(|part| self.state_of(part));
        let whole = states.reduce(worse_state)?;
        Some(KeyState { key: key.clone(), ..whole })
    }
}

/// The worst state of both, and the oldest age: without one of its parts there is no value.
pub(in crate::parent) fn worse_state(one: KeyState, other: KeyState) -> KeyState {
    let age = one.age.zip(other.age).map(|(one, other)| one.max(other));
    KeyState { age, state: if rank(one.state) >= rank(other.state) { one.state } else { other.state }, ..one }
}

fn rank(state: State) -> u8 {
    match state {
        State::Fresh => 0,
        State::Stale => 1,
        State::NeverFetched => 2,
        State::Failing => 3,
        State::Revoked => 4,
    }
}

/// Values come from the engine as they are: only the channel moves long ones.
fn inline(value: &ValueReply) -> &[u8] {
    match &value.body {
        Body::Inline(bytes) => &bytes.0,
        Body::Memfd { .. } => b"null",
    }
}

/// What holds of both together: the verdict of the one that is past its `max-age` for longer, and no lease longer than either's.
fn worse_value(one: ValueReply, other: ValueReply) -> ValueReply {
    let (worse, better) = if severity(&other) > severity(&one) { (other, one) } else { (one, other) };
    let mut lease = worse.lease;
    lease.born = lease.born.min(better.lease.born);
    lease.fresh_until = lease.fresh_until.min(better.lease.fresh_until);
    lease.usable_until = lease.usable_until.min(better.lease.usable_until);
    let verdict = Verdict {
        stored: worse.verdict.stored || better.verdict.stored,
        collapsed: worse.verdict.collapsed && better.verdict.collapsed,
        ..worse.verdict
    };
    ValueReply { verdict, lease, ..worse }
}

/// By what a person would want to know first: a reason, then that somebody was asked, then how old it is.
fn severity(value: &ValueReply) -> (bool, bool, std::cmp::Reverse<i64>) {
    let Verdict { forward, detail, .. } = value.verdict;
    let quiet = matches!(detail, None | Some(Detail::Revalidating));
    (!quiet, forward != Forward::Hit, std::cmp::Reverse(value.lease.fresh_until.0))
}

/// The one that leaves less to hope for, and the longer wait.
fn worse_failure(one: FailureReply, other: FailureReply) -> FailureReply {
    let rank = |class| match class {
        Class::Unavailable => 0,
        Class::Misconfigured => 1,
        Class::TokenRefused => 2,
        Class::Refused => 3,
        Class::Gone => 4,
    };
    let retry_after = one.retry_after.max(other.retry_after);
    let worse = if rank(other.class) > rank(one.class) { other } else { one };
    FailureReply { retry_after, ..worse }
}

/// Waits for all of them at once.
async fn all<T>(futures: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    type Waiting<F> = Pin<Box<F>>;
    let mut waiting: Vec<(Option<Waiting<_>>, Option<T>)> =
        futures.map(|future| (Some(Box::pin(future)), None)).collect();
    poll_fn(|context| {
        let mut ready = true;
        for (future, done) in &mut waiting {
            let Some(pending) = future else { continue };
            match pending.as_mut().poll(context) {
                Poll::Ready(output) => (*future, *done) = (None, Some(output)),
                Poll::Pending => ready = false,
            }
        }
        if ready { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    waiting.into_iter().filter_map(|(_, done)| done).collect()
}
