//! The tokens: the only place where their bytes live.
//!
//! Filled after the worker exists and after the drop, from descriptors that the root phase, or root's own `keyhatch reload`,
//! opened. A token leaves this module as a borrow, inside one call; it is never copied, printed or serialised, compared
//! with nothing but the one that is to replace it, and no error here holds a byte of one.

use std::collections::HashMap;
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
        // Room for the line end, and one byte more that tells a file that is too long.
        let mut len = 0;
        let whole = Guarded::try_with(MAX_TOKEN_LEN + 3, |buffer| {
            while len < buffer.len() {
                match file.read_at(&mut buffer[len..], len as u64) {
                    Ok(0) => break,
                    Ok(n) => len += n,
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        });
        Self::parse(&whole.map_err(TokenFault::Read)?.bytes()[..len])
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
    /// Is to replace it once the upstream has accepted it, and is tried first until then.
    unproven: Option<Rc<ApiToken>>,
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
    /// There was none of this name.
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
                Ok(token) => tokens.insert(name, Known { token: Rc::new(token), unproven: None }),
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
        self.0.get(name).is_some_and(|known| known.unproven.is_some())
    }

    /// What is to replace the token of this name.
    pub(in crate::parent) fn candidate(&self, name: &TokenName) -> Option<Candidate> {
        let token = self.0.get(name)?.unproven.clone()?;
        let known = Known { token: token.clone(), unproven: None };
        Some(Candidate { token, alone: Self(HashMap::from([(name.clone(), known)])) })
    }

    /// With these tokens in the place of those of the same names, each once it is proven; those of `kept` stay as they are,
    /// and all others go.
    pub(in crate::parent) fn replaced_by(
        &self,
        new: Self,
        kept: &[TokenName],
    ) -> (Self, Vec<(TokenName, Replacement)>) {
        let mut tokens: HashMap<TokenName, Known> = HashMap::with_capacity(new.0.len() + kept.len());
        let mut told = Vec::with_capacity(new.0.len());
        for (name, Known { token: new, .. }) in new.0 {
            let (known, replacement) = match self.0.get(&name) {
                None => (Known { token: new, unproven: None }, Replacement::New),
                Some(before) if before.token.is(&new) => {
                    (Known { token: before.token.clone(), unproven: None }, Replacement::Unchanged)
                }
                Some(before) => (Known { token: before.token.clone(), unproven: Some(new) }, Replacement::Changed),
            };
            tokens.insert(name.clone(), known);
            told.push((name, replacement));
        }
        for name in kept {
            if let Some(known) = self.0.get(name) {
                tokens.insert(name.clone(), known.clone());
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
        let waits = known.and_then(|known| known.unproven.as_ref()).is_some_and(is);
        (waits, known.is_some_and(|known| is(&known.token)))
    }

    /// After this candidate was accepted, or refused. `None` when it is not the one that waits any more.
    pub(in crate::parent) fn settled(&self, name: &TokenName, candidate: &Candidate, accepted: bool) -> Option<Self> {
        let known = self.0.get(name)?;
        known.unproven.as_ref().filter(|unproven| Rc::ptr_eq(unproven, &candidate.token))?;
        let token = if accepted { &candidate.token } else { &known.token }.clone();
        let mut tokens = self.0.clone();
        tokens.insert(name.clone(), Known { token, unproven: None });
        Some(Self(tokens))
    }
}

impl ApiToken {
    fn is(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    static_assertions::assert_not_impl_any!(ApiToken: fmt::Debug, fmt::Display, Clone, serde::Serialize, PartialEq);

    fn vault(content: &[u8]) -> Result<Vault, VaultError> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        Vault::read(vec![(name(), SecretFile::Credential("cred".into()), Ok(file.into()))])
    }

    fn name() -> TokenName {
        TokenName("heroku".into())
    }

    fn fault(content: &[u8]) -> TokenFault {
        vault(content).err().expect("a fault").fault
    }

    #[test]
    fn one_line_end_is_trimmed_and_nothing_else() {
        for content in [&b"s3cret"[..], b"s3cret\n", b"s3cret\r\n"] {
            assert_eq!(vault(content).ok().unwrap().get(&name()).unwrap().bytes(), b"s3cret");
        }
        assert_eq!(vault(b" a b \n").ok().unwrap().get(&name()).unwrap().bytes(), b" a b ");
    }

    #[test]
    fn what_is_no_token_is_refused() {
        assert!(matches!(fault(b""), TokenFault::Empty));
        assert!(matches!(fault(b"\n"), TokenFault::Empty));
        assert!(matches!(fault(b"\r\n"), TokenFault::Empty));
        assert!(matches!(fault(b"one\ntwo\n"), TokenFault::SeveralLines));
        assert!(matches!(fault(b"one\n\n"), TokenFault::SeveralLines));
        assert!(matches!(fault(b"a\0b"), TokenFault::Character));
        assert!(matches!(fault(b"a\rb"), TokenFault::Character));
        assert!(matches!(fault(b"caf\xc3\xa9"), TokenFault::Character));
        assert!(matches!(fault(b"\xff\xfe"), TokenFault::Character));
    }

    #[test]
    fn the_longest_token_fits_and_a_byte_more_does_not() {
        let mut content = vec![b'x'; MAX_TOKEN_LEN];
        content.extend_from_slice(b"\r\n");
        assert!(vault(&content).is_ok());
        content.insert(0, b'x');
        assert!(matches!(fault(&content), TokenFault::TooLong));
        assert!(matches!(fault(&vec![b'x'; 10 * MAX_TOKEN_LEN]), TokenFault::TooLong));
    }

    #[test]
    fn a_directory_is_an_error_that_names_the_token_and_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let fd = File::open(directory.path()).unwrap().into();
        let entry = (name(), SecretFile::File("/etc/keyhatch/tokens/heroku".into()), Ok(fd));
        let error = Vault::read(vec![entry]).err().unwrap();
        assert_eq!(error.to_string(), "token `heroku` (/etc/keyhatch/tokens/heroku): the file cannot be read");
    }

    #[test]
    fn an_error_never_holds_a_byte_of_the_token() {
        let error = vault(b"hunter2\nhunter3\n").err().unwrap();
        assert!(!format!("{error} {error:?}").contains("hunter"));
    }

    #[test]
    fn a_new_token_waits_beside_the_old_one_until_it_is_settled() {
        let bytes = |vault: &Vault| vault.get(&name()).unwrap().bytes().to_vec();
        let old = vault(b"old").ok().unwrap();
        let (waiting, told) = old.replaced_by(vault(b"new\n").ok().unwrap(), &[]);
        assert_eq!(told, [(name(), Replacement::Changed)]);
        assert!(bytes(&waiting) == b"old" && waiting.is_unproven(&name()));
        let candidate = waiting.candidate(&name()).unwrap();
        assert_eq!(bytes(&candidate.alone), b"new");
        let accepted = waiting.settled(&name(), &candidate, true).unwrap();
        assert!(bytes(&accepted) == b"new" && !accepted.is_unproven(&name()));
        let refused = waiting.settled(&name(), &candidate, false).unwrap();
        assert!(bytes(&refused) == b"old" && !refused.is_unproven(&name()));
        let (newer, _) = waiting.replaced_by(vault(b"newer").ok().unwrap(), &[]);
        assert!(newer.settled(&name(), &candidate, true).is_none(), "it was overtaken");
    }

    #[test]
    fn what_is_neither_given_nor_kept_goes() {
        let old = vault(b"old").ok().unwrap();
        let nothing = || Vault::read(Vec::new()).ok().unwrap();
        assert!(old.replaced_by(nothing(), &[]).0.get(&name()).is_none());
        assert_eq!(old.replaced_by(nothing(), &[name()]).0.get(&name()).unwrap().bytes(), b"old");
        let (same, told) = old.replaced_by(vault(b"old\n").ok().unwrap(), &[]);
        assert!(told == [(name(), Replacement::Unchanged)] && !same.is_unproven(&name()));
    }

    #[test]
    fn a_token_that_could_not_be_opened_is_missing() {
        let entry = (name(), SecretFile::Credential("cred".into()), Err("no such file".into()));
        assert!(Vault::read(vec![entry]).ok().unwrap().get(&name()).is_none());
    }
}
