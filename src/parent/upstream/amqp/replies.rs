//! What a broker says once calls are made: frames in, replies to calls out. No I/O.

use std::collections::HashMap;

use tokio::sync::oneshot;

use super::connection::Message;
use super::wire::{Content, Kind, Malformed, Method};
use crate::outcome::{Failure, Reason};
use crate::parent::upstream::body::Collector;

/// Calls that wait for their replies, and the message that is coming in.
pub(super) struct Replies {
    calls: HashMap<String, Waiting>,
    incoming: Incoming,
    /// The longest body, in bytes.
    limit: usize,
    /// One stray reply has been told of.
    strayed: bool,
}

struct Waiting {
    /// The number under which the broker says whether it took the call.
    tag: u64,
    say: oneshot::Sender<Result<Message, Failure>>,
}

/// What comes next.
enum Incoming {
    Method,
    Header {
        returned: bool,
    },
    Body {
        left: u64,
        /// For whom it is kept; nobody if it is of no use.
        of: Option<(Waiting, Kept)>,
    },
}

struct Kept {
    body: Collector,
    json: bool,
}

/// What is to be done about a frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Nothing,
    /// Say that flow is as it was told to be.
    FlowOk {
        active: bool,
    },
    /// The broker ends this, in good order.
    Closed,
}

impl Replies {
    pub(super) fn new(limit: usize) -> Self {
        Self { calls: HashMap::new(), incoming: Incoming::Method, limit, strayed: false }
    }

    pub(super) fn wait(&mut self, correlation: String, tag: u64) -> oneshot::Receiver<Result<Message, Failure>> {
        let (say, said) = oneshot::channel();
        self.calls.insert(correlation, Waiting { tag, say });
        said
    }

    /// Nobody waits for this one any more.
    pub(super) fn give_up(&mut self, correlation: &str) {
        self.calls.remove(correlation);
    }

    pub(super) fn fail_all(&mut self, failure: Failure) {
        let incoming = std::mem::replace(&mut self.incoming, Incoming::Method);
        let half = if let Incoming::Body { of: Some((waiting, _)), .. } = incoming { Some(waiting) } else { None };
        for waiting in self.calls.drain().map(|(_, waiting)| waiting).chain(half) {
            // Who asked may have gone.
            let _ = waiting.say.send(Err(failure));
        }
    }

    /// # Errors
    /// The frame may not come here.
    pub(super) fn take(&mut self, kind: Kind, channel: u16, payload: &[u8]) -> Result<Next, Malformed> {
        match (kind, &mut self.incoming) {
            (Kind::Heartbeat, _) => Ok(Next::Nothing),
            (Kind::Method, Incoming::Method) => self.method(Method::read(channel, payload)?),
            // The connection may end at any time.
            (Kind::Method, _) if channel == 0 => match Method::read(channel, payload)? {
                Method::Blocked => Ok(Next::Nothing),
                Method::Close { .. } => Ok(Next::Closed),
                _ => Err(Malformed),
            },
            (Kind::Header, Incoming::Header { returned }) if channel != 0 => {
                let returned = *returned;
                self.header(Content::read(payload)?, returned);
                Ok(Next::Nothing)
            }
            (Kind::Body, Incoming::Body { left, of }) if channel != 0 => {
                *left = left.checked_sub(payload.len() as u64).ok_or(Malformed)?;
                let over = of.as_mut().is_some_and(|(_, kept)| kept.body.push(payload).is_err());
                if *left == 0 || over {
                    self.finish(over);
                }
                Ok(Next::Nothing)
            }
            _ => Err(Malformed),
        }
    }

    fn method(&mut self, method: Method) -> Result<Next, Malformed> {
        match method {
            Method::Blocked | Method::Ack => {}
            Method::Close { .. } | Method::ChannelClose { .. } | Method::Cancel => return Ok(Next::Closed),
            Method::Flow { active } => return Ok(Next::FlowOk { active }),
            Method::Nack { tag, multiple } => self.refused(tag, multiple),
            Method::Return => self.incoming = Incoming::Header { returned: true },
            Method::Deliver => self.incoming = Incoming::Header { returned: false },
            _ => return Err(Malformed),
        }
        Ok(Next::Nothing)
    }

    /// The broker could not take these calls.
    fn refused(&mut self, tag: u64, multiple: bool) {
        let meant = |waiting: &Waiting| waiting.tag == tag || (multiple && (tag == 0 || waiting.tag < tag));
        for (_, waiting) in self.calls.extract_if(|_, waiting| meant(waiting)) {
            let _ = waiting.say.send(Err(Failure::unavailable(Reason::BrokerClosed)));
        }
    }

    fn header(&mut self, content: Content<'_>, returned: bool) {
        let correlation = content.correlation.and_then(|bytes| std::str::from_utf8(bytes).ok());
        let waiting = correlation.and_then(|correlation| self.calls.remove(correlation));
        let of = match waiting {
            None => {
                if !std::mem::replace(&mut self.strayed, true) {
                    tracing::warn!("a message broker sends a reply that nobody waits for; further ones are not told");
                }
                None
            }
            Some(waiting) if returned => {
                let _ = waiting.say.send(Err(Failure::unavailable(Reason::NoConsumer)));
                None
            }
            Some(waiting) if content.size > self.limit as u64 => {
                let _ = waiting.say.send(Err(Failure::misconfigured(Reason::DocumentTooLarge)));
                None
            }
            Some(waiting) => {
                let json = content.content_type.is_none_or(|given| given == b"application/json");
                Some((waiting, Kept { body: Collector::new(self.limit, None), json }))
            }
        };
        self.incoming = Incoming::Body { left: content.size, of };
        if content.size == 0 {
            self.finish(false);
        }
    }

    fn finish(&mut self, over: bool) {
        let Incoming::Body { left, of } = std::mem::replace(&mut self.incoming, Incoming::Method) else { return };
        if left > 0 {
            self.incoming = Incoming::Body { left, of: None };
        }
        let Some((waiting, kept)) = of else { return };
        let message = if over {
            Err(Failure::misconfigured(Reason::DocumentTooLarge))
        } else {
            Ok(Message { body: kept.body.finish(), json: kept.json })
        };
        let _ = waiting.say.send(message);
    }
}
