//! What answers of logins and files of credentials say. Pure; buffers are wiped where they pass through our hands.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use zeroize::Zeroizing;

use crate::config::{Format, Projection};
use crate::parent::token::{ApiToken, MAX_TOKEN_LEN};
use crate::parent::upstream::DocumentBody;
use crate::parent::upstream::project::project;

/// What a session is, until it ends.
pub(in crate::parent::upstream) enum Grant {
    /// Shown as it is.
    Token(ApiToken),
    /// Signed with.
    Aws(AwsKeys),
}

/// Credentials of AWS that are not the configuration's.
pub(in crate::parent::upstream) struct AwsKeys {
    pub(in crate::parent::upstream) id: String,
    pub(in crate::parent::upstream) secret: ApiToken,
    pub(in crate::parent::upstream) session: Option<ApiToken>,
}

/// Why an answer, or a token that is a whole file, is of no use. Holds nothing of it.
#[derive(Debug, PartialEq, Eq)]
pub enum Useless {
    NotJson,
    /// Not there, or not a string.
    Missing(&'static str),
    /// Too long, or with characters that no token has.
    NoToken(&'static str),
    /// As the configuration names it.
    NoProfile(String),
    /// What is to sign with it cannot.
    NoRsaKey,
    /// Of a key file, which is for that other place.
    OtherTokenUrl,
}

impl fmt::Display for Useless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotJson => write!(f, "it is not JSON"),
            Self::Missing(what) => write!(f, "{what} is not in it"),
            Self::NoToken(what) => write!(f, "{what} is not one that could be sent"),
            Self::NoProfile(profile) => write!(f, "the profile `{profile}` is not in it"),
            Self::NoRsaKey => write!(f, "private_key is no RSA key in PKCS #8"),
            Self::OtherTokenUrl => write!(f, "its token_uri is another one than `token-url` in the configuration"),
        }
    }
}

/// An answer that is JSON.
pub(in crate::parent::upstream) struct Answer(DocumentBody);

impl Answer {
    pub(in crate::parent::upstream) fn parse(body: Zeroizing<Vec<u8>>) -> Result<Self, Useless> {
        DocumentBody::parse(body, Format::Json).map(Self).map_err(|_| Useless::NotJson)
    }

    /// The text of a string or number at this place.
    pub(in crate::parent::upstream) fn text<S: AsRef<str>>(&self, pointer: &[S]) -> Option<Zeroizing<String>> {
        let tokens = pointer.iter().map(|token| token.as_ref().to_owned()).collect();
        let mut found = project(&self.0, &[Projection::Pointer(tokens)], 2 * MAX_TOKEN_LEN as u64);
        let value = found.pop()?.ok()?;
        // An object with one field has a text, too, and is none here.
        if value.json().first() == Some(&b'{') { None } else { value.text() }
    }

    pub(in crate::parent::upstream) fn token<S: AsRef<str>>(
        &self,
        pointer: &[S],
        what: &'static str,
    ) -> Result<ApiToken, Useless> {
        let text = self.text(pointer).ok_or(Useless::Missing(what))?;
        ApiToken::given(text.as_bytes()).map_err(|_| Useless::NoToken(what))
    }

    /// Whole seconds; nothing where it does not say, or says that it does not end: zero.
    pub(in crate::parent::upstream) fn seconds<S: AsRef<str>>(&self, pointer: &[S]) -> Option<u64> {
        let text = self.text(pointer)?;
        let whole = text.split_once('.').map_or(text.as_str(), |(whole, _)| whole);
        // A number that is too large for us lasts long enough.
        let digits = !whole.is_empty() && whole.bytes().all(|byte| byte.is_ascii_digit());
        let seconds = if digits { whole.parse().unwrap_or(u64::MAX) } else { 0 };
        (seconds > 0).then_some(seconds)
    }
}

/// What the metadata of an instance or a container gives, and how long it lasts from `now` on.
pub(in crate::parent::upstream) fn aws(answer: &Answer, now: SystemTime) -> Result<(AwsKeys, Option<u64>), Useless> {
    if answer.text(&["Code"]).is_some_and(|code| code.as_str() != "Success") {
        return Err(Useless::Missing("a success"));
    }
    let id = answer.text(&["AccessKeyId"]).ok_or(Useless::Missing("AccessKeyId"))?;
    let secret = answer.token(&["SecretAccessKey"], "SecretAccessKey")?;
    let session = match answer.text(&["Token"]) {
        None => None,
        Some(_) => Some(answer.token(&["Token"], "Token")?),
    };
    let expires = answer.text(&["Expiration"]).and_then(|text| humantime::parse_rfc3339(&text).ok());
    // One that is past already: it is asked for again soon.
    let life = expires.map(|expires| expires.duration_since(now).unwrap_or(Duration::from_secs(1)).as_secs().max(1));
    Ok((keys(&id, secret, session)?, life))
}

fn keys(id: &str, secret: ApiToken, session: Option<ApiToken>) -> Result<AwsKeys, Useless> {
    let legal = (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if legal {
        Ok(AwsKeys { id: id.to_owned(), secret, session })
    } else {
        Err(Useless::NoToken("the access key's id"))
    }
}

/// A token file with credentials: lines `AWS_ACCESS_KEY_ID=…`, or profiles as in `~/.aws/credentials`.
pub(in crate::parent::upstream) fn aws_file(text: &[u8], profile: Option<&str>) -> Result<AwsKeys, Useless> {
    let text = std::str::from_utf8(text).map_err(|_| Useless::NotJson)?;
    let wanted = profile.unwrap_or("default");
    let (mut inside, mut sections, mut found) = (profile.is_none(), false, false);
    let (mut id, mut secret, mut session) = (None, None, None);
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            sections = true;
            let name = name.trim();
            inside = name == wanted || name.strip_prefix("profile ").is_some_and(|name| name.trim() == wanted);
            found |= inside;
            continue;
        }
        if !inside || line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        let Some((name, value)) = line.split_once('=') else { continue };
        let name = name.trim().trim_start_matches("export ").trim();
        let value = unquoted(value.trim());
        // Upper case is of lines alone, lower case of profiles.
        let slot = match (sections, name) {
            (false, "AWS_ACCESS_KEY_ID") | (true, "aws_access_key_id") => &mut id,
            (false, "AWS_SECRET_ACCESS_KEY") | (true, "aws_secret_access_key") => &mut secret,
            (false, "AWS_SESSION_TOKEN") | (true, "aws_session_token") => &mut session,
            _ => continue,
        };
        *slot = Some(value).filter(|value| !value.is_empty());
    }
    let token = |text: &str, what| ApiToken::given(text.as_bytes()).map_err(|_| Useless::NoToken(what));
    let has_profiles = sections || profile.is_some();
    if has_profiles && !found && id.is_none() && secret.is_none() {
        return Err(Useless::NoProfile(wanted.to_owned()));
    }
    let secret = token(secret.ok_or(Useless::Missing("the secret access key"))?, "the secret access key")?;
    let session = session.map(|text| token(text, "the session token")).transpose()?;
    keys(id.ok_or(Useless::Missing("the access key's id"))?, secret, session)
}

fn unquoted(text: &str) -> &str {
    let within = |quote| text.strip_prefix(quote).and_then(|rest: &str| rest.strip_suffix(quote));
    within('"').or_else(|| within('\'')).unwrap_or(text)
}

/// What a key file of a service account says, but for the key itself.
pub(in crate::parent::upstream) struct KeyFile {
    pub(in crate::parent::upstream) email: String,
    pub(in crate::parent::upstream) key_id: Option<String>,
    pub(in crate::parent::upstream) token_uri: String,
    /// PKCS #8, in DER.
    pub(in crate::parent::upstream) key: Zeroizing<Vec<u8>>,
}

/// A key file as Google gives it out.
pub(in crate::parent::upstream) fn key_file(text: &[u8]) -> Result<KeyFile, Useless> {
    let answer = Answer::parse(Zeroizing::new(text.to_vec()))?;
    let public = |name: &'static str| answer.text(&[name]).map(|text| text.as_str().to_owned());
    let pem = answer.text(&["private_key"]).ok_or(Useless::Missing("private_key"))?;
    Ok(KeyFile {
        email: public("client_email").ok_or(Useless::Missing("client_email"))?,
        key_id: public("private_key_id"),
        token_uri: public("token_uri").ok_or(Useless::Missing("token_uri"))?,
        key: der(&pem).ok_or(Useless::NoRsaKey)?,
    })
}

/// The one block of a PEM text (RFC 7468).
fn der(pem: &str) -> Option<Zeroizing<Vec<u8>>> {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    let (_, rest) = pem.split_once("-----BEGIN PRIVATE KEY-----")?;
    let (block, _) = rest.split_once("-----END PRIVATE KEY-----")?;
    // Never longer than its source, so that it never moves and leaves a copy.
    let mut encoded = Zeroizing::new(Vec::with_capacity(block.len()));
    encoded.extend(block.bytes().filter(|byte| !byte.is_ascii_whitespace()));
    let mut decoded = Zeroizing::new(vec![0; encoded.len()]);
    let len = STANDARD.decode_slice(&*encoded, &mut decoded).ok()?;
    decoded.truncate(len);
    Some(decoded)
}

/// Seconds since the epoch, as a time.
pub(super) fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}
