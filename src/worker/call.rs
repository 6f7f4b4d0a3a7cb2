//! Requests that are calls: their arguments, from the body of a POST or from a query, and the slot that these lead to.
//!
//! Only who may call is asked for arguments: for all others such a path is like any other.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE};
use hyper::{Method, StatusCode};
use zeroize::Zeroizing;

use super::answer::Problem;
use super::expanded::Expansion;
use super::held::Slot;
use super::request;
use super::service::{Exchange, denied};
use super::stream::Phase;
use crate::arguments::{Arguments, Tally};
use crate::secret::KeyPath;
use crate::sys::clock::boot_nanos;

/// How much arguments of requests take, while they are read and until they are answered.
#[derive(Default)]
pub(super) struct Room {
    all: Arc<Tally>,
    of_user: RefCell<HashMap<u32, Arc<Tally>>>,
}

/// Bytes of one body so far.
struct Counted<'r> {
    tallies: [&'r Arc<Tally>; 2],
    bytes: u64,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.tallies.iter().for_each(|tally| tally.take_off(self.bytes));
    }
}

impl Counted<'_> {
    fn add(&mut self, bytes: u64) {
        self.tallies.iter().for_each(|tally| tally.add(bytes));
        self.bytes += bytes;
    }
}

impl Room {
    fn of_user(&self, uid: u32) -> Arc<Tally> {
        let mut of_user = self.of_user.borrow_mut();
        of_user.retain(|_, tally| tally.count() > 0 || Arc::strong_count(tally) > 1);
        of_user.entry(uid).or_default().clone()
    }
}

impl<'a> Exchange<'a> {
    /// The client that grants the peer a path that takes arguments.
    pub(super) fn may_call(&self, key: &KeyPath) -> Option<&'a str> {
        let slots = &self.current.slots;
        // A key without parameters comes first.
        match slots.known(key.as_str()).map_or_else(|| slots.expanded.read(key), |_| Expansion::Nothing) {
            Expansion::Call => self.connection.rights().covers(&self.current.config.acl, key),
            _ => None,
        }
    }

    /// The slot of the call that this request is; its arguments stand ready then.
    pub(super) async fn call(&self, key: &KeyPath) -> Result<Rc<Slot>, Problem> {
        let query = request::query(self.request.uri());
        let own = self.shared.room.of_user(self.connection.uid());
        let method = self.request.method();
        if *method == Method::POST && query.is_some() {
            return Err(malformed(&"a POST has its arguments in its body, and no query"));
        }
        // Whatever the method is, what is malformed comes before it.
        let of_query = Arguments::from_query(query.unwrap_or_default()).map_err(|fault| malformed(&fault))?;
        let arguments = match *method {
            Method::GET | Method::HEAD if self.has_body() => {
                let detail = "arguments come in the query of a GET, or in the body of a POST";
                return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "malformed", detail));
            }
            Method::GET | Method::HEAD => of_query,
            Method::POST => Arguments::parse(&self.read_body(&own).await?).map_err(|fault| malformed(&fault))?,
            _ => {
                let detail = "only GET, HEAD and POST are served here";
                let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "malformed", detail);
                return Err(Problem { takes_arguments: true, ..problem });
            }
        };
        // What was left out is there now, and the parent takes nothing longer.
        if arguments.json().len() as u64 > self.current.config.limits.value_size {
            return Err(too_large());
        }
        let path = key.of_call(&arguments.digest());
        // There is one exchange for each request.
        let _ = self.arguments.set(Arc::new(arguments.counted_in(&[&self.shared.room.all, &own])));
        let slots = &self.current.slots;
        match slots.known(path.as_str()) {
            Some(slot) => Ok(slot),
            None => match slots.expanded.read(&path) {
                Expansion::Path(slot) => Ok(Rc::new(slot)),
                _ => Err(denied()),
            },
        }
    }

    /// The whole body: as long as a value at most, within the time that a header has, and as far as there is room.
    async fn read_body(&self, own: &Arc<Tally>) -> Result<Zeroizing<Vec<u8>>, Problem> {
        let headers = self.request.headers();
        let json = headers.get(CONTENT_TYPE).is_none_or(|given| is_json(given.as_bytes()));
        if !json {
            let detail = "arguments are application/json: {\"args\": […], \"kwargs\": {…}}";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "malformed", detail));
        }
        let limits = &self.current.config.limits;
        let announced = headers.get(CONTENT_LENGTH).and_then(|given| given.to_str().ok()?.parse::<u64>().ok());
        if announced.is_some_and(|length| length > limits.value_size) {
            return Err(too_large());
        }
        let all = &self.shared.room.all;
        let most = limits.memory.max(limits.value_size);
        let fits = |more: u64| all.count() + more <= most && own.count() + more <= (most / 2).max(limits.value_size);
        self.conversation.enter_at(Phase::Body, boot_nanos());
        let mut counted = Counted { tallies: [all, own], bytes: 0 };
        let mut whole = Zeroizing::new(Vec::new());
        loop {
            let frame = std::future::poll_fn(|cx| {
                let mut body = self.body.borrow_mut();
                std::pin::Pin::new(&mut body.frame()).poll(cx)
            });
            let Some(frame) = frame.await else { break };
            let Ok(frame) = frame else { return Err(malformed(&"the body of the request is not whole")) };
            let Ok(part) = frame.into_data() else { continue };
            let length = part.len() as u64;
            if counted.bytes + length > limits.value_size {
                return Err(too_large());
            }
            if !fits(length) {
                let detail = "too many arguments are in memory; try again later";
                let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail);
                return Err(Problem { retry_after: Some(Duration::from_secs(1)), ..problem });
            }
            counted.add(length);
            // A peer may send it byte by byte, so the parts themselves are not kept; and a buffer that grows by itself would
            // leave copies behind.
            if whole.len() + part.len() > whole.capacity() {
                let mut larger =
                    Zeroizing::new(Vec::with_capacity((whole.len() + part.len()).max(2 * whole.capacity())));
                larger.extend_from_slice(&whole);
                whole = larger;
            }
            whole.extend_from_slice(&part);
        }
        self.conversation.enter_at(Phase::Exchange, boot_nanos());
        Ok(whole)
    }
}

fn malformed(why: &dyn std::fmt::Display) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "malformed", &why.to_string())
}

fn too_large() -> Problem {
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "malformed", "arguments are at most as long as a value may be")
}

fn is_json(content_type: &[u8]) -> bool {
    let media_type = content_type.split(|byte| *byte == b';').next().unwrap_or_default();
    media_type.trim_ascii().eq_ignore_ascii_case(b"application/json")
}
