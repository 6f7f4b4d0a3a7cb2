//! A login that the configuration writes out; what a wrapping token wraps; and renewal.

use std::rc::Rc;
use std::time::Duration;

use hyper::Method;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::answer::{Answer, Grant};
use super::ask::{Call, Failed, Reply};
use super::slot::Slot;
use super::{Session, fill};
use crate::config::{self, Encoding, Lifetime, Login, Piece, Text, Unwrap};
use crate::outcome::Reason;
use crate::parent::token::ApiToken;

/// For one request.
const PATIENCE: Duration = Duration::from_secs(15);

/// How a wrapping token is shown (Vault, OpenBao). Never in the body as well, which would use it up for nothing.
const WRAPPING_HEADER: &str = "x-vault-token";

pub(super) async fn log_in(slot: &Slot, login: &Login) -> Result<Session, Failed> {
    if login.once && slot.spent.get() {
        tracing::error!(origin = slot.origin(), "what logs in once is used: {}", advice(login, None));
        return Err(Failed::refused(Reason::LoginRefused));
    }
    let unwrapped = match &login.unwrap {
        Some(unwrap) => Some((unwrap.secret, unwrapped(slot, login, unwrap).await?)),
        None => None,
    };
    let mut secrets: Vec<&[u8]> = Vec::with_capacity(login.secrets.len());
    for (at, (_, name)) in login.secrets.iter().enumerate() {
        let token = match &unwrapped {
            Some((of, token)) if *of == at => token,
            _ => slot.identity().token(name).ok_or(Failed::unavailable(Reason::TokenMissing))?,
        };
        secrets.push(token.bytes());
    }
    let method = if login.method == config::Method::Get { Method::GET } else { Method::POST };
    let mut call = Call::new(method, &login.url);
    for (name, value) in &login.headers {
        call = call.header(name, fill::fill(value, &secrets, Encoding::Plain))?;
    }
    if let Some((body, encoding)) = &login.body {
        if !login.headers.iter().any(|(name, _)| name == "content-type") {
            call = call.header("content-type", Zeroizing::new(b"application/json".to_vec()))?;
        }
        call = call.body(fill::fill(body, &secrets, *encoding));
    }
    if login.once {
        call = call.once();
    }
    let began = Instant::now();
    let sent = slot.send(call, PATIENCE).await;
    // An answer that never came may still have used it up; the next one tells.
    if login.once && sent.as_ref().err().is_none_or(Failed::is_refused) {
        slot.spent.set(true);
    }
    if login.once && sent.as_ref().is_err_and(Failed::is_refused) {
        tracing::error!(origin = slot.origin(), "what logs in once is refused: {}", advice(login, None));
    }
    granted(slot, login, sent?, began, None)
}

/// The session that an answer gives; `same` stands in where renewal gives no other token.
fn granted(
    slot: &Slot,
    login: &Login,
    reply: Reply,
    began: Instant,
    same: Option<&ApiToken>,
) -> Result<Session, Failed> {
    let useless = |why: super::answer::Useless| {
        tracing::error!(origin = slot.origin(), "the answer to a login is of no use: {why}");
        Failed::unavailable(Reason::InvalidBody)
    };
    let answer = Answer::parse(reply.body).map_err(useless)?;
    let token = match (answer.token(&login.pointer, "the token"), same) {
        (Ok(token), _) => token,
        (Err(_), Some(same)) => ApiToken::given(same.bytes()).map_err(|_| Failed::unavailable(Reason::InvalidBody))?,
        (Err(why), None) => return Err(useless(why)),
    };
    let life = match &login.lifetime {
        Lifetime::Untold => None,
        Lifetime::Fixed(life) => Some(life.as_secs()),
        Lifetime::At(pointer) => answer.seconds(pointer),
    };
    Ok(Session::begin(Grant::Token(token), began, life))
}

/// What a wrapping token wraps. It is asked for once, and kept for as long as the token is in use.
async fn unwrapped(slot: &Slot, login: &Login, unwrap: &Unwrap) -> Result<Rc<ApiToken>, Failed> {
    if let Some(known) = &*slot.unwrapped.borrow() {
        return Ok(known.clone());
    }
    let origin = slot.origin();
    if slot.opened.get() {
        tracing::error!(origin, "the wrapping token is used: {}", advice(login, Some(unwrap)));
        return Err(Failed::refused(Reason::LoginRefused));
    }
    let (_, name) = login.secrets.get(unwrap.secret).ok_or(Failed::misconfigured(Reason::TokenMissing))?;
    let token = slot.identity().token(name).ok_or(Failed::unavailable(Reason::TokenMissing))?;
    if let Some((path, lookup)) = &unwrap.creation {
        let body = fill::json_token(token.bytes());
        let asked = with_namespace(Call::new(Method::POST, lookup), login)?.body(body);
        let reply = slot.send(asked, PATIENCE).await.map_err(|failed| not_unwrapped(slot, login, unwrap, failed))?;
        let found = Answer::parse(reply.body).ok().and_then(|answer| answer.text(&["data", "creation_path"]));
        if found.is_none_or(|found| found.trim_start_matches('/') != path) {
            slot.opened.set(true);
            tracing::error!(
                origin, token = %name,
                "ALARM: the wrapping token was not made at `creation-path`: somebody may have put another one in its place. It is not \
                 unwrapped. {}", advice(login, Some(unwrap))
            );
            return Err(Failed::refused(Reason::LoginRefused));
        }
    }
    let call = with_namespace(Call::new(Method::POST, &unwrap.url), login)?;
    let call = call.header(WRAPPING_HEADER, Zeroizing::new(token.bytes().to_vec()))?;
    let sent = slot.send(call.once(), PATIENCE).await;
    let reply = sent.map_err(|failed| not_unwrapped(slot, login, unwrap, failed))?;
    // Whatever it was, it is out now.
    slot.opened.set(true);
    let found = Answer::parse(reply.body).and_then(|answer| answer.token(&unwrap.pointer, "what is wrapped"));
    let secret = found.map_err(|why| {
        tracing::error!(origin, token = %name, "what was wrapped is of no use: {why}. {}", advice(login, Some(unwrap)));
        Failed::misconfigured(Reason::InvalidBody)
    })?;
    tracing::info!(origin, token = %name, "the wrapping token is used: what it wrapped is held in memory alone");
    let secret = Rc::new(secret);
    slot.unwrapped.replace(Some(secret.clone()));
    Ok(secret)
}

/// A wrapping token that is refused is used, or was never ours.
fn not_unwrapped(slot: &Slot, login: &Login, unwrap: &Unwrap, failed: Failed) -> Failed {
    if failed.is_refused() {
        slot.opened.set(true);
        tracing::error!(
            origin = slot.origin(),
            "ALARM: the wrapping token cannot be unwrapped. It has expired, or somebody else has unwrapped it and has what was in it: \
             find out which. {}",
            advice(login, Some(unwrap))
        );
    }
    failed
}

/// With those headers that say which part of a server is meant; none of them has a secret.
fn with_namespace<'u>(mut call: Call<'u>, login: &Login) -> Result<Call<'u>, Failed> {
    for (name, value) in &login.headers {
        if name.starts_with("x-vault-") && name != WRAPPING_HEADER && !has_secrets(value) {
            call = call.header(name, fill::fill(value, &[], Encoding::Plain))?;
        }
    }
    Ok(call)
}

fn has_secrets(text: &Text) -> bool {
    text.pieces().iter().any(|piece| matches!(piece, Piece::Parameter(_)))
}

/// What to do about a credential that is used up.
fn advice(login: &Login, unwrap: Option<&Unwrap>) -> String {
    let one = unwrap.and_then(|unwrap| login.secrets.get(unwrap.secret));
    let names: Vec<String> = one
        .map_or(login.secrets.as_slice(), std::slice::from_ref)
        .iter()
        .map(|(_, name)| format!("`{name}`"))
        .collect();
    format!("put a new one into the file of the token {} and run keyhatch reload", names.join(", "))
}

/// A longer life of a session; `None` where it has to begin anew.
pub(super) async fn renew(slot: &Slot, login: &Login, session: &Session) -> Option<Result<Session, Failed>> {
    let (url, Grant::Token(token)) = (login.renew.as_ref()?, &session.grant) else { return None };
    let mut shown = Zeroizing::new(Vec::with_capacity(login.prefix.len() + token.bytes().len()));
    shown.extend_from_slice(login.prefix.as_bytes());
    shown.extend_from_slice(token.bytes());
    let mut call = Call::new(Method::POST, url);
    for (name, value) in &login.headers {
        let sent = *name != login.header && name != "content-type" && !has_secrets(value);
        if sent {
            call = call.header(name, fill::fill(value, &[], Encoding::Plain)).ok()?;
        }
    }
    let began = Instant::now();
    let sent = match call.header(&login.header, shown) {
        Ok(call) => slot.send(call, PATIENCE).await,
        Err(failed) => Err(failed),
    };
    match sent {
        Ok(reply) => Some(granted(slot, login, reply, began, Some(token))),
        // It may still be good; and the login says whether it can begin anew.
        Err(failed) if failed.is_refused() && !(login.once && slot.spent.get()) => {
            tracing::warn!(origin = slot.origin(), reason = %failed.why, "a session is not renewed: it begins anew");
            None
        }
        Err(failed) => Some(Err(failed)),
    }
}
