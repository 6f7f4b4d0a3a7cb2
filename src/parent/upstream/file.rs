//! Files as sources: opened as root at start, read again from their start for each fetch.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::Answer;
use super::aside::parse_aside;
use super::body::Collector;
use crate::config::{FileDocument, Format};
use crate::outcome::{Failure, Reason};
use crate::parent::cache::Validators;
use crate::sys::replaced::Watch;

/// How often a file is read again that changes meanwhile.
const ATTEMPTS: usize = 3;

/// A source that is open.
pub struct SourceFile {
    file: File,
    /// Tells when the path leads elsewhere. Without it, only the loss of the last link is noticed.
    watch: Option<Watch>,
}

impl From<(File, Option<Watch>)> for SourceFile {
    fn from((file, watch): (File, Option<Watch>)) -> Self {
        Self { file, watch }
    }
}

impl SourceFile {
    /// The file, and what tells that its path leads elsewhere.
    pub fn into_parts(self) -> (File, Option<Watch>) {
        (self.file, self.watch)
    }

    fn is_replaced(&self, found: &Metadata) -> bool {
        found.nlink() == 0 || self.watch.as_ref().is_some_and(Watch::is_replaced)
    }
}

pub(super) struct Files {
    files: HashMap<PathBuf, Known>,
    limit: usize,
}

#[derive(Clone)]
struct Known {
    file: Arc<SourceFile>,
    /// One reads it at a time: on a mount that hangs, others would take a thread each, and in the end all that there are.
    turn: Arc<Semaphore>,
}

impl Files {
    /// `limit` is the longest document, in bytes.
    pub(super) fn new(limit: usize, files: BTreeMap<PathBuf, SourceFile>) -> Self {
        let known = |file| Known { file: Arc::new(file), turn: Arc::new(Semaphore::new(1)) };
        Self { files: files.into_iter().map(|(path, file)| (path, known(file))).collect(), limit }
    }

    pub(super) async fn fetch(&self, document: &FileDocument) -> Result<Answer, Failure> {
        let unreadable = || Failure::unavailable(Reason::SourceUnreadable);
        // One that was not there at start, which the log has said then.
        let Known { file, turn } = self.files.get(&document.path).ok_or_else(unreadable)?.clone();
        let (limit, format) = (self.limit, document.format);
        let turn = turn.acquire_owned().await.map_err(|_| unreadable())?;
        let reading = move || {
            let bytes = read(&file, limit);
            // Also when nobody waits for it any more.
            drop(turn);
            bytes
        };
        let read = tokio::task::spawn_blocking(reading).await;
        let bytes = read.map_err(|_| unreadable())?.inspect_err(|failure| {
            let path = document.path.display();
            if failure.reason == Reason::SourceReplaced {
                tracing::error!(%path, "the file was replaced by another: run `keyhatch reload` to open that one");
            }
        })?;
        let bytes = if format == Format::Text { without_line_end(bytes) } else { bytes };
        let body = parse_aside(bytes, format).await?;
        Ok(Answer::Answered { body, validators: Validators::default(), status: None })
    }
}

/// The whole file, as it was at one moment as far as its times can tell, while the path led to it.
fn read(source: &SourceFile, limit: usize) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let unreadable = |_: io::Error| Failure::unavailable(Reason::SourceUnreadable);
    for _ in 0..ATTEMPTS {
        let before = source.file.metadata().map_err(unreadable)?;
        let bytes = read_once(&source.file, &before, limit)?;
        let after = source.file.metadata().map_err(unreadable)?;
        if source.is_replaced(&after) {
            return Err(Failure::unavailable(Reason::SourceReplaced));
        }
        if moment(&after) == moment(&before) {
            return Ok(bytes);
        }
    }
    Err(Failure::unavailable(Reason::SourceUnreadable))
}

fn moment(of: &Metadata) -> (u64, i64, i64) {
    (of.len(), of.mtime(), of.mtime_nsec())
}

fn read_once(file: &File, found: &Metadata, limit: usize) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let announced = usize::try_from(found.len()).unwrap_or(usize::MAX);
    if announced > limit {
        return Err(Failure::misconfigured(Reason::DocumentTooLarge));
    }
    let mut collector = Collector::new(limit, Some(announced));
    let mut part = Zeroizing::new(vec![0; 1 << 16]);
    let mut offset = 0;
    loop {
        match file.read_at(&mut part, offset) {
            Ok(0) => return Ok(collector.finish()),
            Ok(read) => {
                collector.push(&part[..read])?;
                offset += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Err(Failure::unavailable(Reason::SourceUnreadable)),
        }
    }
}

/// One line end is the editor's, as with tokens; what stands before it is the value's.
pub(super) fn without_line_end(mut bytes: Zeroizing<Vec<u8>>) -> Zeroizing<Vec<u8>> {
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file(content: &[u8]) -> (tempfile::NamedTempFile, SourceFile) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        let open = file.reopen().unwrap();
        (file, (open, None).into())
    }

    #[test]
    fn it_is_read_from_its_start_each_time() {
        let (mut named, open) = file(b"one");
        assert_eq!(read(&open, 10).unwrap().as_slice(), b"one");
        named.write_all(b" two").unwrap();
        assert_eq!(read(&open, 10).unwrap().as_slice(), b"one two");
    }

    #[test]
    fn one_over_the_limit_is_not_read() {
        let (_named, open) = file(b"0123456789");
        assert!(read(&open, 10).is_ok());
        assert_eq!(read(&open, 9).unwrap_err().reason, Reason::DocumentTooLarge);
    }

    #[test]
    fn one_that_is_gone_from_its_directory_is_replaced() {
        let (named, open) = file(b"old");
        named.close().unwrap();
        assert_eq!(read(&open, 10).unwrap_err().reason, Reason::SourceReplaced);
    }

    #[tokio::test]
    async fn one_reads_it_at_a_time() {
        let (named, open) = file(b"\"v\"");
        let path = named.path().to_owned();
        let files = Files::new(10, BTreeMap::from([(path.clone(), open)]));
        let document = FileDocument { path: path.clone(), format: Format::Json };
        // A read that does not end.
        let turn = files.files[&path].turn.clone().acquire_owned().await.unwrap();
        let within = std::time::Duration::from_millis(50);
        for _ in 0..3 {
            assert!(tokio::time::timeout(within, files.fetch(&document)).await.is_err());
        }
        drop(turn);
        assert!(matches!(files.fetch(&document).await, Ok(Answer::Answered { .. })));
    }

    #[test]
    fn one_line_end_goes() {
        for (content, value) in
            [("a\n", "a"), ("a\r\n", "a"), ("a", "a"), ("a\n\n", "a\n"), ("\n", ""), ("a ", "a "), ("a\r", "a\r")]
        {
            let trimmed = without_line_end(Zeroizing::new(content.as_bytes().to_vec()));
            assert_eq!(trimmed.as_slice(), value.as_bytes(), "{content:?}");
        }
    }
}
