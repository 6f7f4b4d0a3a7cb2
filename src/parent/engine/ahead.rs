//! `refresh`: documents that are fetched before anybody asks.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::Engine;
use super::documents::{DocumentId, DocumentState};
use crate::parent::pace::random;

impl Engine {
    /// Keeps documents with `refresh` fresh, each for itself.
    pub(in crate::parent) fn refresh_ahead(self: &Rc<Self>) {
        let all: Vec<DocumentId> = self.documents.borrow().iter().map(|(id, _)| id).collect();
        all.into_iter().for_each(|id| self.keep_refreshed(id, true));
    }

    /// Keeps a document fresh as long as its keys want it, if nobody does so already.
    pub(super) fn keep_refreshed(self: &Rc<Self>, id: DocumentId, at_once: bool) {
        let wanted = |state: &mut DocumentState| {
            let wanted = state.refresh.is_some() && !state.refreshing;
            state.refreshing |= wanted;
            wanted
        };
        if !self.documents.borrow_mut().get_mut(id).is_some_and(wanted) {
            return;
        }
        let engine = self.clone();
        tokio::task::spawn_local(async move {
            let mut reloads = engine.reloads();
            let mut now = at_once;
            while let Some(every) = engine.refresh_once(id, now) {
                now = true;
                // Up to a tenth earlier, so that many documents do not stay in step.
                let next = Instant::now() + every - every * u32::from(random()) / 2550;
                loop {
                    tokio::select! {
                        () = sleep_until(next) => break,
                        // The sender lives as long as the engine.
                        _ = reloads.changed() => {}
                    }
                    if engine.documents.borrow().get(id).is_none_or(|state| state.refresh != Some(every)) {
                        now = false;
                        break;
                    }
                }
            }
        });
    }

    /// Fetches it, if it is to be now and back-off permits. How often its keys want that, if they still do.
    fn refresh_once(self: &Rc<Self>, id: DocumentId, now: bool) -> Option<Duration> {
        let (every, permitted) = {
            let mut documents = self.documents.borrow_mut();
            let state = documents.get_mut(id)?;
            state.refreshing = state.refresh.is_some();
            let now = Instant::now();
            let origins = self.origins.borrow();
            let of_origin = origins.get(&state.origin).is_none_or(|pace| pace.permits(now));
            let of_origin = of_origin && !state.keys.iter().all(|key| self.is_covered(key, &state.document));
            (state.refresh?, of_origin && state.pace.permits(now))
        };
        if now && permitted {
            self.join(id, None, None);
        }
        Some(every)
    }
}
