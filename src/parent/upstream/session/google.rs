//! A service account of Google's: an assertion that its key signs (RFC 7523), for the configured token endpoint alone.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::Method;
use serde_json::json;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::answer::key_file;
use super::ask::{Call, Failed};
use super::slot::Slot;
use super::{Session, fill, oauth};
use crate::config::ServiceAccount;
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
    let wrong = |what: &str| {
        tracing::error!(token = %account.key, "the key file is of no use: {what}");
        Failed::misconfigured(Reason::TokenMissing)
    };
    let file = key_file(token.bytes()).map_err(|why| wrong(&why.told()))?;
    // Else whoever writes the key file would have an assertion sent to a place of their choice.
    let audience = format!("{}{}", shown_origin(account), account.token_url.target);
    if file.token_uri != audience {
        return Err(wrong("its token_uri is another one than `token-url` in the configuration"));
    }
    let key = RsaKeyPair::from_pkcs8(&file.key).map_err(|_| wrong("private_key is no RSA key in PKCS #8"))?;
    let mut header = json!({ "alg": "RS256", "typ": "JWT" });
    if let Some(id) = file.key_id {
        header["kid"] = id.into();
    }
    let claims = json!({ "iss": file.email, "scope": account.scope, "aud": audience, "iat": at, "exp": at + LIFE });
    let mut text = URL_SAFE_NO_PAD.encode(header.to_string());
    text.push('.');
    text.push_str(&URL_SAFE_NO_PAD.encode(claims.to_string()));
    let mut signature = vec![0; key.public_modulus_len()];
    let signed = key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text.as_bytes(), &mut signature);
    signed.map_err(|_| wrong("private_key does not sign"))?;
    let mut assertion = Zeroizing::new(String::with_capacity(text.len() + 1 + signature.len() * 2));
    assertion.push_str(&text);
    assertion.push('.');
    assertion.push_str(&URL_SAFE_NO_PAD.encode(&signature));
    Ok(assertion)
}

/// As a key file writes it: without the port that everybody knows.
fn shown_origin(account: &ServiceAccount) -> String {
    let url = &account.token_url;
    let default = if url.https { ":443" } else { ":80" };
    let origin = url.origin();
    origin.strip_suffix(default).map_or(origin.clone(), str::to_owned)
}
