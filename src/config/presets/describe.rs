//! What a preset is, for a person: its parameters, and an example that is legal as it stands.

use std::fmt::Write;

use serde::Serialize;

use super::super::table::Node;
use super::parameter::Parameter;
use super::template::entries;
use super::{Preset, shipped as files};

/// A preset, as `keyhatch presets show` tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Description {
    pub name: String,
    pub title: String,
    pub about: String,
    /// The upstream's own documentation.
    pub link: Option<String>,
    /// Method and URL, with the names of parameters in braces.
    pub request: String,
    /// It comes with keyhatch; else it is the operator's own.
    pub shipped: bool,
    pub parameters: Vec<ParameterDescription>,
    /// What authenticates: the parameters of each way, of which a key takes one. Empty where there is no choice.
    pub ways: Vec<String>,
    /// What answers are taken for, where their status does not say it.
    pub outcomes: Vec<OutcomeDescription>,
    /// A configuration with a key for each way to authenticate; of an own preset a drop-in, without the tokens that the
    /// configuration has.
    pub example: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ParameterDescription {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub doc: String,
    pub required: bool,
    pub default: Option<String>,
    /// Of a choice.
    pub one_of: Vec<String>,
    pub example: String,
    /// A parameter of a key may stand in it.
    pub takes_parameters_of_keys: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct OutcomeDescription {
    /// Such as `403, /error/code is Disabled`.
    pub answer: String,
    pub class: String,
}

/// Those that keyhatch ships, by their names.
pub fn shipped() -> Vec<Description> {
    files::all().map(|preset| describe(preset, |_| false)).collect()
}

pub(super) fn describe(preset: &Preset<'_>, has_token: impl Fn(&str) -> bool) -> Description {
    let asked_for = preset.may_be_asked_for();
    let parameters = preset.parameters.iter().enumerate().map(|(index, one)| ParameterDescription {
        name: one.name.to_owned(),
        kind: one.kind.name(),
        doc: one.doc.to_owned(),
        required: !one.may_lack() && is_everywhere(preset, index),
        default: one.default.map(str::to_owned),
        one_of: one.words.iter().map(|word| (*word).to_owned()).collect(),
        example: one.shown_example(),
        takes_parameters_of_keys: asked_for.contains(&one.name),
    });
    let ways = (0..preset.alternatives).map(|way| preset.shown_way(way, &|index| is_everywhere(preset, index)));
    Description {
        name: preset.name.to_owned(),
        title: preset.title.to_owned(),
        about: preset.about.trim().to_owned(),
        link: preset.link.map(str::to_owned),
        request: request(preset),
        shipped: preset.shipped,
        parameters: parameters.collect(),
        ways: if preset.alternatives > 1 { ways.collect() } else { Vec::new() },
        outcomes: outcomes(preset),
        example: example(preset, has_token),
    }
}

fn outcomes(preset: &Preset<'_>) -> Vec<OutcomeDescription> {
    let text = |rule: &Node<'_>, name: &str| rule.peek(name).map(|node| node.listed());
    let rules = preset.source.peek("outcomes").and_then(|rules| rules.as_list()).unwrap_or_default();
    let describe = |rule: &Node<'_>| {
        let place = text(rule, "pointer").or_else(|| text(rule, "header"));
        let test = text(rule, "one-of").map(|words| format!("is {words}"));
        let test = test.or_else(|| text(rule, "matches").map(|pattern| format!("matches {pattern}")));
        let place = place.map(|place| format!("{place} {}", test.unwrap_or_else(|| "is there".to_owned())));
        let answer = text(rule, "status").into_iter().chain(place).collect::<Vec<_>>().join(", ");
        OutcomeDescription { answer, class: text(rule, "class").unwrap_or_default() }
    };
    rules.iter().map(describe).collect()
}

fn request(preset: &Preset<'_>) -> String {
    let text = |name: &str| preset.source.peek(name).and_then(|node| node.as_str());
    let query = preset.source.peek("query");
    let names = query
        .iter()
        .filter_map(|query| query.as_table())
        .flat_map(entries)
        .filter_map(|(name, _, value)| Some(format!("{name}={}", value.get_ref().as_str()?)));
    let query = names.collect::<Vec<_>>().join("&");
    let mark = if query.is_empty() { "" } else { "?" };
    format!("{} {}{mark}{query}", text("method").unwrap_or("GET"), text("url").unwrap_or_default())
}

fn is_everywhere(preset: &Preset<'_>, index: usize) -> bool {
    let in_way = |way: usize| preset.parameters_of(Some(way)).any(|one| one == index);
    preset.parameters_of(None).any(|one| one == index) || (0..preset.alternatives).all(in_way)
}

/// Whether the URL of the example is plain http, which a key with a token has to allow.
fn is_plain(preset: &Preset<'_>) -> bool {
    let text = |name: &str| preset.source.peek(name).and_then(|node| node.as_str());
    let url = text("url").unwrap_or_default();
    let base = url.strip_prefix('{').and_then(|rest| rest.split_once('}')).map(|(name, _)| name);
    let base = base.and_then(|name| preset.parameters.iter().find(|one| one.name == name));
    let shown = base.map(|one| one.default.map_or_else(|| one.shown_example(), str::to_owned));
    shown.as_deref().unwrap_or(url).trim_matches('"').starts_with("http:")
}

/// One key for each way, the tokens that they name, and who may read.
fn example(preset: &Preset<'_>, has_token: impl Fn(&str) -> bool) -> String {
    let mut tokens: Vec<String> = Vec::new();
    let mut keys = String::new();
    for way in 0..preset.alternatives {
        let shown = |(index, one): &(usize, &Parameter<'_>)| {
            let of_way = is_everywhere(preset, *index) || preset.parameters_of(Some(way)).any(|other| other == *index);
            // What may lack is shown where the preset has an example of it.
            of_way && (!one.may_lack() || one.example.is_some())
        };
        let mut settings = format!("type = \"{}\"", preset.name);
        for (_, one) in preset.parameters.iter().enumerate().filter(shown) {
            // To write into a string does not fail.
            let _ = write!(settings, ", {} = {}", one.name, one.shown_example());
            if one.kind == super::Kind::Token {
                tokens.push(one.shown_example().trim_matches('"').to_owned());
            }
        }
        let secret = preset.source.peek("auth").is_some() && preset.source.peek("allow-plaintext").is_none();
        if secret && is_plain(preset) {
            settings.push_str(", allow-plaintext = true");
        }
        let number = if way == 0 { String::new() } else { format!("-{}", way + 1) };
        let _ = write!(keys, "\n[keys.\"/{}/example{number}\"]\nsource = {{ {settings} }}\n", preset.name);
    }
    tokens.retain(|name| !has_token(name));
    tokens.sort();
    tokens.dedup();
    let token = |name: &String| format!("{name} = {{ file = \"/etc/keyhatch/tokens/{name}\" }}\n");
    let section = if tokens.is_empty() { "" } else { "[tokens]\n" };
    // Root is on every machine, and reads its tokens anyway.
    let client = format!(
        "\n[clients.{0}]\nuser = \"root\" # in its place, the user of an application\nkeys = [\"/{0}/*\"]\n",
        preset.name
    );
    let text = format!("{section}{}{keys}{client}", tokens.iter().map(token).collect::<String>());
    text.trim_start().to_owned()
}
