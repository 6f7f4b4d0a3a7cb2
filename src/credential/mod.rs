//! systemd's protocol for `LoadCredential=` from a socket (systemd.exec(5)): what its connections are called, what fits into
//! a credential, and how a unit is kept from starting without one.
//!
//! Decides nothing about who may have what. Never lets a connection of systemd's end without data or a refusal.
#![forbid(unsafe_code)]

mod kept;
mod refusal;
mod watched;

pub use kept::Kept;
pub use refusal::{refuse, write};
pub use watched::{watched, watched_in_time};

use crate::acl::Unit;

/// The most bytes of all credentials of a unit together with their ids (`CREDENTIALS_TOTAL_SIZE_MAX` of systemd).
pub const LARGEST: usize = 1 << 20;
/// What is written where there is nothing to serve. Above what systemd reads of a credential, encrypted ones included.
pub const OVERLENGTH: usize = LARGEST + (256 << 10);
/// The most bytes that the name of a unit and the id can have together: the rest of `sun_path` (107 bytes, unix(7)) is
/// `@`, up to 16 digits, `/unit/` and `/`. systemd does not connect with longer ones.
pub const LONGEST_NAMES: usize = 83;
/// What the service manager calls the connections that it keeps (`FDNAME=`, sd_notify(3)).
pub const KEPT: &str = "credential";
/// An id is the name of a file and of a descriptor (`FDNAME_MAX` of systemd).
const LONGEST_ID: usize = 255;

/// What the name of a connection of systemd's says that it is for. Anybody can take such a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub unit: Unit,
    pub id: String,
}

impl Address {
    /// `name` is the abstract address of a peer, without the NUL before it: `HEX/unit/UNIT/ID`. `None` for anything else.
    /// The unit is not certain by its name alone.
    pub fn parse(name: &[u8]) -> Option<Self> {
        let parts: Vec<&str> = std::str::from_utf8(name).ok()?.split('/').collect();
        let [number, "unit", unit, id] = parts[..] else { return None };
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let numbered = (1..=16).contains(&number.len()) && number.bytes().all(hex);
        (numbered && is_id(id)).then(|| Some(Self { unit: Unit::new(unit, false)?, id: id.to_owned() }))?
    }
}

/// Whether a connection with this address was meant as one of systemd's, well-formed or not: such a one gets no HTTP.
pub fn is_meant(name: &[u8]) -> bool {
    name.split(|byte| *byte == b'/').nth(1) == Some(b"unit")
}

/// Whether this can be the id of a credential (`credential_name_valid` of systemd).
pub fn is_id(text: &str) -> bool {
    let legal = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b':' && byte != b'/';
    (1..=LONGEST_ID).contains(&text.len()) && text.bytes().all(legal) && text != "." && text != ".."
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(name: &str) -> Option<(String, String)> {
        let address = Address::parse(name.as_bytes())?;
        assert!(is_meant(name.as_bytes()) && !address.unit.certain);
        Some((address.unit.name().to_owned(), address.id))
    }

    #[test]
    fn an_address_is_number_unit_and_id() {
        let some = |unit: &str, id: &str| Some((unit.to_owned(), id.to_owned()));
        assert_eq!(parsed("a2ab26faa3d51b94/unit/app-cred.service/dbpass"), some("app-cred.service", "dbpass"));
        assert_eq!(parsed("0/unit/tmpl@a-b.service/billing.url"), some("tmpl@a-b.service", "billing.url"));
        for (name, meant) in [
            ("/unit/a.service/b", true),
            ("x/unit/a.service/b", true),
            ("A/unit/a.service/b", true),
            ("11112222333344445/unit/a.service/b", true),
            ("1/unit/a.service", true),
            ("1/unit/a.service/", true),
            ("1/unit/a.service/b/c", true),
            ("1/unit//b", true),
            ("1/unit/a b/b", true),
            ("1/unit/../b", true),
            ("1/unit/a.service/..", true),
            ("1/unit/a.service/b:c", true),
            ("1/unit/a.service/b\n", true),
            ("1/unit/a.service/b\0", true),
            ("1/unit/a.service/\u{e4}", true),
            ("1/units/a.service/b", false),
            ("unit/a.service/b", false),
            ("1", false),
            ("", false),
        ] {
            assert_eq!((parsed_or_none(name), is_meant(name.as_bytes())), (None, meant), "{name:?}");
        }
        assert!(is_meant(b"1/unit/\xff") && Address::parse(b"1/unit/a.service/\xff").is_none());
    }

    fn parsed_or_none(name: &str) -> Option<Address> {
        Address::parse(name.as_bytes())
    }

    #[test]
    fn an_id_is_the_name_of_a_file_without_colons() {
        for id in ["a", "billing.database-url", "a b", "...", &"x".repeat(255)] {
            assert!(is_id(id), "{id}");
        }
        for id in ["", ".", "..", "a/b", "a:b", "a\tb", "\u{e4}", &"x".repeat(256)] {
            assert!(!is_id(id), "{id}");
        }
    }

    #[test]
    fn the_longest_names_are_what_the_address_leaves() {
        assert_eq!(1 + 16 + "/unit/".len() + LONGEST_NAMES + 1, 107);
    }
}
