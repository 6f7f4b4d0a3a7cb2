//! The same client for programs without an asynchronous runtime: each call has one of its own, on the thread of the caller.

use std::time::Duration;

use super::{Error, Form, Value, http};

/// See [`super::Client`], whose methods these are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Client(super::Client);

impl From<super::Client> for Client {
    fn from(client: super::Client) -> Self {
        Self(client)
    }
}

impl Client {
    /// See [`super::Client::new`].
    pub fn new() -> Self {
        Self::default()
    }

    /// See [`super::Client::at`].
    pub fn at(socket: impl Into<std::path::PathBuf>) -> Self {
        Self(super::Client::at(socket))
    }

    /// See [`super::Client::with_timeout`].
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self(self.0.with_timeout(timeout))
    }

    /// See [`super::Client::text`].
    ///
    /// # Errors
    /// As there, and [`Error::WithinRuntime`].
    pub fn text(&self, key: &str) -> Result<Value, Error> {
        self.run(self.0.text(key))
    }

    /// See [`super::Client::json`].
    ///
    /// # Errors
    /// As there, and [`Error::WithinRuntime`].
    pub fn json(&self, key: &str) -> Result<Value, Error> {
        self.run(self.0.json(key))
    }

    /// See [`super::Client::get`].
    ///
    /// # Errors
    /// As there, and [`Error::WithinRuntime`].
    pub fn get(&self, key: &str, form: Form) -> Result<Value, Error> {
        self.run(self.0.get(key, form))
    }

    /// See [`super::Client::fresh`].
    ///
    /// # Errors
    /// As there, and [`Error::WithinRuntime`].
    pub fn fresh(&self, key: &str, form: Form) -> Result<Value, Error> {
        self.run(self.0.fresh(key, form))
    }

    /// See [`super::Client::changed`].
    ///
    /// # Errors
    /// As there, and [`Error::WithinRuntime`].
    pub fn changed(&self, known: &Value, longest: Duration) -> Result<Option<Value>, Error> {
        self.run(self.0.changed(known, longest))
    }

    fn run<T>(&self, asked: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        if tokio::runtime::Handle::try_current().is_ok() {
            return Err(Error::WithinRuntime);
        }
        let failed = |error: std::io::Error| Error::NoBroker { socket: self.0.socket.clone(), source: error.into() };
        http::runtime().map_err(failed)?.block_on(asked)
    }
}
