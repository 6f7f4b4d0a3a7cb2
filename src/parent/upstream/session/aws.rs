//! Credentials of AWS that come from elsewhere: a token file, the endpoint of a container, the metadata of an instance.

use std::time::Duration;

use hyper::Method;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::answer::{Answer, Grant, Useless, at, aws, aws_file};
use super::ask::{Call, Failed, Reply};
use super::slot::Slot;
use super::{LONGEST, Session};
use crate::config::{AwsCredentials, Url, is_aws_role};
use crate::outcome::Reason;
use crate::parent::token::ApiToken;
use crate::parent::upstream::request::seconds;

/// For one request. These addresses answer at once or never: a host that is no instance drops what is sent to them.
const PATIENCE: Duration = Duration::from_secs(2);
const ROLES: &str = "/latest/meta-data/iam/security-credentials/";

pub(super) async fn credentials(slot: &Slot, from: &AwsCredentials) -> Result<Session, Failed> {
    let began = Instant::now();
    match from {
        // These are tokens of the configuration, and need no session.
        AwsCredentials::Static { .. } => Err(Failed::misconfigured(Reason::InvalidBody)),
        AwsCredentials::File { token, profile } => {
            let held = slot.identity().token(token).ok_or(Failed::unavailable(Reason::TokenMissing))?;
            let keys = aws_file(held.bytes(), profile.as_deref()).map_err(|why| {
                tracing::error!(%token, "the file of credentials is of no use: {why}");
                Failed::misconfigured(Reason::LoginFailed)
            })?;
            Ok(Session::begin(Grant::Aws(keys), began, Some(LONGEST.as_secs())))
        }
        AwsCredentials::Container { url, token } => {
            let mut call = Call::new(Method::GET, url);
            if let Some(token) = token {
                let held = slot.identity().token(token).ok_or(Failed::unavailable(Reason::TokenMissing))?;
                call = call.header("authorization", Zeroizing::new(held.bytes().to_vec()))?;
            }
            granted(slot, slot.send(call, PATIENCE).await?, began)
        }
        AwsCredentials::Imds { url, role } => {
            let token = Call::new(Method::PUT, url).at("/latest/api/token".to_owned());
            let token = token.header("x-aws-ec2-metadata-token-ttl-seconds", Zeroizing::new(b"60".to_vec()))?;
            let token = slot.send(token, PATIENCE).await?.body;
            // Whoever is at this address on a machine that is no instance may answer anything.
            let token = ApiToken::given(token.trim_ascii_end()).map_err(|_| {
                tracing::error!(origin = slot.origin(), "the metadata's token is not one that could be sent");
                Failed::unavailable(Reason::InvalidBody)
            })?;
            let role = match role {
                Some(role) => role.clone(),
                None => the_role(&imds(slot, url, &token, ROLES.to_owned()).await?.body).ok_or_else(|| {
                    tracing::error!(origin = slot.origin(), "the instance has no role");
                    Failed::unavailable(Reason::InvalidBody)
                })?,
            };
            granted(slot, imds(slot, url, &token, format!("{ROLES}{role}")).await?, began)
        }
    }
}

async fn imds(slot: &Slot, url: &Url, token: &ApiToken, target: String) -> Result<Reply, Failed> {
    let shown = Zeroizing::new(token.bytes().to_vec());
    let call = Call::new(Method::GET, url).at(target).header("x-aws-ec2-metadata-token", shown)?;
    slot.send(call, PATIENCE).await
}

/// The first line, if it can be a part of a path.
fn the_role(body: &[u8]) -> Option<String> {
    let line = std::str::from_utf8(body).ok()?.lines().next()?.trim();
    is_aws_role(line).then(|| line.to_owned())
}

fn granted(slot: &Slot, reply: Reply, began: Instant) -> Result<Session, Failed> {
    let useless = |why: Useless| {
        tracing::error!(origin = slot.origin(), "credentials are of no use: {why}");
        Failed::unavailable(Reason::InvalidBody)
    };
    // The clock that says when they expire.
    let now = at(reply.date.unwrap_or_else(seconds));
    let (keys, life) = Answer::parse(reply.body).and_then(|answer| aws(&answer, now)).map_err(useless)?;
    Ok(Session::begin(Grant::Aws(keys), began, life))
}
