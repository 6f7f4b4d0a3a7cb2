//! Arguments of calls on their way in: parts put together, read anew, and bounded.
//!
//! Nothing that the worker says of them is believed but the bytes themselves.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::serve::ParentError;
use crate::arguments::{Arguments, Tally};
use crate::config::Limits;
use crate::ipc::wire::{MAX_INLINE, SentArguments};
use crate::secret::WireBytes;

pub(super) struct Calls {
    /// By the number of the request that is to follow.
    parts: RefCell<HashMap<u64, Parts>>,
    /// Bytes of all arguments: of those whose parts are coming in, and of those that somebody waits with.
    all: Arc<Tally>,
    of_user: RefCell<HashMap<u32, Arc<Tally>>>,
    /// The longest arguments, in bytes.
    largest: u64,
    /// Of all arguments.
    most: u64,
    /// The most requests at a time.
    requests: usize,
}

/// What has come of one request's arguments.
struct Parts {
    kept: Vec<WireBytes>,
    length: u64,
    /// There was no room for all of it.
    lost: bool,
}

/// Arguments as they came.
pub(super) enum Sent {
    Whole(Zeroizing<Vec<u8>>),
    Lost,
}

impl Drop for Calls {
    fn drop(&mut self) {
        self.parts.borrow_mut().clear();
    }
}

impl Calls {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            parts: RefCell::default(),
            all: Arc::default(),
            of_user: RefCell::default(),
            largest: limits.value_size,
            most: limits.memory.max(limits.value_size),
            requests: usize::try_from(limits.connections).unwrap_or(usize::MAX),
        }
    }

    /// # Errors
    /// What no honest worker sends: it has the same limits.
    pub(super) fn add(&self, id: u64, part: WireBytes) -> Result<(), ParentError> {
        let mut parts = self.parts.borrow_mut();
        if !parts.contains_key(&id) && parts.len() >= self.requests {
            return Err(ParentError::Protocol("arguments of more requests than connections"));
        }
        let of = parts.entry(id).or_insert(Parts { kept: Vec::new(), length: 0, lost: false });
        let length = part.0.len() as u64;
        of.length += length;
        if length == 0 || part.0.len() > MAX_INLINE || of.length > self.largest {
            return Err(ParentError::Protocol("arguments that are too long"));
        }
        if of.lost || self.all.count() + length > self.most {
            self.all.take_off(of.kept.drain(..).map(|part| part.0.len() as u64).sum());
            of.lost = true;
        } else {
            self.all.add(length);
            of.kept.push(part);
        }
        Ok(())
    }

    /// The request never comes to be answered.
    pub(super) fn forget(&self, id: u64) {
        if let Some(parts) = self.parts.borrow_mut().remove(&id) {
            self.all.take_off(parts.kept.iter().map(|part| part.0.len() as u64).sum());
        }
    }

    /// What this request was sent with.
    ///
    /// # Errors
    /// It says that there are parts, and there are none; or the other way round.
    pub(super) fn take(&self, id: u64, sent: Option<SentArguments>) -> Result<Option<Sent>, ParentError> {
        let parts = self.parts.borrow_mut().remove(&id);
        match (sent, parts) {
            (None, None) => Ok(None),
            (Some(SentArguments::Inline(mut bytes)), None) if bytes.0.len() <= MAX_INLINE => {
                Ok(Some(Sent::Whole(Zeroizing::new(std::mem::take(&mut bytes.0)))))
            }
            (Some(SentArguments::Before), Some(parts)) if parts.lost => Ok(Some(Sent::Lost)),
            (Some(SentArguments::Before), Some(parts)) => {
                self.all.take_off(parts.length);
                let mut whole = Zeroizing::new(Vec::with_capacity(usize::try_from(parts.length).unwrap_or(0)));
                parts.kept.iter().for_each(|part| whole.extend_from_slice(&part.0));
                Ok(Some(Sent::Whole(whole)))
            }
            _ => Err(ParentError::Protocol("arguments and their parts do not fit")),
        }
    }

    /// Reads them for a request of this user. `None` when there is no room: half of it is the most for one user.
    ///
    /// # Errors
    /// They are no arguments: an honest worker has read them itself.
    pub(super) fn read(&self, sent: Sent, uid: u32) -> Result<Option<Arc<Arguments>>, ParentError> {
        let Sent::Whole(bytes) = sent else { return Ok(None) };
        let mut of_user = self.of_user.borrow_mut();
        of_user.retain(|_, tally| tally.count() > 0);
        let own = of_user.entry(uid).or_default();
        let arguments = Arguments::parse(&bytes).map_err(|_| ParentError::Protocol("arguments that are none"))?;
        let length = arguments.json().len() as u64;
        if self.all.count() + length > self.most || own.count() + length > (self.most / 2).max(self.largest) {
            return Ok(None);
        }
        Ok(Some(Arc::new(arguments.counted_in(&[&self.all, own]))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls(value_size: u64, memory: u64) -> Calls {
        Calls::new(&Limits { value_size, memory, connections: 2, ..Limits::default() })
    }

    fn part(text: &str) -> WireBytes {
        WireBytes(text.as_bytes().to_vec())
    }

    fn read(calls: &Calls, sent: Option<SentArguments>, id: u64, uid: u32) -> Option<Arc<Arguments>> {
        calls.read(calls.take(id, sent).unwrap().unwrap(), uid).unwrap()
    }

    #[test]
    fn parts_make_a_whole_and_are_counted_until_nobody_needs_it() {
        let calls = calls(100, 100);
        calls.add(7, part("{\"args\":")).unwrap();
        calls.add(7, part("[1]}")).unwrap();
        assert_eq!(calls.all.count(), 12);
        let whole = read(&calls, Some(SentArguments::Before), 7, 1).unwrap();
        assert_eq!(whole.json(), r#"{"args":[1],"kwargs":{}}"#);
        assert_eq!(calls.all.count(), 24);
        let small = read(&calls, Some(SentArguments::Inline(part("{}"))), 8, 1).unwrap();
        drop((whole, small));
        assert_eq!(calls.all.count(), 0);
        calls.add(9, part("{")).unwrap();
        calls.forget(9);
        assert_eq!(calls.all.count(), 0);
    }

    #[test]
    fn what_does_not_fit_together_is_fatal() {
        let calls = calls(100, 1000);
        assert!(calls.take(1, Some(SentArguments::Before)).is_err(), "no parts");
        calls.add(1, part("{}")).unwrap();
        assert!(calls.take(1, Some(SentArguments::Inline(part("{}")))).is_err(), "parts beside the whole");
        calls.add(1, part("{}")).unwrap();
        assert!(calls.take(1, None).is_err(), "parts of a request without arguments");
        calls.add(1, part(&"x".repeat(60))).unwrap();
        assert!(calls.add(1, part(&"x".repeat(60))).is_err(), "over the longest");
        assert!(calls.add(2, part("")).is_err(), "an empty part");
        assert!(calls.add(3, part("x")).is_err(), "of more requests than connections");
        assert!(calls.read(Sent::Whole(Zeroizing::new(b"{".to_vec())), 1).is_err(), "no arguments");
    }

    #[test]
    fn no_user_takes_all_of_the_room() {
        let calls = calls(40, 100);
        let inline = || Some(SentArguments::Inline(part(r#"{"args":["0123456789"]}"#)));
        let first = read(&calls, inline(), 1, 1).unwrap();
        assert!(read(&calls, inline(), 2, 1).is_none(), "half is for others");
        let other = read(&calls, inline(), 3, 2).unwrap();
        assert!(read(&calls, inline(), 4, 3).is_none(), "and then it is full");
        drop(first);
        assert!(read(&calls, inline(), 5, 3).is_some());
        drop(other);
        for id in 6..8 {
            calls.add(id, part(&"x".repeat(40))).unwrap();
        }
        let held = read(&calls, Some(SentArguments::Inline(part("{}"))), 9, 1);
        assert!(held.is_none() || calls.all.count() <= 100);
    }
}
