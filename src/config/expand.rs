//! Keys with parameters: the source of each of their paths, made when it is asked for. Pure.
//!
//! A value stays within the part of the URL or body, or the name of a field, that its parameter stands in.

use super::definition;
use super::text::{Encoding, Text};
use super::{
    Coding, CommandDocument, Document, FileDocument, HttpDocument, Location, NamekoDocument, Projection, Source, Step,
};
use crate::secret::KeyPath;
use crate::staleness::Settings;
use crate::template::{self, Found, Template};

/// A key with parameters.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct KeyTemplate {
    pub template: Template,
    pub source: SourceTemplate,
    pub settings: Settings,
    /// At least one.
    pub max_entries: usize,
    pub eviction: Eviction,
    pub at: Location,
}

/// What a path stands for: which of these keys, the first that it is inside of, and its source.
pub fn expand<'t>(keys: impl Iterator<Item = &'t KeyTemplate> + Clone, path: &KeyPath) -> Option<(usize, Source)> {
    let Found::Inside { template, values } = template::find(keys.clone().map(|key| &key.template), path) else {
        return None;
    };
    let mut keys = keys;
    let source = &keys.nth(template)?.source;
    match path.arguments() {
        None if source.takes_arguments() => None,
        None => Some((template, source.expand(&values))),
        Some(digest) => Some((template, source.of_call(&values, digest)?)),
    }
}

/// Which value goes when there is one too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Eviction {
    /// The one that was asked for longest ago.
    Lru,
    /// The one that was asked for least often.
    Lfu,
}

impl Eviction {
    pub fn name(self) -> &'static str {
        match self {
            Self::Lru => "lru",
            Self::Lfu => "lfu",
        }
    }
}

/// A source in which parameters stand.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct SourceTemplate(pub(super) Kind);

#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub(super) enum Kind {
    Http {
        /// Without its target and body.
        document: Box<HttpDocument>,
        target: Text,
        body: Option<(Text, Encoding)>,
        projection: Selection,
        /// The preset that made it, if its name says all.
        named: Option<Preset>,
    },
    File {
        document: FileDocument,
        projection: Selection,
    },
    Nameko {
        /// Without its routing key and arguments.
        document: Box<NamekoDocument>,
        service: Text,
        method: Text,
    },
    /// The program and its arguments are fixed: what runs was listed at start.
    Command {
        document: Box<CommandDocument>,
        projection: Selection,
    },
}

/// A shipped preset, and what is given for its parameters.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub(super) struct Preset {
    pub(super) name: String,
    pub(super) given: Vec<(String, Vec<Text>)>,
}

/// A projection in which parameters stand.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub(super) enum Selection {
    Whole,
    Fields(Vec<Text>),
    Pointer(Vec<Text>),
    Steps(Vec<StepText>),
}

/// A step in which parameters stand.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub(super) enum StepText {
    Pointer(Vec<Text>),
    Fields(Vec<Text>),
    Where { member: String, value: Text },
    Decode(Coding),
    DecodeEach,
}

impl StepText {
    fn expand(&self, values: &[String]) -> Step {
        match self {
            Self::Pointer(tokens) => Step::Pointer(pointer(tokens, values)),
            Self::Fields(fields) => Step::Fields(names(fields, values)),
            Self::Where { member, value } => {
                Step::Where { member: member.clone(), value: value.fill(values, Encoding::Plain) }
            }
            Self::Decode(coding) => Step::Decode(*coding),
            Self::DecodeEach => Step::DecodeEach,
        }
    }
}

impl Selection {
    fn expand(&self, values: &[String]) -> Projection {
        match self {
            Self::Whole => Projection::Whole,
            Self::Fields(fields) => Projection::Fields(names(fields, values)),
            Self::Pointer(tokens) => Projection::Pointer(pointer(tokens, values)),
            Self::Steps(steps) => Projection::Steps(steps.iter().map(|step| step.expand(values)).collect()),
        }
    }
}

fn pointer(tokens: &[Text], values: &[String]) -> Vec<String> {
    tokens.iter().map(|token| token.fill(values, Encoding::Plain)).collect()
}

/// Two parameters may have one value, and no name is listed twice.
fn names(texts: &[Text], values: &[String]) -> Vec<String> {
    let mut names: Vec<String> = Vec::with_capacity(texts.len());
    for text in texts {
        let name = text.fill(values, Encoding::Plain);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

impl SourceTemplate {
    /// The source with these values, which the template has admitted, in the places of its parameters.
    pub fn expand(&self, values: &[String]) -> Source {
        match &self.0 {
            Kind::Http { document, target, body, projection, named } => {
                let mut document = document.clone();
                document.url.target = target.fill(values, Encoding::Percent);
                document.body = body.as_ref().map(|(body, encoding)| body.fill(values, *encoding));
                let projection = projection.expand(values);
                let definition = match named {
                    Some(preset) => definition::of_preset(&preset.name, preset.values(values), &projection),
                    None => definition::of_http(&document, &projection),
                };
                Source { document: Document::Http(document), projection, definition }
            }
            Kind::File { document, projection } => {
                let projection = projection.expand(values);
                let definition = definition::of_file(document, &projection);
                Source { document: Document::File(document.clone()), projection, definition }
            }
            Kind::Nameko { document, service, method } => {
                let fill = |text: &Text| text.fill(values, Encoding::Plain);
                call(document, format!("{}.{}", fill(service), fill(method)), "")
            }
            Kind::Command { document, projection } => {
                let projection = projection.expand(values);
                let definition = definition::of_command(document, &projection);
                Source { document: Document::Command(document.clone()), projection, definition }
            }
        }
    }

    /// Whether a request says what its source is called with.
    pub fn takes_arguments(&self) -> bool {
        matches!(self.0, Kind::Nameko { .. })
    }

    /// The source of a call with these values and arguments. `None` for what takes no arguments, and where a value has a dot:
    /// another service could be named by that.
    fn of_call(&self, values: &[String], arguments: &str) -> Option<Source> {
        let Kind::Nameko { document, service, method } = &self.0 else { return None };
        let fill = |text: &Text| text.fill(values, Encoding::Plain);
        let (service, method) = (fill(service), fill(method));
        let legal = is_word(&service) && is_word(&method);
        legal.then(|| call(document, format!("{service}.{method}"), arguments))
    }

    /// A document of its: where it is, and what is needed to fetch it, is the same for all of them.
    pub fn any_document(&self) -> Document {
        self.expand(&[]).document
    }
}

/// Whether a text is one word of a routing key, and fits into a frame with another one.
pub(super) fn is_word(text: &str) -> bool {
    !text.is_empty() && text.len() <= 120 && !text.contains(['.', '*', '#'])
}

fn call(document: &NamekoDocument, routing_key: String, arguments: &str) -> Source {
    let document = NamekoDocument { routing_key, arguments: arguments.to_owned(), ..document.clone() };
    let definition = definition::of_nameko(&document);
    Source { document: Document::Nameko(Box::new(document)), projection: Projection::Returned, definition }
}
