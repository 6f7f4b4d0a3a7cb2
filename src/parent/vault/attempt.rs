//! Which tokens a document is asked with while some wait to be proven: the new ones together, each alone, the old ones.
//!
//! An old token is in none of it for an origin that it was not configured for.

use std::collections::HashMap;
use std::rc::Rc;

use super::{Candidate, Known, Newer, Vault};
use crate::config::{Needed, TokenName};
use crate::parent::token::ApiToken;

/// The tokens of one call, each by its name, and nothing else.
pub(in crate::parent) struct Attempt {
    pub(in crate::parent) vault: Vault,
    /// Those of them that are proven if the call succeeds.
    pub(in crate::parent) newer: Vec<(TokenName, Candidate)>,
}

impl Attempt {
    /// Whether this candidate is tried by it.
    pub(in crate::parent) fn tries(&self, name: &TokenName, candidate: &Candidate) -> bool {
        self.newer.iter().any(|(known, newer)| known == name && Rc::ptr_eq(&newer.token, &candidate.token))
    }

    /// The tokens themselves, to be known again.
    pub(in crate::parent) fn used(&self) -> Vec<(TokenName, Rc<ApiToken>)> {
        self.vault.0.iter().map(|(name, known)| (name.clone(), known.token.clone())).collect()
    }
}

/// What there is of a token for one document.
struct Choice<'v> {
    name: &'v TokenName,
    known: &'v Known,
    newer: Option<&'v Newer>,
    /// The older one may not go where it would have to.
    only_newer: bool,
}

impl Vault {
    /// The calls to make for what a document needs, in their order, until one succeeds. Never empty; tokens that are missing
    /// are in none of them.
    pub(in crate::parent) fn attempts(&self, needed: &[Needed]) -> Vec<Attempt> {
        let mut choices: Vec<Choice<'_>> = Vec::with_capacity(needed.len());
        for Needed { token, origin } in needed {
            let Some((name, known)) = self.0.get_key_value(token) else { continue };
            let barred = known.newer.as_ref().is_some_and(|newer| !newer.older_at.contains(origin));
            match choices.iter_mut().find(|choice| choice.name == name) {
                Some(choice) => choice.only_newer |= barred,
                None => choices.push(Choice { name, known, newer: known.waiting(), only_newer: barred }),
            }
        }
        let waiting = choices.iter().enumerate().filter(|(_, choice)| choice.newer.is_some() && !choice.only_newer);
        let waiting: Vec<usize> = waiting.map(|(at, _)| at).collect();
        let mut attempts = Vec::with_capacity(waiting.len() + 2);
        if !waiting.is_empty() {
            attempts.push(attempt(&choices, &waiting));
        }
        if waiting.len() > 1 {
            attempts.extend(waiting.iter().map(|at| attempt(&choices, &[*at])));
        }
        attempts.push(attempt(&choices, &[]));
        attempts
    }
}

/// With the newer tokens of these choices, and wherever there is no other.
fn attempt(choices: &[Choice<'_>], with_newer: &[usize]) -> Attempt {
    let mut tokens = HashMap::with_capacity(choices.len());
    let mut proven = Vec::new();
    for (at, choice) in choices.iter().enumerate() {
        let newer = choice.known.newer.as_ref().filter(|_| choice.only_newer || with_newer.contains(&at));
        let token = newer.map_or(&choice.known.token, |newer| &newer.token).clone();
        if newer.is_some() {
            proven.push((choice.name.clone(), Candidate { token: token.clone() }));
        }
        tokens.insert(choice.name.clone(), Known::new(token));
    }
    Attempt { vault: Vault(tokens), newer: proven }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::io::Write;

    use super::*;
    use crate::config::SecretFile;

    fn vault(tokens: &[(&str, &str)]) -> Vault {
        let entry = |(name, token): &(&str, &str)| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(token.as_bytes()).unwrap();
            (TokenName((*name).into()), SecretFile::Credential((*name).into()), Ok(file.into()))
        };
        Vault::read(tokens.iter().map(entry).collect(), &crate::config::TokenFiles::new()).ok().unwrap()
    }

    fn needed(of: &[(&str, &str)]) -> Vec<Needed> {
        of.iter()
            .map(|(token, origin)| Needed { token: TokenName((*token).into()), origin: (*origin).into() })
            .collect()
    }

    fn origins(of: &[(&str, &str)]) -> HashMap<TokenName, BTreeSet<String>> {
        let mut origins = HashMap::new();
        for Needed { token, origin } in needed(of) {
            origins.entry(token).or_insert_with(BTreeSet::new).insert(origin);
        }
        origins
    }

    /// What each attempt shows, by the order of the names.
    fn shown(vault: &Vault, needed: &[Needed]) -> Vec<String> {
        let of = |attempt: &Attempt| {
            let mut used = attempt.used();
            used.sort_by(|(a, _), (b, _)| a.cmp(b));
            let texts = used.iter().map(|(_, token)| String::from_utf8_lossy(token.bytes()).into_owned());
            texts.collect::<Vec<_>>().join(" ")
        };
        vault.attempts(needed).iter().map(of).collect()
    }

    const HERE: &[(&str, &str)] = &[("a", "here"), ("b", "here")];

    #[test]
    fn new_ones_are_tried_together_then_each_alone_then_none() {
        let (old, same) = (vault(&[("a", "a1"), ("b", "b1"), ("c", "c1")]), origins(HERE));
        let (both, _) = old.replaced_by(vault(&[("a", "a2"), ("b", "b2"), ("c", "c1")]), &[], (&same, &same));
        assert_eq!(shown(&both, &needed(HERE)), ["a2 b2", "a2 b1", "a1 b2", "a1 b1"]);
        let (one, _) = old.replaced_by(vault(&[("a", "a1"), ("b", "b2")]), &[], (&same, &same));
        assert_eq!(shown(&one, &needed(HERE)), ["a1 b2", "a1 b1"]);
        assert_eq!(shown(&old, &needed(HERE)), ["a1 b1"], "and nothing that is not needed");
        assert_eq!(shown(&old, &needed(&[("a", "here"), ("missing", "here")])), ["a1"]);
    }

    #[test]
    fn an_old_one_is_not_shown_where_it_was_not_configured_for() {
        let (old, went) = (vault(&[("a", "a1"), ("b", "b1")]), origins(HERE));
        let now = origins(&[("a", "here"), ("a", "there"), ("b", "here")]);
        let (both, _) = old.replaced_by(vault(&[("a", "a2"), ("b", "b2")]), &[], (&went, &now));
        let there = needed(&[("a", "there"), ("b", "here")]);
        assert_eq!(shown(&both, &there), ["a2 b2", "a2 b1"]);
        let everywhere = needed(&[("a", "here"), ("b", "here"), ("a", "there")]);
        assert_eq!(shown(&both, &everywhere), ["a2 b2", "a2 b1"], "one call shows one token");
        assert!(both.attempts(&there)[1].newer.iter().any(|(name, _)| name.0 == "a"), "which then is proven");
    }
}
