//! The worker's requests that are not answered yet: no more than it has connections, each with a number of its own.

use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;

use super::serve::ParentError;

pub(super) struct InFlight {
    ids: RefCell<HashSet<u64>>,
    most: usize,
}

/// One request, until its answer is sent.
pub(super) struct Open {
    among: Rc<InFlight>,
    id: u64,
}

impl InFlight {
    pub(super) fn new(most: u32) -> Rc<Self> {
        Rc::new(Self { ids: RefCell::default(), most: usize::try_from(most).unwrap_or(usize::MAX) })
    }

    /// An honest worker counts in the same way and waits; what goes beyond is fatal.
    pub(super) fn open(self: &Rc<Self>, id: u64) -> Result<Open, ParentError> {
        let mut ids = self.ids.borrow_mut();
        if ids.len() >= self.most {
            return Err(ParentError::Protocol("more requests in flight than connections"));
        }
        if !ids.insert(id) {
            return Err(ParentError::Protocol("two requests in flight with one number"));
        }
        Ok(Open { among: self.clone(), id })
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.among.ids.borrow_mut().remove(&self.id);
    }
}
