//! `keyhatch import cachish`: what a file becomes, what is refused, and a real cachish beside the broker that it became.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "import/beside.rs"]
mod beside;
mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// As its documentation has it, every module and form of each parameter.
const DOCUMENTED: &str = r#"
items:
    /database-url: {module: Heroku, parameters: {app: a, api_token: planted-token-1, config_key: DATABASE_URL}}
    /heroku/both:
        module: "Heroku"
        parameters: {app: b, api_token: planted-token-2, config_key: [A, B]}
    /ranges:       {module: JsonHttp, disable_auth: true, parameters: {url: "https://ranges.example/r.json", field: git}}
    /whole:        {module: JsonHttp, parameters: {url: "https://user:planted%2Fpassword@ranges.example/r.json"}}
    /quota:        {module: Hawk, parameters: {secret_id: i, secret: planted-secret, algorithm: sha1, url: "https://q.example/q", field: [a, b]}}
auth:
    client_name: {token: planted-client, url: "/heroku/*"}
    other: {token: planted-other, url: [/database-url, "/h*", "/?hole"]}
cache_dir: /var/cache/cachish
log_config: {version: 1}
"#;

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn import(&self, yaml: &str, more: &[&str]) -> Output {
        std::fs::write(self.path("cachish.yml"), yaml).unwrap();
        let mut import = Command::new(env!("CARGO_BIN_EXE_keyhatch"));
        import.args(["import", "cachish"]).arg(self.path("cachish.yml")).arg("--out").arg(self.path("out"));
        import.args(more).output().unwrap()
    }

    /// All that is in `out`, below it.
    fn written(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut folders = vec![self.path("out")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten() {
                let path = entry.unwrap().path();
                found.push(path.strip_prefix(self.path("out")).unwrap().display().to_string());
                if path.is_dir() {
                    folders.push(path);
                }
            }
        }
        found.sort();
        found
    }
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn a_documented_configuration_becomes_one_of_ours() {
    let place = Place::new();
    let done = place.import(DOCUMENTED, &["--clients", "client_name=0"]);
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    let files = ["basic", "hawk", "heroku-database-url", "heroku-heroku-both"];
    let mut expected = vec!["keyhatch.toml".to_owned(), "tokens".to_owned()];
    expected.extend(files.iter().map(|name| format!("tokens/{name}")));
    assert_eq!(place.written(), expected);
    let contents = ["planted/password\n", "planted-secret\n", "planted-token-1\n", "planted-token-2\n"];
    for (name, content) in files.iter().zip(contents) {
        let path = place.path("out/tokens").join(name);
        assert_eq!((read(&path).as_str(), path.metadata().unwrap().permissions().mode() & 0o777), (content, 0o400));
    }
    assert_eq!(place.path("out/tokens").metadata().unwrap().permissions().mode() & 0o777, 0o700);
    let config = read(&place.path("out/keyhatch.toml"));
    assert!(!config.contains("planted") && !stderr(&done).contains("planted"), "{config}\n{done:?}");
    for line in [
        "stale-if-error = \"forever\"",
        "source = { type = \"heroku\", app = \"a\", config-var = \"DATABASE_URL\", token = \"heroku-database-url\" }",
        "config-var = [\"A\", \"B\"]",
        "source = { type = \"http\", url = \"https://ranges.example/r.json\", field = \"git\" }",
        "auth = { type = \"basic\", user = \"user\", token = \"basic\" } }",
        "field = [\"a\", \"b\"], auth = { type = \"hawk\", id = \"i\", key = \"hawk\", algorithm = \"sha1\" } }",
        "[clients.\"client_name\"]\nuser = 0\nkeys = \"/heroku/*/**\"\n",
        "# [clients.\"other\"]\n# user = \"USER\"\n# keys = [\"/database-url\", \"/h*/**\", \"/whole\"]\n",
        "[clients.\"anyone\"]\nanyone = true\nkeys = \"/ranges\"\n",
    ] {
        assert!(config.contains(line), "{line}\nin\n{config}");
    }
    for note in ["cache_dir is not carried over", "log_config is not", "client `other` is not carried over", "`/?hole`"]
    {
        assert!(stderr(&done).contains(note), "{note}: {}", stderr(&done));
    }
}

#[test]
fn nothing_is_written_in_half_and_nothing_is_replaced_unasked() {
    let place = Place::new();
    let dry = place.import(DOCUMENTED, &["--dry-run"]);
    assert!(String::from_utf8_lossy(&dry.stdout).contains("[keys.\"/quota\"]") && dry.status.success());
    assert!(!place.path("out").exists() && !String::from_utf8_lossy(&dry.stdout).contains("planted"), "{dry:?}");

    assert!(place.import(DOCUMENTED, &[]).status.success());
    let before = (place.written(), read(&place.path("out/keyhatch.toml")));
    std::fs::remove_file(place.path("out/tokens/hawk")).unwrap();
    let again = place.import(&DOCUMENTED.replace("planted-token-1", "planted-token-3"), &["--clients", "other=1"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(stderr(&again).contains("keyhatch.toml") && stderr(&again).contains("--force"), "{again:?}");
    assert!(!place.path("out/tokens/hawk").exists());
    assert_eq!(read(&place.path("out/tokens/heroku-database-url")), "planted-token-1\n");
    let forced = place.import(&DOCUMENTED.replace("planted-token-1", "planted-token-3"), &["--force"]);
    assert!(forced.status.success(), "{forced:?}");
    assert_eq!((place.written(), read(&place.path("out/keyhatch.toml"))), before);
    assert_eq!(read(&place.path("out/tokens/heroku-database-url")), "planted-token-3\n");

    // What fails at the last file leaves none of the others.
    let place = Place::new();
    std::fs::create_dir_all(place.path("out/.keyhatch.toml.new")).unwrap();
    let failed = place.import(DOCUMENTED, &[]);
    assert!(failed.status.code() == Some(1) && stderr(&failed).contains("nothing was written"), "{failed:?}");
    assert_eq!(place.written(), [".keyhatch.toml.new"]);
}

/// A file with one item, and what its parameters are.
fn json_http(parameters: &str) -> String {
    format!("items:\n  /a:\n    module: JsonHttp\n    parameters: {{url: \"https://a.example/\", {parameters}}}\n")
}

#[test]
fn what_cannot_be_carried_over_is_refused_at_its_line() {
    let heroku = |token: &str| {
        format!("items:\n  /a: {{module: Heroku, parameters: {{app: a, config_key: K, api_token: {token}}}}}\n")
    };
    let client = |entry: &str| format!("{}auth:\n  {entry}\n", json_http(""));
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for n in 1..12 {
        let before = format!("*a{},", n - 1).repeat(10);
        bomb.push_str(&format!("a{n}: &a{n} [{before}]\n"));
    }
    let deep = |depth| format!("items: {}{}\n", "[".repeat(depth), "]".repeat(depth));
    let cases: &[(&str, String, &str)] = &[
        (
            "a boolean for a token",
            heroku("yes"),
            "line 2: /a: api_token is to be a text, and this is a boolean (YAML 1.1",
        ),
        ("an octal token", heroku("0123"), "in YAML 1.1 one that begins with 0 is octal"),
        ("a token with an exponent", heroku("1.0e+5"), "a number (put it into quotes"),
        ("a token that is a date", heroku("2020-01-01"), "a time (put it into quotes"),
        ("no token", heroku("~"), "api_token is to be a text, and this is nothing"),
        ("a boolean field", json_http("field: on"), "field is a text or a list of texts, and this is a boolean"),
        ("a list with a number", json_http("field: [a, 1]"), "and this is a number"),
        (
            "quoted truth",
            json_http("").replace("    module", "    disable_auth: \"no\"\n    module"),
            "disable_auth is true or false",
        ),
        ("an alias bomb", bomb, "with its aliases written out, this is more than"),
        ("an alias to itself", "items: &a [*a]\n".to_owned(), "an alias stands within what it names"),
        ("a merge of a text", "items:\n  <<: text\n".to_owned(), "line 2: `<<` takes over a mapping"),
        ("a depth", deep(40), "nested deeper than"),
        ("a great depth", deep(5000), "this is no YAML: recursion limit"),
        ("a tag", "items: !!python/object:os.system x\n".to_owned(), "line 1: a tag (`!…`) that is not read here"),
        ("two documents", "items: {}\n---\nitems: {}\n".to_owned(), "line 2: a second document"),
        ("a name twice", "items:\n  /a: 1\n  /a: 2\n".to_owned(), "line 3: this name is in its mapping already"),
        ("no YAML", "items: {a\n".to_owned(), "this is no YAML"),
        ("the form before 1.1", client("planted-token: /a"), "line 6: auth is in the form that cachish had before 1.1"),
        ("a client without url", client("x: {token: planted-token}"), "a client needs token and url"),
        ("a client with a number", client("x: {token: 12, url: /a}"), "nobody could have shown it"),
        (
            "one token twice",
            client("x: {token: t, url: /a}\n  y: {token: t, url: /b}"),
            "line 7: this client has the token of `x`",
        ),
        (
            "an unknown module",
            "items:\n  /a: {module: Postgres}\n".to_owned(),
            "line 2: /a: cachish 1.7 has no such module",
        ),
        ("no module", "items:\n  /a: {}\n".to_owned(), "/a has no module"),
        ("an unknown parameter", json_http("timeout: 3"), "the module has no such parameter; legal are url, field"),
        ("an old parameter", heroku("t").replace("app: a", "heroku_app: a"), "1.7 calls them app and api_token"),
        ("an unknown setting", "planted-token: 1\n".to_owned(), "cachish has no such setting"),
        ("a path with a variable", json_http("").replace("/a:", "/a/<b>:"), "a path with a variable"),
        ("a path that is no key", json_http("").replace("/a:", "/a/:"), "cannot be that of a key"),
        (
            "a secret in a URL",
            json_http("").replace("example/", "example/?token=planted-token"),
            "seems to hold a secret",
        ),
        ("a list of items", "items: [a]\n".to_owned(), "items is to be a mapping, and this is a list"),
        (
            "an algorithm",
            heroku("t").replace("Heroku", "Hawk").replace(
                "app: a, config_key: K, api_token: t",
                "secret_id: i, secret: s, url: \"https://a/\", algorithm: md5",
            ),
            "sha256 or sha1",
        ),
    ];
    for (what, yaml, says) in cases {
        let place = Place::new();
        let done = place.import(yaml, &[]);
        assert_eq!(done.status.code(), Some(78), "{what}: {done:?}");
        assert!(stderr(&done).contains(says), "{what}: {}", stderr(&done));
        assert!(!stderr(&done).contains("planted") && !place.path("out").exists(), "{what}: {}", stderr(&done));
    }
    // All of them at once.
    let done = Place::new().import("items:\n  /a: {module: X}\n  /b: {module: Y}\n", &[]);
    assert!(stderr(&done).contains("line 2") && stderr(&done).contains("line 3"), "{done:?}");
    for (more, code, says) in [
        (&["--clients", "nobody=root"][..], 78, "--clients names `nobody`"),
        (&["--clients", "client_name"], 64, "NAME=USER"),
        (&["--clients", "client_name=a,client_name=b"], 64, "twice"),
    ] {
        let done = Place::new().import(DOCUMENTED, more);
        assert_eq!(done.status.code(), Some(code), "{done:?}");
        assert!(stderr(&done).contains(says), "{done:?}");
    }
}

#[test]
fn yaml_is_read_as_cachish_reads_it() {
    let merged = "items:\n  /a: &base\n    module: JsonHttp\n    disable_auth: yes\n    parameters: {url: 'https://a.example/', field: 'yes'}\n\
                  \u{20} /b:\n    <<: *base\n    parameters: {url: https://b.example/, field: !!str 0123}\n  /c: *base\n";
    let place = Place::new();
    let done = place.import(merged, &["--dry-run"]);
    let config = String::from_utf8_lossy(&done.stdout);
    for line in [
        "url = \"https://a.example/\", field = \"yes\"",
        "url = \"https://b.example/\", field = \"0123\"",
        "keys = [\"/a\", \"/b\", \"/c\"]",
    ] {
        assert!(config.contains(line), "{line}\nin\n{config}{}", stderr(&done));
    }
    // Nothing at all is legal there, and here.
    assert!(place.import("", &["--dry-run"]).status.success());
}
