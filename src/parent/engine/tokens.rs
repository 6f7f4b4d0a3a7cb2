//! Tokens that are to replace others: tried first until an upstream has accepted or refused them. Never compares one here.

use std::rc::Rc;

use tokio::time::timeout;

use super::Engine;
use super::documents::{DocumentId, DocumentState};
use crate::config::{Document, Needed, TokenName};
use crate::outcome::{Class, Failure, Reason};
use crate::parent::cache::Validators;
use crate::parent::token::ApiToken;
use crate::parent::upstream::Fetched;
use crate::parent::vault::{Attempt, Candidate, Origins, Vault};

/// On so many documents a token is tried, if the first ones say nothing about it.
const TRIED_ON: usize = 4;

/// The tokens that a call was made with.
pub(super) type Used = Vec<(TokenName, Rc<ApiToken>)>;

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

    /// One fetch, with the tokens that wait to be proven first, if there are any. An old one goes where it went before only.
    ///
    /// Beside the answer, the tokens that it was given to.
    pub(super) async fn call(self: &Rc<Self>, document: &Document, known: &Validators) -> (Fetched, Used) {
        let (sources, vault) = (self.sources.borrow().clone(), self.vault());
        let needed = document.tokens();
        let mut attempts = vault.attempts(&needed).into_iter().peekable();
        loop {
            let Some(attempt) = attempts.next() else {
                // There is always one; without any token, it fails by itself.
                return (sources.fetch(document, known, &vault).await, Used::new());
            };
            let fetched = sources.fetch(document, known, &attempt.vault).await;
            match &fetched.answer {
                Ok(_) => {
                    self.settle_attempt(&needed, &attempt);
                    return (fetched, attempt.used());
                }
                Err(failure) if failure.class == Class::Unavailable || attempts.peek().is_none() => {
                    return (fetched, attempt.used());
                }
                Err(_) => {}
            }
        }
    }

    /// After a good answer: what it was given to is proven, and what was refused before is not.
    fn settle_attempt(&self, needed: &[Needed], attempt: &Attempt) {
        let vault = self.vault();
        let mut names: Vec<&TokenName> = needed.iter().map(|needed| &needed.token).collect();
        names.dedup();
        for name in names {
            if let Some(candidate) = vault.candidate(name) {
                self.settle_token(name, &candidate, attempt.tries(name, &candidate));
            }
        }
    }

    /// Whether a reload has put another token in the place of one that this document was asked with.
    pub(super) fn is_overtaken(&self, used: &Used) -> bool {
        let vault = self.vault();
        used.iter().any(|(name, token)| !vault.uses(name, token))
    }

    /// Whether it was still the one that waits.
    fn settle_token(&self, name: &TokenName, candidate: &Candidate, accepted: bool) -> bool {
        let Some(settled) = self.vault().settled(name, candidate, accepted) else { return false };
        *self.vault.borrow_mut() = Rc::new(settled);
        self.sources.borrow().forget_sessions(&self.vault());
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
        let (tried, with) = self.try_candidate(name, &candidate).await;
        match tried {
            Trial::Accepted if self.settle_token(name, &candidate, true) => {
                self.counters.prove(name);
                self.resume(name);
                self.restore_withheld(&with).await;
                Trial::Accepted
            }
            Trial::Unused if self.settle_token(name, &candidate, true) => Trial::Unused,
            Trial::Refused(reason) if self.settle_token(name, &candidate, false) => Trial::Refused(reason),
            _ => self.outcome(name, &candidate, reload).unwrap_or(tried),
        }
    }

    /// Settles nothing. With the outcome, the tokens that were accepted together.
    async fn try_candidate(&self, name: &TokenName, candidate: &Candidate) -> (Trial, Vec<TokenName>) {
        if !self.is_used(name) {
            return (Trial::Unused, Vec::new());
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
            let mut answer = None;
            let attempts = self.vault().attempts(&document.tokens());
            // Beside others that are new, and then alone.
            for attempt in attempts.iter().filter(|attempt| attempt.tries(name, candidate)) {
                let call = timeout(limit, sources.fetch(&document, &nothing, &attempt.vault)).await;
                let ended = call.map_or(Err(Failure::unavailable(Reason::Timeout)), |fetched| fetched.answer);
                let ended = ended.map(|_| ()).map_err(|failure| (failure.class, failure.reason));
                let is_said = !matches!(ended, Err((class, _)) if class != Class::Unavailable);
                answer = Some(ended);
                if is_said {
                    break;
                }
            }
            match answer {
                Some(Ok(())) => return (Trial::Accepted, document.token_names()),
                Some(Err((Class::Unavailable, reason))) => return (Trial::Unproven(reason), Vec::new()),
                // What the old token is given, and the new one is not.
                Some(Err((class, reason))) if good || class == Class::TokenRefused => {
                    return (Trial::Refused(Some(reason)), Vec::new());
                }
                Some(Err((Class::Refused, reason))) => outcome = Trial::Refused(Some(reason)),
                Some(Err((_, reason))) if outcome == Trial::NothingToTry => outcome = Trial::Unproven(reason),
                Some(Err(_)) | None => {}
            }
        }
        (outcome, Vec::new())
    }

    /// Documents of this token, those first that are good now, which is told beside.
    pub(super) fn to_try(&self, name: &TokenName) -> Vec<(bool, DocumentId)> {
        let (documents, entries) = (self.documents.borrow(), self.entries.borrow());
        let good = |state: &DocumentState| {
            let mut of_keys = state.keys.iter().filter_map(|key| entries.get(key));
            !state.refused && of_keys.any(|entry| entry.held.is_some() && entry.failure.is_none())
        };
        let of_token = documents.iter().filter(|(_, state)| state.document.needs(name));
        let drilled = |state: &DocumentState| state.keys.iter().any(|key| self.is_covered(key, &state.document));
        let asked = of_token.filter(|(_, state)| !state.keys.is_empty() && !drilled(state));
        let mut found: Vec<(bool, DocumentId)> = asked.map(|(id, state)| (good(state), id)).collect();
        found.sort_by_key(|(good, id)| (!good, *id));
        found.truncate(TRIED_ON);
        found
    }

    fn is_used(&self, name: &TokenName) -> bool {
        self.documents.borrow().iter().any(|(_, state)| state.document.needs(name))
            || self.expanded.borrow().iter().any(|table| table.any_document().needs(name))
    }

    /// Where each token goes.
    pub(super) fn token_origins(&self) -> Origins {
        let mut origins = Origins::new();
        let mut note = |document: &Document| {
            for Needed { token, origin } in document.tokens() {
                origins.entry(token).or_default().insert(origin);
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
            let Some(state) = documents.get_mut(id).filter(|state| state.document.needs(name)) else {
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
