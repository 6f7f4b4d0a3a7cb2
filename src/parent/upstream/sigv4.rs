//! Signature Version 4 of AWS, the client's half. Pure: time is given.
//!
//! The keys are borrowed for one call. What is made of them here is fit to be sent, and for nothing else.

use aws_lc_rs::{digest, hmac};
use hyper::header::HeaderMap;
use zeroize::Zeroizing;

use super::request::stamp;

pub(super) struct Credentials<'a> {
    pub(super) id: &'a str,
    pub(super) secret: &'a [u8],
    pub(super) session: Option<&'a [u8]>,
    pub(super) service: &'a str,
    pub(super) region: &'a str,
}

/// What is signed of a request; its headers as they will be sent, `x-amz-date` among them.
pub(super) struct Parts<'r> {
    pub(super) method: &'r str,
    /// Path and query.
    pub(super) target: &'r str,
    /// With the port, where it is not that of the scheme.
    pub(super) host: &'r str,
    pub(super) headers: &'r HeaderMap,
    pub(super) body: &'r [u8],
}

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const HEX: &[u8; 16] = b"0123456789abcdef";

impl Credentials<'_> {
    /// The value of `Authorization`, for a request of this time in seconds since the epoch.
    pub(super) fn authorization(&self, parts: &Parts<'_>, at: u64) -> String {
        let stamp = stamp(at);
        let day = &stamp[..8];
        let (canonical, signed) = self.canonical(parts);
        let scope = format!("{day}/{}/{}/aws4_request", self.region, self.service);
        let text = format!("{ALGORITHM}\n{stamp}\n{scope}\n{}", hash(canonical.as_bytes()));
        let mut secret = Zeroizing::new(Vec::with_capacity(4 + self.secret.len()));
        secret.extend_from_slice(b"AWS4");
        secret.extend_from_slice(self.secret);
        let mut key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
        for part in [day, self.region, self.service, "aws4_request"] {
            key = hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&key, part.as_bytes()).as_ref());
        }
        let signature = hex(hmac::sign(&key, text.as_bytes()).as_ref());
        format!("{ALGORITHM} Credential={}/{scope}, SignedHeaders={signed}, Signature={signature}", self.id)
    }

    /// The canonical request, and the names of the headers that it has.
    fn canonical(&self, parts: &Parts<'_>) -> (String, String) {
        let (path, query) = parts.target.split_once('?').unwrap_or((parts.target, ""));
        let mut headers: Vec<(&str, String)> = vec![("host", parts.host.to_owned())];
        for name in parts.headers.keys().filter(|name| is_signed(name.as_str())) {
            let values = parts.headers.get_all(name).iter();
            let values: Vec<String> = values.map(|value| trimmed(value.as_bytes())).collect();
            headers.push((name.as_str(), values.join(",")));
        }
        headers.sort_unstable();
        let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
        let (names, lines) = (names.join(";"), headers.iter().map(|(name, value)| format!("{name}:{value}\n")));
        let canonical = format!(
            "{}\n{}\n{}\n{}\n{names}\n{}",
            parts.method,
            canonical_path(path, self.service),
            canonical_query(query),
            lines.collect::<String>(),
            hash(parts.body)
        );
        (canonical, names)
    }
}

/// What says what is asked; what a proxy may change is left out.
fn is_signed(name: &str) -> bool {
    matches!(name, "content-type" | "content-md5") || name.starts_with("x-amz-")
}

/// Without white space around it, and with one space for several.
fn trimmed(value: &[u8]) -> String {
    String::from_utf8_lossy(value).split([' ', '\t']).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

/// S3 takes a path as it names its objects; all others encode again what is encoded already, without empty segments.
fn canonical_path(path: &str, service: &str) -> String {
    if service == "s3" {
        return encoded(&decoded(path), b"/");
    }
    let mut clean = String::with_capacity(path.len());
    for byte in path.chars() {
        if byte != '/' || !clean.ends_with('/') {
            clean.push(byte);
        }
    }
    if clean.is_empty() { "/".to_owned() } else { encoded(clean.as_bytes(), b"/") }
}

fn canonical_query(query: &str) -> String {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let mut pairs: Vec<(String, String)> = pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (encoded(&decoded(name), b""), encoded(&decoded(value), b"")))
        .collect();
    pairs.sort_unstable();
    let pairs: Vec<String> = pairs.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    pairs.join("&")
}

fn decoded(text: &str) -> Vec<u8> {
    let digit = |byte: Option<&u8>| char::from(*byte?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (bytes, mut at, mut decoded) = (text.as_bytes(), 0, Vec::with_capacity(text.len()));
    while let Some(&byte) = bytes.get(at) {
        match (byte, digit(bytes.get(at + 1)), digit(bytes.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                decoded.push(high << 4 | low);
                at += 3;
            }
            _ => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    decoded
}

fn encoded(bytes: &[u8], kept: &[u8]) -> String {
    let mut encoded = String::with_capacity(bytes.len());
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) || kept.contains(byte) {
            encoded.push(char::from(*byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

pub(super) fn hash(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
    digits.map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the documentation, as all examples there.
    const EXAMPLE: Credentials<'_> = Credentials {
        id: "AKIDEXAMPLE",
        secret: b"wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
        session: None,
        service: "service",
        region: "us-east-1",
    };
    /// 2015-08-30T12:36:00Z.
    const AT: u64 = 1_440_938_160;

    fn headers(of: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in of {
            headers.append(*name, value.parse().unwrap());
        }
        headers.insert("x-amz-date", stamp(AT).parse().unwrap());
        headers
    }

    fn signed(
        credentials: &Credentials<'_>,
        method: &str,
        target: &str,
        of: &[(&'static str, &str)],
    ) -> (String, String) {
        let parts = Parts { method, target, host: "example.amazonaws.com", headers: &headers(of), body: b"" };
        let value = credentials.authorization(&parts, AT);
        let (rest, signature) = value.rsplit_once("Signature=").unwrap();
        let names = rest.split("SignedHeaders=").nth(1).unwrap().trim_end_matches(", ");
        (names.to_owned(), signature.to_owned())
    }

    #[test]
    fn the_vectors_of_the_test_suite() {
        assert_eq!(stamp(AT), "20150830T123600Z");
        // aws-sig-v4-test-suite: get-vanilla, -query-order-key-case, -empty-query-key, -utf8, -space, post-x-www-form…
        for (method, target, signature) in [
            ("GET", "/", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
            (
                "GET",
                "/?Param2=value2&Param1=value1",
                "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
            ),
            ("POST", "/", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
        ] {
            let (names, got) = signed(&EXAMPLE, method, target, &[]);
            assert_eq!((names.as_str(), got.as_str()), ("host;x-amz-date", signature), "{method} {target}");
        }
    }

    #[test]
    fn a_request_to_the_secrets_manager() {
        let body = b"{\"SecretId\":\"prod/db\",\"VersionStage\":\"AWSCURRENT\"}";
        let of = [
            ("content-type", "application/x-amz-json-1.1"),
            ("x-amz-target", "secretsmanager.GetSecretValue"),
            ("accept", "*/*"),
        ];
        let headers = headers(&of);
        let host = "secretsmanager.us-east-1.amazonaws.com";
        let parts = Parts { method: "POST", target: "/", host, headers: &headers, body };
        let credentials = Credentials { service: "secretsmanager", ..EXAMPLE };
        assert_eq!(hash(body), "ab3032330d192945c13b322cefb6dd64624f73e0cc8ded7f4910d246bb967cb4");
        let (canonical, names) = credentials.canonical(&parts);
        assert_eq!(names, "content-type;host;x-amz-date;x-amz-target");
        assert_eq!(hash(canonical.as_bytes()), "c52546951741908d0ffd1b3070803a7463379b020ecf038871bf753b051db05d");
        let value = credentials.authorization(&parts, AT);
        assert!(
            value.ends_with("Signature=c5bed2178bc6198a11b940ad7bcac122d5a3b382e7b7c48caf559013ed8d02da"),
            "{value}"
        );
        assert!(
            value.starts_with(
                "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/secretsmanager/aws4_request, "
            )
        );
    }

    #[test]
    fn paths_are_encoded_twice_but_for_s3() {
        assert_eq!(canonical_path("/a%20b/c:d", "ssm"), "/a%2520b/c%3Ad");
        assert_eq!(canonical_path("/a%20b/c:d//e", "s3"), "/a%20b/c%3Ad//e");
        assert_eq!(canonical_path("//a///b/", "ssm"), "/a/b/");
        assert_eq!(canonical_path("", "ssm"), "/");
    }

    #[test]
    fn a_query_is_sorted_as_it_is_encoded() {
        assert_eq!(canonical_query("b=2&a=%7e&a=1&c&d=x:y&%41=z"), "A=z&a=1&a=~&b=2&c=&d=x%3Ay");
        assert_eq!(canonical_query(""), "");
        assert_eq!(canonical_query("a=%2f%zz"), "a=%2F%25zz");
    }

    #[test]
    fn values_of_headers_are_trimmed_and_joined() {
        let (names, _) =
            signed(&EXAMPLE, "GET", "/", &[("x-amz-meta", "  a   b "), ("x-amz-meta", "c"), ("user-agent", "x")]);
        assert_eq!(names, "host;x-amz-date;x-amz-meta");
        let of = headers(&[("x-amz-meta", " a \t  b "), ("x-amz-meta", "c")]);
        let parts = Parts { method: "GET", target: "/", host: "h", headers: &of, body: b"" };
        assert!(EXAMPLE.canonical(&parts).0.contains("\nx-amz-meta:a b,c\n"));
    }
}
