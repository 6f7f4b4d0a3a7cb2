//! `[tokens]`: names for credentials, and where the parent reads them. Never the credentials themselves.

use std::collections::BTreeMap;

use super::diagnostic::{Diagnostic, Place, Report, quoted};
use super::table::{Entry, Node};
use super::{SecretFile, TokenName, mask, names, values};

/// The tokens of all files, with the places of their names.
#[derive(Default)]
pub(super) struct Tokens {
    /// By name; `None` is one that is defined wrongly, so that naming it is no second error.
    entries: BTreeMap<String, (Option<SecretFile>, Place)>,
    /// Every name is taken for one that is defined.
    unchecked: bool,
}

impl Tokens {
    /// For what is judged before it is known which tokens there are.
    pub(super) fn unchecked() -> Self {
        Self { unchecked: true, ..Self::default() }
    }

    pub(super) fn add(&mut self, entry: &Entry<'_>, report: &mut Report<'_>) {
        if let Some((_, first)) = self.entries.get(entry.name) {
            report.error(
                Diagnostic::at(entry.place.clone(), format!("the token {} is defined twice", quoted(entry.name)))
                    .also(first.clone(), "first defined here"),
            );
            return;
        }
        let legal = values::is_name(entry.name);
        if !legal {
            report.error(
                Diagnostic::at(entry.place.clone(), "this is not a name for a token").help(
                    "a name is made of A-Z a-z 0-9 . _ -, begins with a letter or digit and has at most 64 bytes",
                ),
            );
        }
        let file = secret_file(&entry.node, report).filter(|_| legal);
        self.entries.insert(entry.name.to_owned(), (file, entry.place.clone()));
    }

    /// Whether it is defined, be it wrongly.
    pub(super) fn has(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// The name of a token where a source uses one. That nobody defined it is a problem, not an error: the
    /// keys that need it serve their last known good.
    pub(super) fn named(&self, node: &Node<'_>, report: &mut Report<'_>) -> Option<TokenName> {
        let Some(text) = node.as_str() else {
            report.error(node.expected("the name of an entry of [tokens]").help(ADVICE));
            return None;
        };
        let name = TokenName(text.to_owned());
        if self.entries.contains_key(text) {
            return Some(name);
        }
        if !values::is_name(text) || mask::looks_like_token(text) {
            report.error(
                node.error(format!("`{}` is not the name of an entry of [tokens]", node.name))
                    .label("this seems to be the secret itself")
                    .help(ADVICE),
            );
            return None;
        }
        if self.unchecked {
            return Some(name);
        }
        let known = self.entries.keys().map(String::as_str);
        let hint = match super::diagnostic::similar(text, known) {
            Some(known) => format!("did you mean `{known}`?"),
            None => format!("add it: [tokens] {text} = {{ file = \"/etc/keyhatch/tokens/{text}\" }}"),
        };
        report.problem(&node.place(), format!("there is no token `{text}`; {hint}"));
        Some(name)
    }

    pub(super) fn finish(self) -> BTreeMap<TokenName, SecretFile> {
        self.entries.into_iter().filter_map(|(name, (file, _))| Some((TokenName(name), file?))).collect()
    }
}

const ADVICE: &str = "a secret never stands in the configuration: write it into a file that only root can read, and name that file: [tokens] NAME = { file = \"/etc/keyhatch/tokens/NAME\" }";

/// `{ file = "…" }` or `{ credential = "…" }`.
pub(super) fn secret_file(node: &Node<'_>, report: &mut Report<'_>) -> Option<SecretFile> {
    if !node.is_table() {
        let what = "given as { file = \"/path\" } or { credential = \"name\" }, never as the secret itself";
        report.error(node.error(format!("{} is {what}", quoted(node.name))).help(ADVICE));
        return None;
    }
    let table = node.table(report, &names::SECRET_FILE)?;
    match (table.get("file"), table.get("credential")) {
        (Some(file), None) => file.parsed(report, values::path).map(SecretFile::File),
        (None, Some(credential)) => credential.parsed(report, values::credential).map(SecretFile::Credential),
        (Some(_), Some(second)) => {
            report.error(second.error("`file` and `credential` exclude each other"));
            None
        }
        (None, None) => {
            report.error(
                node.error(format!("{} needs `file` or `credential`", quoted(node.name)))
                    .help("for example: { file = \"/etc/keyhatch/tokens/NAME\" }")
                    .absence(),
            );
            None
        }
    }
}
