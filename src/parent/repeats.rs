//! What peers can make happen again and again has a line the first time, and a count every ten seconds after that.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use super::engine::Engine;
use crate::secret::KeyPath;

/// How often counts are told.
const INTERVAL: Duration = Duration::from_secs(10);
/// Different things that are told apart in one interval.
const APART: usize = 1024;

/// Tells what was counted, at every interval.
pub(super) async fn tell(engine: Rc<Engine>) {
    let mut tick = tokio::time::interval(INTERVAL);
    loop {
        tick.tick().await;
        engine.repeats().flush();
    }
}

#[derive(Default)]
pub(super) struct Repeats {
    seen: RefCell<HashMap<(u32, KeyPath, &'static str), u64>>,
    others: RefCell<u64>,
}

impl Repeats {
    /// Whether this is the first of its kind in this interval; else it is counted.
    pub(super) fn is_first(&self, uid: u32, key: &KeyPath, what: &'static str) -> bool {
        let mut seen = self.seen.borrow_mut();
        let kind = (uid, key.clone(), what);
        if let Some(count) = seen.get_mut(&kind) {
            *count += 1;
            return false;
        }
        if seen.len() >= APART {
            *self.others.borrow_mut() += 1;
            return false;
        }
        seen.insert(kind, 0);
        true
    }

    pub(super) fn flush(&self) {
        for ((uid, key, what), count) in self.seen.take() {
            if count > 0 {
                tracing::warn!(uid, %key, count, "counted: {what}");
            }
        }
        let others = self.others.take();
        if others > 0 {
            tracing::warn!(count = others, "counted: others");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_told_and_memory_is_bounded() {
        let repeats = Repeats::default();
        let key = |n: usize| KeyPath::parse(&format!("/k{n}")).unwrap();
        assert!(repeats.is_first(1, &key(0), "denied"));
        assert!(!repeats.is_first(1, &key(0), "denied"));
        assert!(repeats.is_first(2, &key(0), "denied"));
        let told = (0..5000).filter(|n| repeats.is_first(3, &key(*n), "denied")).count();
        assert_eq!(told, APART - 2);
        repeats.flush();
        assert!(repeats.is_first(1, &key(0), "denied"), "a new interval");
    }
}
