//! The presets that keyhatch ships: the TOML files of this folder, compiled in.

use std::path::PathBuf;
use std::sync::LazyLock;

use toml::Spanned;
use toml::de::DeTable;

use super::super::diagnostic::{LoadError, Place, Report, SourceText};
use super::super::names;
use super::super::table::Table;
use super::Preset;

/// By their names, which are those of the files.
const FILES: [(&str, &str); 13] = [
    ("1password-connect", include_str!("1password-connect.toml")),
    ("aws-secrets-manager", include_str!("aws-secrets-manager.toml")),
    ("aws-ssm-parameter", include_str!("aws-ssm-parameter.toml")),
    ("azure-key-vault", include_str!("azure-key-vault.toml")),
    ("consul-kv", include_str!("consul-kv.toml")),
    ("doppler", include_str!("doppler.toml")),
    ("gitlab-variable", include_str!("gitlab-variable.toml")),
    ("google-secret-manager", include_str!("google-secret-manager.toml")),
    ("heroku", include_str!("heroku.toml")),
    ("infisical", include_str!("infisical.toml")),
    ("kubernetes-secret", include_str!("kubernetes-secret.toml")),
    ("vault", include_str!("vault.toml")),
    ("vault-kv1", include_str!("vault-kv1.toml")),
];

static PARSED: LazyLock<Vec<(&str, Spanned<DeTable<'static>>)>> =
    LazyLock::new(|| FILES.iter().map(|(name, text)| (*name, DeTable::parse_recoverable(text).0)).collect());

/// A file with an error is left out; a test reads them all.
static SHIPPED: LazyLock<Vec<Preset<'static>>> = LazyLock::new(|| read().0);

pub(super) fn all() -> impl Iterator<Item = &'static Preset<'static>> {
    SHIPPED.iter()
}

pub(super) fn find(name: &str) -> Option<&'static Preset<'static>> {
    all().find(|preset| preset.name == name)
}

/// Whether a text is a name that a shipped preset brings into the language of the configuration.
pub(in crate::config) fn is_word(text: &str) -> bool {
    all().any(|preset| {
        let mut parameters = preset.parameters.iter();
        preset.name == text || parameters.any(|parameter| parameter.name == text || parameter.words.contains(&text))
    })
}

fn read() -> (Vec<Preset<'static>>, Option<LoadError>) {
    let files: Vec<SourceText> = FILES
        .iter()
        .map(|(name, text)| SourceText { path: PathBuf::from(format!("{name}.toml")), text: (*text).to_owned() })
        .collect();
    let mut report = Report::new(&files);
    let mut presets = Vec::new();
    for (file, (name, document)) in PARSED.iter().enumerate() {
        let table = Table::new(file, Place { file, span: 0..0 }, document.get_ref(), &names::PRESET, &mut report);
        presets.extend(Preset::read(name, &table, true, &mut report));
    }
    let errors = std::mem::take(&mut report.errors);
    drop(report);
    (presets, (!errors.is_empty()).then(|| LoadError::new(files, errors)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_a_preset() {
        let (presets, errors) = read();
        if let Some(error) = errors {
            panic!("{error}");
        }
        assert_eq!(presets.len(), FILES.len());
        for (name, text) in FILES {
            assert!(DeTable::parse(text).is_ok(), "{name}");
        }
        assert!(FILES.is_sorted_by_key(|(name, _)| name));
        for preset in &presets {
            assert!(preset.link.is_some() && !preset.about.is_empty(), "{}", preset.name);
            for parameter in &preset.parameters {
                let shown = parameter.example.is_some() || parameter.may_lack();
                assert!(shown, "{}: no example of `{}`", preset.name, parameter.name);
            }
        }
    }
}
