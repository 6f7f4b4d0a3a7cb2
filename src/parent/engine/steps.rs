//! The wall clock is set forward: values are older than the leases that were given say.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use super::Engine;
use crate::ipc::wire::Recall;

/// How often the clocks are compared: one look at each.
const EVERY: Duration = Duration::from_secs(1);

impl Engine {
    /// Takes all values back from the worker when the clock was set forward. Does not end.
    pub(in crate::parent) async fn watch_clock(self: Rc<Self>) {
        let mut tick = tokio::time::interval(EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            if self.clock.was_set_forward() {
                tracing::warn!("the clock was set forward: values are older than they were");
                self.recall_all();
            }
        }
    }

    fn recall_all(&self) {
        self.entries.borrow_mut().values_mut().for_each(|entry| entry.leased_until = 0);
        // A closed queue means that the worker is gone, and its values with it.
        let _ = self.recalls.send(Recall::All);
    }
}
