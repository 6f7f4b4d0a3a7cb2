//! Keys with parameters: the source of each of their paths, made when it is asked for. Pure.
//!
//! A value stays within the part of the URL or body, or the name of a field, that its parameter stands in.

use super::definition;
use super::text::{Encoding, Text};
use super::{
    Auth, CommandDocument, Document, FileDocument, Format, HttpDocument, Location, Method, Projection, Source,
    TokenName, Url,
};
use crate::secret::KeyPath;
use crate::staleness::Settings;
use crate::template::{self, Found, Template};

/// The version of the Platform API that `heroku` speaks.
const HEROKU_ACCEPT: &str = "application/vnd.heroku+json; version=3";

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
    Some((template, keys.nth(template)?.source.expand(&values)))
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
    },
    Heroku {
        app: Text,
        vars: Vec<Text>,
        base: Url,
        /// The base is not Heroku's own.
        elsewhere: bool,
        token: TokenName,
    },
    File {
        document: FileDocument,
        projection: Selection,
    },
    /// The program and its arguments are fixed: what runs was listed at start.
    Command {
        document: Box<CommandDocument>,
        projection: Selection,
    },
}

/// A projection in which parameters stand.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub(super) enum Selection {
    Whole,
    Fields(Vec<Text>),
    Pointer(Vec<Text>),
}

impl Selection {
    fn expand(&self, values: &[String]) -> Projection {
        match self {
            Self::Whole => Projection::Whole,
            Self::Fields(fields) => Projection::Fields(names(fields, values)),
            Self::Pointer(tokens) => {
                Projection::Pointer(tokens.iter().map(|token| token.fill(values, Encoding::Plain)).collect())
            }
        }
    }
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
            Kind::Http { document, target, body, projection } => {
                let mut document = document.clone();
                document.url.target = target.fill(values, Encoding::Percent);
                document.body = body.as_ref().map(|(body, encoding)| body.fill(values, *encoding));
                let projection = projection.expand(values);
                let definition = definition::of_http(&document, &projection);
                Source { document: Document::Http(document), projection, definition }
            }
            Kind::Heroku { app, vars, base, elsewhere, token } => {
                let vars = names(vars, values);
                let base_of_definition = elsewhere.then_some(base);
                let app_name = app.fill(values, Encoding::Plain);
                let definition = definition::of_heroku(&app_name, base_of_definition, token, &vars);
                let document = heroku(base, &app.fill(values, Encoding::Percent), token);
                Source {
                    document: Document::Http(Box::new(document)),
                    projection: Projection::Fields(vars),
                    definition,
                }
            }
            Kind::File { document, projection } => {
                let projection = projection.expand(values);
                let definition = definition::of_file(document, &projection);
                Source { document: Document::File(document.clone()), projection, definition }
            }
            Kind::Command { document, projection } => {
                let projection = projection.expand(values);
                let definition = definition::of_command(document, &projection);
                Source { document: Document::Command(document.clone()), projection, definition }
            }
        }
    }

    /// A document of its: where it is, and what is needed to fetch it, is the same for all of them.
    pub fn any_document(&self) -> Document {
        self.expand(&[]).document
    }
}

/// The request for all config vars of an app.
fn heroku(base: &Url, app: &str, token: &TokenName) -> HttpDocument {
    let target = format!("{}/apps/{app}/config-vars", base.target.trim_end_matches('/'));
    HttpDocument {
        url: Url { target, ..base.clone() },
        method: Method::Get,
        headers: vec![("accept".to_owned(), HEROKU_ACCEPT.to_owned())],
        body: None,
        format: Format::Json,
        auth: Auth::Bearer { token: token.clone() },
        ca_file: None,
        proxy: None,
    }
}
