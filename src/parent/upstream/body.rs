//! The bytes of an answer while they are ours: collected under a limit, checked against their format, wiped.

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap};
use zeroize::Zeroizing;

use crate::config::Format;
use crate::outcome::{Failure, Reason};

use super::{connect, formats};

/// A document as the upstream gave it, valid in its format. Wiped when dropped.
///
/// TOML and env files have become JSON here, so that a projection knows two formats only.
pub struct DocumentBody {
    bytes: Zeroizing<Vec<u8>>,
    text: bool,
}

impl DocumentBody {
    /// Checks a whole body against its format.
    ///
    /// # Errors
    /// Unavailable: `EmptyBody` (nothing, or only white space where JSON is expected), `InvalidBody`.
    pub fn parse(bytes: Zeroizing<Vec<u8>>, format: Format) -> Result<Self, Failure> {
        let invalid = || Failure::unavailable(Reason::InvalidBody);
        if bytes.iter().all(|byte| byte.is_ascii_whitespace() && (format != Format::Text || bytes.is_empty())) {
            return Err(Failure::unavailable(Reason::EmptyBody));
        }
        match format {
            Format::Json => {
                // Neither recursive nor copying: `RawValue` only skips over the text.
                serde_json::from_slice::<&serde_json::value::RawValue>(&bytes).map_err(|_| invalid())?;
                Ok(Self { bytes, text: false })
            }
            Format::Text => {
                std::str::from_utf8(&bytes).map_err(|_| invalid())?;
                Ok(Self { bytes, text: true })
            }
            Format::Toml | Format::Env => {
                let text = std::str::from_utf8(&bytes).map_err(|_| invalid())?;
                let json = if format == Format::Toml { formats::toml(text) } else { formats::env(text) };
                Ok(Self { bytes: json.ok_or_else(invalid)?, text: false })
            }
        }
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The text, when the whole of it is one string; else `None` and the bytes are JSON.
    pub(super) fn as_text(&self) -> Option<&str> {
        if self.text { std::str::from_utf8(&self.bytes).ok() } else { None }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Collects a body of unknown length. Growing wipes the buffer that is left behind, which `Vec` alone would not.
pub(super) struct Collector {
    bytes: Zeroizing<Vec<u8>>,
    limit: usize,
}

impl Collector {
    /// `announced` is the Content-Length, already known to be within `limit`.
    pub(super) fn new(limit: usize, announced: Option<usize>) -> Self {
        Self { bytes: Zeroizing::new(Vec::with_capacity(announced.unwrap_or(0).min(limit))), limit }
    }

    /// # Errors
    /// Misconfigured, `DocumentTooLarge`: the limit is passed and nothing of `part` was taken.
    pub(super) fn push(&mut self, part: &[u8]) -> Result<(), Failure> {
        let len = self.bytes.len() + part.len();
        if len > self.limit {
            return Err(Failure::misconfigured(Reason::DocumentTooLarge));
        }
        if len > self.bytes.capacity() {
            let capacity = len.max(self.bytes.capacity() * 2).max(4096).min(self.limit);
            let mut larger = Zeroizing::new(Vec::with_capacity(capacity));
            larger.extend_from_slice(&self.bytes);
            self.bytes = larger;
        }
        self.bytes.extend_from_slice(part);
        Ok(())
    }

    pub(super) fn finish(self) -> Zeroizing<Vec<u8>> {
        self.bytes
    }
}

/// What the head of an answer says of its length.
pub(super) fn announced(headers: &HeaderMap) -> Option<usize> {
    headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok())
}

/// The whole of a body, within the limit.
pub(super) async fn collect(
    mut body: Incoming,
    announced: Option<usize>,
    limit: usize,
) -> Result<Zeroizing<Vec<u8>>, Failure> {
    if announced.is_some_and(|length| length > limit) {
        return Err(Failure::misconfigured(Reason::DocumentTooLarge));
    }
    let mut collector = Collector::new(limit, announced);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Failure::unavailable(connect::body_failed(&error)))?;
        if let Some(part) = frame.data_ref() {
            collector.push(part)?;
        }
    }
    Ok(collector.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(bytes: &[u8], format: Format) -> Result<Vec<u8>, Reason> {
        match DocumentBody::parse(Zeroizing::new(bytes.to_vec()), format) {
            Ok(body) => Ok(body.bytes().to_vec()),
            Err(failure) => Err(failure.reason),
        }
    }

    #[test]
    fn what_is_not_json_is_told_from_what_is_empty() {
        assert_eq!(parse(b"", Format::Json), Err(Reason::EmptyBody));
        assert_eq!(parse(b" \r\n", Format::Json), Err(Reason::EmptyBody));
        assert_eq!(parse(b"", Format::Text), Err(Reason::EmptyBody));
        assert_eq!(parse(b" ", Format::Text), Ok(b" ".to_vec()));
        let invalid = [
            &b"<!DOCTYPE html><html></html>"[..],
            b"{\"a\":1",
            b"{\"a\":1}{\"b\":2}",
            b"{\"a\":1,}",
            b"{'a':1}",
            b"nul",
            b"\"\xff\"",
            b"\"a\nb\"",
            b"01",
            b"NaN",
        ];
        for body in invalid {
            assert_eq!(parse(body, Format::Json), Err(Reason::InvalidBody), "{}", body.escape_ascii());
        }
        assert_eq!(parse(b"\xff", Format::Text), Err(Reason::InvalidBody));
        assert_eq!(parse(b"\xff=1", Format::Env), Err(Reason::InvalidBody));
    }

    #[test]
    fn deep_nesting_does_not_end_the_process() {
        let deep = 1_000_000;
        let body = [vec![b'['; deep], vec![b']'; deep]].concat();
        assert!(parse(&body, Format::Json).is_ok());
        assert_eq!(parse(&body[..deep], Format::Json), Err(Reason::InvalidBody));
        let toml = [b"a=".as_slice(), &body].concat();
        assert_eq!(parse(&toml, Format::Toml), Err(Reason::InvalidBody));
    }

    #[test]
    fn a_collector_stops_at_its_limit() {
        let mut collector = Collector::new(10, None);
        assert!(collector.push(b"01234").is_ok());
        assert!(collector.push(b"56789").is_ok());
        assert_eq!(collector.push(b"x").unwrap_err().reason, Reason::DocumentTooLarge);
        assert_eq!(collector.finish().as_slice(), b"0123456789");
    }
}
