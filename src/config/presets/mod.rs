//! Presets: templates of `http` sources with parameters, the shipped ones and the operator's own (`[presets.NAME]`).
//!
//! A preset is a macro: filled in, it is read by the same code as a source that was written out, and nothing downstream
//! knows of it. It is checked when it is read, whether or not a key uses it.

mod describe;
mod expand;
mod parameter;
mod place;
mod shipped;
mod template;
mod using;

use std::borrow::Cow;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::{Diagnostic, Place, Report, quoted};
use super::table::{Entry, Node, Table};
use super::text::Scope;
use super::tokens::Tokens;
use super::{names, source};
use expand::Filling;
use parameter::{Kind, Parameter, Value};
use template::Slot;

pub use describe::{Description, OutcomeDescription, ParameterDescription, shipped as shipped_presets};
pub(super) use shipped::is_word;

/// Settings of every source that is made of a preset; no parameter has such a name.
const OF_EVERY: [&str; 4] = ["type", "ca-file", "proxy", "allow-plaintext"];

/// One preset, as it was written.
pub(super) struct Preset<'a> {
    name: &'a str,
    title: &'a str,
    about: &'a str,
    link: Option<&'a str>,
    parameters: Vec<Parameter<'a>>,
    source: Node<'a>,
    slots: Vec<Slot>,
    /// How many ways to authenticate there are to choose from; at least one.
    alternatives: usize,
    shipped: bool,
}

/// The presets that a configuration can name.
#[derive(Default)]
pub(super) struct Presets<'a> {
    /// The operator's; `None` is one that is defined wrongly, so that naming it is no second error.
    own: Vec<(&'a str, Option<Preset<'a>>, Place)>,
}

impl<'a> Presets<'a> {
    pub(super) fn add(&mut self, entry: &Entry<'a>, report: &mut Report<'_>) {
        if let Some((_, _, first)) = self.own.iter().find(|(name, ..)| *name == entry.name) {
            let title = format!("the preset {} is defined twice", quoted(entry.name));
            report.error(Diagnostic::at(entry.place.clone(), title).also(first.clone(), "first defined here"));
            return;
        }
        let named = self.named(entry, report);
        let preset = entry.node.table(report, &names::PRESET);
        let preset = preset.and_then(|table| Preset::read(entry.name, &table, false, report)).filter(|_| named);
        self.own.push((entry.name, preset, entry.place.clone()));
    }

    fn named(&self, entry: &Entry<'_>, report: &mut Report<'_>) -> bool {
        let refuse = |title: String| Diagnostic::at(entry.place.clone(), title);
        if shipped::find(entry.name).is_some() {
            let error = refuse(format!("keyhatch ships a preset {}", quoted(entry.name)));
            report.error(
                error
                    .label("it would be shadowed")
                    .help("choose another name; keys that name the shipped one would silently ask somebody else"),
            );
            return false;
        }
        if names::SOURCE_TYPES.contains(&entry.name) {
            let error = refuse(format!("{} is a type of source already", quoted(entry.name)));
            report.error(error.help("choose another name"));
            return false;
        }
        if !parameter::is_name(entry.name) {
            let error = refuse("this is not a name for a preset".to_owned());
            report.error(error.help("a name is made of a-z 0-9 -, begins with a letter and has at most 64 bytes"));
            return false;
        }
        true
    }

    /// The names of all that are sound, and of the others, which are told of where they are defined.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let shadows = |name: &&str| shipped::find(name).is_none() && !names::SOURCE_TYPES.contains(name);
        let own = self.own.iter().map(|(name, ..)| *name).filter(shadows);
        shipped::all().map(|preset| preset.name).chain(own)
    }

    /// `Some(None)` is one that is defined wrongly.
    pub(super) fn find(&self, name: &str) -> Option<Option<&Preset<'_>>> {
        let own = self.own.iter().find(|(known, ..)| *known == name).map(|(_, preset, _)| preset.as_ref());
        own.or_else(|| shipped::find(name).map(Some))
    }

    /// The operator's own, for a person. Their examples leave out what the configuration has.
    pub(super) fn describe(&self, tokens: &Tokens) -> Vec<Description> {
        let sound = self.own.iter().filter_map(|(_, preset, _)| preset.as_ref());
        sound.map(|preset| describe::describe(preset, |token| tokens.has(token))).collect()
    }
}

impl<'a> Preset<'a> {
    /// One that is sound: filled in with anything legal, it is a source.
    fn read(name: &'a str, table: &Table<'a>, shipped: bool, report: &mut Report<'_>) -> Option<Self> {
        let before = report.errors.len();
        let text = |node: Option<Node<'a>>, report: &mut Report<'_>| node.and_then(|node| node.string(report));
        let title = text(table.require(report, "title", "\"Values of the inventory\""), report);
        let about = text(table.get("about"), report);
        let link = text(table.get("link"), report);
        let mut parameters = Vec::new();
        let mut all = true;
        for entry in table.get("parameters").map(|node| node.entries(report)).unwrap_or_default() {
            if OF_EVERY.contains(&entry.name) {
                let title = format!("a parameter cannot have the name {}", quoted(entry.name));
                let error = Diagnostic::at(entry.place.clone(), title);
                report.error(error.help("every source made of a preset has this setting"));
            } else if !parameter::is_name(entry.name) {
                let error = Diagnostic::at(entry.place.clone(), "this is not a name for a parameter of a preset");
                report.error(error.help("a name is made of a-z 0-9 -, begins with a letter and has at most 64 bytes"));
            } else if let Some(parameter) = Parameter::read(entry.node, report) {
                parameters.push(parameter);
                continue;
            }
            all = false;
        }
        let source = table.require(report, "source", "{ url = \"https://host/{name}\" }")?;
        let template = source.table(report, &names::PRESET_SOURCE)?;
        template.require(report, "url", "\"https://host/path\"");
        check_own_settings(&template, report);
        if !all {
            return None;
        }
        let mut slots = template::survey(&source, &parameters, report);
        for parameter in parameters.iter().filter(|parameter| parameter.kind == Kind::Origin) {
            if let (Some(text), Some(node)) = (parameter.default, parameter.node.peek("default")) {
                slots.extend(template::survey_origin(text, &node, &parameters, report));
            }
        }
        for (index, parameter) in parameters.iter().enumerate() {
            if !slots.iter().any(|slot| slot.parameter == index) && report.errors.len() == before {
                report.error(template::unused(parameter));
            }
        }
        let alternatives = template.get("auth").map_or(1, |auth| template::alternatives(&auth).len());
        let (title, about) = (title.unwrap_or_default(), about.unwrap_or_default());
        let preset = Self { name, title, about, link, parameters, source, slots, alternatives, shipped };
        // A test tries the shipped ones; each start need not.
        if report.errors.len() == before && (!shipped || cfg!(test)) {
            preset.try_out(report);
        }
        (report.errors.len() == before).then_some(preset)
    }

    /// Reads the source that the preset makes, with each way to authenticate, each word, with all and with as little as
    /// can be given: what is wrong with it is wrong with every key.
    fn try_out(&self, report: &mut Report<'_>) {
        let before = report.errors.len();
        let warnings = report.warnings.len();
        let longest = self.parameters.iter().map(|parameter| parameter.words.len()).max().unwrap_or(0).max(1);
        let all = (0..self.alternatives).flat_map(|way| (0..longest).map(move |word| (way, word, true)));
        let few = (0..self.alternatives).map(|way| (way, 0, false));
        for (way, word, whole) in all.chain(few) {
            let values: Vec<Option<Value>> = self.parameters.iter().map(|one| sample(one, word, whole)).collect();
            let filling =
                Filling { parameters: &self.parameters, values: &values, of_key: &[], used_at: None, secrets: &[] };
            let mut made = filling.source(&self.source, way);
            allow_plaintext(&mut made, self.source.place().span);
            let made = Spanned::new(self.source.place().span, DeValue::Table(made));
            source::of_preset(&self.source.with(&made), &Tokens::unchecked(), &Scope::new(&[]), report);
            if report.errors.len() > before {
                break;
            }
        }
        report.warnings.truncate(warnings);
    }

    /// Those of a way to authenticate, or with `None` those that stand anywhere else.
    fn parameters_of(&self, alternative: Option<usize>) -> impl Iterator<Item = usize> {
        self.slots.iter().filter(move |slot| slot.alternative == alternative).map(|slot| slot.parameter)
    }

    /// The names of the settings in which parameters of keys may stand.
    pub(super) fn may_be_asked_for(&self) -> Vec<&str> {
        let asked = |index: usize| {
            let mut of = self.slots.iter().filter(|slot| slot.parameter == index);
            of.all(|slot| slot.place.may_be_asked_for() && slot.alternative.is_none())
        };
        let takes = |kind| matches!(kind, Kind::Text | Kind::Path | Kind::Fields);
        let all = self.parameters.iter().enumerate();
        all.filter(|(index, one)| takes(one.kind) && asked(*index)).map(|(_, one)| one.name).collect()
    }
}

/// What is not handed on to the reader of `http` sources as it is.
fn check_own_settings(template: &Table<'_>, report: &mut Report<'_>) {
    let query = template.get("query").map(|query| query.entries(report)).unwrap_or_default();
    for value in &query {
        value.node.string(report);
    }
    let Some(json) = template.get("json") else { return };
    if !json.is_table() {
        report.error(json.expected("a table"));
    }
    check_json(&json, report);
    if let Some(body) = template.get("body") {
        let error = json.error("`json` and `body` exclude each other");
        report.error(error.also(body.place(), "the other one"));
    }
}

/// What has one form in JSON.
fn check_json(node: &Node<'_>, report: &mut Report<'_>) {
    if node.is_table() {
        node.entries(report).iter().for_each(|entry| check_json(&entry.node, report));
    } else if let Some(items) = node.as_list() {
        items.iter().for_each(|item| check_json(item, report));
    } else if matches!(node.kind(), "a float" | "a date") {
        let error = node.error(format!("`{}` is {} in `json`", node.name, node.kind()));
        report.error(error.help("legal are strings, integers, booleans, lists and tables"));
    }
}

/// Whether a token may be sent over plain http is for the key to say, if the template does not.
fn allow_plaintext(made: &mut DeTable<'_>, at: Range<usize>) {
    let plain = made.get("url").and_then(|url| url.get_ref().as_str()).is_some_and(|url| url.starts_with("http:"));
    if plain && !made.contains_key("allow-plaintext") {
        let name = Spanned::new(at.clone(), Cow::Borrowed("allow-plaintext"));
        made.insert(name, Spanned::new(at, DeValue::Boolean(true)));
    }
}

/// Something legal for a parameter.
fn sample(parameter: &Parameter<'_>, word: usize, whole: bool) -> Option<Value> {
    match (parameter.kind, parameter.default) {
        (_, Some(default)) if !whole => return Some(Value::of(default)),
        (_, None) if parameter.optional && !whole => return None,
        (Kind::Origin, Some(default)) => return Some(Value::of(default)),
        _ => {}
    }
    let example = parameter.example.as_ref().and_then(|node| node.as_str());
    Some(match parameter.kind {
        Kind::Text | Kind::Path | Kind::Fields | Kind::HostLabel => Value::of(example.unwrap_or("x")),
        Kind::Token => Value::of("token"),
        Kind::Choice => Value::of(parameter.words.get(word).or(parameter.words.first())?),
        Kind::Boolean => Value::of("true"),
        Kind::Origin => Value::of("https://host.example"),
    })
}
