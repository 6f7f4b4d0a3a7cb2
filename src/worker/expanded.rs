//! Paths of keys with parameters: a slot of one is there while it has a value, or somebody waits for it to change.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use super::held::Slot;
use crate::ipc::wire::WorkerTemplate;
use crate::secret::KeyPath;
use crate::template::{self, Found};

/// The numbers of their slots begin here, beyond all keys of a configuration.
pub(super) const EXPANDED: usize = usize::MAX / 2;
/// So many bytes of paths are told to the parent in one go.
const TOLD_AT_ONCE: usize = 32 << 10;

pub(super) struct Expanded {
    templates: Vec<WorkerTemplate>,
    by_path: RefCell<HashMap<KeyPath, Rc<Slot>>>,
    next: Cell<usize>,
    /// Those with uses that the parent does not know of.
    used: RefCell<Vec<Rc<Slot>>>,
}

/// What a path is that has no slot.
pub(super) enum Expansion {
    Path(Slot),
    /// With arguments it would be one.
    Call,
    /// It would be one, but for the constraint of a parameter.
    Outside,
    Nothing,
}

impl Expanded {
    pub(super) fn new(templates: Vec<WorkerTemplate>) -> Self {
        Self { templates, by_path: RefCell::default(), next: Cell::new(EXPANDED), used: RefCell::default() }
    }

    pub(super) fn find(&self, path: &str) -> Option<Rc<Slot>> {
        self.by_path.borrow().get(path).cloned()
    }

    pub(super) fn for_each(&self, act: impl FnMut(&Rc<Slot>)) {
        self.by_path.borrow().values().for_each(act);
    }

    /// A new slot for a path, which nobody else finds until it is registered.
    pub(super) fn read(&self, path: &KeyPath) -> Expansion {
        match template::find(self.templates.iter().map(|one| &one.template), path) {
            Found::Inside { template, .. } => {
                let Some(found) = self.templates.get(template) else { return Expansion::Nothing };
                match (found.takes_arguments, path.arguments()) {
                    (true, None) => return Expansion::Call,
                    (false, Some(_)) => return Expansion::Nothing,
                    (true, Some(_)) | (false, None) => {}
                }
                let number = self.next.replace(self.next.get().checked_add(1).unwrap_or(EXPANDED));
                Expansion::Path(Slot::new(number, path.clone(), found.patience))
            }
            Found::Outside { .. } => Expansion::Outside,
            Found::Nothing => Expansion::Nothing,
        }
    }

    /// The slot that all find from now on; of a key without parameters, the slot itself.
    pub(super) fn registered(&self, slot: &Rc<Slot>) -> Rc<Slot> {
        if !slot.is_expanded() {
            return slot.clone();
        }
        self.by_path.borrow_mut().entry(slot.path.clone()).or_insert_with(|| slot.clone()).clone()
    }

    /// A value was given from memory.
    pub(super) fn count(&self, slot: &Rc<Slot>) {
        if slot.uses.replace(slot.uses.get().saturating_add(1)) == 0 {
            self.used.borrow_mut().push(slot.clone());
        }
    }

    /// What the parent does not know of: not more than fits into a frame, the rest comes the next time.
    pub(super) fn take_uses(&self) -> Vec<(KeyPath, u32)> {
        let mut used = self.used.borrow_mut();
        let (mut uses, mut size) = (Vec::new(), 0);
        while size < TOLD_AT_ONCE
            && let Some(slot) = used.pop()
        {
            size += slot.path.as_str().len() + 8;
            uses.push((slot.path.clone(), slot.uses.replace(0)));
        }
        uses
    }

    /// Drops the slots that have no value, nobody in them, and nothing to be told of.
    pub(super) fn drop_idle(&self) {
        let empty = |slot: &Rc<Slot>| slot.held.borrow().is_none();
        self.used.borrow_mut().retain(|slot| !empty(slot));
        self.by_path.borrow_mut().retain(|_, slot| !empty(slot) || Rc::strong_count(slot) > 1 || !slot.hits.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::held::Slots;
    use super::super::held::tests::held;
    use super::*;
    use crate::ipc::wire::BootInstant;
    use crate::template::{Constraint, Shape, Template};

    fn slots() -> Slots {
        let constraint = Constraint::matching("[a-z0-9]+").unwrap();
        let template = Template::new(Shape::parse("/x/{n}").unwrap(), vec![constraint]).unwrap();
        Slots::new(&[], vec![WorkerTemplate { template, patience: Duration::ZERO, takes_arguments: false }], 1000)
    }

    fn path(slots: &Slots, path: &str) -> Rc<Slot> {
        match slots.expanded.read(&KeyPath::parse(path).unwrap()) {
            Expansion::Path(slot) => Rc::new(slot),
            _ => panic!("{path} is no path"),
        }
    }

    #[test]
    fn a_slot_is_there_while_it_has_a_value() {
        let slots = slots();
        let slot = path(&slots, "/x/a");
        assert!(slots.known("/x/a").is_none());
        slots.keep(&slot, &held(10), BootInstant(0));
        drop(slot);
        slots.expanded.drop_idle();
        let found = slots.known("/x/a").unwrap();
        assert!(slots.remembered(&found, BootInstant(0)).is_some());
        slots.forget(&found);
        slots.expanded.drop_idle();
        assert!(slots.known("/x/a").is_some(), "somebody is in it");
        drop(found);
        slots.expanded.drop_idle();
        assert!(slots.known("/x/a").is_none());
        assert!(slots.expanded.used.borrow().is_empty());
    }

    #[test]
    fn two_who_asked_at_once_share_one_slot() {
        let slots = slots();
        let (one, other) = (path(&slots, "/x/a"), path(&slots, "/x/a"));
        slots.keep(&one, &held(10), BootInstant(0));
        slots.keep(&other, &held(20), BootInstant(0));
        assert!(other.held.borrow().is_none());
        assert!(one.held.borrow().is_some());
        slots.forget_where(|_, _| true);
        assert!(one.held.borrow().is_none());
    }

    #[test]
    fn uses_are_told_once_and_in_bounded_frames() {
        let slots = slots();
        let count = 2000;
        for n in 0..count {
            let slot = path(&slots, &format!("/x/{}{n:04}", "a".repeat(100)));
            slots.keep(&slot, &held(0), BootInstant(0));
            (0..3).for_each(|_| drop(slots.remembered(&slot, BootInstant(0))));
        }
        let mut told = Vec::new();
        loop {
            let some = slots.expanded.take_uses();
            assert!(crate::ipc::wire::encode(&crate::ipc::wire::ToParent::Used { uses: some.clone() }).is_ok());
            if some.is_empty() {
                break;
            }
            told.extend(some);
        }
        assert_eq!(told.len(), count);
        assert!(told.iter().all(|(_, uses)| *uses == 3));
    }
}
