//! What the configuration may say and this version does not do yet: refused by name, never accepted and ignored.

use crate::config::{Config, Limits, SandboxMode, SecretFile};

/// One sentence for each such setting.
pub fn refused(config: &Config) -> Vec<String> {
    let mut found = Vec::new();
    let mut refuse = |what: String, is_set: bool| {
        if is_set {
            found.push(format!("{what}: not in this version yet"));
        }
    };
    let server = &config.server;
    refuse("server.sandbox = \"best-effort\"".into(), server.sandbox == SandboxMode::BestEffort);
    refuse(
        "cache.seal-key other than one file".into(),
        !matches!(config.cache.seal_keys.as_slice(), [SecretFile::File(_)]),
    );
    let (limits, standard) = (&config.limits, Limits::default());
    refuse("limits.memory".into(), limits.memory != standard.memory);
    for key in &config.templates {
        refuse(format!("{}: key `{}`: parameters", key.at, key.template), true);
    }
    for key in &config.keys {
        let named = |what: &str| format!("{}: key `{}`: {what}", key.at, key.path);
        let settings = &key.settings;
        refuse(named("forget-after"), settings.forget_after != crate::staleness::Settings::default().forget_after);
    }
    found
}
