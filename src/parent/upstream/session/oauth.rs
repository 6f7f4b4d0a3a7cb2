//! Client credentials (RFC 6749 section 4.4), and what every token endpoint answers (section 5.1).

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::Method;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::answer::{Answer, Grant};
use super::ask::{Call, Failed, Reply};
use super::slot::Slot;
use super::{Session, fill};
use crate::config::{ClientCredentials, Encoding};
use crate::outcome::Reason;

/// For one request.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);
pub(super) const FORM: &[u8] = b"application/x-www-form-urlencoded";

pub(super) async fn log_in(slot: &Slot, client: &ClientCredentials) -> Result<Session, Failed> {
    let token = slot.identity().token(&client.client_secret).ok_or(Failed::unavailable(Reason::TokenMissing))?;
    let (id, secret) = (client.client_id.as_bytes(), token.bytes());
    let mut fields: Vec<(&str, &[u8])> = vec![("grant_type", b"client_credentials")];
    if let Some(scope) = &client.scope {
        fields.push(("scope", scope.as_bytes()));
    }
    let mut call = Call::new(Method::POST, &client.token_url).header("content-type", Zeroizing::new(FORM.to_vec()))?;
    if client.in_body {
        fields.extend([("client_id", id), ("client_secret", secret)]);
    } else {
        call = call.header("authorization", basic(id, secret))?;
    }
    let began = Instant::now();
    let reply = slot.send(call.body(fill::form(&fields)), PATIENCE).await?;
    granted(slot, reply, began)
}

/// Each half is encoded as in a form before they are joined (section 2.3.1).
fn basic(id: &[u8], secret: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut pair = Zeroizing::new(Vec::with_capacity(3 * (id.len() + secret.len()) + 1));
    fill::write(id, Encoding::Percent, &mut pair);
    pair.push(b':');
    fill::write(secret, Encoding::Percent, &mut pair);
    let encoded = Zeroizing::new(STANDARD.encode(&*pair));
    let mut shown = Zeroizing::new(Vec::with_capacity(6 + encoded.len()));
    shown.extend_from_slice(b"Basic ");
    shown.extend_from_slice(encoded.as_bytes());
    shown
}

pub(super) fn granted(slot: &Slot, reply: Reply, began: Instant) -> Result<Session, Failed> {
    let useless = |why: String| {
        tracing::error!(origin = slot.origin(), "the answer of a token endpoint is of no use: {why}");
        Failed::unavailable(Reason::InvalidBody)
    };
    let answer = Answer::parse(reply.body).map_err(|why| useless(why.to_string()))?;
    if answer.text(&["token_type"]).is_some_and(|kind| !kind.eq_ignore_ascii_case("bearer")) {
        return Err(useless("its token_type is not Bearer".to_owned()));
    }
    let token = answer.token(&["access_token"], "access_token").map_err(|why| useless(why.to_string()))?;
    Ok(Session::begin(Grant::Token(token), began, answer.seconds(&["expires_in"])))
}
