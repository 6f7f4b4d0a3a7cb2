//! `If-None-Match` with `Prefer: wait=N` (RFC 7240 section 4.3): the answer waits until the value is another one.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{HeaderName, HeaderValue};

use super::answer::{self, Answer, Problem};
use super::held::{Held, Slot};
use super::request::{self, Accepts};
use super::service::{Current, Exchange};
use super::watch::{Known, News, Watch};
use crate::ipc::wire::{BootInstant, Verdict};
use crate::sys::clock::boot_nanos;

const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
/// How often a waiting request looks whether its peer is still there.
const LOOK: Duration = Duration::from_secs(5);
/// How often in a row it looks, while what it finds is overtaken by what others are told.
const LOOKS: usize = 3;

/// What a waiting request goes on with.
enum Step {
    News(News),
    /// It is this request's turn to ask.
    Ask,
    /// The time is over, the broker ends, or the peer is gone.
    End,
    Nothing,
}

/// What a request waits on: the slot of its path in the configuration that holds.
struct Waiting {
    current: Rc<Current>,
    slot: Rc<Slot>,
}

impl Exchange<'_> {
    /// Goes over to a configuration that has come meanwhile, if the key is still granted; whether there was one.
    async fn follow(&self, waiting: &mut Waiting) -> Result<bool, Problem> {
        let current = self.shared.current();
        if Rc::ptr_eq(&current, &waiting.current) {
            return Ok(false);
        }
        let slot = self.judge_again(&current, &waiting.slot).await?;
        let slot = current.slots.expanded.registered(&slot);
        *waiting = Waiting { current, slot };
        Ok(true)
    }

    /// The new value, or 304 when it is still the one that the peer has.
    pub(super) async fn wait(
        &self,
        slot: &Rc<Slot>,
        accepts: Accepts,
        wait: Duration,
    ) -> Result<(Answer, Verdict), Problem> {
        let mut waiting = Waiting { current: self.shared.current(), slot: slot.clone() };
        // A recall finds those who wait.
        waiting.slot = waiting.current.slots.expanded.registered(slot);
        let applied = HeaderValue::from_str(&format!("wait={}", wait.as_secs())).ok();
        let waited = self.news(&mut waiting, accepts, wait).await?;
        // What was granted when the wait began need not be granted now.
        let waited = if self.follow(&mut waiting).await? { None } else { waited };
        let now = BootInstant(boot_nanos());
        let (mut answer, verdict) = match waited {
            Some((held, verdict)) => (self.represent(accepts, &held, &verdict, true, now)?, verdict),
            None => self.unchanged(&waiting, accepts, now).await?,
        };
        if let Some(applied) = applied {
            answer.headers_mut().insert(PREFERENCE_APPLIED, applied);
        }
        Ok((answer, verdict))
    }

    /// Waits for a value that the peer has not. `None` when there was none in time.
    async fn news(
        &self,
        waiting: &mut Waiting,
        accepts: Accepts,
        wait: Duration,
    ) -> Result<Option<(Rc<Held>, Verdict)>, Problem> {
        let until = tokio::time::Instant::now() + wait;
        let mut draining = std::pin::pin!(self.shared.ending());
        let mut next = self.first(&waiting.slot, accepts);
        let mut told = None;
        loop {
            if self.follow(waiting).await? {
                (next, told) = (Step::Ask, None);
            }
            let slot = &waiting.slot;
            if let Step::Ask = next
                && let Some(new) = self.look(waiting, accepts).await?
            {
                return Ok(Some(new));
            }
            let due = slot.watch(|watch| watch.next());
            let news = told.get_or_insert_with(|| slot.watch(Watch::join));
            let until_due = Duration::from_nanos(u64::try_from(due.saturating_sub(boot_nanos())).unwrap_or(0));
            let step = tokio::select! {
                news = news => {
                    told = None;
                    news.map_or(Step::Nothing, Step::News)
                }
                () = tokio::time::sleep_until(until) => Step::End,
                () = draining.as_mut() => Step::End,
                () = tokio::time::sleep(until_due.min(LOOK)) => {
                    if self.conversation.is_gone() {
                        Step::End
                    } else if slot.watch(|watch| watch.is_due(BootInstant(boot_nanos()))) {
                        Step::Ask
                    } else {
                        Step::Nothing
                    }
                }
            };
            next = match step {
                Step::News(News::Changed(held, verdict)) if !self.has(&held, accepts) => {
                    return Ok(Some((held, verdict)));
                }
                Step::News(News::Look) => Step::Ask,
                Step::End => return Ok(None),
                other => other,
            };
        }
    }

    /// Whether anybody has to be asked at all: not if the peer has what is known, and that was asked for just now.
    fn first(&self, slot: &Rc<Slot>, accepts: Accepts) -> Step {
        let now = BootInstant(boot_nanos());
        let newest = self.knows(slot, accepts) == Some(true) && !slot.watch(|watch| watch.is_due(now));
        if newest { Step::Nothing } else { Step::Ask }
    }

    /// Whether the peer has what is known here, if anything is.
    fn knows(&self, slot: &Rc<Slot>, accepts: Accepts) -> Option<bool> {
        let text = matches!(accepts, Accepts::Text { .. });
        let has = |known: &Known| request::has_tag(self.request.headers(), known.etag(text).as_bytes());
        slot.watch(|watch| watch.known.as_ref().map(has))
    }

    /// The value there is now, unless the peer has it.
    async fn look(&self, waiting: &Waiting, accepts: Accepts) -> Result<Option<(Rc<Held>, Verdict)>, Problem> {
        for _ in 0..LOOKS {
            // An outage is no news: the peer keeps what it has.
            let Some(found) = self.find(waiting).await? else { return Ok(None) };
            if !self.has(&found.0, accepts) {
                return Ok(Some(found));
            }
            // A newer one may have come while this one was on its way: nobody tells of that again.
            if self.knows(&waiting.slot, accepts) != Some(false) {
                return Ok(None);
            }
        }
        Ok(None)
    }

    /// The value there is now; `None` in an outage.
    async fn find(&self, Waiting { current, slot }: &Waiting) -> Result<Option<(Rc<Held>, Verdict)>, Problem> {
        let now = BootInstant(boot_nanos());
        if let Some((held, verdict)) = current.slots.remembered(slot, now) {
            slot.watch(|watch| watch.offer(&held, verdict, now));
            return Ok(Some((held, verdict)));
        }
        match self.ask(current, slot, false).await {
            Ok(found) => Ok(Some(found)),
            Err(problem) if problem.status == StatusCode::SERVICE_UNAVAILABLE => Ok(None),
            Err(problem) => {
                slot.watch(Watch::lost);
                Err(problem)
            }
        }
    }

    fn has(&self, held: &Held, accepts: Accepts) -> bool {
        let form = held.text().filter(|_| matches!(accepts, Accepts::Text { .. })).unwrap_or(held.json());
        request::has_tag(self.request.headers(), form.etag().as_bytes())
    }

    async fn unchanged(
        &self,
        Waiting { current, slot }: &Waiting,
        accepts: Accepts,
        now: BootInstant,
    ) -> Result<(Answer, Verdict), Problem> {
        let text = matches!(accepts, Accepts::Text { .. });
        let known = slot.watch(|watch| watch.known.as_ref().map(|known| (known.headers(text, now), known.verdict)));
        let Some((headers, verdict)) = known else {
            // Nothing is known: the outage, then, is the answer.
            let (held, verdict) = self.ask(current, slot, false).await?;
            return Ok((self.represent(accepts, &held, &verdict, true, now)?, verdict));
        };
        Ok((answer::value(StatusCode::NOT_MODIFIED, headers, Bytes::new()), verdict))
    }
}
