//! URLs of upstreams: `http` and `https` only, in one canonical spelling (RFC 3986, RFC 9110 section 4.2).
//!
//! Errors never repeat the URL: it may hold a password.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::Url;
use super::mask;
use super::table::Bad;
use super::text::{Scope, Text};

const MAX_LEN: usize = 8192;

/// Checks and normalises an absolute URL. The name is that of the setting, for errors.
pub(super) fn parse(name: &str, text: &str) -> Result<Url, Bad> {
    parse_with(name, text, &Scope::new(&[])).map(|(url, _)| url)
}

/// The same with parameters in path and query; the target is to be taken from the text.
pub(super) fn parse_with(name: &str, text: &str, scope: &Scope<'_>) -> Result<(Url, Text), Bad> {
    if text.len() > MAX_LEN {
        return Err(Bad::new(format!("`{name}` has more than {MAX_LEN} bytes")));
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(Bad::new(format!("`{name}` is not a URL")).help("a URL looks like \"https://host/path\""));
    };
    let https = match scheme.to_ascii_lowercase().as_str() {
        "https" => true,
        "http" => false,
        _ => return Err(Bad::new(format!("`{name}` is neither http nor https"))),
    };
    let end = rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len());
    let (authority, target) = rest.split_at(end);
    // A password with a slash ends the authority early; it must be refused as what it is.
    let misplaced =
        target.contains('@') && authority.contains(':') && host_and_port(name, authority, default_port(https)).is_err();
    if authority.contains('@') || misplaced {
        return Err(Bad::new(format!("`{name}` holds user info (`user:password@`)")).help(
            "a secret never stands in the configuration: put the password into a file, name it in [tokens], and use auth = { type = \"basic\", user = \"…\", token = \"…\" }",
        ));
    }
    if target.contains('#') {
        return Err(Bad::new(format!("`{name}` has a fragment (`#…`), which is never sent")).help("leave it out"));
    }
    if authority.contains(['{', '}']) {
        return Err(Bad::new(format!("`{name}` has a brace in its host or port"))
            .help("a parameter may stand in path and query, never in scheme, host or port: whoever asks would choose who is shown the token"));
    }
    let (host, port) = host_and_port(name, authority, default_port(https))?;
    if scope.names().is_empty() && target.contains(['{', '}']) {
        return Err(Bad::new(format!("`{name}` has a brace"))
            .help("a parameter has to stand in the key as well, such as [keys.\"/a/{name}\"]; write a literal brace as %7B or %7D"));
    }
    let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
    let template = Text::strict(name, &target, scope)?;
    template.literals().try_for_each(|literal| check_target(name, literal))?;
    if mask::has_secret_parameter(text) || mask::is_secret(text) {
        return Err(Bad::new(format!("`{name}` seems to hold a secret")).help(
            "a secret never stands in the configuration: put it into a file, name it in [tokens], and use `auth`",
        ));
    }
    Ok((Url { https, host, port, target }, template))
}

/// The origin that a person has written, as [`Url::origin`] spells it: with its port, without a slash behind it. `None` where
/// it is none of http or https.
pub fn origin(text: &str) -> Option<String> {
    parse("origin", text).ok().filter(|url| url.target == "/").map(|url| url.origin())
}

fn default_port(https: bool) -> u16 {
    if https { 443 } else { 80 }
}

/// The host in lower case, and the port if one is written, else `default`.
pub(super) fn host_and_port(name: &str, authority: &str, default: u16) -> Result<(String, u16), Bad> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let Some((address, port)) = rest.split_once(']') else {
                return Err(Bad::new(format!("`{name}` has an IPv6 address without `]`")));
            };
            let address: Ipv6Addr = address
                .parse()
                .map_err(|_| Bad::new(format!("`{name}` has brackets around what is no IPv6 address")))?;
            (format!("[{address}]"), port)
        }
        None => {
            let end = authority.find(':').unwrap_or(authority.len());
            (reg_name(name, &authority[..end])?, &authority[end..])
        }
    };
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => default,
        Some(digits) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => digits
            .parse()
            .ok()
            .filter(|port| *port != 0)
            .ok_or_else(|| Bad::new(format!("`{name}` has a port out of range")).help("legal is 1 to 65535"))?,
        _ => return Err(Bad::new(format!("`{name}` has a port that is no number")).help("legal is 1 to 65535")),
    };
    Ok((host, port))
}

/// A host name or IPv4 address, in lower case.
fn reg_name(name: &str, host: &str) -> Result<String, Bad> {
    if host.is_empty() {
        return Err(Bad::new(format!("`{name}` has no host")));
    }
    if !host.is_ascii() {
        return Err(Bad::new(format!("`{name}` has a host that is not ASCII"))
            .help("write an internationalised name in its `xn--` form"));
    }
    let host = host.to_ascii_lowercase();
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if host.len() > 253 || !host.split('.').all(label) {
        return Err(Bad::new(format!("`{name}` has a host that is no host name"))
            .help("a host name is made of letters, digits and `-`, with dots between"));
    }
    // As in the URL standard of the WHATWG: a last label that is a number makes it an address.
    let last = host.rsplit('.').next().unwrap_or_default();
    let number = last.bytes().all(|b| b.is_ascii_digit()) || last.starts_with("0x");
    if number && host.parse::<Ipv4Addr>().is_err() {
        return Err(Bad::new(format!("`{name}` has a host that looks like an IPv4 address and is none")));
    }
    Ok(host)
}

/// Path and query hold what a request line may hold (RFC 3986 section 3.3 and 3.4), nothing to be guessed.
fn check_target(name: &str, target: &str) -> Result<(), Bad> {
    let bytes = target.as_bytes();
    for (at, byte) in bytes.iter().enumerate() {
        let escaped = || bytes.get(at + 1..at + 3).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit));
        match byte {
            b'%' if !escaped() => {
                return Err(Bad::new(format!("`{name}` has a `%` without two hex digits")).help("write it as %25"));
            }
            b'%' => {}
            _ if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/?[]".contains(byte) => {}
            _ => {
                return Err(Bad::new(format!("`{name}` has a character that is not legal in a URL"))
                    .help("write spaces, control characters and everything beyond ASCII percent-encoded"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(text: &str) -> Result<String, String> {
        parse("url", text).map(|url| format!("{}{}", url.origin(), url.target)).map_err(|bad| bad.title)
    }

    #[test]
    fn one_spelling_for_one_url() {
        for (text, expected) in [
            ("https://API.Example.com", "https://api.example.com:443/"),
            ("HTTP://h:8080/a%20b?c=d&e", "http://h:8080/a%20b?c=d&e"),
            ("https://h?q=1", "https://h:443/?q=1"),
            ("http://[0:0::1]:81/", "http://[::1]:81/"),
            ("http://127.0.0.1/@me", "http://127.0.0.1:80/@me"),
        ] {
            assert_eq!(canonical(text).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn user_info_is_refused_without_being_repeated() {
        for text in ["https://user:hunter2@h/", "https://user:hun/ter2@h/", "https://hunter2@h"] {
            let error = canonical(text).unwrap_err();
            assert!(error.contains("user info") && !error.contains("hun"), "{error}");
        }
    }

    #[test]
    fn what_is_no_upstream() {
        for text in [
            "",
            "example.com",
            "ftp://h/",
            "https://",
            "https:///a",
            "https://h:0/",
            "https://h:65536/",
            "https://h:/",
            "https://h:8a/",
            "https://[::1",
            "https://[fe80::1%25eth0]/",
            "https://ex ample/",
            "https://h/ä",
            "https://h/a b",
            "https://h/%2",
            "https://h/#x",
            "https://-h/",
            "https://a..b/",
            "https://h./",
            "https://1.2.3/",
            "https://0x7f.1/",
            "https://h\\@evil/",
            "https://h/{x}",
            "https://bücher.example/",
            "https://h/?access_token=abc",
        ] {
            assert!(canonical(text).is_err(), "{text:?}");
        }
    }
}
