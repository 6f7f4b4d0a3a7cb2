//! Configurations and URLs. Input of the first: files, the second and later ones behind a line `#=== NAME`.

use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid};

use super::{Config, Resolver, SourceText, parse};
use crate::fuzz::{self, Start};

struct Names;

impl Resolver for Names {
    fn user(&self, name: &str) -> Result<Option<(Uid, Gid)>, String> {
        let id = match name {
            "root" => 0,
            "keyhatch" => 900,
            "keyhatch-worker" => 901,
            "billing" => 1001,
            "broken" => return Err("the name service does not answer".to_owned()),
            _ => return Ok(None),
        };
        Ok(Some((Uid::from_raw(id), Gid::from_raw(id))))
    }

    fn primary_group(&self, _: Uid) -> Result<Option<Gid>, String> {
        Ok(None)
    }

    fn group(&self, name: &str) -> Result<Option<Gid>, String> {
        Ok((name == "deploy").then_some(Gid::from_raw(2001)))
    }
}

fn files(text: &str) -> Vec<SourceText> {
    let mut files = vec![SourceText { path: PathBuf::from("keyhatch.toml"), text: String::new() }];
    for line in text.split_inclusive('\n') {
        match line.strip_prefix("#=== ") {
            Some(name) => files.push(SourceText { path: PathBuf::from(name.trim()), text: String::new() }),
            None => files.last_mut().unwrap().text.push_str(line),
        }
    }
    files
}

/// What the rest of the program relies on.
fn check(config: &Config) {
    let limits = &config.limits;
    assert!(limits.value_size <= limits.document_size && limits.value_size <= limits.memory);
    assert!(limits.connections_per_user <= limits.connections && limits.header_size >= 8192);
    for key in &config.keys {
        assert_eq!(crate::secret::KeyPath::parse(key.path.as_str()).as_ref(), Ok(&key.path));
        let settings = &key.settings;
        assert!(settings.fetch_timeout >= settings.timeout && settings.timeout >= settings.failover_timeout);
    }
    for client in &config.acl.clients {
        assert!(!client.name.is_empty() && client.at.line > 0);
    }
}

#[test]
fn config() {
    let words = &[
        "[server]\n",
        "[limits]\n",
        "[defaults]\n",
        "[clients.a]\n",
        "[tokens]\n",
        "[keys.\"/a\"]\n",
        "[keys.\"/a/{b}\"]\n",
        "source = { type = \"http\", url = \"https://a/\" }\n",
        "source = { type = \"file\", path = \"/a\" }\n",
        "params.b = { matches = \"[a-z]+\" }\n",
        "user = \"billing\"\n",
        "keys = [\"/**\"]\n",
        "\n#=== conf.d/a.toml\n",
        "\"\"\"",
        "'''",
        "\"",
        "{",
        "}",
        "[",
        "]",
        "[[",
        "=",
        ".",
        ",",
        "\n",
        "\t",
        "max-age = \"5s\"\n",
        "\"forever\"",
        "auth = { type = \"bearer\", token = \"t\" }",
        "{ file = \"/t\" }",
        "1KiB",
        "true",
        "inf",
        "1979-05-27",
        "\\u0000",
        "\\",
        "#",
    ];
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config");
    let texts = ["bad", "good"].into_iter().flat_map(|which| fuzz::read(&folder.join(which)));
    // Beside each bad one stands what is said of it, which is no configuration.
    let seeds = texts.filter(|text| !text.starts_with(b"error")).collect();
    fuzz::run("config", Start { seeds, words }, |input| {
        let text = String::from_utf8_lossy(input);
        match parse(files(&text), &Names) {
            Ok(config) => {
                check(&config);
                vec![format!("{} keys, {} templates", config.keys.len().min(3), config.templates.len().min(3))]
            }
            Err(error) => {
                let (plain, colored) = (error.render(false), error.render(true));
                assert!(error.count() > 0 && plain.contains("error") && !colored.is_empty());
                let turns = |c: &char| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
                let strange = |c: &char| (c.is_control() && *c != '\n') || turns(c);
                assert_eq!(plain.chars().find(strange), None, "{plain}");
                // What is wrong, without what is quoted of it.
                let titles = plain.lines().filter(|line| line.starts_with("error"));
                titles.map(|title| title.split('`').step_by(2).collect()).collect()
            }
        }
    });
}

#[test]
fn url() {
    let words = &[
        "http", "https", "://", "[::1]", ":80", ":443", "@", "#", "?", "/", "..", "%41", "%", "xn--", "1.2.3.4", "0x",
        "\\",
    ];
    fuzz::run("url", Start { words, ..Start::default() }, |input| {
        let text = String::from_utf8_lossy(input);
        let Ok(parsed) = super::url::parse("url", &text) else { return [(0, false, false)] };
        let canonical = format!("{}{}", parsed.origin(), parsed.target);
        assert_eq!(super::url::parse("url", &canonical).ok(), Some(parsed.clone()), "{canonical}");
        assert!(!canonical.contains(['@', '#', '\\', ' ']) || parsed.target.contains('@'), "{canonical}");
        // Who sends the request reads it the same way.
        let uri: hyper::Uri = canonical.parse().unwrap_or_else(|error| panic!("{canonical}: {error}"));
        assert_eq!((uri.host(), uri.port_u16()), (Some(parsed.host.as_str()), Some(parsed.port)), "{canonical}");
        assert_eq!(uri.path_and_query().map(|target| target.as_str()), Some(parsed.target.as_str()), "{canonical}");
        // And so does who reads the text as it was written.
        if let Ok(written) = text.parse::<hyper::Uri>() {
            let host = written.host().map(str::to_ascii_lowercase);
            let same = host.as_deref() == Some(&parsed.host) || parsed.host.starts_with('[');
            assert!(same && written.port_u16().is_none_or(|port| port == parsed.port), "{text}");
        }
        [(parsed.host.len().min(9), parsed.host.starts_with('['), parsed.target.contains('?'))]
    });
}
