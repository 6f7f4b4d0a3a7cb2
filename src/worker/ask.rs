//! A request that the parent has to answer, and what holds by the time that it has.

use std::rc::Rc;

use hyper::StatusCode;

use super::answer::Problem;
use super::held::{Held, Slot};
use super::link::{Replied, Wanted};
use super::service::{Current, Exchange, denied, not_answering, over_budget, short_of_memory};
use crate::ipc::wire::{BootInstant, Reply, Verdict};
use crate::sys::clock;

/// A request that is overtaken by more reloads than this is given up.
const RELOADS: usize = 4;

impl Exchange<'_> {
    /// Asks the parent, and judges again by what holds when its reply is there: nothing that was configured otherwise, and
    /// nothing that is not granted any more, gets into an answer.
    pub(super) async fn ask(
        &self,
        current: &Rc<Current>,
        slot: &Rc<Slot>,
        revalidate: bool,
    ) -> Result<(Rc<Held>, Verdict), Problem> {
        let (mut current, mut slot) = (current.clone(), slot.clone());
        for _ in 0..RELOADS {
            let replied = self.ask_once(&current, &slot, revalidate).await?;
            let newest = self.shared.current();
            if !Rc::ptr_eq(&newest, &current) {
                slot = self.judge_again(&newest, &slot).await?;
                current = newest;
            }
            // Said of a configuration that is gone: it may be of another source.
            if replied.generation == current.config.generation {
                return self.take(&current, &slot, replied).await;
            }
        }
        Err(not_answering())
    }

    /// The slot that this path has now, if it is still granted.
    pub(super) async fn judge_again(&self, current: &Current, slot: &Slot) -> Result<Rc<Slot>, Problem> {
        // It may matter now, although it did not before.
        if !self.connection.attest(&self.shared.link, self.conversation, &current.config, false).await {
            return Err(not_answering());
        }
        let slot = self.named(current, &slot.path)?;
        self.connection.rights().judge(&current.config, &slot).ok_or_else(denied)?;
        Ok(slot)
    }

    async fn ask_once(&self, current: &Current, slot: &Slot, revalidate: bool) -> Result<Replied, Problem> {
        let peer = self.connection.socket(self.conversation).map_err(|_| not_answering())?;
        let largest = current.config.limits.value_size;
        let link = &self.shared.link;
        if slot.is_expanded() {
            link.tell_uses(current.slots.expanded.take_uses()).await;
        }
        let arguments = self.arguments.get();
        let wanted = Wanted { key: &slot.path, request: self.id, revalidate, arguments };
        let reply = link.fetch(&wanted, peer, slot.patience, largest).await;
        reply.ok_or_else(not_answering)
    }

    async fn take(&self, current: &Current, slot: &Rc<Slot>, replied: Replied) -> Result<(Rc<Held>, Verdict), Problem> {
        match replied.reply {
            Reply::Value(value) => {
                let alive = &self.shared.alive;
                let (held, verdict) = Held::new(value, slot, alive).ok_or_else(not_answering)?;
                let held = Rc::new(held);
                let now = BootInstant(clock::boot_nanos());
                if !alive.fits(now.0).await {
                    return Err(short_of_memory());
                }
                let recalled = replied.recalls != self.shared.link.recalls();
                if !recalled && held.lease().usable_until > now {
                    current.slots.keep(slot, &held, now);
                } else {
                    // What was kept before it is older.
                    current.slots.forget(slot);
                }
                if !recalled {
                    slot.watchers(|watch| watch.offer(&held, verdict, now));
                }
                Ok((held, verdict))
            }
            Reply::Failure(failure) => {
                let mut problem = Problem::upstream(failure.class, &failure.reason);
                let unavailable = problem.status == StatusCode::SERVICE_UNAVAILABLE;
                problem.retry_after = unavailable.then_some(failure.retry_after);
                problem.verdict = Some(failure.verdict);
                Err(problem)
            }
            Reply::Raised { exception, verdict } => Err(Problem::raised(exception, verdict)),
            Reply::Busy => Err(not_answering()),
            Reply::Denied => Err(denied()),
            Reply::OverBudget { retry_after } => Err(over_budget(retry_after)),
        }
    }
}
