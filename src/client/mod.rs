//! For programs in Rust: a value from the broker's socket, how old it is, and its changes.
//!
//! [`Client`] is asynchronous and wants the caller's tokio runtime; [`blocking::Client`] wants none. Neither keeps a value, shows
//! one in an error, or asks anybody but the socket.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use keyhatch::client::{Error, blocking::Client};
//!
//! # fn connect(url: &str) {}
//! fn main() -> Result<(), Error> {
//!     let broker = Client::new();
//!     let mut url = broker.text("/billing/database-url")?;
//!     if let Some(why) = url.stale() {
//!         eprintln!("the database URL is {} s old: {why}", url.age().as_secs());
//!     }
//!     loop {
//!         connect(url.as_str());
//!         // Until it is another one; an outage of the upstream does not end the wait.
//!         url = loop {
//!             match broker.changed(&url, Duration::from_secs(300)) {
//!                 Ok(Some(changed)) => break changed,
//!                 Ok(None) => {}
//!                 Err(error) if error.is_temporary() => std::thread::sleep(error.retry_after()),
//!                 Err(error) => return Err(error),
//!             }
//!         };
//!     }
//! }
//! ```
#![forbid(unsafe_code)]

pub mod blocking;
mod error;
pub(crate) mod http;
mod value;

use std::path::{Path, PathBuf};
use std::time::Duration;

pub use error::{Error, Problem};
pub use value::{Form, Value};

use crate::secret::KeyPath;

/// Where a broker listens unless it was told otherwise.
pub const SOCKET: &str = "/run/keyhatch/keyhatch.sock";
/// The longest wait that a broker grants.
pub const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// Longer than a broker waits for an upstream, by default.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A broker's socket. Each request is a connection of its own, made with the ids that the process has then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    socket: PathBuf,
    timeout: Duration,
}

impl Default for Client {
    fn default() -> Self {
        Self::new()
    }
}

impl Client {
    /// The socket of `$KEYHATCH_SOCKET`, else [`SOCKET`].
    pub fn new() -> Self {
        Self::at(std::env::var_os("KEYHATCH_SOCKET").map_or_else(|| SOCKET.into(), PathBuf::from))
    }

    /// This socket.
    pub fn at(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into(), timeout: TIMEOUT }
    }

    /// How long an answer may take, beside what [`changed`](Self::changed) waits for; 30 s unless set.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The value as text: a string, number or boolean, or an object with one such field.
    ///
    /// # Errors
    /// [`Error::Malformed`] with the status 406 when it is something else; and those of [`get`](Self::get).
    pub async fn text(&self, key: &str) -> Result<Value, Error> {
        self.get(key, Form::Text).await
    }

    /// The value as JSON, as the upstream wrote it.
    ///
    /// # Errors
    /// Those of [`get`](Self::get).
    pub async fn json(&self, key: &str) -> Result<Value, Error> {
        self.get(key, Form::Json).await
    }

    /// The value in this form.
    ///
    /// # Errors
    /// The key is none, there is no broker, or it has no value for this process: see [`Error`].
    pub async fn get(&self, key: &str, form: Form) -> Result<Value, Error> {
        self.ask(key, form, &[], self.timeout).await?.ok_or_else(not_asked_for)
    }

    /// The value that the upstream has now, for instance when a database refuses the one from before. The broker asks the upstream at
    /// most once a second; when it is down, the older value is given, and says so.
    ///
    /// # Errors
    /// Those of [`get`](Self::get).
    pub async fn fresh(&self, key: &str, form: Form) -> Result<Value, Error> {
        self.ask(key, form, &[("cache-control", "no-cache")], self.timeout).await?.ok_or_else(not_asked_for)
    }

    /// Waits for another value than this one, at most so long (and at most [`LONGEST_WAIT`]); `None` when there is none.
    ///
    /// # Errors
    /// Those of [`get`](Self::get): the value was given up, the grant withdrawn, the broker ended.
    pub async fn changed(&self, known: &Value, longest: Duration) -> Result<Option<Value>, Error> {
        let longest = longest.min(LONGEST_WAIT);
        let wait = format!("wait={}", longest.as_secs());
        let headers = [("if-none-match", known.tag()), ("prefer", wait.as_str())];
        self.ask(known.key(), known.form(), &headers, self.timeout + longest).await
    }

    /// `None` is 304.
    async fn ask(
        &self,
        key: &str,
        form: Form,
        headers: &[(&'static str, &str)],
        timeout: Duration,
    ) -> Result<Option<Value>, Error> {
        // The broker's own resources, which begin with `/-/`, are read like keys.
        if !key.starts_with("/-/") {
            KeyPath::parse(key).map_err(Error::Key)?;
        }
        let headers = [&[("accept", form.accept())], headers].concat();
        let asked = http::get(&self.socket, key, &headers);
        let answer = tokio::time::timeout(timeout, asked).await.map_err(|_| Error::TimedOut { after: timeout })?;
        let answer = answer.map_err(|source| Error::NoBroker { socket: self.socket.clone(), source })?;
        match answer.status {
            200 => Value::of(key, form, answer).map(Some),
            304 => Ok(None),
            _ => Err(Error::of(&answer)),
        }
    }

    /// The path that is asked.
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

fn not_asked_for() -> Error {
    Error::Unexpected(Problem::of_status(304))
}
