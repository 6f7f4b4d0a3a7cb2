//! One token: the only place where its bytes live, from the descriptor that it is read from to the pages that are wiped.
//!
//! Never copied, printed or serialised, and no error here holds a byte of one.

use std::fmt;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use super::upstream::Useless;
use crate::sys::guarded::Guarded;

/// The longest token, in bytes, without its line end.
pub(super) const MAX_TOKEN_LEN: usize = 64 << 10;

/// One credential for an upstream: 1 to [`MAX_TOKEN_LEN`] bytes of printable ASCII, in pages of its own. Wiped when dropped.
pub(in crate::parent) struct ApiToken(Guarded);

/// What a token file may hold.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// What is shown: one line.
    Line,
    /// What is read: key files, credentials with their names.
    File,
}

impl ApiToken {
    /// The bytes, for a header or a MAC that is built and wiped within the call.
    pub(in crate::parent) fn bytes(&self) -> &[u8] {
        self.0.bytes()
    }

    /// A token that an upstream has given: one line of these bytes, which the caller wipes where they were.
    pub(in crate::parent) fn given(bytes: &[u8]) -> Result<Self, TokenFault> {
        // No line end is taken off: it would be a part of the token.
        if bytes.ends_with(b"\n") { Err(TokenFault::SeveralLines) } else { Self::parse(bytes, Shape::Line) }
    }

    /// Reads and checks the whole file, from its start, wherever the descriptor's offset is.
    pub(super) fn read(fd: OwnedFd, of: Shape) -> Result<Self, TokenFault> {
        let file = File::from(fd);
        let told = file.metadata().map_err(TokenFault::Read)?.len();
        // Locked memory is scarce: no more than the file says, if it says anything.
        let told = usize::try_from(told).unwrap_or(MAX_TOKEN_LEN).min(MAX_TOKEN_LEN);
        for room in [told, MAX_TOKEN_LEN].into_iter().filter(|room| *room > 0) {
            // Room for the line end, and one byte more that tells a file that is longer.
            let (text, len) = Self::read_up_to(&file, room + 3).map_err(TokenFault::Read)?;
            if len < room + 3 || room == MAX_TOKEN_LEN {
                return Self::parse(&text.bytes()[..len], of);
            }
        }
        Err(TokenFault::TooLong)
    }

    fn read_up_to(file: &File, room: usize) -> std::io::Result<(Guarded, usize)> {
        let mut len = 0;
        let text = Guarded::try_with(room, |buffer| {
            while len < buffer.len() {
                match file.read_at(&mut buffer[len..], len as u64) {
                    Ok(0) => break,
                    Ok(n) => len += n,
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        })?;
        Ok((text, len))
    }

    fn parse(text: &[u8], of: Shape) -> Result<Self, TokenFault> {
        let line = text.strip_suffix(b"\n").map_or(text, |t| t.strip_suffix(b"\r").unwrap_or(t));
        if line.is_empty() {
            return Err(TokenFault::Empty);
        }
        if line.len() > MAX_TOKEN_LEN {
            return Err(TokenFault::TooLong);
        }
        let of_lines = |byte: &u8| of == Shape::File && b"\t\r\n".contains(byte);
        if of == Shape::Line && line.contains(&b'\n') {
            return Err(TokenFault::SeveralLines);
        }
        if !line.iter().all(|byte| (b' '..=b'~').contains(byte) || of_lines(byte)) {
            return Err(TokenFault::Character);
        }
        Guarded::copy_of(line).map(Self).map_err(TokenFault::Read)
    }

    /// Whether the bytes are the same: only ever asked of one that is to replace the other.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

/// What is wrong with the content of a token file.
#[derive(Debug)]
pub enum TokenFault {
    Read(std::io::Error),
    Empty,
    SeveralLines,
    TooLong,
    Character,
    /// Not a key file of Google's for where its assertion goes.
    GoogleKey(Useless),
    /// Not a file of credentials of AWS, with the profile that is wanted.
    AwsCredentials(Useless),
}

impl fmt::Display for TokenFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(_) => write!(f, "the file cannot be read"),
            Self::Empty => write!(f, "the file is empty; it must hold the token, on one line"),
            Self::SeveralLines => write!(f, "the file has more than one line; it must hold the token alone"),
            Self::TooLong => write!(f, "the token is longer than {MAX_TOKEN_LEN} bytes"),
            Self::Character => {
                write!(f, "the token has a byte that is not printable ASCII; is the file in another encoding?")
            }
            Self::GoogleKey(Useless::OtherTokenUrl) => {
                write!(f, "the key file is of no use: {}; they must be the same", Useless::OtherTokenUrl)
            }
            Self::GoogleKey(why) => write!(
                f,
                "the key file is of no use: {why}; it must be the key of a service account in JSON, as Google gives it out"
            ),
            Self::AwsCredentials(why) => write!(
                f,
                "the file of credentials is of no use: {why}; it must have the lines AWS_ACCESS_KEY_ID=… and \
                 AWS_SECRET_ACCESS_KEY=…, or profiles as ~/.aws/credentials has them"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    static_assertions::assert_not_impl_any!(ApiToken: fmt::Debug, fmt::Display, Clone, serde::Serialize, PartialEq);

    fn token(content: &[u8]) -> Result<ApiToken, TokenFault> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        ApiToken::read(file.into(), Shape::Line)
    }

    fn fault(content: &[u8]) -> TokenFault {
        token(content).err().expect("a fault")
    }

    #[test]
    fn one_line_end_is_trimmed_and_nothing_else() {
        for content in [&b"s3cret"[..], b"s3cret\n", b"s3cret\r\n"] {
            assert_eq!(token(content).ok().unwrap().bytes(), b"s3cret");
        }
        assert_eq!(token(b" a b \n").ok().unwrap().bytes(), b" a b ");
    }

    #[test]
    fn what_is_no_token_is_refused() {
        assert!(matches!(fault(b""), TokenFault::Empty));
        assert!(matches!(fault(b"\n"), TokenFault::Empty));
        assert!(matches!(fault(b"\r\n"), TokenFault::Empty));
        assert!(matches!(fault(b"one\ntwo\n"), TokenFault::SeveralLines));
        assert!(matches!(fault(b"one\n\n"), TokenFault::SeveralLines));
        assert!(matches!(fault(b"a\0b"), TokenFault::Character));
        assert!(matches!(fault(b"a\rb"), TokenFault::Character));
        assert!(matches!(fault(b"caf\xc3\xa9"), TokenFault::Character));
        assert!(matches!(fault(b"\xff\xfe"), TokenFault::Character));
    }

    #[test]
    fn the_longest_token_fits_and_a_byte_more_does_not() {
        let mut content = vec![b'x'; MAX_TOKEN_LEN];
        content.extend_from_slice(b"\r\n");
        assert!(token(&content).is_ok());
        content.insert(0, b'x');
        assert!(matches!(fault(&content), TokenFault::TooLong));
        assert!(matches!(fault(&vec![b'x'; 10 * MAX_TOKEN_LEN]), TokenFault::TooLong));
    }
}
