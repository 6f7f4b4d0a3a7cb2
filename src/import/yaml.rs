//! YAML as PyYAML's safe loader reads it: the scalars of YAML 1.1, merge keys, one document.
//!
//! Aliases share what they name, so a small file stays small in memory; one that would be huge written out is refused.

use std::collections::HashMap;
use std::rc::Rc;

use granit_parser::{Event, Parser, ScalarStyle, Span, Tag};
use regex::Regex;
use zeroize::Zeroizing;

use super::Fault;

/// The longest file, in bytes.
const MAX_LEN: usize = 1 << 20;
/// How deep lists and mappings stand in one another.
const MAX_DEPTH: usize = 32;
/// As many nodes as the file may have when each alias is written out.
const MAX_EXPANDED: u64 = 100_000;

/// A value and the line where it begins.
pub(super) struct Node {
    pub(super) line: usize,
    pub(super) kind: Kind,
    /// Itself and all below it, aliases written out.
    size: u64,
}

pub(super) enum Kind {
    Text(Zeroizing<String>),
    Bool(bool),
    Null,
    /// An unquoted scalar that YAML 1.1 takes for something that is no text, in words.
    Other(&'static str),
    List(Vec<Rc<Node>>),
    Map(Vec<(Rc<Node>, Rc<Node>)>),
}

impl Node {
    /// In words, for errors.
    pub(super) fn what(&self) -> &'static str {
        match &self.kind {
            Kind::Text(_) => "a text",
            Kind::Bool(_) => {
                "a boolean (YAML 1.1 takes yes, no, on and off for that; put it into quotes if it is a text)"
            }
            Kind::Null => "nothing",
            Kind::Other(what) => what,
            Kind::List(_) => "a list",
            Kind::Map(_) => "a mapping",
        }
    }
}

type Next<'t> = Option<Result<(Event<'t>, Span), granit_parser::ScanError>>;

/// The one document of a file. An empty one is an empty mapping.
pub(super) fn read(text: &str) -> Result<Rc<Node>, Fault> {
    if text.len() > MAX_LEN {
        return Err(Fault { line: None, what: format!("the file is longer than {MAX_LEN} bytes") });
    }
    let mut reader =
        Reader { events: Box::new(Parser::new_from_str(text)), anchors: HashMap::new(), scalars: Scalars::new()? };
    let mut document = None;
    loop {
        let (event, line) = reader.next()?;
        match event {
            Event::StreamEnd => break,
            Event::DocumentStart(..) if document.is_some() => {
                return Err(Fault::at(line, "a second document begins here; cachish reads one"));
            }
            Event::DocumentStart(..) => {
                let (event, line) = reader.next()?;
                document = Some(reader.node(event, line, 0)?);
            }
            _ => {}
        }
    }
    let empty = || Rc::new(Node { line: 1, kind: Kind::Map(Vec::new()), size: 1 });
    Ok(document.filter(|node| !matches!(node.kind, Kind::Null)).unwrap_or_else(empty))
}

struct Reader<'t> {
    events: Box<dyn Iterator<Item = Result<(Event<'t>, Span), granit_parser::ScanError>> + 't>,
    anchors: HashMap<usize, Rc<Node>>,
    scalars: Scalars,
}

impl<'t> Reader<'t> {
    fn next(&mut self) -> Result<(Event<'t>, usize), Fault> {
        let next: Next<'t> = self.events.next();
        match next {
            Some(Ok((event, span))) => Ok((event, span.start.line())),
            // What the parser says quotes one character at most.
            Some(Err(error)) => Err(Fault::at(error.marker().line(), format!("this is no YAML: {}", error.info()))),
            None => Ok((Event::StreamEnd, 0)),
        }
    }

    fn node(&mut self, event: Event<'t>, line: usize, depth: usize) -> Result<Rc<Node>, Fault> {
        if depth > MAX_DEPTH {
            return Err(Fault::at(line, format!("nested deeper than {MAX_DEPTH}")));
        }
        let (kind, anchor) = match event {
            Event::Alias(anchor) => {
                let known = self.anchors.get(&anchor).cloned();
                return known.ok_or_else(|| Fault::at(line, "an alias stands within what it names"));
            }
            Event::Scalar(text, style, anchor, tag) => (self.scalars.read(&text, style, tag.as_deref(), line)?, anchor),
            Event::SequenceStart(_, anchor, tag) => {
                untagged(tag.as_deref(), "seq", line)?;
                (self.list(depth)?, anchor)
            }
            Event::MappingStart(_, anchor, tag) => {
                untagged(tag.as_deref(), "map", line)?;
                (self.map(depth)?, anchor)
            }
            _ => return Err(Fault::at(line, "this is no YAML: a value was expected")),
        };
        let below: u64 = match &kind {
            Kind::List(items) => items.iter().fold(0, |sum, item| sum.saturating_add(item.size)),
            Kind::Map(pairs) => {
                pairs.iter().fold(0, |sum, (key, value)| sum.saturating_add(key.size).saturating_add(value.size))
            }
            _ => 0,
        };
        let size = below.saturating_add(1);
        if size > MAX_EXPANDED {
            return Err(Fault::at(
                line,
                format!("with its aliases written out, this is more than {MAX_EXPANDED} values"),
            ));
        }
        let node = Rc::new(Node { line, kind, size });
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn list(&mut self, depth: usize) -> Result<Kind, Fault> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Kind::List(items)),
                (event, line) => items.push(self.node(event, line, depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Kind, Fault> {
        let mut own: Vec<(Rc<Node>, Rc<Node>)> = Vec::new();
        let mut merged: Vec<(Rc<Node>, Rc<Node>)> = Vec::new();
        loop {
            let (event, line) = match self.next()? {
                (Event::MappingEnd, _) => break,
                next => next,
            };
            let merges = matches!(&event, Event::Scalar(text, ScalarStyle::Plain, _, None) if text == "<<");
            let key = self.node(event, line, depth + 1)?;
            let (event, at) = self.next()?;
            let value = self.node(event, at, depth + 1)?;
            if merges {
                merge(&value, &mut merged, line)?;
            } else if own.iter().any(|(known, _)| same(known, &key)) {
                return Err(Fault::at(line, "this name is in its mapping already; cachish would take the last one"));
            } else {
                own.push((key, value));
            }
        }
        merged.retain(|(key, _)| !own.iter().any(|(known, _)| same(known, key)));
        merged.extend(own);
        Ok(Kind::Map(merged))
    }
}

/// What `<<` takes over: the entries of a mapping, or of several of which the first wins.
fn merge(value: &Node, into: &mut Vec<(Rc<Node>, Rc<Node>)>, line: usize) -> Result<(), Fault> {
    match &value.kind {
        Kind::Map(pairs) => {
            for (key, value) in pairs {
                if !into.iter().any(|(known, _)| same(known, key)) {
                    into.push((key.clone(), value.clone()));
                }
            }
            Ok(())
        }
        Kind::List(maps) if maps.iter().all(|map| matches!(map.kind, Kind::Map(_))) => {
            maps.iter().try_for_each(|map| merge(map, into, line))
        }
        _ => Err(Fault::at(line, format!("`<<` takes over a mapping or a list of them, and this is {}", value.what()))),
    }
}

fn same(one: &Node, other: &Node) -> bool {
    match (&one.kind, &other.kind) {
        (Kind::Text(one), Kind::Text(other)) => one == other,
        (Kind::Bool(one), Kind::Bool(other)) => one == other,
        (Kind::Null, Kind::Null) => true,
        _ => false,
    }
}

fn untagged(tag: Option<&Tag>, plain: &str, line: usize) -> Result<(), Fault> {
    match tag {
        Some(tag) if !is_core(tag, plain) => Err(Fault::at(line, "a tag (`!…`) that is not read here")),
        _ => Ok(()),
    }
}

fn is_core(tag: &Tag, suffix: &str) -> bool {
    tag.handle() == "tag:yaml.org,2002:" && tag.suffix() == suffix
}

/// What an unquoted scalar is in YAML 1.1, by the patterns of PyYAML.
struct Scalars {
    integer: Regex,
    float: Regex,
    time: Regex,
}

impl Scalars {
    fn new() -> Result<Self, Fault> {
        let pattern = |text: &str| {
            let made = Regex::new(&format!("^(?:{text})$"));
            made.map_err(|error| Fault { line: None, what: error.to_string() })
        };
        Ok(Self {
            integer: pattern(
                "[-+]?0b[01_]+|[-+]?0[0-7_]+|[-+]?(0|[1-9][0-9_]*)|[-+]?0x[0-9a-fA-F_]+|[-+]?[1-9][0-9_]*(:[0-5]?[0-9])+",
            )?,
            float: pattern(
                r"[-+]?[0-9][0-9_]*\.[0-9_]*([eE][-+][0-9]+)?|\.[0-9][0-9_]*([eE][-+][0-9]+)?|[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+\.[0-9_]*|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
            )?,
            time: pattern(
                r"[0-9]{4}-[0-9]{2}-[0-9]{2}|[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt]|[ \t]+)[0-9]{1,2}:[0-9]{2}:[0-9]{2}(\.[0-9]*)?([ \t]*(Z|[-+][0-9]{1,2}(:[0-9]{2})?))?",
            )?,
        })
    }

    fn read(&self, text: &str, style: ScalarStyle, tag: Option<&Tag>, line: usize) -> Result<Kind, Fault> {
        let string = || Kind::Text(Zeroizing::new(text.to_owned()));
        match tag {
            Some(tag) if is_core(tag, "str") => return Ok(string()),
            Some(_) => return Err(Fault::at(line, "a tag (`!…`) that is not read here")),
            None if style != ScalarStyle::Plain => return Ok(string()),
            None => {}
        }
        Ok(match text {
            "" | "~" | "null" | "Null" | "NULL" => Kind::Null,
            "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => Kind::Bool(true),
            "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => Kind::Bool(false),
            _ if self.integer.is_match(text) => {
                Kind::Other(if text.trim_start_matches(['-', '+']).starts_with("0") && text.len() > 1 {
                    "a number (in YAML 1.1 one that begins with 0 is octal; put it into quotes if it is a text)"
                } else {
                    "a number (put it into quotes if it is a text)"
                })
            }
            _ if self.float.is_match(text) => Kind::Other("a number (put it into quotes if it is a text)"),
            _ if self.time.is_match(text) => Kind::Other("a time (put it into quotes if it is a text)"),
            "=" => return Err(Fault::at(line, "`=` without quotes is not read here")),
            _ => string(),
        })
    }
}
