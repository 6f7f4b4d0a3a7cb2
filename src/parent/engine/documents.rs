//! All documents: those of the configuration, and those of paths of keys with parameters, which come and go with these.
//!
//! A document is there as long as some key needs it or somebody is fetching it.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::flight::Flight;
use crate::config::{Document, Key, TokenName};
use crate::outcome::Failure;
use crate::parent::pace::Pace;
use crate::secret::KeyPath;
use crate::staleness::Settings;

/// A number that no other document has had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct DocumentId(pub(super) usize);

/// What one back-off is for: an origin, asked with these tokens.
pub(super) type Origin = (String, Vec<TokenName>);

/// The tokens of an origin, for a person and for labels; `None` where it is asked without one.
pub(super) fn told(tokens: &[TokenName]) -> Option<String> {
    let names: Vec<&str> = tokens.iter().map(|token| token.0.as_str()).collect();
    (!names.is_empty()).then(|| names.join(", "))
}

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
    /// How the last call ended, if it brought no answer.
    pub(super) failed: Option<Failure>,
    /// The last answer was 401 or 403.
    pub(super) refused: bool,
    /// Not of the configuration: it is there for the paths that somebody has asked for.
    pub(super) expanded: bool,
}

#[derive(Default)]
pub(super) struct Documents {
    all: BTreeMap<DocumentId, DocumentState>,
    by_document: HashMap<Rc<Document>, DocumentId>,
    next: usize,
}

impl DocumentState {
    fn new(document: Document) -> Self {
        Self {
            origin: (document.origin(), document.token_names()),
            document: Rc::new(document),
            keys: Rc::default(),
            fetch_timeout: Duration::ZERO,
            refresh: None,
            refreshing: false,
            flight: None,
            last_started: None,
            pace: Pace::default(),
            failed: None,
            refused: false,
            expanded: false,
        }
    }

    fn is_idle(&self) -> bool {
        self.expanded && self.keys.is_empty() && self.flight.is_none()
    }
}

impl Documents {
    /// Those that these keys of the configuration need, and which of them needs which. Documents that are there already
    /// stay what they are, but for their keys: nobody is fetching anew, or sooner, because the configuration was read again.
    /// All others wait for [`enter`](Self::enter), or for [`drop_idle`](Self::drop_idle).
    pub(super) fn arrange(&mut self, keys: &[Key]) -> HashMap<KeyPath, DocumentId> {
        for state in self.all.values_mut() {
            (state.keys, state.fetch_timeout, state.refresh) = (Rc::default(), Duration::ZERO, None);
            state.expanded = true;
        }
        let mut of_key = HashMap::with_capacity(keys.len());
        for key in keys {
            let id = self.enter(&key.source.document, key.path.clone(), &key.settings);
            if let Some(state) = self.get_mut(id) {
                state.expanded = false;
                state.refresh = state.refresh.into_iter().chain(key.settings.refresh).min();
            }
            of_key.insert(key.path.clone(), id);
        }
        of_key
    }

    pub(super) fn get(&self, id: DocumentId) -> Option<&DocumentState> {
        self.all.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: DocumentId) -> Option<&mut DocumentState> {
        self.all.get_mut(&id)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut DocumentState> {
        self.all.values_mut()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (DocumentId, &DocumentState)> {
        self.all.iter().map(|(id, state)| (*id, state))
    }

    /// Adds a key to the document that it needs, which is made if there is none.
    pub(super) fn enter(&mut self, document: &Document, key: KeyPath, settings: &Settings) -> DocumentId {
        let id = match self.by_document.get(document) {
            Some(id) => *id,
            None => {
                let id = DocumentId(self.next);
                self.next += 1;
                let state = DocumentState { expanded: true, ..DocumentState::new(document.clone()) };
                self.by_document.insert(state.document.clone(), id);
                self.all.insert(id, state);
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
        if self.get(id).is_some_and(DocumentState::is_idle)
            && let Some(state) = self.all.remove(&id)
        {
            self.by_document.remove(&state.document);
        }
    }

    /// All of them.
    pub(super) fn drop_idle(&mut self) {
        let idle: Vec<DocumentId> = self.iter().filter(|(_, state)| state.is_idle()).map(|(id, _)| id).collect();
        idle.into_iter().for_each(|id| self.drop_if_idle(id));
    }

    pub(super) fn in_flight(&self, id: DocumentId) -> bool {
        self.get(id).is_some_and(|state| state.flight.is_some())
    }
}
