//! Presets: their examples and pages, and the operator's own, from outside.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
#[path = "presets/page.rs"]
mod page;
mod support;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use common::{Names, sources};
use keyhatch::config::{Config, Content, Document, Projection, parse, shipped_presets};
use support::service_account::key_file;
use support::{GRANTED, as_uid};

fn keyhatch(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_keyhatch")).args(arguments).env_remove("KEYHATCH_CONFIG").output().unwrap()
}

fn printed(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn config(text: &str) -> Config {
    parse(sources(text), &Names).unwrap_or_else(|error| panic!("{error}"))
}

/// `UPDATE_EXPECTED=1` writes the pages anew, to be read in the diff.
#[test]
fn every_shipped_preset_has_its_page() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/presets");
    let mut pages = vec![("README".to_owned(), page::index(&shipped_presets()))];
    pages.extend(shipped_presets().iter().map(|preset| (preset.name.clone(), page::of(preset))));
    let mut wrong = Vec::new();
    for (name, page) in &pages {
        let path = directory.join(format!("{name}.md"));
        if std::env::var_os("UPDATE_EXPECTED").is_some() {
            fs::create_dir_all(&directory).unwrap();
            fs::write(&path, page).unwrap();
        } else if fs::read_to_string(&path).unwrap_or_default() != *page {
            wrong.push(name.as_str());
        }
    }
    assert!(wrong.is_empty(), "not what the presets say: {wrong:?}; UPDATE_EXPECTED=1 writes them");
    let there = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let strange: Vec<String> =
        there.filter(|name| !pages.iter().any(|(page, _)| *name == format!("{page}.md"))).collect();
    assert!(strange.is_empty(), "pages of no preset: {strange:?}");
}

/// As printed, but for the directory of the tokens.
#[test]
fn every_example_passes_check() {
    for preset in shipped_presets() {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let shown = keyhatch(&["presets", "show", &preset.name, "--example"]);
        assert!(shown.status.success(), "{shown:?}");
        let example = printed(&shown);
        let parsed = config(&example);
        let files = parsed.token_files();
        for name in parsed.tokens.keys() {
            let path = directory.path().join(&name.0);
            let content = match files.get(name).map(Vec::as_slice) {
                None => "token\n".to_owned(),
                Some([Content::GoogleKey { token_url }]) => {
                    let origin = token_url.origin();
                    key_file(&format!("{}{}", origin.trim_end_matches(":443"), token_url.target)).0
                }
                Some([Content::AwsCredentials { profile: None }]) => {
                    "AWS_ACCESS_KEY_ID=AKIDPLANTED\nAWS_SECRET_ACCESS_KEY=planted\n".to_owned()
                }
                Some(other) => panic!("{}: a file with {other:?}", preset.name),
            };
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        let file = directory.path().join("keyhatch.toml");
        let tokens = format!("{}/", directory.path().display());
        // The users of the service need not be on this machine.
        let users = "[server]\nparent-user = 64001\nworker-user = 64002\n";
        fs::write(&file, format!("{users}{}", example.replace("/etc/keyhatch/tokens/", &tokens))).unwrap();
        let checked = keyhatch(&["check", file.to_str().unwrap()]);
        let said = String::from_utf8_lossy(&checked.stderr);
        assert!(checked.status.success() && !said.contains("warning"), "{}: {said}", preset.name);
    }
}

#[test]
fn presets_are_listed_and_told() {
    let list = printed(&keyhatch(&["presets"]));
    let json: serde_json::Value = serde_json::from_slice(&keyhatch(&["presets", "--json"]).stdout).unwrap();
    for (index, preset) in shipped_presets().iter().enumerate() {
        assert!(list.contains(&preset.title), "{list}");
        assert_eq!(json["presets"][index]["name"], preset.name.as_str());
        let told = printed(&keyhatch(&["presets", "show", &preset.name]));
        assert!(told.contains(preset.example.trim_end()), "{told}");
        for parameter in &preset.parameters {
            assert!(told.contains(&parameter.name) && told.contains(&parameter.doc), "{told}");
            let marked = told.lines().any(|line| line.starts_with(&format!("{} {{…}} ", parameter.name)));
            assert_eq!(marked, parameter.takes_parameters_of_keys, "{}: {told}", parameter.name);
        }
    }
    let unknown = keyhatch(&["presets", "show", "herku"]);
    assert_eq!(unknown.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("heroku"), "{unknown:?}");
    assert_eq!(keyhatch(&["--config", "/nowhere.toml", "presets"]).status.code(), Some(78));
}

const OWN: &str = r#"
[tokens]
inventory = { file = "/t" }
other     = { file = "/u" }
#=== conf.d/inventory.toml
[presets.inventory]
title = "Values of the inventory"

[presets.inventory.parameters]
site   = { type = "host-label", doc = "the site", example = "berlin" }
base   = { type = "origin", doc = "elsewhere", default = "https://{site}.inventory.example" }
team   = { type = "path", doc = "the team", example = "web/shop" }
name   = { type = "text", doc = "the name of the value" }
field  = { type = "fields", doc = "of its fields", optional = true }
realm  = { type = "text", doc = "the realm", optional = true }
stage  = { type = "choice", one-of = ["live", "test"], doc = "the stage", default = "live" }
deep   = { type = "boolean", doc = "follow references", default = false }
token  = { type = "token", doc = "an API token", example = "inventory" }
user   = { type = "text", doc = "a user" }
key    = { type = "token", doc = "and the key", example = "other" }

[presets.inventory.source]
url     = "{base}/v1/teams/{team}/values"
query   = { name = "{name}", realm = "{realm}" }
method  = "POST"
headers = { x-realm = "{realm}", x-stage = "{stage}" }
json    = { name = "<{name}>", realm = "{realm}", deep = "{deep}", nested = { stage = "{stage}", n = [0x10, "<{name}>"] } }
auth    = [{ type = "bearer", token = "{token}" }, { type = "basic", user = "{user}", token = "{key}" }]
field   = "{field}"
"#;

/// Whose example needs to be allowed plain http, and a number.
const PLAIN: &str = r#"
[presets.plain]
title = "Values of the rack"

[presets.plain.parameters]
base = { type = "origin", doc = "where", default = "http://127.0.0.1:8080" }
id   = { type = "text", doc = "its number", characters = "0-9" }

[presets.plain.source]
url  = "{base}/{id}"
auth = { type = "bearer", token = "inventory" }
"#;

fn own(key: &str, source: &str, more: &str) -> keyhatch::config::Source {
    let text = format!("{OWN}[keys.\"{key}\"]\nsource = {{ type = \"inventory\", {source} }}\n{more}");
    let config = config(&text);
    assert_eq!(config.problems, Vec::<String>::new());
    match config.templates.first() {
        Some(template) => template.source.expand(&["a~b:c@d".to_owned(), "x+y".to_owned()]),
        None => config.keys[0].source.clone(),
    }
}

#[test]
fn a_preset_of_the_operators_is_the_source_that_it_says() {
    let source = own("/k", "site = \"berlin\", team = \"web/a b\", name = \"a/b?\\\"c\", token = \"inventory\"", "");
    let Document::Http(document) = &source.document else { panic!("no http") };
    assert_eq!(document.url.origin(), "https://berlin.inventory.example:443");
    assert_eq!(document.url.target, "/v1/teams/web/a%20b/values?name=a%2Fb%3F%22c");
    assert_eq!(
        document.headers,
        [("content-type".into(), "application/json".into()), ("x-stage".into(), "live".into())]
    );
    let body = document.body.as_deref().unwrap();
    assert_eq!(body, r#"{"deep":false,"name":"<a/b?\"c>","nested":{"n":[16,"<a/b?\"c>"],"stage":"live"}}"#);
    assert_eq!(source.projection, Projection::Whole);
    assert!(source.definition.contains("\"type\":\"http\""), "what an operator can change is bound to what it makes");

    let given = own(
        "/k",
        "site = \"x\", base = \"https://h:8443/api/\", team = \"t\", name = \"n\", user = \"u\", key = \"other\", realm = \"r\", \
         stage = \"test\", deep = true, field = [\"a\", \"b\"]",
        "",
    );
    let Document::Http(document) = &given.document else { panic!("no http") };
    assert_eq!(document.url.origin(), "https://h:8443");
    assert_eq!(document.url.target, "/api/v1/teams/t/values?name=n&realm=r");
    assert!(document.headers.contains(&("x-realm".into(), "r".into())));
    assert_eq!(
        document.body.as_deref(),
        Some(r#"{"deep":true,"name":"<n>","nested":{"n":[16,"<n>"],"stage":"test"},"realm":"r"}"#)
    );
    assert_eq!(given.projection, Projection::Fields(vec!["a".into(), "b".into()]));
    assert_eq!(document.auth.token().unwrap().0, "other");
}

#[test]
fn parameters_of_a_key_stand_in_those_of_a_preset() {
    let source = own(
        "/own/{team}/{name}",
        "site = \"x\", team = \"web/{team}\", name = \"{name}.v\", field = \"{name}\", token = \"inventory\"",
        "params.team = { matches = \".*\" }\nparams.name = { matches = \".*\" }\n",
    );
    let Document::Http(document) = &source.document else { panic!("no http") };
    assert_eq!(document.url.target, "/v1/teams/web/a~b%3Ac%40d/values?name=x%2By.v");
    let body = document.body.as_deref().unwrap();
    assert_eq!(body, r#"{"deep":false,"name":"<x+y.v>","nested":{"n":[16,"<x+y.v>"],"stage":"live"}}"#);
    assert_eq!(source.projection, Projection::Fields(vec!["x+y".into()]));
}

/// What an operator changes in a preset changes what sealed values are bound to; what is only told does not.
#[test]
fn a_changed_preset_is_another_definition() {
    let key = "[keys.\"/k\"]\nsource = { type = \"inventory\", site = \"x\", team = \"t\", name = \"n\", token = \"inventory\" }\n";
    let of = |own: &str| config(&format!("{own}{key}")).keys[0].source.definition.clone();
    assert_eq!(of(OWN), of(&OWN.replace("Values of", "All of")));
    assert_ne!(of(OWN), of(&OWN.replace("/v1/", "/v2/")));
    assert_ne!(of(OWN), of(&OWN.replace("deep = \"{deep}\"", "deep = \"{deep}\", more = 1")));
}

#[test]
fn presets_of_the_configuration_are_listed_as_well() {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let path = |name: &str| directory.path().join(name);
    let (main, drop_in) = OWN.split_once("#=== conf.d/inventory.toml").unwrap();
    let drop_in = format!("{drop_in}{PLAIN}");
    for name in ["t", "u"] {
        fs::write(path(name), "token\n").unwrap();
        fs::set_permissions(path(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    let file = path("keyhatch.toml");
    let main = main.replace("\"/", &format!("\"{}/", directory.path().display()));
    fs::write(&file, format!("[server]\nparent-user = 64001\nworker-user = 64002\n{main}")).unwrap();
    fs::create_dir(directory.path().join("conf.d")).unwrap();
    fs::write(directory.path().join("conf.d/inventory.toml"), &drop_in).unwrap();
    let of = ["--config", file.to_str().unwrap(), "presets"];
    let list = printed(&keyhatch(&of));
    let line = list.lines().find(|line| line.starts_with("inventory ")).unwrap();
    assert!(line.contains("configuration") && line.contains("Values of the inventory"), "{list}");
    let example = printed(&keyhatch(&[&of[..], &["show", "inventory", "--example"]].concat()));
    let keys = config(&format!("{}\n{}", drop_in, example)).keys;
    let tokens: Vec<String> = keys.iter().map(|key| key.source.document.token_names().remove(0).0).collect();
    assert_eq!(tokens, ["inventory", "other"], "an example of each way to authenticate: {example}");
    // As a drop-in beside the preset.
    for name in ["inventory", "plain"] {
        let example = printed(&keyhatch(&[&of[..], &["show", name, "--example"]].concat()));
        assert!(!example.contains("[tokens]"), "they are there: {example}");
        fs::write(path("conf.d/example.toml"), &example).unwrap();
        let checked = keyhatch(&["check", file.to_str().unwrap()]);
        let said = String::from_utf8_lossy(&checked.stderr);
        assert!(checked.status.success() && !said.contains("warning"), "{example}: {said}");
    }
}

/// By another user, in a directory of its own; but for the port, which somebody may have.
#[test]
#[ignore = "needs root: becomes another user"]
fn the_stand_in_of_the_page_is_asked_as_it_says() {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/presets/README.md")).unwrap();
    let (_, script) = readme.split_once("```sh\n").unwrap();
    let (script, rest) = script.split_once("```").unwrap();
    let says = rest.split("prints `").nth(1).and_then(|rest| rest.split('`').next()).unwrap();
    assert!(rest.contains("twice"), "{rest}");
    let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port().to_string();
    let directory = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(directory.path(), Some(GRANTED), Some(GRANTED)).unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_keyhatch")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    let mut shell = as_uid(GRANTED, "bash");
    shell.current_dir(directory.path()).env("PATH", path).args(["-uc", &script.replace("8080", &port)]);
    let done = shell.output().unwrap();
    let noted = String::from_utf8_lossy(&done.stderr);
    assert_eq!(printed(&done), format!("{says}\n{says}\n"), "{noted}");
    assert!(noted.contains("stale, ") && noted.contains("connect-refused"), "{noted}");
}

#[test]
fn a_token_that_is_missing_is_told_once_though_a_preset_is_judged_twice() {
    let key = "[keys.\"/k\"]\nsource = { type = \"heroku\", app = \"a\", config-var = \"B\", token = \"nosuch\" }\n";
    let problems = config(key).problems;
    assert!(problems.len() == 1 && problems[0].contains("there is no token `nosuch`"), "{problems:?}");
}

/// What values of shipped presets are sealed under. A change here loses the last known good of every installation that has
/// such a key; `UPDATE_EXPECTED=1` writes what is new.
#[test]
fn what_examples_are_sealed_under_stays_as_it_is() {
    let mut now = String::new();
    for preset in shipped_presets() {
        for key in config(&preset.example).keys {
            now.push_str(&format!("{} {}\n", key.path.as_str(), key.source.definition));
        }
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/presets/definitions.txt");
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        fs::write(&path, &now).unwrap();
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), now);
}
