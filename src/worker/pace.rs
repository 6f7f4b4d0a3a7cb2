//! Refusals at a pace: who is refused at full speed comes back only as quickly as that goes, and so costs the others little.
//!
//! Users take turns: one that is refused now and then waits behind nobody who is refused all the time.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::{Interval, MissedTickBehavior, interval};

/// Between one refusal, or the few that are made at once, and the next.
const BEAT: Duration = Duration::from_millis(5);

/// The first comes at once, and so does each that comes late.
pub(super) fn beats() -> Interval {
    let mut beats = interval(BEAT);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    beats
}

/// What waits for its turn: one of each user in a round, and those of one user in their order.
pub(super) struct InTurn<T> {
    users: VecDeque<u32>,
    waiting: HashMap<u32, VecDeque<T>>,
    len: usize,
}

impl<T> Default for InTurn<T> {
    fn default() -> Self {
        Self { users: VecDeque::new(), waiting: HashMap::new(), len: 0 }
    }
}

impl<T> InTurn<T> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn push(&mut self, uid: u32, one: T) {
        let of_user = self.waiting.entry(uid).or_default();
        if of_user.is_empty() {
            self.users.push_back(uid);
        }
        of_user.push_back(one);
        self.len += 1;
    }

    pub(super) fn pop(&mut self) -> Option<T> {
        let uid = self.users.pop_front()?;
        let of_user = self.waiting.get_mut(&uid)?;
        let one = of_user.pop_front()?;
        self.len -= 1;
        if of_user.is_empty() {
            self.waiting.remove(&uid);
        } else {
            self.users.push_back(uid);
        }
        Some(one)
    }
}

/// Connections that are in and are to be refused, each of which keeps its place until then.
#[derive(Default)]
pub(super) struct Pace {
    waiting: RefCell<InTurn<oneshot::Sender<()>>>,
    more: Notify,
}

impl Pace {
    /// Waits until this user may be refused once more.
    pub(super) async fn turn(&self, uid: u32) {
        let (turn, come) = oneshot::channel();
        self.waiting.borrow_mut().push(uid, turn);
        self.more.notify_one();
        // When this process ends, nobody waits for turns.
        let _ = come.await;
    }

    /// Gives turns for good.
    pub(super) async fn keep(&self) {
        let mut beats = beats();
        loop {
            beats.tick().await;
            self.give_turn().await;
        }
    }

    /// To the next, as soon as there is one.
    pub(super) async fn give_turn(&self) {
        loop {
            let next = self.waiting.borrow_mut().pop();
            if let Some(next) = next {
                // Who has gone meanwhile takes a turn, too: its user has more of them.
                let _ = next.send(());
                return;
            }
            self.more.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_user_has_one_in_a_round_and_its_own_in_order() {
        let mut waiting = InTurn::default();
        (0..4).for_each(|n| waiting.push(1, (1, n)));
        waiting.push(2, (2, 0));
        (0..2).for_each(|n| waiting.push(3, (3, n)));
        assert_eq!(waiting.pop(), Some((1, 0)));
        waiting.push(2, (2, 1));
        assert_eq!(waiting.len(), 7);
        let rest: Vec<_> = std::iter::from_fn(|| waiting.pop()).collect();
        assert_eq!(rest, [(2, 0), (3, 0), (1, 1), (2, 1), (3, 1), (1, 2), (1, 3)]);
        assert!(waiting.len() == 0 && waiting.users.is_empty() && waiting.waiting.is_empty());
    }
}
