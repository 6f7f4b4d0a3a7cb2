//! What a configuration with parameters means: which source each path has, and who may read it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Names, sources};
use keyhatch::acl::Peer;
use keyhatch::config::{
    Config, Defined, Document, Eviction, HttpDocument, Projection, Source, explain, explain_template, parse,
};
use keyhatch::secret::KeyPath;
use keyhatch::template::check_value;
use proptest::prelude::*;

fn config(text: &str) -> Config {
    let text = format!("[tokens]\nt = {{ file = \"/t\" }}\n{text}");
    parse(sources(&text), &Names).unwrap_or_else(|error| panic!("{error}"))
}

fn path(text: &str) -> KeyPath {
    KeyPath::parse(text).unwrap()
}

/// The source of a path of the only key with parameters.
fn expanded(config: &Config, key: &str) -> Source {
    match config.defined(&path(key)) {
        Defined::Template(template, values) => template.source.expand(&values),
        other => panic!("{key}: {other:?}"),
    }
}

fn http(source: &Source) -> &HttpDocument {
    match &source.document {
        Document::Http(document) => document,
        _ => panic!("not http"),
    }
}

const HEROKU: &str = r#"
[keys."/heroku/{app}/{var}"]
source = { type = "heroku", app = "{app}", config-var = "{var}", token = "t" }
params.app = { one-of = ["billing", "shop"] }
params.var = { matches = "[A-Z_]+" }
max-age = "30s"
"#;

#[test]
fn the_definition_of_a_path_is_that_of_the_same_key_without_parameters() {
    let plain = |key: &str, source: &str| {
        let config = config(&format!("[keys.\"{key}\"]\nsource = {source}\n"));
        config.keys[0].source.clone()
    };
    let heroku = config(HEROKU);
    let url = r#"{ type = "heroku", app = "shop", config-var = "URL", token = "t" }"#;
    assert_eq!(expanded(&heroku, "/heroku/shop/URL"), plain("/a", url));
    assert_eq!(
        expanded(&heroku, "/heroku/shop/URL").definition,
        r#"{"app":"shop","field":["URL"],"token":"t","type":"heroku"}"#
    );
    let post = |name: &str, query: &str| {
        format!(
            r#"{{ type = "http", url = "https://h/v1/{query}", method = "POST", body = '{{"q": "{name}"}}', pointer = "/d/{name}/0", headers = {{ content-type = "application/json" }} }}"#
        )
    };
    let http =
        config(&format!("[keys.\"/h/{{n}}\"]\nsource = {}\nparams.n.matches = \".*\"\n", post("{n}", "x-{n}?n={n}")));
    assert_eq!(expanded(&http, "/h/a@b"), plain("/a", &post("a@b", "x-a%40b?n=a%40b")));
    let env = r#"[keys."/env/{n}"]
source = { type = "file", path = "/etc/app.env", format = "env", field = "{n}" }
params.n.matches = "[A-Z]+""#;
    let one = r#"{ type = "file", path = "/etc/app.env", format = "env", field = "PORT" }"#;
    assert_eq!(expanded(&config(env), "/env/PORT"), plain("/a", one));
}

#[test]
fn bounds_are_the_keys_own_else_the_defaults_else_a_hundred_of_the_least_recently_used() {
    let bounds = |text: &str| {
        let config = config(text);
        (config.templates[0].max_entries, config.templates[0].eviction)
    };
    assert_eq!(bounds(HEROKU), (100, Eviction::Lru));
    assert_eq!(bounds(&format!("[defaults]\nmax-entries = 7\neviction = \"lfu\"\n{HEROKU}")), (7, Eviction::Lfu));
    assert_eq!(bounds(&format!("[defaults]\nmax-entries = 7\n{HEROKU}max-entries = 9\n")), (9, Eviction::Lru));
}

#[test]
fn a_key_without_parameters_wins_and_then_the_first_one() {
    let config = config(
        r#"
        [keys."/x/{a}"]
        source = { type = "http", url = "https://first/{a}" }
        params.a = { matches = "a.*" }
        [keys."/x/{b}"]
        source = { type = "http", url = "https://second/{b}" }
        params.b = { matches = ".*b" }
        [keys."/x/ab"]
        source = { type = "http", url = "https://plain/" }
        #=== conf.d/a.toml
        [keys."/x/{c}"]
        source = { type = "http", url = "https://third/{c}" }
        params.c = { matches = "[^b]*" }
        "#,
    );
    let host = |key: &str| match config.defined(&path(key)) {
        Defined::Template(template, values) => http(&template.source.expand(&values)).url.host.clone(),
        Defined::Key(_) => "plain".to_owned(),
        Defined::Outside(template, parameter) => format!("{} {parameter}", template.template),
        Defined::No => "none".to_owned(),
    };
    assert_eq!(host("/x/ab"), "plain");
    assert_eq!(host("/x/axb"), "first");
    assert_eq!(host("/x/xb"), "second");
    assert_eq!(host("/x/c"), "third");
    assert_eq!(host("/x/bc"), "/x/{a} a");
    assert_eq!(host("/y/c"), "none");
}

#[test]
fn two_of_one_shape_are_legal_where_no_path_is_of_both() {
    let both = r#"
        [keys."/heroku/{app}/{var}"]
        source = { type = "heroku", app = "{app}", config-var = "{var}", token = "t" }
        params = { app = { one-of = ["a", "b"] }, var = { matches = "[A-Z]+" } }
        [keys."/heroku/{team-app}/{var}"]
        source = { type = "heroku", app = "{team-app}", config-var = "{var}", token = "t" }
        params = { team-app = { one-of = ["c", "d"] }, var = { matches = "[A-Z]+" } }
        "#;
    assert_eq!(config(both).templates.len(), 2);
}

#[test]
fn a_pattern_that_no_path_can_match_is_a_warning() {
    let config = config(&format!(
        "{HEROKU}\n[clients.c]\nuser = 1\nkeys = [\"/heroku/billing/*\", \"/heroku/*/DB*\", \"/heroku/other/*\", \"/heroku/*\", \"/**\"]\n"
    ));
    let warned: Vec<&str> = config.warnings.iter().map(|text| text.split(": ").nth(1).unwrap()).collect();
    assert_eq!(warned, ["the pattern `/heroku/other/*` matches no key", "the pattern `/heroku/*` matches no key"]);
}

#[test]
fn an_explanation_names_the_key_that_a_path_is_of() {
    let config = config(&format!("{HEROKU}[clients.c]\nuser = 1\nkeys = [\"/heroku/shop/*\", \"/heroku/other/*\"]\n"));
    let peer = Peer { uid: 1, gid: 1, groups: vec![], unit: None, pid: 0 };
    let told = |key: &str| explain(&config, &peer, &path(key)).to_string();
    let end = |key: &str| told(key).lines().last().unwrap().trim().to_owned();
    assert!(told("/heroku/shop/URL").starts_with("/heroku/shop/URL is granted by client `c`"));
    assert_eq!(
        end("/heroku/shop/URL"),
        "it is /heroku/{app}/{var}, defined at keyhatch.toml:4, with app = shop, var = URL"
    );
    assert_eq!(
        end("/heroku/other/URL"),
        "there is no such key: /heroku/{app}/{var}, defined at keyhatch.toml:4, does not allow this value of `app`"
    );
    assert!(told("/heroku/billing/URL").contains("is not granted by any client"));
    let whole = explain_template(&config, &peer, "/heroku/{app}/{var}").unwrap().to_string();
    assert_eq!(
        whole,
        "some paths of /heroku/{app}/{var} are granted by client `c` (keyhatch.toml:9), whose keys hold `/heroku/shop/*`\n  the key is defined at keyhatch.toml:4"
    );
    let nobody = Peer { uid: 2, ..peer.clone() };
    let whole = explain_template(&config, &nobody, "/heroku/{app}/{var}").unwrap().to_string();
    assert!(whole.starts_with("no path of /heroku/{app}/{var} is granted by any client\n"), "{whole}");
    assert!(explain_template(&config, &peer, "/heroku/{app}").is_none());
}

proptest! {
    /// Whatever value a template would admit: the URL is the same but for the segment and the query's value.
    #[test]
    fn no_value_leaves_its_component(value in "[A-Za-z0-9._~@:+-]{1,40}|\\PC{0,20}") {
        let config = config(
            "[keys.\"/k/{v}\"]\nsource = { type = \"http\", url = \"https://h:8443/a/b-{v}.c/d?x={v}&y=1\", field = \"{v}\" }\nparams.v.matches = \"(?s).*\"\n",
        );
        let source = config.templates[0].source.expand(std::slice::from_ref(&value));
        let url = &http(&source).url;
        prop_assert_eq!(url.origin(), "https://h:8443");
        let (path, query) = url.target.split_once('?').unwrap();
        prop_assert_eq!(path.split('/').count(), 4);
        prop_assert!(path.starts_with("/a/b-") && path.ends_with(".c/d"), "{}", path);
        prop_assert_eq!(query.split('&').count(), 2);
        prop_assert!(query.starts_with("x=") && query.ends_with("&y=1"), "{}", query);
        let target: hyper::Uri = url.target.parse().unwrap();
        prop_assert_eq!(target.path_and_query().unwrap().as_str(), url.target.as_str());
        prop_assert_eq!(&source.projection, &Projection::Fields(vec![value.clone()]));
        let Ok(key) = KeyPath::parse(&format!("/k/{value}")) else { return Ok(()) };
        let admitted = matches!(config.defined(&key), Defined::Template(..));
        prop_assert_eq!(admitted, check_value(&value).is_ok(), "{}", key);
    }
}
