//! The places of a template in which parameters stand, and how a value is written in each of them. Pure.

use super::super::text::Encoding;
use super::parameter::Kind;

/// What a text of a template is a part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// A whole URL, which has places of its own.
    Url,
    Path,
    Query,
    Header,
    Json,
    Form,
    Pointer,
    /// A name of a field, or all of them.
    Field,
    /// What a member of an element is compared with.
    Member,
    /// What says who asks, and the names of tokens.
    Auth,
    /// No parameter may stand here.
    Fixed,
}

impl Place {
    /// Of a setting of the source.
    pub(super) fn of(setting: &str, body: Self) -> Self {
        match setting {
            "url" => Self::Url,
            "query" => Self::Query,
            "headers" => Self::Header,
            "body" => body,
            "json" => Self::Json,
            "field" => Self::Field,
            "pointer" => Self::Pointer,
            "auth" => Self::Auth,
            _ => Self::Fixed,
        }
    }

    /// Of a setting below one that is at this place.
    pub(super) fn within(self, setting: &str) -> Self {
        match (self, setting) {
            (Self::Auth, "url" | "token-url" | "renew") => Self::Url,
            // What is posted to log in is JSON, or nothing of a parameter's stands in it.
            (Self::Auth, "body") => Self::Json,
            (place, _) => place,
        }
    }

    /// Of a setting of one step of `extract`.
    pub(super) fn of_step(setting: &str) -> Self {
        match setting {
            "pointer" => Self::Pointer,
            "field" => Self::Field,
            "where" => Self::Member,
            _ => Self::Fixed,
        }
    }

    /// Whether a value that somebody asks for may stand here: what it selects is data.
    pub(super) fn may_be_asked_for(self) -> bool {
        matches!(self, Self::Path | Self::Query | Self::Json | Self::Form | Self::Pointer | Self::Field | Self::Member)
    }

    /// Whether it only selects from the answer.
    pub(super) fn is_of_projection(self) -> bool {
        matches!(self, Self::Pointer | Self::Field | Self::Member)
    }

    /// Writes what a person gave so that it means itself here.
    pub(super) fn encode(self, kind: Kind, text: &str) -> String {
        let mut written = String::new();
        match self {
            Self::Path if kind == Kind::Path => {
                for (index, segment) in text.split('/').enumerate() {
                    if index > 0 {
                        written.push('/');
                    }
                    Encoding::Percent.write(segment, &mut written);
                }
            }
            Self::Path | Self::Query | Self::Form => Encoding::Percent.write(text, &mut written),
            Self::Json => Encoding::Json.write(text, &mut written),
            Self::Pointer => written = text.replace('~', "~0").replace('/', "~1"),
            Self::Url | Self::Header | Self::Field | Self::Member | Self::Auth | Self::Fixed => {
                text.clone_into(&mut written)
            }
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_stays_in_its_place() {
        let wild = "a/b?c#d\"e~f%g";
        for (place, kind, expected) in [
            (Place::Path, Kind::Text, "a%2Fb%3Fc%23d%22e~f%25g"),
            (Place::Path, Kind::Path, "a/b%3Fc%23d%22e~f%25g"),
            (Place::Query, Kind::Path, "a%2Fb%3Fc%23d%22e~f%25g"),
            (Place::Json, Kind::Text, "a/b?c#d\\\"e~f%g"),
            (Place::Pointer, Kind::Text, "a~1b?c#d\"e~0f%g"),
            (Place::Member, Kind::Text, wild),
        ] {
            assert_eq!(place.encode(kind, wild), expected, "{place:?} {kind:?}");
        }
    }
}
