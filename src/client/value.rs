//! A value that was given, with what the broker said of it.

use std::time::Duration;

use hyper::HeaderMap;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use super::http::Answer;
use super::{Error, Problem};

/// How a value is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As the upstream wrote it.
    Json,
    /// Raw, if it is one scalar; else the answer is 406.
    Text,
    /// Raw, if it is one scalar; else JSON.
    TextOrJson,
}

impl Form {
    pub(super) fn accept(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Text => "text/plain",
            Self::TextOrJson => "text/plain, application/json;q=0.5",
        }
    }
}

/// A value and its age. It has no `Debug` and no `Display`, and is wiped when dropped.
///
/// ```compile_fail,E0277
/// fn log(value: &keyhatch::client::Value) { println!("{value:?}"); }
/// ```
/// ```compile_fail,E0277
/// fn log(value: &keyhatch::client::Value) { println!("{value}"); }
/// ```
pub struct Value {
    key: String,
    form: Form,
    content: Zeroizing<String>,
    age: Duration,
    tag: String,
    cache_status: String,
}

impl Value {
    pub(super) fn of(key: &str, form: Form, answer: Answer) -> Result<Self, Error> {
        let Answer { status, headers, body } = answer;
        let content = std::str::from_utf8(&body).map_err(|_| Error::Unexpected(Problem::of_status(status)))?;
        let header = |name: &str| text(&headers, name).unwrap_or_default().to_owned();
        Ok(Self {
            key: key.to_owned(),
            form,
            content: Zeroizing::new(content.to_owned()),
            age: Duration::from_secs(header("age").parse().unwrap_or(0)),
            tag: header("etag"),
            cache_status: header("cache-status"),
        })
    }

    /// The content: raw text or JSON, after the form that was asked for.
    pub fn as_str(&self) -> &str {
        &self.content
    }

    /// What the JSON says.
    ///
    /// # Errors
    /// It is not JSON (it was asked for as text), or something else.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(&self.content)
    }

    /// How long ago the upstream gave this value or confirmed it, in whole seconds.
    pub fn age(&self) -> Duration {
        self.age
    }

    /// Why the value was not confirmed just now (the `detail` of `Cache-Status`, such as `connect-refused`); `None` when it is
    /// as good as the broker's configuration wants.
    pub fn stale(&self) -> Option<&str> {
        let detail = self.cache_status.split(';').find_map(|part| part.trim().strip_prefix("detail="));
        detail.map(|detail| detail.trim_matches('"'))
    }

    /// The whole `Cache-Status` (RFC 9211).
    pub fn cache_status(&self) -> &str {
        &self.cache_status
    }

    /// The key that it is the value of.
    pub fn key(&self) -> &str {
        &self.key
    }

    pub(super) fn form(&self) -> Form {
        self.form
    }

    /// Names content and form; the same over restarts of the broker.
    pub fn tag(&self) -> &str {
        &self.tag
    }
}

/// A header field, if it is text.
pub(super) fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}
