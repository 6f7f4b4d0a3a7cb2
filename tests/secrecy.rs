//! No token and no value is where it should not be: every source, every failure and every command, with all lines of the log.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use support::process::Process;
use support::serving::BEARER;
use support::{Broker, GRANTED, STRANGER, TOKEN, VALUE, as_uid, wait_until};

/// `service:` and the token, as basic authentication shows it, without its last characters.
const IN_BASE64: &str = "c2VydmljZTpwbGFudGVkLXRva2Vu";

/// As whom the programs run; nobody else does.
const RUNS_AS: u32 = 61_029;

/// How the tokens of sessions begin, and that of an instance's metadata.
const SESSION: &str = "planted-session-";
const METADATA: &str = "planted-imds-token";

const STATUSES: [u16; 14] = [200, 204, 302, 400, 401, 403, 404, 408, 410, 425, 429, 500, 502, 503];

/// What stands in `text` and should not.
fn leaks(text: &[u8]) -> Vec<&'static str> {
    let holds = |marker: &&&str| text.windows(marker.len()).any(|part| part == marker.as_bytes());
    [TOKEN, VALUE, IN_BASE64, SESSION, METADATA].iter().filter(holds).copied().collect()
}

/// Programs that show their token, and the value, wherever they can.
const PROGRAMS: [(&str, &str); 7] = [
    ("given", "cat <&3 >&2; cat \"$(dirname \"$0\")/public-value\""),
    ("complains", "cat <&3 >&2"),
    ("fails", "cat <&3; cat /dev/fd/3 >&2; exit 3"),
    ("is-killed", "cat <&3; kill -ABRT $$"),
    ("floods", "token=$(cat <&3); while :; do echo \"$token\"; echo \"$token\" >&2; done"),
    ("hangs", "cat <&3; sleep 600"),
    ("fails-not", "cat <&3"),
];

fn program(name: &str, more: &str) -> String {
    format!("type = \"command\", {more}run = [\"DIR/{name}\", \"argument\"], user = {RUNS_AS}, token = \"t\"")
}

fn configuration(upstream: &Process) -> String {
    let at = |listener: &str, path: &str| format!("127.0.0.1:{}{path}", upstream.port(listener));
    let plain = |path: &str, more: &str| format!("type = \"http\", url = \"http://{}\", {more}", at("plain", path));
    let hawk = "auth = { type = \"hawk\", id = \"acme\", key = \"t\", algorithm = \"sha256\" }, allow-plaintext = true";
    let basic = "auth = { type = \"basic\", user = \"service\", token = \"t\" }, allow-plaintext = true";
    let header =
        "auth = { type = \"header\", name = \"X-Api-Key\", prefix = \"Key \", token = \"t\" }, allow-plaintext = true";
    let field = "field = \"value\"";
    let mut tokens = "t = { file = \"DIR/token\" }\nabsent = { file = \"DIR/absent\" }\n".to_owned();
    let mut keys = vec![
        ("bearer".to_owned(), plain("/bearer", &format!("{field}, {BEARER}"))),
        ("basic".into(), plain("/basic", &format!("{field}, {basic}"))),
        ("header".into(), plain("/header", &format!("{field}, {header}"))),
        ("hawk".into(), plain("/hawk", &format!("{field}, {hawk}"))),
        ("text".into(), plain("/text", "format = \"text\"")),
        (
            "heroku".into(),
            format!(
                "type = \"heroku\", app = \"shop\", config-var = \"DATABASE_URL\", token = \"t\", base-url = \"http://{}\", \
                 allow-plaintext = true",
                at("plain", "")
            ),
        ),
        ("file".into(), "type = \"file\", path = \"DIR/value\", format = \"text\"".into()),
        ("command".into(), program("given", "")),
        ("command/complains".into(), program("complains", "")),
        ("command/fails".into(), program("fails", "")),
        ("command/is-killed".into(), program("is-killed", "")),
        ("command/floods".into(), program("floods", "")),
        ("command/hangs".into(), program("hangs", "")),
        ("command/is-no-json".into(), program("fails-not", "format = \"json\", field = \"a\", ")),
        ("command/is-missing".into(), program("is-missing", "")),
        ("untrusted".into(), format!("type = \"http\", url = \"https://{}\", {BEARER}", at("tls", "/good"))),
        ("absent".into(), plain("/bearer", &BEARER.replace("\"t\"", "\"absent\""))),
    ];
    for path in ["/no-value", "/html", "/cut", "/hang-body", "/reset", "/redirect/elsewhere", "/echo"] {
        keys.push((format!("as{path}"), plain(path, &format!("{field}, {BEARER}"))));
    }
    for (name, auth) in [("bearer", BEARER), ("basic", basic), ("header", header), ("hawk", hawk)] {
        for status in STATUSES {
            // A name of its own for each: origins back off for each name by itself.
            let own = auth.replace("\"t\"", &format!("\"t-{name}-{status}\""));
            tokens.push_str(&format!("t-{name}-{status} = {{ file = \"DIR/token\" }}\n"));
            keys.push((format!("{name}/{status}"), plain(&format!("/reflect/{status}"), &own)));
        }
    }
    let oauth = format!(
        "auth = {{ type = \"oauth2-client-credentials\", token-url = \"http://{}\", client-id = \"a client\", client-secret = \"t\", \
         scope = \"read:all x/y\" }}, allow-plaintext = true",
        at("plain", "/session/oauth")
    );
    let instance = format!(
        "auth = {{ type = \"aws-sigv4\", service = \"secretsmanager\", region = \"eu-west-1\", \
         credentials = {{ type = \"imds\", url = \"http://{}\" }} }}, allow-plaintext = true",
        at("plain", "")
    );
    keys.push(("login".into(), plain("/session/secret", &format!("{field}, {}", login(&at, "/session/login", "t")))));
    keys.push(("oauth".into(), plain("/session/bearer", &format!("{field}, {oauth}"))));
    keys.push(("instance".into(), plain("/aws?id=given", &format!("{field}, {instance}"))));
    for status in [200, 302, 400, 401, 404, 500] {
        // A token of its own for each: none rests because of another one.
        tokens.push_str(&format!(
            "t-login-{status} = {{ file = \"DIR/token\" }}\nt-shown-{status} = {{ file = \"DIR/token\" }}\n"
        ));
        let reflecting = login(&at, &format!("/session/reflect?code={status}"), &format!("t-login-{status}"));
        keys.push((format!("login/{status}"), plain("/session/secret", &format!("{field}, {reflecting}"))));
        let shown = login(&at, "/session/login", &format!("t-shown-{status}"));
        keys.push((format!("shown/{status}"), plain(&format!("/reflect/{status}"), &format!("{field}, {shown}"))));
    }
    let keys: String =
        keys.iter().map(|(key, source)| format!("[keys.\"/{key}\"]\nsource = {{ {source} }}\n")).collect();
    format!(
        "[limits]\nvalue-size = \"4KiB\"\n[defaults]\ntimeout = \"1s\"\nfetch-timeout = \"1s\"\n\
         [tokens]\n{tokens}{keys}\
         [clients.all]\nuser = {GRANTED}\nkeys = [\"/**\"]\n"
    )
}

fn login(at: &impl Fn(&str, &str) -> String, path: &str, token: &str) -> String {
    format!(
        "auth = {{ type = \"login\", url = \"http://{}\", body = '{{\"role_id\": \"role\", \"secret_id\": \"{{s}}\"}}', \
         secrets = {{ s = \"{token}\" }}, pointer = \"/auth/client_token\", header = \"X-Vault-Token\" }}, allow-plaintext = true",
        at("plain", path)
    )
}

/// The names below `[keys]`, for the commands.
fn keys(configuration: &str) -> Vec<&str> {
    configuration.lines().filter_map(|line| line.strip_prefix("[keys.\"")?.strip_suffix("\"]")).collect()
}

/// What a crash may have left: the program's working directory is the root.
fn cores(directory: &Path) -> Vec<OsString> {
    let names = [Path::new("/"), directory].into_iter().flat_map(|at| fs::read_dir(at).unwrap());
    names.map(|entry| entry.unwrap().file_name()).filter(|name| name.to_string_lossy().starts_with("core")).collect()
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn no_token_and_no_value_leaves_its_way() {
    let mut text = String::new();
    let mut upstream = None;
    let mut broker = Broker::prepared(|directory| {
        let started = Process::start(directory);
        text = configuration(&started);
        upstream = Some(started);
        text.clone()
    });
    let upstream = upstream.unwrap();
    upstream.set_value(VALUE);
    broker.write("value", VALUE, 0o400);
    broker.write("public-value", VALUE, 0o444);
    for (name, script) in PROGRAMS {
        broker.write(name, &format!("#!/bin/sh\n{script}\n"), 0o755);
    }
    broker.start_with(&["--log-level", "trace", "--log-requests"]);
    let good = [
        "/bearer",
        "/basic",
        "/header",
        "/hawk",
        "/text",
        "/heroku",
        "/file",
        "/command",
        "/login",
        "/oauth",
        "/instance",
    ];

    for key in keys(&text) {
        for more in [&[][..], &["--header", "Cache-Control: no-cache"], &["--header", "Accept: text/plain"]] {
            let answer = broker.curl(GRANTED, key, more);
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            assert!(leaks(head.as_bytes()).is_empty(), "{key}: {head}");
            if good.contains(&key) {
                assert!(body.contains(VALUE) && !body.contains(TOKEN), "{key}: {answer}\n{}", broker.log());
            } else {
                assert!(leaks(body.as_bytes()).is_empty(), "{key}: {answer}");
                assert!(!head.starts_with("HTTP/1.1 2"), "{key}: {answer}");
            }
        }
        let denied = broker.curl(STRANGER, key, &[]);
        assert!(denied.starts_with("HTTP/1.1 403 ") && leaks(denied.as_bytes()).is_empty(), "{denied}");
    }
    for query in ["/bearer/../x", "/bearer?q=1", "/%00"] {
        assert!(leaks(broker.curl(GRANTED, query, &[]).as_bytes()).is_empty());
    }

    let (configuration, socket, admin) =
        (broker.path("keyhatch.toml"), broker.path("keyhatch.sock"), broker.path("admin.sock"));
    let run = |uid: u32, arguments: &[&str]| {
        let mut command = if uid == 0 {
            Command::new(env!("CARGO_BIN_EXE_keyhatch"))
        } else {
            as_uid(uid, env!("CARGO_BIN_EXE_keyhatch"))
        };
        command.args(arguments).arg("--config").arg(&configuration).arg("--socket").arg(&socket);
        if ["status", "metrics", "top", "refresh", "purge", "drill", "reload"].contains(&arguments[0]) {
            command.arg("--admin-socket").arg(&admin);
        }
        command.stdin(Stdio::null()).output().unwrap()
    };
    let commands: &[(u32, &[&str])] = &[
        (0, &["check"]),
        (0, &["status"]),
        (0, &["status", "--json"]),
        (0, &["metrics"]),
        (0, &["top"]),
        (0, &["refresh", "/bearer", "/hawk", "/header/500", "/basic/200"]),
        (0, &["refresh", "--json", "/bearer/403", "/untrusted", "/file"]),
        (0, &["drill", "--token", "t", "--fail", "401", "--for", "1s"]),
        (0, &["reload"]),
        (0, &["reload", "--json"]),
        (0, &["purge", "--json", "/heroku"]),
        (0, &["explain", "--user", "61010", "/bearer"]),
        (0, &["cache", "ls"]),
        (0, &["cache", "ls", "--json"]),
        (0, &["cache", "verify", "--json"]),
        (GRANTED, &["list"]),
        (GRANTED, &["list", "--json"]),
        (GRANTED, &["get", "/bearer/401"]),
        (GRANTED, &["get", "/hawk/200", "--json"]),
        (STRANGER, &["get", "/bearer"]),
    ];
    for (uid, arguments) in commands {
        let done = run(*uid, arguments);
        assert!(!done.stdout.is_empty() || !done.stderr.is_empty(), "{arguments:?} says something");
        assert!(leaks(&done.stdout).is_empty() && leaks(&done.stderr).is_empty(), "{arguments:?}: {done:?}");
    }
    let got = run(GRANTED, &["get", "/text"]);
    assert!(!leaks(&got.stdout).is_empty() && leaks(&got.stderr).is_empty(), "the value is where it belongs: {got:?}");

    for pid in [broker.parent(), broker.worker()] {
        for file in
            ["cmdline", "environ", "status", "comm", "stat", "limits", "mountinfo", "maps", "wchan", "cgroup", "sched"]
        {
            let read =
                as_uid(STRANGER, "cat").arg(format!("/proc/{pid}/{file}")).stderr(Stdio::null()).output().unwrap();
            assert!(leaks(&read.stdout).is_empty(), "/proc/{pid}/{file}");
        }
    }
    for file in fs::read_dir(broker.path("cache")).unwrap() {
        let path = file.unwrap().path();
        assert!(leaks(&fs::read(&path).unwrap()).is_empty(), "{path:?}");
        assert!(leaks(path.as_os_str().as_encoded_bytes()).is_empty());
    }

    let told = |what: &str, least: usize| broker.log().matches(what).count() >= least;
    let each = 4 * STATUSES.len();
    wait_until("all lines are there", || told("the upstream answered", each) && told("INFO refused", 3 * each));
    // What ends badly leaves nothing behind, either.
    let before = cores(broker.directory.path());
    support::send("ABRT", broker.parent());
    wait_until("the log tells the end", || broker.has_ended());
    assert_eq!(cores(broker.directory.path()), before);
    let log = broker.log();
    assert!(leaks(log.as_bytes()).is_empty(), "{:?}", log.lines().find(|line| !leaks(line.as_bytes()).is_empty()));
}

#[test]
fn the_search_finds_what_it_looks_for() {
    use std::fmt::Write;
    let mut text = String::new();
    write!(text, "authorization: Bearer {TOKEN}").unwrap();
    assert_eq!(leaks(text.as_bytes()), [TOKEN]);
    assert_eq!(leaks(b"Basic c2VydmljZTpwbGFudGVkLXRva2VuLTZmMWI="), [IN_BASE64]);
    assert!(leaks(b"nothing").is_empty());
}
