//! Values in memory, also those that nothing holds but an answer on its way: counted, and bounded.
//!
//! A peer that does not read keeps its answer here. When there is too much of that, it is the one that loses.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use zeroize::Zeroizing;

use super::stream::Conversation;
use crate::secret::SecretValue;

/// A connection is slow when it has not taken its answer after this long, in nanoseconds.
const SLOW: i64 = 1_000_000_000;

/// Counts the bytes of all values.
pub(super) struct Alive {
    bytes: Arc<AtomicU64>,
    most: Cell<u64>,
    conversations: RefCell<Vec<Weak<Conversation>>>,
}

/// A value and its text, wiped when the last answer with it is written.
pub(super) struct Value {
    json: SecretValue,
    text: OnceLock<Option<Zeroizing<String>>>,
    counted: Arc<AtomicU64>,
}

impl Alive {
    /// `memory` bytes may be held, and as many be on their way.
    pub(super) fn new(memory: u64) -> Self {
        Self { bytes: Arc::default(), most: Cell::new(memory.saturating_mul(2)), conversations: RefCell::default() }
    }

    pub(super) fn set_memory(&self, memory: u64) {
        self.most.set(memory.saturating_mul(2));
    }

    pub(super) fn count(&self, json: SecretValue) -> Value {
        self.bytes.fetch_add(json.len() as u64, Ordering::Relaxed);
        Value { json, text: OnceLock::new(), counted: self.bytes.clone() }
    }

    /// From now on it can be cut, if it is slow.
    pub(super) fn watch(&self, conversation: &Rc<Conversation>) {
        let mut all = self.conversations.borrow_mut();
        if all.len() == all.capacity() {
            all.retain(|known| known.strong_count() > 0);
        }
        all.push(Rc::downgrade(conversation));
    }

    /// Whether what there is, is not too much; else the slowest connections are cut until it is not.
    pub(super) async fn fits(&self, now: i64) -> bool {
        while self.bytes.load(Ordering::Relaxed) > self.most.get() {
            let slowest = {
                let all = self.conversations.borrow();
                let slow = all.iter().filter_map(Weak::upgrade).filter_map(|one| Some((one.unread_since()?, one)));
                slow.filter(|(since, _)| *since <= now - SLOW).min_by_key(|(since, _)| *since)
            };
            let Some((_, slowest)) = slowest else { return false };
            slowest.cut();
            drop(slowest);
            // It ends when it is its turn.
            tokio::task::yield_now().await;
        }
        true
    }
}

impl Value {
    pub(super) fn json(&self) -> &[u8] {
        self.json.json()
    }

    /// If it is a scalar.
    pub(super) fn text(&self) -> Option<&str> {
        let make = || {
            let text = self.json.text();
            self.counted.fetch_add(text.as_ref().map_or(0, |text| text.len() as u64), Ordering::Relaxed);
            text
        };
        self.text.get_or_init(make).as_ref().map(|text| text.as_str())
    }
}

impl Drop for Value {
    fn drop(&mut self) {
        let text = self.text.get().and_then(Option::as_ref).map_or(0, |text| text.len());
        self.counted.fetch_sub((self.json.len() + text) as u64, Ordering::Relaxed);
    }
}
