//! What the parent has attested of a connection's unit. Written as its word comes in, so that what it takes back is never missed.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};

use tokio::sync::mpsc;

use crate::acl::Unit;
use crate::ipc::wire::Attestation;

/// Of one connection.
pub(super) struct Standing {
    asked: Cell<bool>,
    unit: RefCell<Option<Unit>>,
    fact: Cell<Option<u64>>,
    parted: mpsc::UnboundedSender<u64>,
}

/// All that the parent may take back.
pub(super) struct Facts {
    by_number: RefCell<HashMap<u64, Weak<Standing>>>,
    /// By the number of the request.
    asking: RefCell<HashMap<u64, Weak<Standing>>>,
    parted: mpsc::UnboundedSender<u64>,
}

impl Standing {
    /// Whether the parent has told, and holds to it.
    pub(super) fn is_known(&self) -> bool {
        self.asked.get()
    }

    pub(super) fn unit(&self) -> Option<Unit> {
        self.unit.borrow().clone()
    }

    pub(super) fn has_unit(&self) -> bool {
        self.unit.borrow().is_some()
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        if let Some(fact) = self.fact.get() {
            // Who sends it ends with the worker.
            let _ = self.parted.send(fact);
        }
    }
}

impl Facts {
    /// And the numbers of facts whose connection has ended, for the parent.
    pub(super) fn new() -> (Self, mpsc::UnboundedReceiver<u64>) {
        let (parted, partings) = mpsc::unbounded_channel();
        (Self { by_number: RefCell::default(), asking: RefCell::default(), parted }, partings)
    }

    pub(super) fn stand(&self) -> Rc<Standing> {
        Rc::new(Standing {
            asked: Cell::new(false),
            unit: RefCell::default(),
            fact: Cell::new(None),
            parted: self.parted.clone(),
        })
    }

    pub(super) fn ask(&self, id: u64, standing: &Rc<Standing>) {
        self.asking.borrow_mut().insert(id, Rc::downgrade(standing));
    }

    /// The request was never sent.
    pub(super) fn unask(&self, id: u64) {
        self.asking.borrow_mut().remove(&id);
    }

    pub(super) fn learn(&self, id: u64, told: &Attestation) {
        let standing = self.asking.borrow_mut().remove(&id).and_then(|standing| standing.upgrade());
        match (standing, told.fact) {
            (Some(standing), fact) => {
                if let Some(fact) = fact {
                    self.by_number.borrow_mut().insert(fact, Rc::downgrade(&standing));
                }
                standing.fact.set(fact);
                standing.unit.replace(told.unit.clone());
                standing.asked.set(true);
            }
            // It has gone meanwhile.
            (None, Some(fact)) => drop(self.parted.send(fact)),
            (None, None) => {}
        }
    }

    /// Holds no more: the connection is in no unit, until it is asked again.
    pub(super) fn take_back(&self, fact: u64) {
        let standing = self.by_number.borrow_mut().remove(&fact).and_then(|standing| standing.upgrade());
        if let Some(standing) = standing {
            standing.unit.replace(None);
            standing.asked.set(false);
        }
    }

    /// Its connection has ended.
    pub(super) fn forget(&self, fact: u64) {
        let mut facts = self.by_number.borrow_mut();
        if facts.get(&fact).is_some_and(|standing| standing.strong_count() == 0) {
            facts.remove(&fact);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_back_before_the_asker_looks_is_gone() {
        let (facts, mut partings) = Facts::new();
        let standing = facts.stand();
        let told = Attestation { fact: Some(7), unit: Unit::new("web.service", true) };
        facts.ask(1, &standing);
        facts.learn(1, &told);
        assert!(standing.is_known() && standing.has_unit());
        facts.take_back(7);
        assert!(!standing.is_known() && !standing.has_unit());
        facts.ask(2, &standing);
        facts.learn(2, &told);
        drop(standing);
        assert_eq!(partings.try_recv(), Ok(7));
        facts.forget(7);
        assert!(facts.by_number.borrow().is_empty() && facts.asking.borrow().is_empty());
    }

    #[test]
    fn who_has_gone_before_the_answer_leaves_nothing_behind() {
        let (facts, mut partings) = Facts::new();
        facts.ask(1, &facts.stand());
        facts.learn(1, &Attestation { fact: Some(3), unit: None });
        assert_eq!(partings.try_recv(), Ok(3));
        assert!(facts.by_number.borrow().is_empty() && facts.asking.borrow().is_empty());
    }
}
