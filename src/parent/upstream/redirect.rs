//! Where a redirect leads: a target of the same origin, or elsewhere. Pure; nothing here is ever sent.

use std::net::Ipv6Addr;

use crate::config::Url;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Redirect {
    /// Path and query, of the same scheme, host and port.
    Within(String),
    Elsewhere,
    /// No URL reference at all.
    Unreadable,
}

/// Resolves a `Location` (RFC 9110 section 10.2.2) against the URL of this origin and target (RFC 3986 section 5.2).
pub(super) fn resolve(origin: &Url, target: &str, location: &str) -> Redirect {
    let reference = location.split('#').next().unwrap_or_default();
    if !reference.bytes().all(|byte| (b'!'..=b'~').contains(&byte) && byte != b'\\') {
        return Redirect::Unreadable;
    }
    let (https, rest) = match scheme(reference) {
        None => (origin.https, reference),
        Some(name) if name.eq_ignore_ascii_case("https") => (true, &reference[name.len() + 1..]),
        Some(name) if name.eq_ignore_ascii_case("http") => (false, &reference[name.len() + 1..]),
        Some(_) => return Redirect::Elsewhere,
    };
    if let Some(rest) = rest.strip_prefix("//") {
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(end);
        if https != origin.https || !is_authority_of(origin, authority) {
            return Redirect::Elsewhere;
        }
        return Redirect::Within(without_dots(if rest.is_empty() { "/" } else { rest }));
    }
    if scheme(reference).is_some() {
        return Redirect::Unreadable;
    }
    let path = target.split('?').next().unwrap_or_default();
    Redirect::Within(match rest.as_bytes().first() {
        None => target.to_owned(),
        Some(b'/') => without_dots(rest),
        Some(b'?') => format!("{path}{rest}"),
        Some(_) => without_dots(&format!("{}{rest}", &path[..=path.rfind('/').unwrap_or(0)])),
    })
}

/// The scheme of an absolute reference.
fn scheme(reference: &str) -> Option<&str> {
    let (name, _) = reference.split_once(':')?;
    let legal = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    legal.then_some(name)
}

/// User info makes it another one: nobody's credentials are taken from a redirect.
fn is_authority_of(origin: &Url, authority: &str) -> bool {
    let host_end = authority.rfind(']').map_or(0, |bracket| bracket + 1);
    let (host, port) = match authority[host_end..].find(':') {
        Some(colon) => (&authority[..host_end + colon], &authority[host_end + colon + 1..]),
        None => (authority, ""),
    };
    let port = if port.is_empty() { Some(if origin.https { 443 } else { 80 }) } else { port.parse::<u16>().ok() };
    let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')?.parse::<Ipv6Addr>().ok());
    let host = address.map_or_else(|| host.to_ascii_lowercase(), |address| format!("[{address}]"));
    host == origin.host && port == Some(origin.port)
}

/// RFC 3986 section 5.2.4, for a path that begins with a slash (or a query right after the authority).
fn without_dots(target: &str) -> String {
    let (path, query) = target.find('?').map_or((target, ""), |at| target.split_at(at));
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                if last {
                    kept.push("");
                }
            }
            _ => kept.push(segment),
        }
    }
    format!("/{}{query}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin() -> Url {
        Url { https: true, host: "api.example.com".into(), port: 443, target: "/".into() }
    }

    fn from(target: &str, location: &str) -> Redirect {
        resolve(&origin(), target, location)
    }

    #[test]
    fn within_the_origin() {
        // The examples of RFC 3986 section 5.4, as far as http has them.
        for (location, target) in [
            ("g", "/b/c/g"),
            ("./g", "/b/c/g"),
            ("g/", "/b/c/g/"),
            ("/g", "/g"),
            ("?y", "/b/c/d;p?y"),
            ("g?y", "/b/c/g?y"),
            ("#s", "/b/c/d;p?q"),
            ("g#s", "/b/c/g"),
            (";x", "/b/c/;x"),
            ("", "/b/c/d;p?q"),
            (".", "/b/c/"),
            ("./", "/b/c/"),
            ("..", "/b/"),
            ("../g", "/b/g"),
            ("../..", "/"),
            ("../../../g", "/g"),
            ("/./g", "/g"),
            ("/../g", "/g"),
            ("g.", "/b/c/g."),
            ("./g/.", "/b/c/g/"),
            ("g/../h", "/b/c/h"),
            ("g?y/./x", "/b/c/g?y/./x"),
            ("./a:b", "/b/c/a:b"),
            ("https://api.example.com", "/"),
            ("https://API.example.com:443/x?y#z", "/x?y"),
            ("HTTPS://api.example.com?y", "/?y"),
            ("//api.example.com/x", "/x"),
        ] {
            assert_eq!(from("/b/c/d;p?q", location), Redirect::Within(target.into()), "{location}");
        }
    }

    #[test]
    fn elsewhere() {
        for location in [
            "http://api.example.com/",
            "https://api.example.com:8443/",
            "https://api.example.com.evil.example/",
            "https://api.example.com@evil.example/",
            "https://user:x@api.example.com/",
            "//evil.example/x",
            "//",
            "ftp://api.example.com/",
            "javascript:alert(1)",
            "https://api.example.com:99999/",
            "https://[::1]/",
        ] {
            assert_eq!(from("/", location), Redirect::Elsewhere, "{location}");
        }
    }

    #[test]
    fn what_is_no_reference() {
        for location in ["/a b", "/\\evil.example", "/\u{7f}", "/ä", "https:/x", "https:x", "\\\\evil.example"] {
            assert_eq!(from("/", location), Redirect::Unreadable, "{location}");
        }
    }

    #[test]
    fn addresses_are_compared_as_addresses() {
        let origin = Url { https: false, host: "[::1]".into(), port: 8080, target: "/".into() };
        assert_eq!(resolve(&origin, "/", "http://[0:0::1]:8080/x"), Redirect::Within("/x".into()));
        assert_eq!(resolve(&origin, "/", "http://[::1]/x"), Redirect::Elsewhere);
        assert_eq!(resolve(&origin, "/", "http://[::1/x"), Redirect::Elsewhere);
    }
}
