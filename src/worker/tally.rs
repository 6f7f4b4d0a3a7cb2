//! What was answered since the parent was last told: by client and verdict, and by key. For the operator's counts alone.
//!
//! Bounded by the configuration, whoever asks for what: clients, keys, and [`PATHS`] of keys with parameters.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use super::held::Slot;
use crate::ipc::wire::{Counted, Served, Verdict};

/// How often the parent is told.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);
/// Answers of more paths of keys with parameters than this, in one interval, are not counted by path.
const PATHS: usize = 4096;
/// So many bytes of names are told in one frame.
const TOLD_AT_ONCE: usize = 32 << 10;

type Row = [u32; Served::ALL.len()];

#[derive(Default)]
pub(super) struct Tally {
    granted: RefCell<HashMap<String, Row>>,
    /// Where no client grants.
    others: Cell<Row>,
    /// Those with answers that the parent does not know of.
    served: RefCell<Vec<Rc<Slot>>>,
    /// What was told last.
    connections: Cell<u32>,
}

fn add(row: &mut Row, served: Served) {
    if let Some(count) = row.get_mut(served as usize) {
        *count = count.saturating_add(1);
    }
}

impl Tally {
    pub(super) fn count(&self, client: Option<&str>, served: Served) {
        let Some(client) = client else {
            let mut row = self.others.get();
            add(&mut row, served);
            return self.others.set(row);
        };
        let mut granted = self.granted.borrow_mut();
        match granted.get_mut(client) {
            Some(row) => add(row, served),
            None => add(granted.entry(client.to_owned()).or_default(), served),
        }
    }

    /// An answer with a value.
    pub(super) fn count_value(&self, slot: &Rc<Slot>, client: Option<&str>, verdict: &Verdict) {
        self.count(client, Served::of_value(verdict));
        if slot.serves.get() == 0 {
            let mut served = self.served.borrow_mut();
            if slot.is_expanded() && served.len() >= PATHS {
                return;
            }
            served.push(slot.clone());
        }
        slot.serves.set(slot.serves.get().saturating_add(1));
    }

    /// What the parent does not know of, as much as fits into a frame; `None` when there is nothing.
    pub(super) fn take(&self, connections: u32) -> Option<Counted> {
        let mut counted = Counted { connections, ..Counted::default() };
        let mut size = 0;
        let mut told = |name: Option<String>, row: Row| {
            let counts = Served::ALL.into_iter().zip(row).filter(|(_, count)| *count > 0);
            for (served, count) in counts {
                size += name.as_ref().map_or(0, String::len) + 8;
                counted.requests.push((name.clone(), served, count));
            }
            size < TOLD_AT_ONCE
        };
        let mut more = told(None, self.others.take());
        let mut granted = self.granted.borrow_mut();
        while more && let Some(name) = granted.keys().next().cloned() {
            let row = granted.remove(&name).unwrap_or_default();
            more = told(Some(name), row);
        }
        let mut served = self.served.borrow_mut();
        while size < TOLD_AT_ONCE
            && let Some(slot) = served.pop()
        {
            size += slot.path.as_str().len() + 8;
            counted.serves.push((slot.path.clone(), slot.serves.replace(0)));
        }
        let news = size > 0 || self.connections.replace(connections) != connections;
        news.then_some(counted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::wire::{Forward, MAX_FRAME, ToParent, encode};
    use crate::secret::KeyPath;

    const HIT: Verdict =
        Verdict { forward: Forward::Hit, fwd_status: None, stored: false, collapsed: false, detail: None };

    #[test]
    fn all_is_told_once_and_in_frames_that_fit() {
        let tally = Tally::default();
        let keys = 3000;
        for n in 0..keys {
            let path = KeyPath::parse(&format!("/{}/{n}", "k".repeat(100))).unwrap();
            let slot = Rc::new(Slot::new(n, path, Duration::ZERO));
            (0..2).for_each(|_| tally.count_value(&slot, Some(&format!("client-{}{n}", "c".repeat(200))), &HIT));
        }
        tally.count(None, Served::Denied);
        let (mut hits, mut denied, mut serves) = (0, 0, 0);
        while let Some(counted) = tally.take(3) {
            assert_eq!(counted.connections, 3);
            for (client, served, count) in &counted.requests {
                match served {
                    Served::Hit if client.is_some() => hits += count,
                    Served::Denied if client.is_none() => denied += count,
                    other => panic!("{other:?} of {client:?}"),
                }
            }
            serves += counted.serves.iter().map(|(_, count)| count).sum::<u32>();
            assert!(encode(&ToParent::Counted(counted)).unwrap().len() <= MAX_FRAME);
        }
        assert_eq!((hits, denied, serves), (6000, 1, 6000));
        assert_eq!(tally.take(3), None, "and nothing a second time");
        assert!(tally.take(2).is_some(), "but that there are fewer connections");
    }

    #[test]
    fn paths_cannot_make_it_grow() {
        use super::super::expanded::EXPANDED;
        let tally = Tally::default();
        for n in 0..2 * PATHS {
            let path = KeyPath::parse(&format!("/p/{n}")).unwrap();
            tally.count_value(&Rc::new(Slot::new(EXPANDED + n, path, Duration::ZERO)), None, &HIT);
        }
        assert_eq!(tally.served.borrow().len(), PATHS);
    }
}
