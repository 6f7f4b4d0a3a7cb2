//! A service account of Google's: an assertion that its key signs (RFC 7523), for the configured token endpoint alone.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::Method;
use serde_json::json;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::answer::{KeyFile, Useless, key_file};
use super::ask::{Call, Failed};
use super::slot::Slot;
use super::{Session, fill, oauth};
use crate::config::{ServiceAccount, Url};
use crate::outcome::Reason;
use crate::parent::upstream::request::seconds;

/// The longest that Google takes.
const LIFE: u64 = 3600;

pub(super) async fn log_in(slot: &Slot, account: &ServiceAccount) -> Result<Session, Failed> {
    let clock = (account.token_url.origin(), None);
    let mut corrected = false;
    loop {
        let at = seconds().saturating_add_signed(slot.ahead.of(&clock));
        let assertion = assertion(slot, account, at)?;
        let form = fill::form(&[
            ("grant_type", b"urn:ietf:params:oauth:grant-type:jwt-bearer"),
            ("assertion", assertion.as_bytes()),
        ]);
        let call = Call::new(Method::POST, &account.token_url);
        let call = call.header("content-type", Zeroizing::new(oauth::FORM.to_vec()))?.body(form);
        let began = Instant::now();
        match slot.send(call, oauth::PATIENCE).await {
            Ok(reply) => return oauth::granted(slot, reply, began),
            Err(failed) if failed.is_refused() && slot.ahead.differs(at, failed.date) => {
                if corrected || !slot.ahead.set(&clock, failed.date) {
                    return Err(Failed::unavailable(Reason::ClockSkew));
                }
                corrected = true;
            }
            Err(failed) => return Err(failed),
        }
    }
}

fn assertion(slot: &Slot, account: &ServiceAccount, at: u64) -> Result<Zeroizing<String>, Failed> {
    let token = slot.identity().token(&account.key).ok_or(Failed::unavailable(Reason::TokenMissing))?;
    let wrong = |why: Useless| {
        tracing::error!(token = %account.key, "the key file is of no use: {why}");
        Failed::misconfigured(Reason::LoginFailed)
    };
    let (file, key) = signer(token.bytes(), &account.token_url).map_err(wrong)?;
    let mut header = json!({ "alg": "RS256", "typ": "JWT" });
    if let Some(id) = file.key_id {
        header["kid"] = id.into();
    }
    let claims =
        json!({ "iss": file.email, "scope": account.scope, "aud": file.token_uri, "iat": at, "exp": at + LIFE });
    let mut text = URL_SAFE_NO_PAD.encode(header.to_string());
    text.push('.');
    text.push_str(&URL_SAFE_NO_PAD.encode(claims.to_string()));
    let mut signature = vec![0; key.public_modulus_len()];
    let signed = key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text.as_bytes(), &mut signature);
    signed.map_err(|_| wrong(Useless::NoRsaKey))?;
    let mut assertion = Zeroizing::new(String::with_capacity(text.len() + 1 + signature.len() * 2));
    assertion.push_str(&text);
    assertion.push('.');
    assertion.push_str(&URL_SAFE_NO_PAD.encode(&signature));
    Ok(assertion)
}

/// A key file and the key in it, if it is one for this place.
pub(super) fn signer(text: &[u8], token_url: &Url) -> Result<(KeyFile, RsaKeyPair), Useless> {
    let file = key_file(text)?;
    // Else whoever writes the key file would have an assertion sent to a place of their choice.
    if file.token_uri != format!("{}{}", shown_origin(token_url), token_url.target) {
        return Err(Useless::OtherTokenUrl);
    }
    let key = RsaKeyPair::from_pkcs8(&file.key).map_err(|_| Useless::NoRsaKey)?;
    Ok((file, key))
}

/// As a key file writes it: without the port that everybody knows.
fn shown_origin(url: &Url) -> String {
    let default = if url.https { ":443" } else { ":80" };
    let origin = url.origin();
    origin.strip_suffix(default).map_or(origin.clone(), str::to_owned)
}
