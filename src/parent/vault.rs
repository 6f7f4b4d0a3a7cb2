//! The tokens, by name: which ones there are, and which one goes where.
//!
//! Filled after the worker exists and after the drop, from descriptors that the root phase, or root's own `keyhatch reload`,
//! opened. A token leaves this module as a borrow, inside one call; it is never copied, printed or serialised, compared
//! with nothing but the one that is to replace it, and no error here holds a byte of one.

mod attempt;

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::os::fd::OwnedFd;
use std::rc::Rc;

pub(in crate::parent) use self::attempt::Attempt;
use super::token::{ApiToken, Shape, TokenFault};
use super::upstream::judge;
use crate::config::{Content, SecretFile, TokenFiles, TokenName};

/// All tokens of the configuration, by name. One that could not be opened is absent. Never changes: a reload makes another
/// one, and what only the first has is wiped when the last fetch with it has ended.
pub struct Vault(HashMap<TokenName, Known>);

#[derive(Clone)]
struct Known {
    token: Rc<ApiToken>,
    newer: Option<Newer>,
}

/// What is to replace a token once the upstream has accepted it, and is tried first until then.
#[derive(Clone)]
struct Newer {
    token: Rc<ApiToken>,
    /// Where the older one goes: an origin that it was not configured for never sees it.
    older_at: Rc<BTreeSet<String>>,
    /// It is the only one for some other origin, too.
    elsewhere: bool,
    /// The older one stays where it was, and this one is for the other origins alone.
    refused: bool,
}

/// Where each token goes.
pub(in crate::parent) type Origins = HashMap<TokenName, BTreeSet<String>>;

impl Known {
    fn new(token: Rc<ApiToken>) -> Self {
        Self { token, newer: None }
    }

    fn waiting(&self) -> Option<&Newer> {
        self.newer.as_ref().filter(|newer| !newer.refused)
    }

    /// By a configuration in which it goes to these origins. One that goes nowhere any more gives way to the newer one.
    fn at(self, now: &BTreeSet<String>) -> Self {
        match self.newer {
            Some(newer) if now.is_disjoint(&newer.older_at) => Self::new(newer.token),
            Some(newer) => {
                let elsewhere = !now.is_subset(&newer.older_at);
                Self { newer: Some(Newer { elsewhere, ..newer }), ..self }
            }
            None => self,
        }
    }
}

/// A token that no upstream has accepted yet.
pub(in crate::parent) struct Candidate {
    token: Rc<ApiToken>,
}

/// What a reload makes of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::parent) enum Replacement {
    Unchanged,
    /// There was none of this name, or it was configured for none of the origins of now.
    New,
    /// To be tried.
    Changed,
}

/// A token file that was opened and holds no token: the start (or reload) must not go on with it.
#[derive(Debug)]
pub struct VaultError {
    pub token: TokenName,
    pub file: SecretFile,
    pub fault: TokenFault,
}

impl fmt::Display for VaultError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "token `{}` ({}): {}", self.token, self.file, self.fault)
    }
}

impl std::error::Error for VaultError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.fault {
            TokenFault::Read(error) => Some(error),
            _ => None,
        }
    }
}

impl Vault {
    /// Reads every token. One that could not be opened (`Err`, already reported by who opened it) is left out:
    /// what needs it is unavailable with `token-missing`, and the last known good stays in service.
    ///
    /// Those of `files` may have several lines, and must have what is needed of them.
    ///
    /// # Errors
    /// The first token whose file was opened and does not hold one.
    pub fn read(
        entries: Vec<(TokenName, SecretFile, Result<OwnedFd, String>)>,
        files: &TokenFiles,
    ) -> Result<Self, VaultError> {
        let mut tokens = HashMap::with_capacity(entries.len());
        for (name, file, opened) in entries {
            let Ok(fd) = opened else { continue };
            let contents = files.get(&name);
            let shape = if contents.is_some() { Shape::File } else { Shape::Line };
            let judged = |token| of_use(&token, contents).map(|()| token);
            match ApiToken::read(fd, shape).and_then(judged) {
                Ok(token) => tokens.insert(name, Known::new(Rc::new(token))),
                Err(fault) => return Err(VaultError { token: name, file, fault }),
            };
        }
        Ok(Self(tokens))
    }

    /// Whether a token of this name has what is needed of it now, if there is any.
    ///
    /// # Errors
    /// None has.
    pub(in crate::parent) fn judge(
        &self,
        name: &TokenName,
        from: &SecretFile,
        files: &TokenFiles,
    ) -> Result<(), VaultError> {
        let Some(known) = self.0.get(name) else { return Ok(()) };
        // While two are tried, one may be for what was needed before.
        let newer = known.newer.as_ref().filter(|newer| of_use(&newer.token, files.get(name)).is_ok());
        let judged = if newer.is_some() { Ok(()) } else { of_use(&known.token, files.get(name)) };
        judged.map_err(|fault| VaultError { token: name.clone(), file: from.clone(), fault })
    }

    pub(in crate::parent) fn get(&self, name: &TokenName) -> Option<&ApiToken> {
        self.0.get(name).map(|known| &*known.token)
    }

    /// The token itself, to be held for as long as a session is, or to be known again.
    pub(in crate::parent) fn shared(&self, name: &TokenName) -> Option<Rc<ApiToken>> {
        self.0.get(name).map(|known| known.token.clone())
    }

    /// Whether it is still in use, if only until another one is proven.
    pub(in crate::parent) fn uses(&self, name: &TokenName, token: &Rc<ApiToken>) -> bool {
        let is = |known: &Known| {
            Rc::ptr_eq(&known.token, token) || known.newer.as_ref().is_some_and(|newer| Rc::ptr_eq(&newer.token, token))
        };
        self.0.get(name).is_some_and(is)
    }

    /// Whether the token that is used for this name is one that waits to be replaced.
    pub(in crate::parent) fn is_unproven(&self, name: &TokenName) -> bool {
        self.0.get(name).is_some_and(|known| known.waiting().is_some())
    }

    /// What is to replace the token of this name.
    pub(in crate::parent) fn candidate(&self, name: &TokenName) -> Option<Candidate> {
        Some(Candidate { token: self.0.get(name)?.waiting()?.token.clone() })
    }

    /// With these tokens in the place of those of the same names, each once it is proven; those of `kept` stay as they are,
    /// and all others go. `before` is where the tokens of this vault go, `now` where those of the next do.
    pub(in crate::parent) fn replaced_by(
        &self,
        new: Self,
        kept: &[TokenName],
        (before, now): (&Origins, &Origins),
    ) -> (Self, Vec<(TokenName, Replacement)>) {
        let nowhere = BTreeSet::new();
        let now_of = |name: &TokenName| now.get(name).unwrap_or(&nowhere);
        let mut tokens: HashMap<TokenName, Known> = HashMap::with_capacity(new.0.len() + kept.len());
        let mut told = Vec::with_capacity(new.0.len());
        for (name, Known { token: new, .. }) in new.0 {
            let (known, replacement) = match self.0.get(&name) {
                None => (Known::new(new), Replacement::New),
                Some(old) if old.token.is(&new) => (Known::new(old.token.clone()), Replacement::Unchanged),
                Some(old) => {
                    let of_old = || Rc::new(before.get(&name).unwrap_or(&nowhere).clone());
                    // What it goes to since another one waits, it goes to in name only.
                    let older_at = old.newer.as_ref().map_or_else(of_old, |newer| newer.older_at.clone());
                    let newer = Newer { token: new, older_at, elsewhere: false, refused: false };
                    let known = Known { token: old.token.clone(), newer: Some(newer) }.at(now_of(&name));
                    let replacement = if known.newer.is_some() { Replacement::Changed } else { Replacement::New };
                    (known, replacement)
                }
            };
            tokens.insert(name.clone(), known);
            told.push((name, replacement));
        }
        for name in kept {
            if let Some(known) = self.0.get(name) {
                tokens.insert(name.clone(), known.clone().at(now_of(name)));
                told.push((name.clone(), Replacement::Unchanged));
            }
        }
        told.sort_by(|(a, _), (b, _)| a.cmp(b));
        (Self(tokens), told)
    }

    /// Whether this candidate still waits; and, if not, whether it is what is used now.
    pub(in crate::parent) fn standing(&self, name: &TokenName, candidate: &Candidate) -> (bool, bool) {
        let is = |token: &Rc<ApiToken>| Rc::ptr_eq(token, &candidate.token);
        let known = self.0.get(name);
        let waits = known.and_then(Known::waiting).is_some_and(|newer| is(&newer.token));
        (waits, known.is_some_and(|known| is(&known.token)))
    }

    /// After this candidate was accepted, or refused. `None` when it is not the one that waits any more.
    pub(in crate::parent) fn settled(&self, name: &TokenName, candidate: &Candidate, accepted: bool) -> Option<Self> {
        let known = self.0.get(name)?;
        let newer = known.waiting().filter(|newer| Rc::ptr_eq(&newer.token, &candidate.token))?;
        let settled = if accepted {
            Known::new(newer.token.clone())
        } else {
            let newer = newer.elsewhere.then(|| Newer { refused: true, ..newer.clone() });
            Known { token: known.token.clone(), newer }
        };
        let mut tokens = self.0.clone();
        tokens.insert(name.clone(), settled);
        Some(Self(tokens))
    }
}

fn of_use(token: &ApiToken, contents: Option<&Vec<Content>>) -> Result<(), TokenFault> {
    let judged = |content: &Content| {
        judge(token, content).map_err(|why| match content {
            Content::GoogleKey { .. } => TokenFault::GoogleKey(why),
            Content::AwsCredentials { .. } => TokenFault::AwsCredentials(why),
        })
    };
    contents.into_iter().flatten().try_for_each(judged)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use super::*;
    use crate::config::Needed;

    fn vault(content: &[u8]) -> Result<Vault, VaultError> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        Vault::read(vec![(name(), SecretFile::Credential("cred".into()), Ok(file.into()))], &TokenFiles::new())
    }

    fn name() -> TokenName {
        TokenName("heroku".into())
    }

    #[test]
    fn a_directory_is_an_error_that_names_the_token_and_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let fd = File::open(directory.path()).unwrap().into();
        let entry = (name(), SecretFile::File("/etc/keyhatch/tokens/heroku".into()), Ok(fd));
        let error = Vault::read(vec![entry], &TokenFiles::new()).err().unwrap();
        assert_eq!(error.to_string(), "token `heroku` (/etc/keyhatch/tokens/heroku): the file cannot be read");
    }

    #[test]
    fn an_error_never_holds_a_byte_of_the_token() {
        let error = vault(b"hunter2\nhunter3\n").err().unwrap();
        assert!(!format!("{error} {error:?}").contains("hunter"));
    }

    fn at(origins: &[&str]) -> Origins {
        HashMap::from([(name(), origins.iter().map(|&origin| origin.to_owned()).collect())])
    }

    /// `old` by a configuration with these origins, replaced by `new` with those.
    fn moved(from: &[&str], to: &[&str]) -> (Vault, Vec<(TokenName, Replacement)>) {
        vault(b"old").ok().unwrap().replaced_by(vault(b"new").ok().unwrap(), &[], (&at(from), &at(to)))
    }

    /// What is tried at this origin, in its order.
    fn tried(vault: &Vault, origin: &str) -> Vec<Vec<u8>> {
        let needed = [Needed { token: name(), origin: origin.to_owned() }];
        let bytes = |attempt: &Attempt| attempt.vault.get(&name()).unwrap().bytes().to_vec();
        vault.attempts(&needed).iter().map(bytes).collect()
    }

    /// The one that alone may go there: the older one was never configured for it.
    fn only(vault: &Vault, origin: &str) -> Option<Vec<u8>> {
        let mut tried = tried(vault, origin);
        if tried.len() == 1 && tried[0] != b"old" { tried.pop() } else { None }
    }

    #[test]
    fn a_token_that_moves_with_its_keys_leaves_nothing_behind() {
        let (vault, told) = moved(&["a"], &["b"]);
        assert_eq!(told, [(name(), Replacement::New)]);
        assert!(vault.get(&name()).unwrap().bytes() == b"new" && !vault.is_unproven(&name()));
    }

    #[test]
    fn an_old_token_is_for_the_origins_that_it_had_whatever_becomes_of_the_new_one() {
        let (waiting, told) = moved(&["a"], &["a", "b"]);
        assert_eq!(told, [(name(), Replacement::Changed)]);
        assert_eq!((only(&waiting, "a"), only(&waiting, "b")), (None, Some(b"new".to_vec())));
        let candidate = waiting.candidate(&name()).unwrap();
        let refused = waiting.settled(&name(), &candidate, false).unwrap();
        assert_eq!((only(&refused, "a"), only(&refused, "b")), (None, Some(b"new".to_vec())));
        assert!(refused.get(&name()).unwrap().bytes() == b"old" && !refused.is_unproven(&name()));
        let everywhere = at(&["a", "b"]);
        for vault_of_then in [&waiting, &refused] {
            let newest = vault(b"newest").ok().unwrap();
            let (again, _) = vault_of_then.replaced_by(newest, &[], (&everywhere, &everywhere));
            assert_eq!((only(&again, "a"), only(&again, "b")), (None, Some(b"newest".to_vec())));
            let (kept, _) = vault_of_then.replaced_by(Vault(HashMap::new()), &[name()], (&everywhere, &at(&["b"])));
            assert_eq!(kept.get(&name()).unwrap().bytes(), b"new", "the old one has nowhere to go");
        }
        let accepted = waiting.settled(&name(), &candidate, true).unwrap();
        assert_eq!((tried(&accepted, "a"), tried(&accepted, "b")), (vec![b"new".to_vec()], vec![b"new".to_vec()]));
    }

    #[test]
    fn a_new_token_waits_beside_the_old_one_until_it_is_settled() {
        let bytes = |vault: &Vault| vault.get(&name()).unwrap().bytes().to_vec();
        let old = vault(b"old").ok().unwrap();
        let here = at(&["a"]);
        let (waiting, told) = old.replaced_by(vault(b"new\n").ok().unwrap(), &[], (&here, &here));
        assert_eq!(told, [(name(), Replacement::Changed)]);
        assert!(bytes(&waiting) == b"old" && waiting.is_unproven(&name()));
        let candidate = waiting.candidate(&name()).unwrap();
        assert_eq!(tried(&waiting, "a"), [b"new", b"old"]);
        let accepted = waiting.settled(&name(), &candidate, true).unwrap();
        assert!(bytes(&accepted) == b"new" && !accepted.is_unproven(&name()));
        let refused = waiting.settled(&name(), &candidate, false).unwrap();
        assert!(bytes(&refused) == b"old" && !refused.is_unproven(&name()));
        let (newer, _) = waiting.replaced_by(vault(b"newer").ok().unwrap(), &[], (&here, &here));
        assert!(newer.settled(&name(), &candidate, true).is_none(), "it was overtaken");
    }

    #[test]
    fn what_is_neither_given_nor_kept_goes() {
        let old = vault(b"old").ok().unwrap();
        let here = at(&["a"]);
        let nothing = || Vault::read(Vec::new(), &TokenFiles::new()).ok().unwrap();
        assert!(old.replaced_by(nothing(), &[], (&here, &here)).0.get(&name()).is_none());
        assert_eq!(old.replaced_by(nothing(), &[name()], (&here, &here)).0.get(&name()).unwrap().bytes(), b"old");
        let (same, told) = old.replaced_by(vault(b"old\n").ok().unwrap(), &[], (&here, &here));
        assert!(told == [(name(), Replacement::Unchanged)] && !same.is_unproven(&name()));
    }

    #[test]
    fn a_whole_file_is_judged_by_what_is_needed_of_it() {
        let content = |profile: Option<&str>| Content::AwsCredentials { profile: profile.map(str::to_owned) };
        let files = |contents: &[Content]| TokenFiles::from([(name(), contents.to_vec())]);
        let from = || SecretFile::File("/t".into());
        let read = |text: &[u8], files: &TokenFiles| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(text).unwrap();
            Vault::read(vec![(name(), from(), Ok(file.into()))], files)
        };
        let told = |read: Result<Vault, VaultError>| read.err().map(|error| error.to_string()).unwrap_or_default();
        let text = b"[a]\naws_access_key_id = AKIDPLANTED\naws_secret_access_key = planted\n";
        assert!(read(text, &files(&[content(Some("a"))])).is_ok());
        let both = files(&[content(Some("a")), content(Some("b"))]);
        assert!(
            told(read(text, &both)).contains("the profile `b` is not in it; it must have"),
            "{:?}",
            told(read(text, &both))
        );
        assert!(told(read(text, &files(&[content(None)]))).contains("the profile `default` is not in it"));
        assert!(told(read(b"hunter2", &files(&[content(None)]))).contains("the secret access key is not in it"));
        let kept = read(text, &files(&[content(Some("a"))])).ok().unwrap();
        assert!(kept.judge(&name(), &from(), &files(&[content(Some("a"))])).is_ok());
        assert!(kept.judge(&name(), &from(), &both).is_err(), "it is needed for something else now");
    }

    #[test]
    fn a_token_that_could_not_be_opened_is_missing() {
        let entry = (name(), SecretFile::Credential("cred".into()), Err("no such file".into()));
        assert!(Vault::read(vec![entry], &TokenFiles::new()).ok().unwrap().get(&name()).is_none());
    }
}
