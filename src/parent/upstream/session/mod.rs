//! Sessions: what a login, a token endpoint or a cloud's metadata gives for a while, shared by all documents that show it.
//!
//! Held like tokens, in pages of their own that are wiped, and by nobody but their slot and the calls under way. Whoever asks
//! sets no pace: one login at a time, back-off after a failure, and a session that is refused is begun anew only so often.

mod answer;
mod ask;
mod aws;
mod fill;
#[cfg(test)]
mod fuzz;
mod google;
mod login;
mod oauth;
mod slot;

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

pub(super) use self::answer::Grant;
pub use self::answer::Useless;
pub(super) use self::ask::date;
pub(super) use self::slot::Slot;
pub(in crate::parent) use self::slot::Standing;
use super::ahead::Ahead;
use super::connect::Client;
use crate::config::{Auth, AwsCredentials, Content, HttpDocument, Needed, TokenName, Url};
use crate::outcome::{Failure, Reason};
use crate::parent::token::ApiToken;
use crate::parent::vault::Vault;

/// The shortest and the longest life that an answer is believed: what is told shorter is refused soon enough, and what is
/// told longer is begun anew meanwhile, which costs nothing.
const SHORTEST: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// Of what nothing says when it ends.
const UNTOLD: Duration = Duration::from_secs(3600);

/// Whether a token that is a whole file is of use where it is needed: asked before anything is fetched with it.
///
/// # Errors
/// Why it is not.
pub(in crate::parent) fn judge(token: &ApiToken, content: &Content) -> Result<(), Useless> {
    match content {
        Content::GoogleKey { token_url } => google::signer(token.bytes(), token_url).map(drop),
        Content::AwsCredentials { profile } => answer::aws_file(token.bytes(), profile.as_deref()).map(drop),
    }
}

/// A session that has begun.
pub(super) struct Session {
    pub(super) grant: Grant,
    since: Instant,
    life: Duration,
}

impl Session {
    /// `life` in seconds, as the answer says it.
    fn begin(grant: Grant, since: Instant, life: Option<u64>) -> Self {
        let told = life.map_or(UNTOLD, Duration::from_secs);
        Self { grant, since, life: told.clamp(SHORTEST, LONGEST) }
    }

    fn is_over(&self) -> bool {
        self.since.elapsed() >= self.life
    }

    /// Whether another one is no other.
    fn is(&self, other: &Self) -> bool {
        match (&self.grant, &other.grant) {
            (Grant::Token(a), Grant::Token(b)) => a.is(b),
            (Grant::Aws(a), Grant::Aws(b)) => a.id == b.id && a.secret.is(&b.secret),
            _ => false,
        }
    }

    /// When it is to be renewed: at two thirds of its life.
    fn due(&self) -> Instant {
        self.since + self.life * 2 / 3
    }
}

/// What makes two sessions the same: how it is begun and on which way, and with which tokens themselves.
struct Identity {
    auth: Auth,
    ca_file: Option<PathBuf>,
    proxy: Option<Url>,
    tokens: Vec<(TokenName, Rc<ApiToken>)>,
}

impl Identity {
    fn is_of(&self, document: &HttpDocument) -> bool {
        self.auth == document.auth && self.ca_file == document.ca_file && self.proxy == document.proxy
    }

    fn token(&self, name: &TokenName) -> Option<&Rc<ApiToken>> {
        self.tokens.iter().find(|(known, _)| known == name).map(|(_, token)| token)
    }
}

/// All sessions, those under way too.
#[derive(Default)]
pub(super) struct Sessions(RefCell<Vec<Rc<Slot>>>);

impl Sessions {
    /// The place of the session that this document shows, if it shows one.
    ///
    /// # Errors
    /// A token is missing.
    pub(super) fn of(
        &self,
        document: &HttpDocument,
        vault: &Vault,
        client: Option<&Rc<Client>>,
        ahead: &Ahead,
    ) -> Result<Option<Rc<Slot>>, Failure> {
        if !needs_session(&document.auth) {
            return Ok(None);
        }
        let mut tokens = Vec::new();
        for Needed { token: name, .. } in document.tokens() {
            let token = vault.shared(&name).ok_or(Failure::unavailable(Reason::TokenMissing))?;
            tokens.push((name, token));
        }
        let same = |slot: &&Rc<Slot>| {
            let identity = slot.identity();
            let same = |(name, token): &(TokenName, Rc<ApiToken>)| {
                identity.token(name).is_some_and(|known| Rc::ptr_eq(known, token))
            };
            identity.is_of(document) && tokens.iter().all(same)
        };
        let mut slots = self.0.borrow_mut();
        if let Some(slot) = slots.iter().find(same) {
            slot.go_by(client.cloned());
            return Ok(Some(slot.clone()));
        }
        let HttpDocument { auth, ca_file, proxy, .. } = document.clone();
        let slot = Slot::new(Identity { auth, ca_file, proxy, tokens }, client.cloned(), ahead.clone());
        slots.push(slot.clone());
        Ok(Some(slot))
    }

    /// Drops those that are of no document any more, or of tokens that are not in use.
    pub(super) fn retain(&self, documents: &[HttpDocument], vault: &Vault) {
        self.0.borrow_mut().retain(|slot| {
            let identity = slot.identity();
            documents.iter().any(|document| identity.is_of(document))
                && identity.tokens.iter().all(|(name, token)| vault.uses(name, token))
        });
    }

    /// How each is that some document has needed.
    pub(super) fn standings(&self) -> Vec<Standing> {
        self.0.borrow().iter().map(|slot| slot.standing()).collect()
    }

    /// A login that has failed may be tried again at once.
    pub(super) fn permit(&self, document: &HttpDocument) {
        self.0.borrow().iter().filter(|slot| slot.identity().is_of(document)).for_each(|slot| slot.permit());
    }
}

/// Of the documents that show a session, one for each.
pub(super) fn shown_by(documents: &[&HttpDocument]) -> Vec<HttpDocument> {
    let mut found: Vec<HttpDocument> = Vec::new();
    for document in documents.iter().filter(|document| needs_session(&document.auth)) {
        let same = |known: &HttpDocument| {
            (&known.auth, &known.ca_file, &known.proxy) == (&document.auth, &document.ca_file, &document.proxy)
        };
        if !found.iter().any(same) {
            found.push((*document).clone());
        }
    }
    found
}

fn needs_session(auth: &Auth) -> bool {
    match auth {
        Auth::AwsSigV4(aws) => !matches!(aws.credentials, AwsCredentials::Static { .. }),
        Auth::OAuth2(_) | Auth::Google(_) | Auth::Login(_) => true,
        Auth::None | Auth::Bearer { .. } | Auth::Basic { .. } | Auth::Header { .. } | Auth::Hawk { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static_assertions::assert_not_impl_any!(Session: std::fmt::Debug, std::fmt::Display, Clone, serde::Serialize);
    static_assertions::assert_not_impl_any!(Grant: std::fmt::Debug, Clone, serde::Serialize, PartialEq);
    static_assertions::assert_not_impl_any!(answer::AwsKeys: std::fmt::Debug, Clone, serde::Serialize, PartialEq);

    /// A start and a reload refuse such a file; whoever fetches with one all the same is told the truth.
    #[tokio::test]
    async fn a_file_that_is_of_no_use_is_not_called_missing() {
        let name = TokenName("t".into());
        let token = Rc::new(ApiToken::given(b"no key").ok().unwrap());
        let identity = Identity { auth: Auth::None, ca_file: None, proxy: None, tokens: vec![(name.clone(), token)] };
        let slot = Slot::new(identity, None, Ahead::default());
        let from = AwsCredentials::File { token: name.clone(), profile: None };
        let failed = aws::credentials(&slot, &from).await.err().unwrap();
        assert_eq!((failed.failure, failed.why), (Failure::misconfigured(Reason::LoginFailed), Reason::LoginFailed));
        let token_url = Url { https: true, host: "a.example".into(), port: 443, target: "/t".into() };
        let account = crate::config::ServiceAccount { key: name, scope: String::new(), token_url };
        let failed = google::log_in(&slot, &account).await.err().unwrap();
        assert_eq!((failed.failure, failed.why), (Failure::misconfigured(Reason::LoginFailed), Reason::LoginFailed));
    }

    #[test]
    fn a_life_is_believed_within_reason_and_two_thirds_of_it_are_used() {
        let lasts = |told| {
            let grant = Grant::Token(ApiToken::given(b"t").ok().unwrap());
            let session = Session::begin(grant, Instant::now(), told);
            (session.life.as_secs(), (session.due() - session.since).as_secs())
        };
        assert_eq!(lasts(None), (3600, 2400));
        assert_eq!(lasts(Some(900)), (900, 600));
        assert_eq!(lasts(Some(1)), (10, 6));
        assert_eq!(lasts(Some(u64::MAX)), (86_400, 57_600));
    }
}
