//! Tokens that are to replace others: tried first until an upstream has accepted or refused them. Never compares one here.

use std::rc::Rc;

use tokio::time::timeout;

use super::Engine;
use super::documents::{DocumentId, DocumentState};
use crate::config::{Document, TokenName};
use crate::outcome::{Class, Failure, Reason};
use crate::parent::cache::Validators;
use crate::parent::token::ApiToken;
use crate::parent::upstream::Fetched;
use crate::parent::vault::{Candidate, Origins, Vault};

/// On so many documents a token is tried, if the first ones say nothing about it.
const TRIED_ON: usize = 4;

/// The token that a call was made with, if it was one.
pub(super) type Used = Option<Rc<ApiToken>>;

/// What came of trying a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::parent) enum Trial {
    Accepted,
    /// The one before stays. Without a reason when the fetch of a peer found out.
    Refused(Option<Reason>),
    /// The upstream is unavailable, for this reason: both stay.
    Unproven(Reason),
    /// No document of this token is known yet: both stay.
    NothingToTry,
    /// Nothing in the configuration needs it: it is taken.
    Unused,
    /// Another reload has come meanwhile, and brought another one.
    Overtaken,
}

impl Engine {
    pub(in crate::parent) fn vault(&self) -> Rc<Vault> {
        self.vault.borrow().clone()
    }

    /// One fetch, with the token that waits to be proven first, if there is one. The old one goes where it went before only.
    ///
    /// Beside the answer, the token that it was given to.
    pub(super) async fn call(self: &Rc<Self>, document: &Document, known: &Validators) -> (Fetched, Used) {
        let (sources, vault) = (self.sources.borrow().clone(), self.vault());
        let Some(name) = document.token() else { return (sources.fetch(document, known, &vault).await, None) };
        if let Some(only) = vault.only_one_for(name, &document.origin()) {
            let fetched = sources.fetch(document, known, &only.alone).await;
            if fetched.answer.is_ok() {
                self.settle_token(name, &only, true);
            }
            return (fetched, Some(only.token));
        }
        let current = vault.current(name);
        let Some(candidate) = vault.candidate(name) else {
            return (sources.fetch(document, known, &vault).await, current);
        };
        let tried = sources.fetch(document, known, &candidate.alone).await;
        match &tried.answer {
            Ok(_) => {
                self.settle_token(name, &candidate, true);
                return (tried, Some(candidate.token));
            }
            Err(failure) if failure.class == Class::Unavailable => return (tried, Some(candidate.token)),
            Err(_) => {}
        }
        let by_the_old_one = sources.fetch(document, known, &vault).await;
        if by_the_old_one.answer.is_ok() {
            self.settle_token(name, &candidate, false);
        }
        (by_the_old_one, current)
    }

    /// Whether a reload has put another token in the place of the one that this document was asked with.
    pub(super) fn is_overtaken(&self, document: &Document, used: &Used) -> bool {
        let of = document.token().zip(used.as_ref());
        of.is_some_and(|(name, token)| !self.vault().uses(name, token))
    }

    /// Whether it was still the one that waits.
    fn settle_token(&self, name: &TokenName, candidate: &Candidate, accepted: bool) -> bool {
        let Some(settled) = self.vault().settled(name, candidate, accepted) else { return false };
        *self.vault.borrow_mut() = Rc::new(settled);
        if accepted {
            tracing::info!(token = %name, "the new token is accepted: the old one is gone");
        } else {
            tracing::error!(token = %name, "the new token is refused: the old one stays");
        }
        true
    }

    /// What has become of a candidate that does not wait any more. `reload` is the one that brought it.
    fn outcome(&self, name: &TokenName, candidate: &Candidate, reload: u64) -> Option<Trial> {
        match self.vault().standing(name, candidate) {
            (true, _) => None,
            (false, true) => Some(Trial::Accepted),
            (false, false) if *self.reloads.borrow() == reload => Some(Trial::Refused(None)),
            (false, false) => Some(Trial::Overtaken),
        }
    }

    /// Tries a token that waits, alone and at once, on a document that is good with the old one, if there is any. Counts for
    /// nothing else: neither as a refusal of a value, nor for back-off.
    pub(in crate::parent) async fn try_token(
        self: Rc<Self>,
        name: &TokenName,
        candidate: Candidate,
        reload: u64,
    ) -> Trial {
        let tried = self.try_candidate(name, &candidate).await;
        match tried {
            Trial::Accepted if self.settle_token(name, &candidate, true) => {
                self.counters.prove(name);
                self.resume(name);
                self.restore_withheld(name).await;
                Trial::Accepted
            }
            Trial::Unused if self.settle_token(name, &candidate, true) => Trial::Unused,
            Trial::Refused(reason) if self.settle_token(name, &candidate, false) => Trial::Refused(reason),
            _ => self.outcome(name, &candidate, reload).unwrap_or(tried),
        }
    }

    /// Settles nothing.
    async fn try_candidate(&self, name: &TokenName, candidate: &Candidate) -> Trial {
        if !self.is_used(name) {
            return Trial::Unused;
        }
        let mut outcome = Trial::NothingToTry;
        for (good, id) in self.to_try(name) {
            let Some((document, limit)) =
                self.documents.borrow().get(id).map(|state| (state.document.clone(), state.fetch_timeout))
            else {
                continue;
            };
            let sources = self.sources.borrow().clone();
            let nothing = Validators::default();
            let call = timeout(limit, sources.fetch(&document, &nothing, &candidate.alone)).await;
            let answer = call.map_or(Err(Failure::unavailable(Reason::Timeout)), |fetched| fetched.answer);
            match answer.map_err(|failure| (failure.class, failure.reason)) {
                Ok(_) => return Trial::Accepted,
                Err((Class::Unavailable, reason)) => return Trial::Unproven(reason),
                // What the old token is given, and the new one is not.
                Err((class, reason)) if good || class == Class::TokenRefused => return Trial::Refused(Some(reason)),
                Err((Class::Refused, reason)) => outcome = Trial::Refused(Some(reason)),
                Err((_, reason)) if outcome == Trial::NothingToTry => outcome = Trial::Unproven(reason),
                Err(_) => {}
            }
        }
        outcome
    }

    /// Documents of this token, those first that are good now, which is told beside.
    pub(super) fn to_try(&self, name: &TokenName) -> Vec<(bool, DocumentId)> {
        let (documents, entries) = (self.documents.borrow(), self.entries.borrow());
        let good = |state: &DocumentState| {
            let mut of_keys = state.keys.iter().filter_map(|key| entries.get(key));
            !state.refused && of_keys.any(|entry| entry.held.is_some() && entry.failure.is_none())
        };
        let of_token = documents.iter().filter(|(_, state)| state.document.token() == Some(name));
        let drilled = |state: &DocumentState| state.keys.iter().any(|key| self.is_covered(key, &state.document));
        let asked = of_token.filter(|(_, state)| !state.keys.is_empty() && !drilled(state));
        let mut found: Vec<(bool, DocumentId)> = asked.map(|(id, state)| (good(state), id)).collect();
        found.sort_by_key(|(good, id)| (!good, *id));
        found.truncate(TRIED_ON);
        found
    }

    fn is_used(&self, name: &TokenName) -> bool {
        let of_template = |document: Document| document.token() == Some(name);
        self.documents.borrow().iter().any(|(_, state)| state.document.token() == Some(name))
            || self.expanded.borrow().iter().any(|table| of_template(table.any_document()))
    }

    /// Where each token goes.
    pub(super) fn token_origins(&self) -> Origins {
        let mut origins = Origins::new();
        let mut note = |document: &Document| {
            if let Some(name) = document.token() {
                origins.entry(name.clone()).or_default().insert(document.origin());
            }
        };
        let documents = self.documents.borrow();
        // One without keys is of an earlier configuration.
        documents.iter().filter(|(_, state)| !state.keys.is_empty()).for_each(|(_, state)| note(&state.document));
        self.expanded.borrow().iter().for_each(|table| note(&table.any_document()));
        origins
    }

    /// What was refused with the old token may be asked for at once.
    fn resume(&self, name: &TokenName) {
        let (mut documents, mut entries) = (self.documents.borrow_mut(), self.entries.borrow_mut());
        let ids: Vec<DocumentId> = documents.iter().map(|(id, _)| id).collect();
        for id in ids {
            let Some(state) = documents.get_mut(id).filter(|state| state.document.token() == Some(name)) else {
                continue;
            };
            if !std::mem::take(&mut state.refused) {
                continue;
            }
            state.pace.succeed();
            for key in state.keys.iter() {
                let Some(entry) = entries.get_mut(key) else { continue };
                entry.negative_until = None;
                // Its lease lasts until the attempt that was due.
                self.recall(key, entry);
            }
        }
    }
}
