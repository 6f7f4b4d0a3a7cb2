//! The systemd unit of a peer, and patterns over the names of units (systemd.unit(5)). A unit only narrows.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::pattern::{PatternError, Pieces};

/// A name has at most this many bytes (`UNIT_NAME_MAX` of systemd, without its NUL).
const LONGEST: usize = 255;
/// The types of units whose processes have a control group that is not a slice.
const TYPES: &[&str] = &[".service", ".scope", ".socket", ".mount", ".swap"];

/// The unit that a peer is in.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Unit {
    name: String,
    /// By a pidfd that the kernel gave for the socket. Else by the number of the process, which may have been another one's.
    pub certain: bool,
}

impl Unit {
    /// `None` if this is no name of a unit.
    pub fn new(name: &str, certain: bool) -> Option<Self> {
        let legal = (1..=LONGEST).contains(&name.len()) && name.bytes().all(is_unit_byte);
        (legal && name != "." && name != "..").then(|| Self { name: name.to_owned(), certain })
    }

    /// From the content of `/proc/PID/cgroup` (cgroups(7)): the first component that is not a slice, and none under
    /// `user.slice`. What follows it is the unit's own business: with `Delegate=` it can make any name.
    pub fn of_cgroups(text: &str, certain: bool) -> Option<Self> {
        let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
        // A group that was removed, with a process that is as good as gone.
        if path.ends_with(" (deleted)") {
            return None;
        }
        let is_slice = |component: &&str| component.ends_with(".slice");
        if path.split('/').take_while(is_slice).any(|slice| slice == "user.slice") {
            return None;
        }
        let name = path.split('/').find(|component| !is_slice(component))?;
        // systemd puts this before a name that would clash with a file of the kernel's.
        Self::new(name.strip_prefix('_').unwrap_or(name), certain)
    }

    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// A pattern over the names of units: `*` is any characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitPattern(Pieces);

/// Why a text is no pattern over units.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnitPatternError {
    Empty,
    TooLong {
        len: usize,
    },
    Character {
        found: char,
    },
    DoubleStar,
    /// A slice holds units and is none.
    Slice,
    /// Neither a type of unit nor a star is its end: no unit has such a name.
    NoType,
}

impl fmt::Display for UnitPatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "a unit has a name"),
            Self::TooLong { len } => write!(f, "the name of a unit has at most {LONGEST} bytes, and this has {len}"),
            Self::Character { found } => write!(
                f,
                "{found:?} is not legal in the name of a unit; legal are A-Z a-z 0-9 : - _ . \\ @ and the star"
            ),
            Self::DoubleStar => write!(f, "one `*` is any characters already"),
            Self::Slice => write!(f, "a slice holds units and is none itself"),
            Self::NoType => write!(f, "the name of a unit ends in its type, such as .service"),
        }
    }
}

impl std::error::Error for UnitPatternError {}

impl UnitPattern {
    pub fn parse(text: &str) -> Result<Self, UnitPatternError> {
        if text.is_empty() {
            return Err(UnitPatternError::Empty);
        }
        if text.len() > LONGEST {
            return Err(UnitPatternError::TooLong { len: text.len() });
        }
        if text.contains("**") {
            return Err(UnitPatternError::DoubleStar);
        }
        let pieces = Pieces::parse(text, is_unit_byte).map_err(|error| match error {
            PatternError::Character { found } => UnitPatternError::Character { found },
            _ => UnitPatternError::Empty,
        })?;
        if text.ends_with(".slice") {
            return Err(UnitPatternError::Slice);
        }
        if !text.ends_with('*') && !TYPES.iter().any(|of| text.ends_with(of)) {
            return Err(UnitPatternError::NoType);
        }
        Ok(Self(pieces))
    }

    pub fn matches(&self, unit: &Unit) -> bool {
        self.0.matches(&unit.name)
    }
}

impl fmt::Display for UnitPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Of the names of units (systemd's `VALID_CHARS`).
fn is_unit_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(text: &str) -> Option<String> {
        Unit::of_cgroups(text, true).map(|unit| unit.name)
    }

    #[test]
    fn the_unit_is_the_first_component_that_is_not_a_slice() {
        let of = |path: &str| unit(&format!("12:cpu:/x.service\n1:name=systemd:/y.service\n0::{path}\n"));
        assert_eq!(of("/system.slice/web.service").as_deref(), Some("web.service"));
        assert_eq!(of("/system.slice/system-web.slice/web@1.service/sub").as_deref(), Some("web@1.service"));
        assert_eq!(of("/system.slice/evil.service/web.service").as_deref(), Some("evil.service"));
        assert_eq!(of("/system.slice/evil.service/x.slice/web.service").as_deref(), Some("evil.service"));
        assert_eq!(of("/init.scope").as_deref(), Some("init.scope"));
        assert_eq!(of("/system.slice/_cgroup.x.service").as_deref(), Some("cgroup.x.service"));
    }

    #[test]
    fn under_a_user_and_outside_of_all_there_is_none() {
        let of = |path: &str| unit(&format!("0::{path}\n"));
        assert_eq!(of("/user.slice/user-1001.slice/user@1001.service/app.slice/web.service"), None);
        assert_eq!(of("/user.slice/user-1001.slice/session-2.scope"), None);
        assert_eq!(of("/a.slice/user.slice/web.service"), None);
        for path in ["/", "/system.slice", "", "/../web.service", "/./web.service", "//web.service"] {
            assert_eq!(of(path), None, "{path}");
        }
        assert_eq!(of("/system.slice/web.service (deleted)"), None);
        assert_eq!(of("/system.slice/we b.service"), None);
        assert_eq!(unit("1:name=systemd:/system.slice/web.service\n"), None);
        assert_eq!(unit(""), None);
    }

    #[test]
    fn patterns_over_units_are_checked() {
        let parse = |text: &str| UnitPattern::parse(text).map(|pattern| pattern.to_string());
        for text in ["web.service", "web@*.service", "*", "web*", "a\\x2db.service", "session-*.scope"] {
            assert_eq!(parse(text).as_deref(), Ok(text));
        }
        assert_eq!(parse(""), Err(UnitPatternError::Empty));
        assert_eq!(parse("web"), Err(UnitPatternError::NoType));
        assert_eq!(parse("web*.slice"), Err(UnitPatternError::Slice));
        assert_eq!(parse("a**.service"), Err(UnitPatternError::DoubleStar));
        assert_eq!(parse("a/b.service"), Err(UnitPatternError::Character { found: '/' }));
        assert_eq!(parse(&format!("{}.service", "a".repeat(250))), Err(UnitPatternError::TooLong { len: 258 }));
        let pattern = UnitPattern::parse("web@*.service").unwrap();
        let matches = |name: &str| pattern.matches(&Unit::new(name, true).unwrap());
        assert!(matches("web@1.service") && matches("web@.service"));
        assert!(!matches("web.service") && !matches("xweb@1.service") && !matches("web@1.service.d"));
    }
}
