//! Hawk, the client's half: signs a request, verifies the reply and the server's time. Pure: time and nonce are given.
//!
//! The key is borrowed for one call. What is made of it here is fit to be sent, and for nothing else.

use aws_lc_rs::{constant_time, digest, hmac};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::config::HawkAlgorithm;

/// The longest header that is read, as in the reference implementation.
const MAX_HEADER: usize = 4096;

pub(super) struct Credentials<'a> {
    pub(super) id: &'a str,
    pub(super) key: &'a [u8],
    pub(super) algorithm: HawkAlgorithm,
}

/// What a MAC covers of one request.
#[derive(Default)]
pub(super) struct Artifacts {
    /// Seconds since the epoch, by the server's clock as far as it is known.
    pub(super) ts: u64,
    pub(super) nonce: String,
    pub(super) method: &'static str,
    /// Path and query.
    pub(super) target: String,
    pub(super) host: String,
    pub(super) port: u16,
    /// Of the payload.
    pub(super) hash: String,
    /// Application data; keyhatch sends none.
    pub(super) ext: String,
}

/// What is wrong with a reply: it is not from who has the key, or not for this request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotAuthentic;

/// What a 401 says of the time.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// The server's time, in seconds since the epoch, and it is the server that says so.
    Time(u64),
    /// It speaks of the time, and does not prove to have the key.
    Untrusted,
    /// It is not about the time: the credentials are refused.
    Refused,
}

impl Credentials<'_> {
    fn key(&self) -> hmac::Key {
        let algorithm = match self.algorithm {
            HawkAlgorithm::Sha256 => hmac::HMAC_SHA256,
            HawkAlgorithm::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
        };
        hmac::Key::new(algorithm, self.key)
    }

    /// The value of `Authorization`.
    pub(super) fn authorization(&self, artifacts: &Artifacts) -> String {
        let mac = hmac::sign(&self.key(), artifacts.normalized("header", &artifacts.hash, &artifacts.ext).as_bytes());
        let ext = if artifacts.ext.is_empty() { String::new() } else { format!("ext=\"{}\", ", artifacts.ext) };
        let Artifacts { ts, nonce, hash, .. } = artifacts;
        let hash = if hash.is_empty() { String::new() } else { format!("hash=\"{hash}\", ") };
        format!("Hawk id=\"{}\", ts=\"{ts}\", nonce=\"{nonce}\", {hash}{ext}mac=\"{}\"", self.id, STANDARD.encode(mac))
    }

    /// Checks a `Server-Authorization`; gives the hash of the body that it vouches for, if it does.
    pub(super) fn verify_reply(&self, request: &Artifacts, header: &str) -> Result<Option<String>, NotAuthentic> {
        let attributes = attributes(header).ok_or(NotAuthentic)?;
        let attribute = |name| find(&attributes, name);
        let (hash, ext) = (attribute("hash"), attribute("ext").unwrap_or_default());
        let mac = STANDARD.decode(attribute("mac").ok_or(NotAuthentic)?).map_err(|_| NotAuthentic)?;
        let text = request.normalized("response", hash.unwrap_or_default(), ext);
        hmac::verify(&self.key(), text.as_bytes(), &mac).map_err(|_| NotAuthentic)?;
        Ok(hash.map(str::to_owned))
    }

    /// What the `WWW-Authenticate` of a 401 says of the time.
    pub(super) fn challenge(&self, header: &str) -> Challenge {
        let Some(attributes) = attributes(header) else { return Challenge::Refused };
        let attribute = |name| find(&attributes, name);
        let (ts, tsm) = (attribute("ts"), attribute("tsm"));
        if ts.is_none() && tsm.is_none() && attribute("error") != Some("Stale timestamp") {
            return Challenge::Refused;
        }
        let proven = || {
            let mac = STANDARD.decode(tsm?).ok()?;
            hmac::verify(&self.key(), format!("hawk.1.ts\n{}\n", ts?).as_bytes(), &mac).ok()?;
            ts?.parse().ok()
        };
        proven().map_or(Challenge::Untrusted, Challenge::Time)
    }

    /// The hash of a payload; `content_type` as the header has it.
    pub(super) fn payload_hash(&self, content_type: &str, body: &[u8]) -> String {
        let mut digest = digest::Context::new(match self.algorithm {
            HawkAlgorithm::Sha256 => &digest::SHA256,
            HawkAlgorithm::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
        });
        let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        digest.update(format!("hawk.1.payload\n{media_type}\n").as_bytes());
        digest.update(body);
        digest.update(b"\n");
        STANDARD.encode(digest.finish())
    }

    /// Whether a body is the one that a reply vouches for.
    pub(super) fn verify_payload(&self, hash: &str, content_type: &str, body: &[u8]) -> Result<(), NotAuthentic> {
        let found = self.payload_hash(content_type, body);
        constant_time::verify_slices_are_equal(found.as_bytes(), hash.as_bytes()).map_err(|_| NotAuthentic)
    }
}

impl Artifacts {
    fn normalized(&self, kind: &str, hash: &str, ext: &str) -> String {
        let Self { ts, nonce, method, target, host, port, .. } = self;
        let ext = ext.replace('\\', "\\\\").replace('\n', "\\n");
        format!("hawk.1.{kind}\n{ts}\n{nonce}\n{method}\n{target}\n{host}\n{port}\n{hash}\n{ext}\n")
    }
}

type Attributes<'h> = Vec<(&'h str, &'h str)>;

fn find<'h>(attributes: &Attributes<'h>, name: &str) -> Option<&'h str> {
    attributes.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
}

/// `Hawk name="value", …`; `None` when it is anything else, or names something twice.
fn attributes(header: &str) -> Option<Attributes<'_>> {
    let (scheme, mut rest) = header.split_once(' ').unwrap_or((header, ""));
    if header.len() > MAX_HEADER || !scheme.eq_ignore_ascii_case("hawk") {
        return None;
    }
    let mut found: Attributes<'_> = Vec::new();
    rest = rest.trim();
    while !rest.is_empty() {
        let (name, after) = rest.split_once("=\"")?;
        let (value, after) = after.split_once('"')?;
        let legal = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !legal || value.contains('\\') || found.iter().any(|(known, _)| *known == name) {
            return None;
        }
        found.push((name, value));
        let after = after.trim_start();
        rest = match after.strip_prefix(',') {
            Some(more) => more.trim_start(),
            None if after.is_empty() => after,
            None => return None,
        };
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &[u8] = b"werxhqb98rpaxn39848xrunpaw3489ruxnpa98w4rxn";
    const TSM: &str = "2mw1eh/qXzl0wJZ/E6XvBhRMEJN7L3j8AyMA8eItEb0=";

    fn credentials() -> Credentials<'static> {
        Credentials { id: "dh37fgj492je", key: KEY, algorithm: HawkAlgorithm::Sha256 }
    }

    fn artifacts(method: &'static str) -> Artifacts {
        Artifacts {
            ts: 1_353_832_234,
            nonce: "j4h3g2".into(),
            method,
            target: "/resource/1?b=1&a=2".into(),
            host: "example.com".into(),
            port: 8000,
            hash: String::new(),
            ext: "some-app-ext-data".into(),
        }
    }

    // The vectors of the reference implementation's documentation.
    #[test]
    fn a_get_is_signed() {
        assert_eq!(
            credentials().authorization(&artifacts("GET")),
            "Hawk id=\"dh37fgj492je\", ts=\"1353832234\", nonce=\"j4h3g2\", ext=\"some-app-ext-data\", \
             mac=\"6R4rV5iE+NPoym+WwjeHzjAGXUtLNIxmo1vpMofpLAE=\""
        );
    }

    #[test]
    fn a_post_is_signed_with_its_payload() {
        let hash = credentials().payload_hash("text/plain", b"Thank you for flying Hawk");
        assert_eq!(hash, "Yi9LfIIFRtBEPt74PVmbTF/xVAwPn7ub15ePICfgnuY=");
        let signed = credentials().authorization(&Artifacts { hash, ..artifacts("POST") });
        assert!(signed.ends_with("mac=\"aSe1DERmZuRl3pI36/9BdZmnErTw3sNzOOAUlfeKjVw=\""), "{signed}");
        assert!(signed.contains("hash=\"Yi9LfIIFRtBEPt74PVmbTF/xVAwPn7ub15ePICfgnuY=\", ext="), "{signed}");
    }

    #[test]
    fn the_payload_of_nothing_and_the_case_of_media_types() {
        assert_eq!(credentials().payload_hash("", b""), "B0weSUXsMcb5UhL41FZbrUJCAotzSI3HawE1NPLRUz8=");
        let parameters = credentials().payload_hash(" Text/Plain ; charset=utf-8", b"Thank you for flying Hawk");
        assert_eq!(parameters, "Yi9LfIIFRtBEPt74PVmbTF/xVAwPn7ub15ePICfgnuY=");
    }

    #[test]
    fn a_stale_timestamp_is_believed_only_from_who_has_the_key() {
        let told = |header: &str| credentials().challenge(header);
        let stale = format!("Hawk ts=\"1353832234\", tsm=\"{TSM}\", error=\"Stale timestamp\"");
        assert_eq!(told(&stale), Challenge::Time(1_353_832_234));
        assert_eq!(told(&stale.replace("1353832234", "1353832235")), Challenge::Untrusted);
        assert_eq!(told(&stale.replace(TSM, "")), Challenge::Untrusted);
        assert_eq!(told("Hawk ts=\"1353832234\""), Challenge::Untrusted);
        assert_eq!(told("Hawk error=\"Stale timestamp\""), Challenge::Untrusted);
        for refused in ["Hawk error=\"Bad mac\"", "Hawk", "Bearer", "", "Basic realm=\"ts\"", "Hawk ts=1"] {
            assert_eq!(told(refused), Challenge::Refused, "{refused}");
        }
        let other = Credentials { key: b"another", ..credentials() };
        assert_eq!(other.challenge(&stale), Challenge::Untrusted);
    }

    /// A reply as its server makes it.
    fn reply(request: &Artifacts, hash: &str, ext: &str) -> String {
        let text = format!(
            "hawk.1.response\n1353832234\nj4h3g2\n{}\n/resource/1?b=1&a=2\nexample.com\n8000\n{hash}\n{ext}\n",
            request.method
        );
        let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, KEY), text.as_bytes());
        format!("Hawk mac=\"{}\", hash=\"{hash}\", ext=\"{ext}\"", STANDARD.encode(mac))
    }

    #[test]
    fn a_reply_is_for_its_request_and_its_body() {
        let (credentials, request) = (credentials(), artifacts("GET"));
        let hash = credentials.payload_hash("application/json", b"{}");
        let good = reply(&request, &hash, "response-specific");
        assert_eq!(credentials.verify_reply(&request, &good), Ok(Some(hash.clone())));
        assert_eq!(credentials.verify_payload(&hash, "application/json; charset=utf-8", b"{}"), Ok(()));
        assert_eq!(credentials.verify_payload(&hash, "application/json", b"{ }"), Err(NotAuthentic));
        assert_eq!(credentials.verify_payload("", "application/json", b"{}"), Err(NotAuthentic));

        let of_another = Artifacts { nonce: "other".into(), ..artifacts("GET") };
        assert_eq!(credentials.verify_reply(&of_another, &good), Err(NotAuthentic));
        for bad in [
            good.replace("response-specific", "another"),
            good.replace("mac=", "cam="),
            good.replace("Hawk", "Kwah"),
            good.replace(&hash, ""),
            format!("{good}, hash=\"x\""),
            good.replace("mac=\"", "mac=\"!"),
            format!("{good}{}", " ".repeat(MAX_HEADER)),
            String::new(),
        ] {
            assert_eq!(credentials.verify_reply(&request, &bad), Err(NotAuthentic), "{bad}");
        }
    }

    #[test]
    fn sha1_is_another_mac() {
        let sha1 = Credentials { algorithm: HawkAlgorithm::Sha1, ..credentials() };
        let signed = sha1.authorization(&artifacts("GET"));
        // Computed with Python's hmac over the same text.
        assert!(signed.ends_with("mac=\"KqOejc9yo2NAQlM29iSeYQEzwmE=\""), "{signed}");
    }

    #[test]
    fn what_an_application_adds_is_escaped_in_the_text_alone() {
        let artifacts = Artifacts { ext: "a\\b\nc".into(), ..artifacts("GET") };
        assert!(artifacts.normalized("header", "", &artifacts.ext).ends_with("\n\na\\\\b\\nc\n"));
    }

    proptest::proptest! {
        #[test]
        fn any_header_is_parsed_without_harm(header in "(Hawk )?[ -~]{0,80}") {
            let _ = credentials().challenge(&header);
            proptest::prop_assert!(credentials().verify_reply(&artifacts("GET"), &header).is_err());
        }
    }
}
