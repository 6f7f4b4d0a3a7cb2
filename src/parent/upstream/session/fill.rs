//! Secrets in the places that a text has for them, encoded so that each stays in its place, in buffers that are wiped.

use zeroize::Zeroizing;

use crate::config::{Encoding, Piece, Text};

/// As many bytes as one byte of a secret can become.
const LONGEST: usize = 6;

/// The text with these secrets, by their places.
pub(super) fn fill(text: &Text, secrets: &[&[u8]], encoding: Encoding) -> Zeroizing<Vec<u8>> {
    let len = |piece: &Piece| match piece {
        Piece::Literal(text) => text.len(),
        Piece::Parameter(at) => secrets.get(*at).map_or(0, |secret| secret.len() * LONGEST),
    };
    // Room for all of it, so that nothing moves and leaves a copy.
    let mut filled = Zeroizing::new(Vec::with_capacity(text.pieces().iter().map(len).sum()));
    for piece in text.pieces() {
        match piece {
            Piece::Literal(text) => filled.extend_from_slice(text.as_bytes()),
            Piece::Parameter(at) => {
                secrets.get(*at).into_iter().for_each(|secret| write(secret, encoding, &mut filled));
            }
        }
    }
    filled
}

/// Adds a secret, which is printable ASCII, or lines of it.
pub(super) fn write(secret: &[u8], encoding: Encoding, to: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let hex = |byte: u8| [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]];
    for byte in secret {
        match (encoding, byte) {
            (Encoding::Plain, _) => to.push(*byte),
            (Encoding::Percent, b'-' | b'.' | b'_' | b'~') => to.push(*byte),
            (Encoding::Percent, _) if byte.is_ascii_alphanumeric() => to.push(*byte),
            (Encoding::Percent, _) => {
                to.push(b'%');
                to.extend_from_slice(&hex(*byte));
            }
            (Encoding::Json, b'"' | b'\\') => to.extend_from_slice(&[b'\\', *byte]),
            (Encoding::Json, 0..0x20) => {
                to.extend_from_slice(b"\\u00");
                to.extend_from_slice(&hex(*byte));
            }
            (Encoding::Json, _) => to.push(*byte),
        }
    }
}

/// `{"token": …}`.
pub(super) fn json_token(token: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut body = Zeroizing::new(Vec::with_capacity(token.len() * LONGEST + 12));
    body.extend_from_slice(b"{\"token\":\"");
    write(token, Encoding::Json, &mut body);
    body.extend_from_slice(b"\"}");
    body
}

/// Fields of a form (`application/x-www-form-urlencoded`).
pub(super) fn form(fields: &[(&str, &[u8])]) -> Zeroizing<Vec<u8>> {
    let len = fields.iter().map(|(name, value)| name.len() + 2 + value.len() * LONGEST).sum();
    let mut form = Zeroizing::new(Vec::with_capacity(len));
    for (name, value) in fields {
        if !form.is_empty() {
            form.push(b'&');
        }
        form.extend_from_slice(name.as_bytes());
        form.push(b'=');
        write(value, Encoding::Percent, &mut form);
    }
    form
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(secret: &[u8], encoding: Encoding) -> Vec<u8> {
        let mut to = Vec::new();
        write(secret, encoding, &mut to);
        to
    }

    #[test]
    fn a_secret_stays_in_its_place() {
        let all: Vec<u8> = (b' '..=b'~').chain(*b"\t\r\n").collect();
        let json = [b"\"", written(&all, Encoding::Json).as_slice(), b"\""].concat();
        assert_eq!(serde_json::from_slice::<String>(&json).unwrap().as_bytes(), all);
        let percent = String::from_utf8(written(&all, Encoding::Percent)).unwrap();
        assert!(percent.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%".contains(&byte)), "{percent}");
        assert_eq!(written(b"a b&c=%/+", Encoding::Percent), b"a%20b%26c%3D%25%2F%2B");
        assert_eq!(*form(&[("grant_type", b"x y"), ("scope", b"a/b")]), b"grant_type=x%20y&scope=a%2Fb");
    }
}
