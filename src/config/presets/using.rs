//! A source of a key that names a preset: its settings are the parameters, judged one by one and filled in.

use toml::Spanned;
use toml::de::DeValue;

use super::super::diagnostic::{Diagnostic, Report, similar};
use super::super::expand::{Kind as SourceKind, Preset as Named};
use super::super::source;
use super::super::table::{Entry, Node, unknown_setting};
use super::super::text::{Encoding, Scope, Text};
use super::super::tokens::Tokens;
use super::expand::Filling;
use super::parameter::{Kind, Parameter, Value};
use super::{OF_EVERY, Preset};

impl Preset<'_> {
    /// The `http` source that this one stands for.
    pub(in crate::config) fn source(
        &self,
        node: &Node<'_>,
        tokens: &Tokens,
        scope: &Scope<'_>,
        report: &mut Report<'_>,
    ) -> Option<SourceKind> {
        let before = report.errors.len();
        let given = node.entries(report);
        self.refuse_unknown(&given, report);
        let mut values = Vec::new();
        for parameter in &self.parameters {
            let given = given.iter().find(|entry| entry.name == parameter.name);
            values.push(match (given, parameter.default) {
                (Some(entry), _) => parameter.judge(&entry.node, tokens, scope, report),
                (None, Some(default)) => Some(Value::of(default)),
                (None, None) => None,
            });
        }
        let alternative = self.alternative(node, &given, report);
        if report.errors.len() > before {
            return None;
        }
        let at = node.peek("type").map_or(node.place().span, |node| node.place().span);
        let filling = Filling {
            parameters: &self.parameters,
            values: &values,
            of_key: scope.names(),
            used_at: Some(&at),
            secrets: &[],
        };
        let mut made = filling.source(&self.source, alternative?);
        for setting in ["ca-file", "proxy", "allow-plaintext"] {
            if let Some((key, value)) = node.as_table().and_then(|table| table.get_key_value(setting)) {
                made.insert(key.clone(), value.clone());
            }
        }
        let made = Spanned::new(node.place().span, DeValue::Table(made));
        let kind = source::of_preset(&node.with(&made), tokens, scope, report)?;
        Some(self.name(kind, &values))
    }

    fn refuse_unknown(&self, given: &[Entry<'_>], report: &mut Report<'_>) {
        let legal: Vec<&str> = OF_EVERY.into_iter().chain(self.parameters.iter().map(|one| one.name)).collect();
        for entry in given.iter().filter(|entry| !legal.contains(&entry.name)) {
            report.error(unknown_setting(entry.place.clone(), entry.name, &self.place(), &legal));
        }
    }

    fn place(&self) -> String {
        let article = if self.name.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
        format!("{article} `{}` source", self.name)
    }

    /// Which way to authenticate the given parameters are of; says what is missing, there and elsewhere.
    fn alternative(&self, node: &Node<'_>, given: &[Entry<'_>], report: &mut Report<'_>) -> Option<usize> {
        let legal: Vec<&str> = self.parameters.iter().map(|one| one.name).collect();
        let unknown = given.iter().filter(|entry| !legal.contains(&entry.name) && !OF_EVERY.contains(&entry.name));
        let misspelt: Vec<&str> = unknown.filter_map(|entry| similar(entry.name, legal.iter().copied())).collect();
        let is_given = |index: usize| given.iter().any(|entry| entry.name == legal[index]);
        let lacks =
            |index: usize| !is_given(index) && !self.parameters[index].may_lack() && !misspelt.contains(&legal[index]);
        let of = |way: usize| self.parameters_of(Some(way)).collect::<Vec<_>>();
        let everywhere = |index: usize| {
            self.parameters_of(None).any(|one| one == index)
                || (0..self.alternatives).all(|way| of(way).contains(&index))
        };
        for index in (0..legal.len()).filter(|index| everywhere(*index) && lacks(*index)) {
            self.needs(node, &self.parameters[index], report);
        }
        if self.alternatives == 1 {
            return Some(0);
        }
        let choosing: Vec<usize> = (0..legal.len()).filter(|index| is_given(*index) && !everywhere(*index)).collect();
        let fitting: Vec<usize> =
            (0..self.alternatives).filter(|way| choosing.iter().all(|one| of(*way).contains(one))).collect();
        let complete = fitting.iter().find(|way| !of(**way).into_iter().any(lacks));
        if let Some(way) = complete {
            return Some(*way);
        }
        if !misspelt.is_empty() {
            return None;
        }
        let ways: Vec<String> = (0..self.alternatives).map(|way| self.shown_way(way, &everywhere)).collect();
        let ways = format!("a way to authenticate is one of: {}", ways.join("; "));
        match (choosing.as_slice(), fitting.as_slice()) {
            ([], _) => {
                let error = node.error(format!("{} needs a way to authenticate", self.place())).absence();
                report.error(error.help(ways));
            }
            ([one, ..], [way, ..]) => {
                let lacking = of(*way).into_iter().find(|index| lacks(*index)).map_or("", |index| legal[index]);
                let error = self.at(given, legal[*one], format!("`{}` needs `{lacking}` beside it", legal[*one]));
                report.error(error.help(ways).absence());
            }
            ([first, rest @ ..], []) => {
                let apart = |other: &&usize| {
                    !(0..self.alternatives).any(|way| of(way).contains(first) && of(way).contains(other))
                };
                let other = rest.iter().find(apart).or(rest.first()).copied().unwrap_or(*first);
                let title = format!("`{}` and `{}` exclude each other", legal[*first], legal[other]);
                let error = self.at(given, legal[other], title);
                let place = given.iter().find(|entry| entry.name == legal[*first]).map(|entry| entry.place.clone());
                let error = place.into_iter().fold(error, |error, place| error.also(place, "the other one"));
                report.error(error.help(ways));
            }
        }
        None
    }

    fn at(&self, given: &[Entry<'_>], name: &str, title: String) -> Diagnostic {
        match given.iter().find(|entry| entry.name == name) {
            Some(entry) => Diagnostic::at(entry.place.clone(), title),
            None => self.source.error(title),
        }
    }

    fn needs(&self, node: &Node<'_>, parameter: &Parameter<'_>, report: &mut Report<'_>) {
        let error = node.error(format!("{} needs `{}`", self.place(), parameter.name)).absence();
        report.error(error.help(format!("for example: {} = {}", parameter.name, parameter.shown_example())));
    }

    /// The parameters that a key has to give for a way.
    pub(super) fn shown_way(&self, way: usize, everywhere: &dyn Fn(usize) -> bool) -> String {
        let mut names: Vec<String> = Vec::new();
        for index in self.parameters_of(Some(way)).filter(|index| !everywhere(*index)) {
            let name = format!("`{}`", self.parameters[index].name);
            if !self.parameters[index].may_lack() && !names.contains(&name) {
                names.push(name);
            }
        }
        names.join(" and ")
    }

    /// What a shipped preset binds sealed values to is its name and what is given. An operator can change their own, so
    /// there it is what it makes.
    fn name(&self, kind: SourceKind, values: &[Option<Value>]) -> SourceKind {
        let SourceKind::Http { document, target, body, projection, .. } = kind else { return kind };
        let selects = |index: usize| {
            let mut of = self.slots.iter().filter(|slot| slot.parameter == index);
            of.all(|slot| slot.place.is_of_projection())
        };
        let given = self.parameters.iter().zip(values).enumerate();
        let given = given.filter_map(|(index, (parameter, value))| {
            let value = value.as_ref().filter(|value| value.span.is_some() && !selects(index))?;
            let texts = match (&value.url, parameter.kind) {
                (Some(url), Kind::Origin) => vec![Text::literal(&format!("{}{}", url.origin(), url.target))],
                _ => value.texts.clone(),
            };
            Some((parameter.name.to_owned(), texts))
        });
        let named = Named { name: self.name.to_owned(), given: given.collect() };
        SourceKind::Http { document, target, body, projection, named: self.shipped.then_some(named) }
    }
}

impl Named {
    /// The values that stand in a definition.
    pub(in crate::config) fn values(&self, of_key: &[String]) -> impl Iterator<Item = (&str, Vec<String>)> {
        let fill = move |texts: &Vec<Text>| texts.iter().map(|text| text.fill(of_key, Encoding::Plain)).collect();
        self.given.iter().map(move |(name, texts)| (name.as_str(), fill(texts)))
    }
}
