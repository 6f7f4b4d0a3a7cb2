//! The parameters of a preset: what each of them may be, and what a key gave for it.

use std::ops::Range;

use super::super::diagnostic::{Report, quoted};
use super::super::names;
use super::super::table::{Bad, Node, Table};
use super::super::text::{Scope, Text};
use super::super::tokens::Tokens;
use super::super::{Url, mask, url, values};

/// Longer than any name that an upstream has for something.
const LONGEST: u32 = 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// One segment of a path, or one value anywhere else.
    Text,
    /// Segments with slashes between them.
    Path,
    /// The name of an entry of `[tokens]`.
    Token,
    /// A name, or a list of names, of what is selected.
    Fields,
    /// One of several words.
    Choice,
    Boolean,
    /// Scheme, host and port, and what all paths there begin with.
    Origin,
    /// A part of the name of a host.
    HostLabel,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Path => "path",
            Self::Token => "token",
            Self::Fields => "fields",
            Self::Choice => "choice",
            Self::Boolean => "boolean",
            Self::Origin => "origin",
            Self::HostLabel => "host-label",
        }
    }
}

pub(super) struct Parameter<'a> {
    pub(super) name: &'a str,
    pub(super) kind: Kind,
    pub(super) doc: &'a str,
    pub(super) default: Option<&'a str>,
    /// What names it is left out where nothing is given for it.
    pub(super) optional: bool,
    pub(super) example: Option<Node<'a>>,
    /// Of a choice.
    pub(super) words: Vec<&'a str>,
    pub(super) characters: Option<&'a str>,
    longest: usize,
    /// Where it is defined.
    pub(super) node: Node<'a>,
}

/// What a key, or a default, says for a parameter.
pub(super) struct Value {
    /// One, or with a list of fields several.
    pub(super) texts: Vec<Text>,
    pub(super) list: bool,
    /// Of an origin.
    pub(super) url: Option<Url>,
    /// Where it was written; `None` for a default.
    pub(super) span: Option<Range<usize>>,
}

impl Value {
    pub(super) fn of(text: &str) -> Self {
        Self { texts: vec![Text::literal(text)], list: false, url: None, span: None }
    }
}

impl<'a> Parameter<'a> {
    pub(super) fn read(node: Node<'a>, report: &mut Report<'_>) -> Option<Self> {
        let before = report.errors.len();
        let table = node.table(report, &names::PRESET_PARAMETER)?;
        let kind = table.require(report, "type", "\"text\"").and_then(|node| node.word(report, names::PARAMETER_TYPES));
        let doc =
            table.require(report, "doc", "\"what it is\"").and_then(|node| node.string(report)).unwrap_or_default();
        let kind = match kind? {
            "text" => Kind::Text,
            "path" => Kind::Path,
            "token" => Kind::Token,
            "fields" => Kind::Fields,
            "choice" => Kind::Choice,
            "boolean" => Kind::Boolean,
            "origin" => Kind::Origin,
            _ => Kind::HostLabel,
        };
        let words = words(&table, kind, report);
        let characters = table.get("characters").and_then(|node| node.parsed(report, parse_characters).map(|()| node));
        let longest = table.get("longest").and_then(|node| node.integer(report, 1, LONGEST)).unwrap_or(LONGEST);
        for node in ["characters", "longest"].into_iter().filter_map(|name| table.get(name)) {
            if kind != Kind::Text {
                report.error(node.error(format!("`{}` is for parameters of type \"text\"", node.name)));
            }
        }
        let optional = table.get("optional").and_then(|node| node.boolean(report)).unwrap_or(false);
        let parameter = Self {
            name: node.name,
            kind,
            doc,
            default: None,
            optional,
            example: table.get("example"),
            words,
            characters: characters.and_then(|node| node.as_str()),
            longest: usize::try_from(longest).unwrap_or(usize::MAX),
            node,
        };
        let default = table.get("default").and_then(|node| parameter.read_default(&node, report));
        if let Some(node) = table.get("optional").filter(|_| optional && table.get("default").is_some()) {
            report.error(node.error("what has a `default` is not `optional`").help("leave one of the two out"));
        }
        let anywhere = Tokens::unchecked();
        if let Some(example) = &parameter.example {
            parameter.judge(example, &anywhere, &Scope::new(&[]), report);
        }
        (report.errors.len() == before).then_some(Self { default, ..parameter })
    }

    fn read_default(&self, node: &Node<'a>, report: &mut Report<'_>) -> Option<&'a str> {
        if matches!(self.kind, Kind::Token | Kind::Fields) {
            let error = node.error(format!("a parameter of type \"{}\" has no default", self.kind.name()));
            report.error(error.help("it is required, or: optional = true"));
            return None;
        }
        if self.kind == Kind::Boolean {
            return node.boolean(report).map(|truth| if truth { "true" } else { "false" });
        }
        // Another parameter may stand in the host of an origin: judged where that is put in.
        let text = node.string(report)?;
        if self.kind != Kind::Origin {
            self.judge(node, &Tokens::unchecked(), &Scope::new(&[]), report)?;
        }
        Some(text)
    }

    /// Whether a key without it is complete.
    pub(super) fn may_lack(&self) -> bool {
        self.optional || self.default.is_some()
    }

    /// What a person may write, such as `"billing-prod"`.
    pub(super) fn shown_example(&self) -> String {
        match &self.example {
            Some(node) => node.shown(),
            None => match self.kind {
                // Of a set, its first character.
                Kind::Text => format!("\"{}\"", self.characters.and_then(|set| set.get(..1)).unwrap_or("x")),
                Kind::Path | Kind::Fields | Kind::HostLabel => "\"x\"".to_owned(),
                Kind::Token => "\"NAME\"".to_owned(),
                Kind::Choice => format!("\"{}\"", self.words.first().unwrap_or(&"")),
                Kind::Boolean => "true".to_owned(),
                Kind::Origin => "\"https://host.example\"".to_owned(),
            },
        }
    }

    /// What a key gives for it.
    pub(super) fn judge(
        &self,
        node: &Node<'_>,
        tokens: &Tokens,
        scope: &Scope<'_>,
        report: &mut Report<'_>,
    ) -> Option<Value> {
        let nothing = Scope::new(&[]);
        let (mut url, mut list) = (None, false);
        let texts = match self.kind {
            Kind::Text | Kind::Path => vec![node.parsed(report, |name, text| self.text(name, text, scope))?],
            Kind::Token => vec![Text::literal(&tokens.named(node, report)?.0)],
            Kind::Fields => {
                list = node.as_list().is_some();
                super::super::projection::fields(node, scope, report)?
            }
            Kind::Choice => vec![Text::literal(node.word(report, &self.words)?)],
            Kind::Boolean => vec![Text::literal(if node.boolean(report)? { "true" } else { "false" })],
            Kind::HostLabel => vec![node.parsed(report, host_label)?],
            Kind::Origin => {
                let parsed = node.parsed(report, origin)?;
                url = Some(parsed);
                let text = node.as_str().unwrap_or_default().trim_end_matches('/');
                vec![node.parsed(report, |name, _| Text::strict(name, text, &nothing))?]
            }
        };
        Some(Value { texts, list, url, span: Some(node.place().span) })
    }

    fn text(&self, name: &str, text: &str, scope: &Scope<'_>) -> Result<Text, Bad> {
        if mask::is_secret(text) && !is_key_id(text) {
            return Err(Bad::new(format!("`{name}` seems to hold a secret"))
                .help("a secret never stands in the configuration: put it into a file and name it in [tokens]"));
        }
        if let Some(brace) = scope.names().is_empty().then(|| super::template::first_name(text)).flatten() {
            return Err(Bad::new(format!("`{name}` has a brace"))
                .help(format!("a parameter has to stand in the key as well, such as [keys.\"/{name}/{{{brace}}}\"]")));
        }
        let parsed = Text::lenient(name, text, scope)?;
        let illegal = |why: &str| Bad::new(format!("`{name}` {why}: {}", quoted(text)));
        let length: usize = parsed.literals().map(str::len).sum();
        let legal = match self.characters {
            Some(set) => format!("it is made of {set}, with at most {} bytes", self.longest),
            None => format!("it has no control characters and at most {} bytes", self.longest),
        };
        if text.is_empty() {
            return Err(Bad::new(format!("`{name}` is empty")));
        }
        let is_legal = |c: char| self.characters.map_or(!c.is_control(), |set| is_one_of(set, c));
        if length > self.longest || !parsed.literals().all(|literal| literal.chars().all(is_legal)) {
            return Err(illegal("is not legal").help(legal));
        }
        let segments: Vec<&str> = if self.kind == Kind::Path { text.split('/').collect() } else { vec![text] };
        if segments.iter().any(|segment| matches!(*segment, "." | "..")) {
            return Err(illegal("means a directory").help("`.` and `..` have a meaning in a path"));
        }
        if segments.iter().any(|segment| segment.is_empty()) {
            return Err(illegal("has an empty segment").help("write it like \"team/app\", without a slash at its ends"));
        }
        Ok(parsed)
    }
}

fn words<'a>(table: &Table<'a>, kind: Kind, report: &mut Report<'_>) -> Vec<&'a str> {
    match (kind, table.get("one-of")) {
        (Kind::Choice, Some(node)) => {
            let items = node.one_or_many(report).unwrap_or_default();
            items.iter().filter_map(|item| item.string(report)).collect()
        }
        (Kind::Choice, None) => {
            table.require(report, "one-of", "[\"a\", \"b\"]");
            Vec::new()
        }
        (_, Some(node)) => {
            report.error(node.error("`one-of` is for parameters of type \"choice\""));
            Vec::new()
        }
        (_, None) => Vec::new(),
    }
}

/// The id of an access key of AWS is none, though a key often stands beside it.
fn is_key_id(text: &str) -> bool {
    let legal = text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
    text.len() == 20 && legal && ["AKIA", "ASIA"].iter().any(|prefix| text.starts_with(prefix))
}

/// `a-z 0-9 -`: ranges and characters, spaces between them.
fn parse_characters(name: &str, text: &str) -> Result<(), Bad> {
    let item = |item: &str| match item.as_bytes() {
        [one] => one.is_ascii_graphic(),
        [from, b'-', to] => from.is_ascii_graphic() && from < to && to.is_ascii_graphic(),
        _ => false,
    };
    if !text.is_empty() && text.split(' ').all(item) {
        return Ok(());
    }
    Err(Bad::new(format!("`{name}` is not a set of characters")).help("for example: characters = \"a-z 0-9 -\""))
}

fn is_one_of(set: &str, c: char) -> bool {
    let Ok(byte) = u8::try_from(c) else { return false };
    set.split(' ').any(|item| match item.as_bytes() {
        [one] => byte == *one,
        [from, _, to] => (*from..=*to).contains(&byte),
        _ => false,
    })
}

/// Whoever fills it in chooses who is shown the token: so never what somebody asks for, and never a dot.
fn host_label(name: &str, text: &str) -> Result<Text, Bad> {
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let ends = text.starts_with('-') || text.ends_with('-');
    if (1..=63).contains(&text.len()) && text.bytes().all(legal) && !ends {
        return Ok(Text::literal(text));
    }
    Err(Bad::new(format!("`{name}` is not a part of the name of a host: {}", quoted(text)))
        .help("it is made of a-z 0-9 -, does not begin or end with -, and has at most 63 bytes"))
}

pub(super) fn origin(name: &str, text: &str) -> Result<Url, Bad> {
    let url = url::parse(name, text)?;
    if url.target.contains('?') {
        return Err(Bad::new(format!("`{name}` has a query")).help("for example: \"https://host.example\""));
    }
    Ok(url)
}

/// The name of a parameter, and of a preset.
pub(super) fn is_name(text: &str) -> bool {
    values::is_name(text)
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_characters() {
        for legal in ["a", "a-z", "a-z 0-9 -", "- _ ."] {
            assert!(parse_characters("characters", legal).is_ok(), "{legal}");
        }
        for bad in ["", "a z ", "z-a", "abc", "a-", "ä", "a-ä"] {
            assert!(parse_characters("characters", bad).is_err(), "{bad}");
        }
        assert!("az09-".chars().all(|c| is_one_of("a-z 0-9 -", c)));
        assert!(!"AZ_/ ä".chars().any(|c| is_one_of("a-z 0-9 -", c)));
    }

    #[test]
    fn a_label_of_a_host_is_no_more_than_that() {
        for legal in ["a", "eu-west-1", "0"] {
            assert!(host_label("region", legal).is_ok(), "{legal}");
        }
        for bad in ["", "-a", "a-", "a.b", "A", "a/b", "a:1", "a@b", "{a}", "ä", &"a".repeat(64)] {
            assert!(host_label("region", bad).is_err(), "{bad}");
        }
    }
}
