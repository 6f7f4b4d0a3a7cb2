//! What a good configuration means, and that no text at all brings the parser down.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

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

/// One key with this source.
fn source(source: &str) -> keyhatch::config::Source {
    let text =
        format!("[tokens]\nt = {{ file = \"/t\" }}\nu = {{ file = \"/u\" }}\n[keys.\"/k\"]\nsource = {source}\n");
    config(&text).keys.remove(0).source
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
fn heroku_becomes_the_request_that_it_is() {
    let config = config(FULL);
    let key = key(&config, "/billing/database-url");
    let Document::Http(document) = &key.source.document else { panic!("not http") };
    assert_eq!(document.url.origin(), "https://api.heroku.com:443");
    assert_eq!(document.url.target, "/apps/billing-prod/config-vars");
    assert_eq!((document.method, document.format), (Method::Get, Format::Json));
    assert_eq!(document.headers, [("accept".into(), "application/vnd.heroku+json; version=3".into())]);
    assert_eq!(document.auth, Auth::Bearer { token: TokenName("heroku".into()) });
    assert_eq!(key.source.projection, Projection::Fields(vec!["DATABASE_URL".into()]));
    assert_eq!(key.settings.failover_timeout, Duration::from_millis(300));
    assert_eq!(key.settings.stale_while_revalidate, Span::Finite(Duration::from_secs(300)));
    assert_eq!(key.at.to_string(), "keyhatch.toml:33");
}

#[test]
fn heroku_elsewhere_is_said_in_full() {
    let there = source(
        r#"{ type = "heroku", app = "a", config-var = ["A", "B"], token = "t", base-url = "http://127.0.0.1:8080/api/", allow-plaintext = true }"#,
    );
    let Document::Http(document) = &there.document else { panic!("not http") };
    assert_eq!(document.url.origin(), "http://127.0.0.1:8080");
    assert_eq!(document.url.target, "/api/apps/a/config-vars");
}

#[test]
fn keys_of_one_app_share_their_document() {
    let one = source(r#"{ type = "heroku", app = "a", config-var = "A", token = "t" }"#);
    let two = source(r#"{ type = "heroku", app = "a", config-var = "B", token = "t" }"#);
    assert_eq!(one.document, two.document);
    assert_ne!(one.definition, two.definition);
}

/// These texts bind sealed values: a change here loses the last known good of every installation.
#[test]
fn definitions_are_the_same_in_every_version() {
    for (text, expected) in [
        (
            r#"{ type = "http", url = "https://H/a?b=c", field = "x", auth = { type = "bearer", token = "t" } }"#,
            r#"{"field":["x"],"format":"json","method":"GET","token":"t","type":"http","url":"https://h:443/a?b=c"}"#,
        ),
        (
            r#"{ type = "http", url = "http://h/", method = "POST", body = "{}", format = "text", headers = { X-B = "2", User-Agent = "u", Accept = "a/b", Accept-Language = "de", x-a = "1" } }"#,
            r#"{"body":"{}","format":"text","headers":[["x-a","1"],["x-b","2"]],"method":"POST","type":"http","url":"http://h:80/"}"#,
        ),
        (
            r#"{ type = "http", url = "https://h/", pointer = "/a~1b/0", auth = { type = "hawk", id = "acme", key = "t" }, ca-file = "/ca.pem", proxy = "http://p:3128" }"#,
            r#"{"account":"acme","format":"json","method":"GET","pointer":["a/b","0"],"token":"t","type":"http","url":"https://h:443/"}"#,
        ),
        (
            r#"{ type = "heroku", app = "a", config-var = "A", token = "t" }"#,
            r#"{"app":"a","field":["A"],"token":"t","type":"heroku"}"#,
        ),
        (
            r#"{ type = "file", path = "/a", format = "env", field = ["A", "B"] }"#,
            r#"{"field":["A","B"],"format":"env","path":"/a","type":"file"}"#,
        ),
    ] {
        assert_eq!(source(text).definition, expected);
    }
}

#[test]
fn another_token_or_account_is_another_definition() {
    let with = |auth: &str| source(&format!(r#"{{ type = "http", url = "https://h/", auth = {auth} }}"#)).definition;
    let bearer = with(r#"{ type = "bearer", token = "t" }"#);
    assert_ne!(bearer, with(r#"{ type = "bearer", token = "u" }"#));
    assert_eq!(bearer, with(r#"{ type = "header", name = "X-Key", token = "t" }"#), "how it is shown selects no data");
    let hawk = |id: &str| with(&format!(r#"{{ type = "hawk", id = "{id}", key = "t" }}"#));
    assert_ne!(hawk("a"), hawk("b"));
}

#[test]
fn ways_to_authenticate() {
    let auth = |text: &str| match source(&format!(r#"{{ type = "http", url = "https://h/", auth = {text} }}"#)).document
    {
        Document::Http(document) => document.auth,
        _ => panic!("not http"),
    };
    let token = || TokenName("t".into());
    assert_eq!(
        auth(r#"{ type = "basic", user = "me", token = "t" }"#),
        Auth::Basic { user: "me".into(), token: token() }
    );
    assert_eq!(
        auth(r#"{ type = "header", name = "Authorization", prefix = "Token ", token = "t" }"#),
        Auth::Header { name: "authorization".into(), prefix: "Token ".into(), token: token() }
    );
    assert_eq!(
        auth(r#"{ type = "hawk", id = "a", key = "t", algorithm = "sha1" }"#),
        Auth::Hawk { id: "a".into(), key: token(), algorithm: HawkAlgorithm::Sha1 }
    );
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
fn who_cannot_be_found_is_a_problem_and_matches_nobody() {
    let config = config(
        r#"
        [server]
        admin-group = "operators"
        [tokens]
        heroku = { file = "/t" }
        [keys."/a"]
        source = { type = "http", url = "https://h/", auth = { type = "bearer", token = "herku" } }
        [keys."/b"]
        source = { type = "http", url = "https://h/", auth = { type = "bearer", token = "partner" } }
        [clients.typo]
        user = ["billing", "biling"]
        keys = "/a"
        [clients.overflow]
        group = 65534
        keys = "/a"
        [clients.nobody]
        user = "nobody"
        keys = "/a"
        [clients.number]
        user = "47111"
        group = 0
        keys = "/a"
        [clients.lookup]
        user = "broken"
        keys = "/a"
        "#,
    );
    assert!(config.acl.clients.iter().all(|client| client.who == Who::Nobody));
    assert_eq!(
        config.problems,
        [
            "keyhatch.toml:3: `admin-group`: there is no group `operators`; the admin socket is for root alone",
            "keyhatch.toml:7: there is no token `herku`; did you mean `heroku`?",
            "keyhatch.toml:9: there is no token `partner`; add it: [tokens] partner = { file = \"/etc/keyhatch/tokens/partner\" }",
            "keyhatch.toml:11: client `typo` matches nobody: there is no user `biling`",
            "keyhatch.toml:14: client `overflow` matches nobody: group 65534 is the overflow id 65534, which never matches",
            "keyhatch.toml:17: client `nobody` matches nobody: user `nobody` is the overflow id 65534, which never matches",
            "keyhatch.toml:20: client `number` matches nobody: there is no user `47111`; a uid is written without quotes: user = 47111",
            "keyhatch.toml:24: client `lookup` matches nobody: looking up user `broken`: the name service does not answer",
        ]
    );
    assert_eq!(config.keys.len(), 2, "keys of unknown tokens stay: they serve their last known good");
}

#[test]
fn a_user_that_is_not_found_does_not_become_a_client_without_conditions() {
    let config = config(
        "[keys.\"/a\"]\nsource = { type = \"file\", path = \"/a\" }\n[clients.x]\nuser = \"biling\"\ngroup = \"deploy\"\nkeys = \"/a\"\n",
    );
    assert_eq!(config.acl.clients[0].who, Who::Nobody);
}

#[test]
fn names_too_long_for_systemd_are_a_warning() {
    let key = |path: &str| format!("[keys.\"{path}\"]\nsource = {{ type = \"file\", path = \"/a\" }}\n");
    let warnings = |unit: &str, more: &str, path: &str| {
        let client = format!("[clients.c]\nunit = \"{unit}\"\nkeys = \"/**\"\n{more}\n");
        config(&(key(path) + &client)).warnings
    };
    // 9 bytes and 74 are as many as there may be.
    let (fits, long) = (format!("/{}", "k".repeat(74)), format!("/{}", "k".repeat(75)));
    assert_eq!(warnings("a.service", "", &fits), Vec::<String>::new());
    assert_eq!(warnings("a*.service", "", &fits), Vec::<String>::new());
    let told = warnings("a.service", "", &long);
    assert!(told.len() == 1 && told[0].contains("84 bytes together, and an address has room for 83"), "{told:?}");
    let by_name = format!("credentials = {{ \"{}\" = \"/k\" }}", "i".repeat(75));
    assert!(warnings("*.service", &by_name, "/k").is_empty());
    assert_eq!(warnings("a.service", &by_name, "/k").len(), 1);
    // For HTTP there is no such limit, and what dots cannot name is never asked for.
    assert!(warnings("a.service", "user = 1", &long).is_empty());
    assert!(warnings("a.service", "", &format!("/a:{}", "k".repeat(75))).is_empty());
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

const DOCUMENT: &str = include_str!("../docs/configuration.md");

/// The fenced blocks of the documentation in this language.
fn blocks(language: &str) -> Vec<&'static str> {
    let fence = format!("```{language}\n");
    DOCUMENT.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

#[test]
fn the_examples_of_the_documentation_are_legal() {
    let examples = blocks("toml");
    assert!(examples.len() >= 4, "only {} examples found", examples.len());
    for example in examples {
        config(example);
    }
}

#[test]
fn the_error_in_the_documentation_is_a_real_one() {
    let shown = DOCUMENT.split("```\n").find(|block| block.starts_with("error: ")).unwrap();
    let text = "\n\n[keys.\"/a\"]\nsource = { type = \"file\", path = \"/a\" }\n\nmax-age = 30\n";
    let mut files = sources(text);
    files[0].path = "/etc/keyhatch/keyhatch.toml".into();
    let error = parse(files, &Names).err().unwrap();
    assert_eq!(error.render(false).trim_end(), shown.trim_end());
}

#[test]
fn loading_reads_the_file_and_its_drop_ins() {
    let directory = tempfile::tempdir().unwrap();
    let main = directory.path().join("keyhatch.toml");
    let trust = Trust::Caller(nix::unistd::geteuid());
    let absent = load(&main, trust).err().unwrap().render(false);
    assert_eq!(
        absent,
        format!(
            "error: cannot open the configuration: No such file or directory\n--> {}\n = help: name another file with --config FILE or $KEYHATCH_CONFIG",
            main.display()
        )
    );
    std::fs::write(&main, "").unwrap();
    std::fs::create_dir(directory.path().join("conf.d")).unwrap();
    let drop_in = directory.path().join("conf.d/a.toml");
    std::fs::write(&drop_in, "[keys.\"/a\"]\nsource = { type = \"file\", path = \"/a\" }\n").unwrap();
    let config = load(&main, trust).unwrap();
    assert_eq!(config.keys[0].at.file, drop_in);
}

#[test]
fn an_unsafe_drop_in_and_errors_elsewhere_are_told_together() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let main = directory.path().join("keyhatch.toml");
    std::fs::write(&main, "sever = 1\n").unwrap();
    std::fs::create_dir(directory.path().join("conf.d")).unwrap();
    let drop_in = directory.path().join("conf.d/a.toml");
    std::fs::write(&drop_in, "").unwrap();
    std::fs::set_permissions(&drop_in, std::fs::Permissions::from_mode(0o666)).unwrap();
    let error = load(&main, Trust::Caller(nix::unistd::geteuid())).err().unwrap();
    assert_eq!(error.count(), 2);
    let text = error.render(false);
    assert!(text.contains("everybody can write") && text.contains("chmod o-w") && text.contains("`server`"), "{text}");
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
