//! The tokens: the only place where their bytes live.
//!
//! Filled after the worker exists and after the drop, from descriptors that the root phase, or root's own `keyhatch reload`,
//! opened. A token leaves this module as a borrow, inside one call; it is never copied, printed or serialised, compared
//! with nothing but the one that is to replace it, and no error here holds a byte of one.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use crate::config::{SecretFile, TokenName};
use crate::sys::guarded::Guarded;

/// The longest token, in bytes, without its line end.
pub(super) const MAX_TOKEN_LEN: usize = 64 << 10;

/// One credential for an upstream: 1 to [`MAX_TOKEN_LEN`] bytes of printable ASCII, in pages of its own. Wiped when dropped.
pub(in crate::parent) struct ApiToken(Guarded);

impl ApiToken {
    /// The bytes, for a header or a MAC that is built and wiped within the call.
    pub(in crate::parent) fn bytes(&self) -> &[u8] {
        self.0.bytes()
    }

    /// Reads and checks the whole file, from its start, wherever the descriptor's offset is.
    fn read(fd: OwnedFd) -> Result<Self, TokenFault> {
        let file = File::from(fd);
        let told = file.metadata().map_err(TokenFault::Read)?.len();
        // Locked memory is scarce: no more than the file says, if it says anything.
        let told = usize::try_from(told).unwrap_or(MAX_TOKEN_LEN).min(MAX_TOKEN_LEN);
        for room in [told, MAX_TOKEN_LEN].into_iter().filter(|room| *room > 0) {
            // Room for the line end, and one byte more that tells a file that is longer.
            let (text, len) = Self::read_up_to(&file, room + 3).map_err(TokenFault::Read)?;
            if len < room + 3 || room == MAX_TOKEN_LEN {
                return Self::parse(&text.bytes()[..len]);
            }
        }
        Err(TokenFault::TooLong)
    }

    fn read_up_to(file: &File, room: usize) -> std::io::Result<(Guarded, usize)> {
        let mut len = 0;
        let text = Guarded::try_with(room, |buffer| {
            while len < buffer.len() {
                match file.read_at(&mut buffer[len..], len as u64) {
                    Ok(0) => break,
                    Ok(n) => len += n,
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        })?;
        Ok((text, len))
    }

    fn parse(text: &[u8]) -> Result<Self, TokenFault> {
        let line = text.strip_suffix(b"\n").map_or(text, |t| t.strip_suffix(b"\r").unwrap_or(t));
        if line.is_empty() {
            return Err(TokenFault::Empty);
        }
        if line.len() > MAX_TOKEN_LEN {
            return Err(TokenFault::TooLong);
        }
        if line.contains(&b'\n') {
            return Err(TokenFault::SeveralLines);
        }
        if !line.iter().all(|byte| (b' '..=b'~').contains(byte)) {
            return Err(TokenFault::Character);
        }
        Guarded::copy_of(line).map(Self).map_err(TokenFault::Read)
    }
}

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

/// A token that no upstream has accepted yet: a vault with nothing else.
pub(in crate::parent) struct Candidate {
    token: Rc<ApiToken>,
    pub(in crate::parent) alone: Vault,
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

/// What is wrong with the content of a token file.
#[derive(Debug)]
pub enum TokenFault {
    Read(std::io::Error),
    Empty,
    SeveralLines,
    TooLong,
    Character,
}

impl fmt::Display for TokenFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(_) => write!(f, "the file cannot be read"),
            Self::Empty => write!(f, "the file is empty; it must hold the token, on one line"),
            Self::SeveralLines => write!(f, "the file has more than one line; it must hold the token alone"),
            Self::TooLong => write!(f, "the token is longer than {MAX_TOKEN_LEN} bytes"),
            Self::Character => {
                write!(f, "the token has a byte that is not printable ASCII; is the file in another encoding?")
            }
        }
    }
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
    /// # Errors
    /// The first token whose file was opened and does not hold one.
    pub fn read(entries: Vec<(TokenName, SecretFile, Result<OwnedFd, String>)>) -> Result<Self, VaultError> {
        let mut tokens = HashMap::with_capacity(entries.len());
        for (name, file, opened) in entries {
            let Ok(fd) = opened else { continue };
            match ApiToken::read(fd) {
                Ok(token) => tokens.insert(name, Known::new(Rc::new(token))),
                Err(fault) => return Err(VaultError { token: name, file, fault }),
            };
        }
        Ok(Self(tokens))
    }

    pub(in crate::parent) fn get(&self, name: &TokenName) -> Option<&ApiToken> {
        self.0.get(name).map(|known| &*known.token)
    }

    /// Whether the token that is used for this name is one that waits to be replaced.
    pub(in crate::parent) fn is_unproven(&self, name: &TokenName) -> bool {
        self.0.get(name).is_some_and(|known| known.waiting().is_some())
    }

    /// What is to replace the token of this name.
    pub(in crate::parent) fn candidate(&self, name: &TokenName) -> Option<Candidate> {
        Some(Candidate::new(name, &self.0.get(name)?.waiting()?.token))
    }

    /// What alone may go to this origin: the older token was never configured for it.
    pub(in crate::parent) fn only_one_for(&self, name: &TokenName, origin: &str) -> Option<Candidate> {
        let newer = self.0.get(name)?.newer.as_ref().filter(|newer| !newer.older_at.contains(origin))?;
        Some(Candidate::new(name, &newer.token))
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

impl Candidate {
    fn new(name: &TokenName, token: &Rc<ApiToken>) -> Self {
        let known = Known::new(token.clone());
        Self { token: token.clone(), alone: Vault(HashMap::from([(name.clone(), known)])) }
    }
}

impl ApiToken {
    fn is(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

#[cfg(test)]
mod tests;
