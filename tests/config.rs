//! What a good configuration means, and that no text at all brings the parser down.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "config/absent.rs"]
mod absent;
mod common;
#[path = "config/files.rs"]
mod files;
#[path = "config/requests.rs"]
mod requests;

use std::time::Duration;

use common::{Names, sources};
use keyhatch::acl::{Peer, Users, Who};
use keyhatch::config::{
    Auth, Config, Document, Format, HawkAlgorithm, Key, Limits, Method, Projection, SandboxMode, SecretFile, TokenName,
    Trust, explain, load, parse,
};
use keyhatch::secret::KeyPath;
use keyhatch::staleness::{Revocation, Settings, Span};
use proptest::prelude::*;

const FULL: &str = include_str!("config/good/full.toml");

fn config(text: &str) -> Config {
    parse(sources(text), &Names).unwrap_or_else(|error| panic!("{error}"))
}

fn key<'a>(config: &'a Config, path: &str) -> &'a Key {
    config.keys.iter().find(|key| key.path.as_str() == path).unwrap()
}

#[test]
fn the_full_example_means_what_it_says() {
    let config = config(FULL);
    assert_eq!(config.warnings, Vec::<String>::new());
    assert_eq!(config.problems, Vec::<String>::new());
    assert_eq!(config.server.socket_mode, 0o666);
    assert_eq!(config.server.admin_group, None);
    assert_eq!(config.server.sandbox, SandboxMode::Strict);
    assert_eq!(config.server.worker_user.ids.unwrap().0.as_raw(), 901);
    assert_eq!(config.limits, Limits::default());
    assert_eq!(config.tokens[&TokenName("billing".into())], SecretFile::Credential("billing".into()));
    let paths: Vec<_> = config.keys.iter().map(|key| key.path.as_str()).collect();
    assert_eq!(paths, ["/billing/database-url", "/geo/ranges", "/partner/quota", "/web/db-password"]);
    let names: Vec<_> = config.acl.clients.iter().map(|client| client.name.as_str()).collect();
    assert_eq!(names, ["billing", "deploy", "geo"], "clients keep the order of their definition");
    assert_eq!(
        config.acl.clients[0].who,
        Who::Ids { users: Some(Users { uids: vec![1001], dynamic: false }), groups: None, units: None }
    );
    assert_eq!(config.acl.clients[0].at.to_string(), "keyhatch.toml:49");
    assert_eq!(config.acl.clients[1].who, Who::Ids { users: None, groups: Some(vec![2001]), units: None });
    assert_eq!(config.acl.clients[2].who, Who::Anyone);
}

#[test]
fn a_setting_is_the_keys_own_else_the_defaults_else_the_tables() {
    let config = config(
        r#"
        [defaults]
        timeout = "60s"
        max-age = "1m"
        revoked-over = "1h"
        [keys."/plain"]
        source = { type = "file", path = "/a" }
        [keys."/own"]
        source = { type = "file", path = "/a" }
        timeout = "2s"
        max-age = "forever"
        revoked-after = "never"
        "#,
    );
    let plain = &key(&config, "/plain").settings;
    assert_eq!(plain.max_age, Span::Finite(Duration::from_secs(60)));
    assert_eq!(plain.failover_timeout, Duration::from_secs(60), "follows `timeout`");
    assert_eq!(plain.fetch_timeout, Duration::from_secs(60), "at least `timeout`");
    assert_eq!(plain.revocation, Revocation::After { refusals: 3, over: Duration::from_secs(3600) });
    assert_eq!(plain.stale_if_error, Settings::default().stale_if_error);
    let own = &key(&config, "/own").settings;
    assert_eq!((own.max_age, own.timeout), (Span::Forever, Duration::from_secs(2)));
    assert_eq!(own.fetch_timeout, Duration::from_secs(30));
    assert_eq!(own.revocation, Revocation::Never);
}

#[test]
fn what_is_legal_but_looks_wrong_is_a_warning() {
    assert_eq!(config("").warnings, ["keyhatch.toml: no keys: there is nothing to serve"]);
    let config = config(
        "[keys.\"/a\"]\nsource = { type = \"http\", url = \"https://h/\", allow-plaintext = true }\n[clients.x]\nanyone = true\nkeys = [\"/a\", \"/b/*\"]\n",
    );
    assert_eq!(
        config.warnings,
        [
            "keyhatch.toml:2: `allow-plaintext` has no effect with https",
            "keyhatch.toml:5: the pattern `/b/*` matches no key"
        ]
    );
}

#[test]
fn drop_ins_add_and_refer_to_each_other() {
    let config = config(
        "[tokens]\nt = { file = \"/t\" }\n#=== conf.d/a.toml\n[keys.\"/a\"]\nsource = { type = \"heroku\", app = \"a\", config-var = \"A\", token = \"u\" }\n#=== conf.d/b.toml\n[tokens]\nu = { file = \"/u\" }\n[clients.c]\nuser = 1000\nkeys = \"/a\"\n",
    );
    assert_eq!((config.tokens.len(), config.keys.len(), config.problems.len()), (2, 1, 0));
    assert_eq!(config.keys[0].at.to_string(), "conf.d/a.toml:1");
}

#[test]
fn service_users_may_be_numbers_and_may_be_missing() {
    let numbers = config("[server]\nparent-user = 64001\nworker-user = 1001\n").server;
    let ids = |user: &keyhatch::config::ServiceUser| user.ids.map(|(uid, gid)| (uid.as_raw(), gid.as_raw()));
    assert_eq!(ids(&numbers.parent_user), Some((64001, 64001)), "without an entry the gid is the same number");
    assert_eq!(ids(&numbers.worker_user), Some((1001, 1001)));
    assert_eq!(numbers.missing_users(), None);
    let missing = config("[server]\nparent-user = \"kp\"\nworker-user = \"kw\"\n").server.missing_users().unwrap();
    assert_eq!(missing.matches("useradd --system").count(), 2);
}

#[test]
fn limits_follow_each_other_when_not_set() {
    let limits = config("[limits]\nconnections = 10\nvalue-size = \"128MiB\"\n").limits;
    assert_eq!(limits.connections_per_user, 10);
    assert_eq!((limits.document_size, limits.memory), (128 << 20, 128 << 20));
}

#[test]
fn an_explanation_names_the_line_that_decides() {
    let config = config(FULL);
    let told = |uid, key: &str| {
        let peer = Peer { uid, gid: uid, groups: vec![], unit: None, pid: 1 };
        explain(&config, &peer, &KeyPath::parse(key).unwrap()).to_string()
    };
    assert_eq!(
        told(1001, "/billing/database-url"),
        "/billing/database-url is granted by client `billing` (keyhatch.toml:49), whose keys hold `/billing/*`\n  the key is defined at keyhatch.toml:33"
    );
    assert_eq!(
        told(1001, "/web/nothing"),
        "/web/nothing is not granted by any client\n  client `billing` (keyhatch.toml:49) matches the peer, but none of its keys is this one\n  client `deploy` (keyhatch.toml:53) holds the key, but the peer is none of its users and groups\n  client `geo` (keyhatch.toml:57) matches the peer, but none of its keys is this one\n  there is no such key"
    );
    assert!(told(0, "/billing/database-url").contains("not granted"), "root has no right of its own");
}

/// Whatever comes: an answer, and one that can be shown.
fn survive(text: &str) {
    if let Err(error) = parse(sources(text), &Names) {
        assert!(error.count() > 0);
        assert!(!error.render(false).is_empty());
        assert!(!error.render(true).is_empty());
    }
}

fn toml_like() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        "[\\[\\]{}=,.\"'#\n ]{1,4}",
        prop::sample::select(vec![
            "[tokens]\n",
            "[keys.\"/a\"]\n",
            "[clients.x]\n",
            "source = ",
            "type = \"http\"",
            "url = \"https://h/\"",
            "auth = ",
            "token = \"t\"",
            "user = ",
            "keys = [\"/a\"]\n",
            "\"\"\"",
            "'''",
            "0x",
            "1e9",
            "true",
            "\u{feff}",
            "é",
            "\r\n",
            "\t",
        ])
        .prop_map(str::to_owned),
        ".{0,6}",
    ];
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in any::<String>()) {
        survive(&text);
    }

    #[test]
    fn no_text_like_toml_makes_it_panic(text in toml_like()) {
        survive(&text);
    }

    #[test]
    fn no_damage_to_a_good_file_makes_it_panic(
        edits in prop::collection::vec((0..FULL.len(), 0usize..12, "[\\PC\n\"'\\[\\]{}=#]{0,3}"), 1..6)
    ) {
        let mut text = FULL.to_owned();
        for (at, length, insert) in edits {
            let from = text.floor_char_boundary(at.min(text.len()));
            let to = text.floor_char_boundary((from + length).min(text.len())).max(from);
            text.replace_range(from..to, &insert);
        }
        survive(&text);
    }

    #[test]
    fn a_secret_in_place_of_a_token_is_never_shown(
        at in prop::sample::select(vec!["/etc/keyhatch/tokens/heroku", "\"heroku\" }", "\"partner-hawk\"", "{ credential = \"billing\" }", "\"acme\""]),
        with in prop::sample::select(vec!["\"", "'", "", "\"\"\"", "= \"", "token = \"", "auth = { type = \"bearer\", token = ", "{ \"file\" = "]),
        after in prop::sample::select(vec!["\"", "'", "", " }", "\n", "\"\"\"", ",", "]"]),
    ) {
        const SECRET: &str = "Xq7Zk2Lw9vTn4Rb8";
        let text = FULL.replace(at, &format!("{with}{SECRET}{after}"));
        if let Err(error) = parse(sources(&text), &Names) {
            let shown = error.render(false);
            prop_assert!(!shown.contains(SECRET), "{shown}");
        }
    }
}
