//! A line of the worker's log on its way to the parent: one JSON object a line, over the worker's stderr.
//!
//! Holds no value. The parent trusts none of it: it is shown, marked as the worker's word.

use serde::{Deserialize, Serialize};

use super::wire::RequestId;

/// The longest record, in bytes with its line end: what a pipe takes whole or not at all (`PIPE_BUF`, pipe(7)).
pub const MAX_RECORD: usize = 4096;

/// What a record is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// An answer with a value: the first on its connection, or each one.
    Answer,
    /// 403.
    Denied,
    /// Any other answer without a value.
    Refused,
    /// So many answers that had no line of their own.
    Counted,
    /// So many lines that did not fit.
    Dropped,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Record {
    pub event: Event,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pid: Option<i32>,
    /// A well-formed key path, or a path of keyhatch's own.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub key: Option<String>,
    /// `granted by CLIENT` or `denied`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub decision: Option<String>,
    /// `Cache-Status` without the cache's name, or the `code` of a problem.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub verdict: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub millis: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub request: Option<RequestId>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub count: Option<u64>,
}

impl Record {
    /// All else is unknown.
    pub fn of(event: Event) -> Self {
        Self {
            event,
            uid: None,
            pid: None,
            key: None,
            decision: None,
            verdict: None,
            status: None,
            millis: None,
            request: None,
            count: None,
        }
    }

    /// With its line end; `None` when it is longer than [`MAX_RECORD`].
    pub fn line(&self) -> Option<Vec<u8>> {
        let mut line = serde_json::to_vec(self).ok()?;
        line.push(b'\n');
        (line.len() <= MAX_RECORD).then_some(line)
    }

    /// The inverse of [`Record::line`]; `None` for a line that is no record. Texts are cut at what a record may hold and
    /// are free of control characters.
    pub fn parse(line: &[u8]) -> Option<Self> {
        let mut record: Self = serde_json::from_slice(line).ok()?;
        for text in [&mut record.key, &mut record.decision, &mut record.verdict].into_iter().flatten() {
            text.retain(|c| !c.is_control());
        }
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_and_cannot_break_its_line() {
        let record = Record {
            uid: Some(1000),
            key: Some("/a\nb".into()),
            request: Some(RequestId(7)),
            ..Record::of(Event::Denied)
        };
        let line = record.line().unwrap();
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        let parsed = Record::parse(&line).unwrap();
        assert_eq!((parsed.uid, parsed.request), (record.uid, record.request));
        assert_eq!(parsed.key.as_deref(), Some("/ab"));
        assert!(Record { key: Some("x".repeat(MAX_RECORD)), ..record }.line().is_none());
        assert!(Record::parse(b"a line of text\n").is_none());
    }
}
