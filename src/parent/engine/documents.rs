//! All documents: those of the configuration, and those of paths of keys with parameters, which come and go with these.
//!
//! A document is there as long as some key needs it or somebody is fetching it.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::flight::Flight;
use super::pace::Pace;
use crate::config::{Config, Document, Key, TokenName};
use crate::secret::KeyPath;
use crate::staleness::Settings;

/// Its place among the documents of the configuration; above those, a number that no other document has had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct DocumentId(pub(super) usize);

/// What one back-off is for: an origin, asked with a token.
pub(super) type Origin = (String, Option<TokenName>);

pub(super) struct DocumentState {
    pub(super) document: Rc<Document>,
    pub(super) origin: Origin,
    pub(super) keys: Rc<Vec<KeyPath>>,
    /// The longest of its keys.
    pub(super) fetch_timeout: Duration,
    /// The shortest of its keys.
    pub(super) refresh: Option<Duration>,
    /// Somebody keeps it fresh.
    pub(super) refreshing: bool,
    pub(super) flight: Option<Flight>,
    pub(super) last_started: Option<Instant>,
    pub(super) pace: Pace,
    /// The last answer was 401 or 403.
    pub(super) refused: bool,
    /// Not of the configuration: it is there for the paths that somebody has asked for.
    pub(super) expanded: bool,
}

#[derive(Default)]
pub(super) struct Documents {
    fixed: Vec<DocumentState>,
    expanded: HashMap<DocumentId, DocumentState>,
    /// Where keys have parameters: a path of theirs may need a document that is there already.
    by_document: HashMap<Rc<Document>, DocumentId>,
    next: usize,
}

impl DocumentState {
    fn new(document: Document) -> Self {
        Self {
            origin: (document.origin(), document.token().cloned()),
            document: Rc::new(document),
            keys: Rc::default(),
            fetch_timeout: Duration::ZERO,
            refresh: None,
            refreshing: false,
            flight: None,
            last_started: None,
            pace: Pace::default(),
            refused: false,
            expanded: false,
        }
    }
}

impl Documents {
    /// The documents of the configuration, and which key needs which.
    pub(super) fn of(config: &Config) -> (Self, HashMap<KeyPath, DocumentId>) {
        let mut found: HashMap<&Document, DocumentId> = HashMap::new();
        let mut keys: Vec<Vec<&Key>> = Vec::new();
        let mut of_key = HashMap::new();
        for key in &config.keys {
            let id = *found.entry(&key.source.document).or_insert_with(|| {
                keys.push(Vec::new());
                DocumentId(keys.len() - 1)
            });
            keys[id.0].push(key);
            of_key.insert(key.path.clone(), id);
        }
        let state = |keys: Vec<&Key>| {
            let document = keys.first().map(|key| key.source.document.clone())?;
            Some(DocumentState {
                fetch_timeout: keys.iter().map(|key| key.settings.fetch_timeout).max().unwrap_or_default(),
                refresh: keys.iter().filter_map(|key| key.settings.refresh).min(),
                keys: Rc::new(keys.iter().map(|key| key.path.clone()).collect()),
                ..DocumentState::new(document)
            })
        };
        let fixed: Vec<DocumentState> = keys.into_iter().filter_map(state).collect();
        let mut documents = Self { next: fixed.len(), fixed, ..Self::default() };
        if !config.templates.is_empty() {
            let fixed = documents.fixed.iter().enumerate();
            documents.by_document = fixed.map(|(id, state)| (state.document.clone(), DocumentId(id))).collect();
        }
        (documents, of_key)
    }

    pub(super) fn get(&self, id: DocumentId) -> Option<&DocumentState> {
        self.fixed.get(id.0).or_else(|| self.expanded.get(&id))
    }

    pub(super) fn get_mut(&mut self, id: DocumentId) -> Option<&mut DocumentState> {
        self.fixed.get_mut(id.0).or_else(|| self.expanded.get_mut(&id))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (DocumentId, &DocumentState)> {
        let fixed = self.fixed.iter().enumerate().map(|(id, state)| (DocumentId(id), state));
        fixed.chain(self.expanded.iter().map(|(id, state)| (*id, state)))
    }

    /// Adds a key to the document that it needs, which is made if there is none.
    pub(super) fn enter(&mut self, document: Document, key: KeyPath, settings: &Settings) -> DocumentId {
        let id = match self.by_document.get(&document) {
            Some(id) => *id,
            None => {
                let id = DocumentId(self.next);
                self.next += 1;
                let state = DocumentState { expanded: true, ..DocumentState::new(document) };
                self.by_document.insert(state.document.clone(), id);
                self.expanded.insert(id, state);
                id
            }
        };
        if let Some(state) = self.get_mut(id) {
            state.fetch_timeout = state.fetch_timeout.max(settings.fetch_timeout);
            Rc::make_mut(&mut state.keys).push(key);
        }
        id
    }

    /// Takes a key out of its document.
    pub(super) fn leave(&mut self, id: DocumentId, key: &KeyPath) {
        if let Some(state) = self.get_mut(id) {
            Rc::make_mut(&mut state.keys).retain(|known| known != key);
        }
        self.drop_if_idle(id);
    }

    /// Drops a document that no key needs any more and nobody is fetching.
    pub(super) fn drop_if_idle(&mut self, id: DocumentId) {
        let idle = |state: &DocumentState| state.keys.is_empty() && state.flight.is_none();
        if self.expanded.get(&id).is_some_and(idle)
            && let Some(state) = self.expanded.remove(&id)
        {
            self.by_document.remove(&state.document);
        }
    }

    pub(super) fn in_flight(&self, id: DocumentId) -> bool {
        self.get(id).is_some_and(|state| state.flight.is_some())
    }
}
