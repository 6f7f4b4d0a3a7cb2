//! One session's place: begun once for all who wait, renewed before it ends, begun anew when it is refused.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::ask::{Call, Failed, Reply};
use super::{Identity, Session};
use crate::config::{Auth, TokenName};
use crate::outcome::{Failure, Reason};
use crate::parent::pace::{Circumstances, Pace, random};
use crate::parent::token::ApiToken;
use crate::parent::upstream::ahead::Ahead;
use crate::parent::upstream::connect::Client;

/// So often at most a session is begun anew because a document refused it: documents that refuse every session, and peers that
/// ask for them, set no pace of logins.
const REFUSED_AT_MOST_EVERY: Duration = Duration::from_secs(10);

/// How a session is.
pub(in crate::parent) struct Standing {
    /// Where it comes from, if anybody is asked.
    pub(in crate::parent) origin: Option<String>,
    /// What it is begun with.
    pub(in crate::parent) tokens: Vec<TokenName>,
    /// `good`; `not-renewed`: it goes on till its end, and the last attempt at another one failed; `failing`: there is none,
    /// and the last attempt failed; `none`: it has ended, and the next fetch begins one.
    pub(in crate::parent) state: &'static str,
    pub(in crate::parent) ends: Option<Instant>,
    /// Of the last attempt.
    pub(in crate::parent) failure: Option<Failure>,
    /// The next attempt, while back-off lasts.
    pub(in crate::parent) due: Option<Instant>,
}

pub(in crate::parent::upstream) struct Slot {
    identity: Identity,
    /// How it is asked for, where anybody is asked.
    client: RefCell<Option<Rc<Client>>>,
    pub(super) ahead: Ahead,
    session: RefCell<Option<Rc<Session>>>,
    under_way: RefCell<Option<watch::Receiver<bool>>>,
    pace: RefCell<Pace>,
    /// Why there is none, until the next attempt.
    failure: Cell<Option<Failure>>,
    /// When one was last begun anew because it was refused.
    refused: Cell<Option<Instant>>,
    /// Somebody renews it in time though nobody asks.
    kept: Cell<bool>,
    /// What a wrapping token was good for, once.
    pub(super) unwrapped: RefCell<Option<Rc<ApiToken>>>,
    /// A wrapping token is used.
    pub(super) opened: Cell<bool>,
    /// What was good for one login is used.
    pub(super) spent: Cell<bool>,
    this: Weak<Self>,
}

impl Slot {
    pub(super) fn new(identity: Identity, client: Option<Rc<Client>>, ahead: Ahead) -> Rc<Self> {
        Rc::new_cyclic(|this| Self {
            identity,
            client: RefCell::new(client),
            ahead,
            session: RefCell::default(),
            under_way: RefCell::default(),
            pace: RefCell::default(),
            failure: Cell::default(),
            refused: Cell::default(),
            kept: Cell::default(),
            unwrapped: RefCell::default(),
            opened: Cell::default(),
            spent: Cell::default(),
            this: this.clone(),
        })
    }

    pub(super) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// From now on: a reload may have changed who is trusted.
    pub(super) fn go_by(&self, client: Option<Rc<Client>>) {
        self.client.replace(client);
    }

    pub(super) async fn send(&self, call: Call<'_>, limit: Duration) -> Result<Reply, Failed> {
        let client = self.client.borrow().clone();
        call.send(&*client.ok_or(Failed::unavailable(Reason::ConnectFailed))?, limit).await
    }

    fn alive(&self) -> Option<Rc<Session>> {
        self.session.borrow().clone().filter(|session| !session.is_over())
    }

    /// The session, begun if there is none. One that nears its end is renewed behind.
    ///
    /// # Errors
    /// There is none, for this reason. While back-off lasts nobody is asked.
    pub(in crate::parent::upstream) async fn session(&self) -> Result<Rc<Session>, Failure> {
        if let Some(session) = self.alive() {
            if session.due() <= Instant::now() {
                // Where back-off forbids it, it is still good for a while.
                let _ = self.begin();
            }
            return Ok(session);
        }
        let mut landed = self.begin()?;
        // The one who would say so may be gone with its runtime.
        let _ = landed.wait_for(|landed| *landed).await;
        self.alive().ok_or_else(|| self.why_not())
    }

    /// Another session, after a document has refused this one; `None` where there is none to be had.
    ///
    /// # Errors
    /// The one that was refused is gone, and no other has begun.
    pub(in crate::parent::upstream) async fn another(
        &self,
        refused: &Rc<Session>,
    ) -> Result<Option<Rc<Session>>, Failure> {
        // Many can be refused with the one that another has taken away already.
        let is_known = self.session.borrow().as_ref().is_some_and(|known| Rc::ptr_eq(known, refused));
        if is_known {
            let now = Instant::now();
            let recently = self.refused.get().is_some_and(|at| now - at < REFUSED_AT_MOST_EVERY);
            // What cannot begin again is of more use than nothing.
            let used_up = self.is_for_once() && self.spent.get();
            if recently || used_up || !self.pace.borrow().permits(now) {
                return Ok(None);
            }
            self.refused.set(Some(now));
            self.session.replace(None);
        }
        let other = self.session().await?;
        Ok(Some(other).filter(|other| !other.is(refused)))
    }

    fn is_for_once(&self) -> bool {
        matches!(&self.identity.auth, Auth::Login(login) if login.once)
    }

    pub(super) fn permit(&self) {
        if self.under_way.borrow().is_none() {
            self.pace.borrow_mut().succeed();
        }
    }

    fn why_not(&self) -> Failure {
        let left = self.pace.borrow().due().map(|due| due.saturating_duration_since(Instant::now()));
        let failure = self.failure.get().unwrap_or(Failure::unavailable(Reason::LoginFailed));
        Failure { retry_after: left.max(failure.retry_after), ..failure }
    }

    /// For the operator: how it is, and nothing of what it is.
    pub(super) fn standing(&self) -> Standing {
        let (session, pace) = (self.alive(), self.pace.borrow());
        let failed = pace.failures() > 0;
        let state = match (&session, failed) {
            (Some(_), false) => "good",
            (Some(_), true) => "not-renewed",
            (None, true) => "failing",
            (None, false) => "none",
        };
        Standing {
            origin: self.origin(),
            tokens: self.identity.tokens.iter().map(|(name, _)| name.clone()).collect(),
            state,
            ends: session.map(|session| session.since + session.life),
            failure: self.failure.get().filter(|_| failed),
            due: pace.due(),
        }
    }

    /// The attempt that is under way, or a new one.
    fn begin(&self) -> Result<watch::Receiver<bool>, Failure> {
        if let Some(landed) = &*self.under_way.borrow() {
            return Ok(landed.clone());
        }
        if !self.pace.borrow().permits(Instant::now()) {
            return Err(self.why_not());
        }
        let Some(this) = self.this.upgrade() else { return Err(self.why_not()) };
        self.pace.borrow_mut().begin();
        let (land, landed) = watch::channel(false);
        self.under_way.replace(Some(landed.clone()));
        // Whoever asked may give up: others wait for it too, and what it gives may be given once.
        tokio::task::spawn_local(async move {
            this.run().await;
            this.under_way.replace(None);
            let _ = land.send(true);
        });
        Ok(landed)
    }

    async fn run(&self) {
        let before = self.alive();
        let renewed = match &before {
            Some(session) => self.renew(session).await,
            None => None,
        };
        let is_renewed = renewed.is_some();
        let done = match renewed {
            Some(done) => done,
            None => self.log_in().await,
        };
        let (origin, tokens) = (self.origin(), self.token_names());
        match done {
            Ok(session) => {
                self.pace.borrow_mut().succeed();
                let lasts = session.life.as_secs();
                let what = if is_renewed { "a session is renewed" } else { "a session has begun" };
                tracing::info!(origin, tokens, lasts, "{what}");
                self.session.replace(Some(Rc::new(session)));
                self.keep();
            }
            Err(Failed { failure, why, .. }) => {
                let retry_after = failure.retry_after;
                self.pace.borrow_mut().fail(Circumstances {
                    now: Instant::now(),
                    retry_after,
                    wanted: false,
                    random: random(),
                });
                let outcome = failure.class.name();
                match before.filter(|session| !session.is_over()) {
                    Some(_) => {
                        tracing::warn!(origin, tokens, outcome, reason = %why, "a session is not renewed, and goes on till its end")
                    }
                    None => tracing::error!(origin, tokens, outcome, reason = %why, "no session"),
                }
                self.failure.set(Some(failure));
            }
        }
    }

    async fn log_in(&self) -> Result<Session, Failed> {
        match &self.identity.auth {
            Auth::AwsSigV4(aws) => super::aws::credentials(self, &aws.credentials).await,
            Auth::OAuth2(client) => super::oauth::log_in(self, client).await,
            Auth::Google(account) => super::google::log_in(self, account).await,
            Auth::Login(login) => super::login::log_in(self, login).await,
            Auth::None | Auth::Bearer { .. } | Auth::Basic { .. } | Auth::Header { .. } | Auth::Hawk { .. } => {
                Err(Failed::misconfigured(Reason::InvalidBody))
            }
        }
    }

    /// `None` where it has to begin anew.
    async fn renew(&self, session: &Session) -> Option<Result<Session, Failed>> {
        let Auth::Login(login) = &self.identity.auth else { return None };
        super::login::renew(self, login, session).await
    }

    /// What can be renewed is kept alive, though nobody asks: what it was begun with may be good for nothing any more.
    fn keep(&self) {
        let renewable = matches!(&self.identity.auth, Auth::Login(login) if login.renew.is_some());
        if !renewable || self.kept.replace(true) {
            return;
        }
        let this = self.this.clone();
        tokio::task::spawn_local(async move {
            // Without a hold on it meanwhile: a slot that nobody has goes.
            while let Some(due) = this.upgrade().and_then(|slot| slot.next_renewal()) {
                sleep_until(due).await;
                let Some(slot) = this.upgrade() else { return };
                if slot.alive().is_some_and(|session| session.due() > Instant::now()) {
                    continue;
                }
                if let Ok(mut landed) = slot.begin() {
                    let _ = landed.wait_for(|landed| *landed).await;
                }
            }
            if let Some(slot) = this.upgrade() {
                slot.kept.set(false);
            }
        });
    }

    /// `None` once there is no session to keep.
    fn next_renewal(&self) -> Option<Instant> {
        let session = self.alive()?;
        let backing_off = self.pace.borrow().due();
        Some(backing_off.map_or(session.due(), |due| due.max(session.due())))
    }

    /// Where it is asked for, if anywhere.
    pub(super) fn origin(&self) -> Option<String> {
        self.identity.auth.endpoint().map(crate::config::Url::origin)
    }

    fn token_names(&self) -> String {
        let names: Vec<&str> = self.identity.tokens.iter().map(|(name, _)| name.0.as_str()).collect();
        names.join(", ")
    }
}
