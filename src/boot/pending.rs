//! What the configuration may say and this version does not do yet: refused by name, never accepted and ignored.

use crate::config::{Config, SandboxMode};

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
    found
}
