//! Where documents come from. Borrows a token for one call and keeps nothing of it.

mod ahead;
mod amqp;
mod aside;
mod authorities;
mod body;
mod command;
mod connect;
mod exchange;
mod extract;
mod file;
mod formats;
#[cfg(test)]
mod fuzz;
mod hawk;
mod http;
mod nameko;
mod outcomes;
mod project;
mod redirect;
mod request;
mod response;
mod select;
mod session;
mod sigv4;
mod unescape;
mod ways;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use self::authorities::Trusted;
use self::command::Commands;
use self::file::Files;
use self::http::HttpUpstream;
use self::nameko::NamekoUpstream;
use crate::config::{Config, Document, Key, KeyTemplate, Limits, Live};
use crate::outcome::{Failure, Reason};
use crate::parent::cache::Validators;
use crate::parent::runner::Runner;
use crate::parent::vault::Vault;

pub use aside::project_aside;
pub use authorities::{Authorities, NoAuthorities};
pub use body::DocumentBody;
pub use file::SourceFile;
pub use http::TlsSetupError;
pub use session::Useless;
pub(in crate::parent) use session::{Standing as SessionStanding, judge};

/// What sources need that only the root phase may open, each by its path.
#[derive(Default)]
pub struct SourceInputs {
    /// Of every `ca-file`.
    pub authorities: BTreeMap<PathBuf, Authorities>,
    /// The sources of type `file` that are there, open for reading.
    pub files: BTreeMap<PathBuf, SourceFile>,
}

/// A good answer.
pub enum Answer {
    Answered {
        body: DocumentBody,
        validators: Validators,
        /// Of HTTP sources.
        status: Option<u16>,
    },
    /// 304: what these validators came with is what there is.
    NotModified,
    /// The service was called and raised an exception: its description as JSON, for who asked.
    Raised(Exception),
    /// The broker takes the token; nothing was called.
    Reached,
}

/// What a service says of an exception: a JSON object.
pub type Exception = Arc<Zeroizing<Vec<u8>>>;

/// How a fetch ended.
pub struct Fetched {
    pub answer: Result<Answer, Failure>,
    /// The upstream said that the next request would be one too many, and when that ends.
    pub quota_spent: Option<Duration>,
}

impl From<Result<Answer, Failure>> for Fetched {
    fn from(answer: Result<Answer, Failure>) -> Self {
        Self { answer, quota_spent: None }
    }
}

/// All sources of the configuration.
pub struct Sources {
    http: HttpUpstream,
    files: Files,
    nameko: NamekoUpstream,
    commands: Commands,
}

impl Sources {
    /// # Errors
    /// TLS cannot be set up at all.
    pub fn new(config: &Config, inputs: SourceInputs) -> Result<Self, TlsSetupError> {
        Self::of(&config.limits, &config.keys, &config.templates, inputs, None)
    }

    /// Those of a configuration that takes the place of the one before. Files are read through what was opened for this.
    ///
    /// # Errors
    /// TLS cannot be set up at all.
    pub fn renewed(&self, live: &Live, inputs: SourceInputs) -> Result<Self, TlsSetupError> {
        Self::of(&live.limits, &live.keys, &live.templates, inputs, Some(self))
    }

    fn of(
        limits: &Limits,
        keys: &[Key],
        templates: &[KeyTemplate],
        inputs: SourceInputs,
        before: Option<&Self>,
    ) -> Result<Self, TlsSetupError> {
        let limit = usize::try_from(limits.document_size).unwrap_or(usize::MAX);
        let of_templates: Vec<Document> = templates.iter().map(|key| key.source.any_document()).collect();
        let documents = keys.iter().map(|key| &key.source.document).chain(&of_templates);
        let calls = documents.clone().filter_map(|document| match document {
            Document::Nameko(call) => Some(&**call),
            _ => None,
        });
        let documents = documents.filter_map(|document| match document {
            Document::Http(http) => Some(&**http),
            _ => None,
        });
        let trusted = Trusted::new(inputs.authorities);
        Ok(Self {
            nameko: NamekoUpstream::new(limit, calls, trusted.clone(), before.map(|before| &before.nameko))?,
            http: HttpUpstream::new(limit, documents, trusted, before.map(|before| &before.http))?,
            files: Files::new(limit, inputs.files),
            commands: Commands::new(limit, before.and_then(|before| before.commands.runner())),
        })
    }

    /// With what runs commands.
    pub(in crate::parent) fn with_runner(mut self, runner: Rc<Runner>) -> Self {
        self.commands = self.commands.run_by(runner);
        self
    }

    /// How each session is that some document has needed.
    pub(super) fn sessions(&self) -> Vec<SessionStanding> {
        self.http.sessions.standings()
    }

    /// Drops the sessions of no document any more, and of tokens that are not in use.
    pub(super) fn forget_sessions(&self, vault: &Vault) {
        self.http.forget_sessions(vault);
    }

    /// Whatever back-off says of the login that this document needs.
    pub(super) fn permit_login(&self, document: &Document) {
        if let Document::Http(document) = document {
            self.http.sessions.permit(document);
        }
    }

    /// Fetches a document, if it is not what `known` came with. The caller bounds the time.
    pub async fn fetch(&self, document: &Document, known: &Validators, vault: &Vault) -> Fetched {
        match document {
            Document::Http(document) => self.http.fetch(document, known, vault).await,
            Document::File(document) => self.files.fetch(document).await.into(),
            Document::Nameko(document) => self.nameko.fetch(document, vault).await.into(),
            Document::Command(document) => self.commands.fetch(document, vault).await.into(),
        }
    }

    /// What it is that a fetch of this document has not ended in time.
    pub fn unanswered(&self, document: &Document) -> Failure {
        let is_called = matches!(document, Document::Nameko(document) if self.nameko.is_connected(document));
        Failure::unavailable(if is_called { Reason::NoReply } else { Reason::Timeout })
    }
}
