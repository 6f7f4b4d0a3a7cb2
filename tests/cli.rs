//! The command line from outside: exit codes, help that teaches, and what is said to whom.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "cli/sockets.rs"]
mod sockets;
mod support;

use std::process::{Command, Output};

use support::{Broker, GRANTED, STRANGER, Upstream, VALUE};

const KEY: &str = "/billing/database-url";

fn keyhatch(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_keyhatch")).args(arguments).output().unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

#[test]
fn the_help_of_each_command_ends_with_an_example() {
    let all = keyhatch(&["--help"]);
    let commands: Vec<String> = stdout(&all)
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter(|line| !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
        .filter(|name| name != "help")
        .collect();
    assert!(commands.len() >= 7, "{commands:?}");
    for command in commands {
        let help = keyhatch(&[&command, "--help"]);
        let (own, global) = stdout(&help).split_once("\nGlobal options:\n").unwrap();
        for option in ["--config", "--socket", "--log <"] {
            let listed = |part: &str| part.lines().any(|line| line.trim_start().starts_with(option));
            assert!(listed(global) && !listed(own), "{command} {option}: {}", stdout(&help));
        }
        let last = stdout(&help).trim_end().lines().last().unwrap();
        assert!(
            last.starts_with(&format!("Example: keyhatch {command}")) || last.contains("$(keyhatch "),
            "{command}: {last}"
        );
    }
}

#[test]
fn wrong_use_is_64_and_no_broker_is_69() {
    assert_eq!(keyhatch(&["get"]).status.code(), Some(64));
    assert_eq!(keyhatch(&["frobnicate"]).status.code(), Some(64));
    let tip = "put `--` before the command: keyhatch exec ... -- nosuchcmd";
    let without = keyhatch(&["exec", "--env", "A=/a", "nosuchcmd", "-x"]);
    assert!(without.status.code() == Some(64) && stderr(&without).contains(tip), "{without:?}");
    for other in [&["exec", "--env", "A=/a", "--nosuch", "--", "x"][..], &["get", "/exec", "exec"]] {
        assert!(!stderr(&keyhatch(other)).contains("before the command"), "{other:?}");
    }
    let socket = ["--socket", "/nonexistent/keyhatch.sock"];
    let relative = keyhatch(&[&["get", "billing"][..], &socket].concat());
    assert_eq!(relative.status.code(), Some(64));
    assert!(stderr(&relative).contains("begins with `/`"), "{relative:?}");
    let foreign = keyhatch(&[&["get", "/it's\x1b[2J"][..], &socket].concat());
    assert!(stderr(&foreign).starts_with("keyhatch: /it's\\u{1b}[2J: "), "{foreign:?}");
    let nobody = keyhatch(&[&["get", KEY][..], &socket].concat());
    assert_eq!(nobody.status.code(), Some(69));
    assert!(stderr(&nobody).contains("/nonexistent/keyhatch.sock"), "{nobody:?}");
    assert_eq!(keyhatch(&[&["list"][..], &socket].concat()).status.code(), Some(69));
}

#[test]
fn serve_without_a_configuration_shows_the_smallest_one() {
    let started = keyhatch(&["serve", "--config", "/nonexistent/keyhatch.toml"]);
    assert_eq!(started.status.code(), Some(78));
    for part in ["/nonexistent/keyhatch.toml: No such file", "--config FILE", "[keys.", "[clients.", "install -m 0400"]
    {
        assert!(stderr(&started).contains(part), "{part}: {started:?}");
    }
    // `first_contact` has it checked and served.
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let shown =
        stderr(&started).split("\n\n").filter(|block| block.starts_with("    [")).collect::<Vec<_>>().join("\n\n");
    let shown: String = shown.lines().map(|line| line.trim_start().to_owned() + "\n").collect();
    assert!(readme.contains(&format!("```toml\n# /etc/keyhatch/conf.d/billing.toml\n{shown}```\n")), "{shown}");
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn get_ends_as_its_answer_says() {
    let mut upstream = Upstream::start(0);
    let port = upstream.port;
    let gone = format!(
        "[keys.\"/billing/gone\"]\nsource = {{ type = \"heroku\", app = \"no-such-app\", config-var = \"X\", \
         token = \"heroku\", base-url = \"http://127.0.0.1:{port}\", allow-plaintext = true }}\n"
    );
    let broker = Broker::with(port, "", &gone);
    assert_eq!(broker.get(GRANTED, "/billing/gone").status.code(), Some(76));
    assert_eq!(broker.get(STRANGER, KEY).status.code(), Some(77));
    upstream.stop();
    let down = broker.get(GRANTED, KEY);
    assert_eq!(down.status.code(), Some(69), "{down:?}");
    let socket = broker.path("keyhatch.sock");
    let mut waits = support::as_uid(GRANTED, env!("CARGO_BIN_EXE_keyhatch"));
    waits.args(["get", KEY, "--wait", "20s", "--socket"]).arg(&socket).stdout(std::process::Stdio::piped());
    let waiting = waits.spawn().unwrap();
    support::wait_until("it has asked in vain", || broker.log().matches("connect-refused").count() > 1);
    let _back = Upstream::start(port);
    let got = waiting.wait_with_output().unwrap();
    assert_eq!((got.status.code(), stdout(&got)), (Some(0), VALUE));
}

#[test]
#[ignore = "needs root: the configuration is root's"]
fn explain_names_the_client_and_its_line_or_what_stands_against_it() {
    let broker = Broker::new(1, "");
    let config = broker.path("keyhatch.toml");
    let explain = |more: &[&str]| keyhatch(&[&["explain", "--config", config.to_str().unwrap()], more].concat());
    let granted = explain(&["--user", &GRANTED.to_string(), KEY]);
    assert_eq!(granted.status.code(), Some(0), "{granted:?}");
    assert!(
        stdout(&granted).contains("is granted by client `billing` (") && stdout(&granted).contains("keyhatch.toml:")
    );
    let denied = explain(&["--user", &STRANGER.to_string(), KEY]);
    assert_eq!(denied.status.code(), Some(77));
    assert!(stdout(&denied).contains("the peer is none of its users"), "{denied:?}");
    let own = explain(&["--pid", &std::process::id().to_string(), "--json", KEY]);
    let told: serde_json::Value = serde_json::from_slice(&own.stdout).unwrap();
    assert_eq!((told["uid"].as_u64(), told["granted"].as_bool()), (Some(0), Some(false)));
    assert_eq!(explain(&["--user", "no-such-user-here", KEY]).status.code(), Some(64));
    assert_eq!(explain(&[KEY]).status.code(), Some(64));
}

#[test]
#[ignore = "needs root: the configuration is root's"]
fn check_tells_everything_that_serve_would_stumble_over() {
    let broker = Broker::new(1, "");
    let config = broker.path("keyhatch.toml");
    let check = || keyhatch(&["check", config.to_str().unwrap()]);
    assert_eq!(check().status.code(), Some(0), "{:?}", check());
    let more = "[tokens]\nabsent = { file = \"DIR/absent\" }\nlines = { file = \"DIR/lines\" }\n";
    let key = "[keys.\"/a\"]\nsource = { type = \"file\", path = \"DIR/no-file\" }\n";
    let place = broker.directory.path().display().to_string();
    broker.write("lines", "one\ntwo\n", 0o400);
    broker.write("token", support::TOKEN, 0o644);
    let text = std::fs::read_to_string(&config).unwrap().replace("[tokens]\n", more) + key;
    broker.write("keyhatch.toml", &text.replace("DIR", &place), 0o600);
    let found = check();
    assert_eq!(found.status.code(), Some(78));
    for part in ["token `absent`", "token `lines`", "more than one line", "chmod 0400", "no-file", "/a"] {
        assert!(stderr(&found).contains(part), "{part}: {}", stderr(&found));
    }
    assert!(!stderr(&found).contains(support::TOKEN));
}

#[test]
#[ignore = "needs root: checks as somebody else"]
fn check_without_root_says_as_whom_and_does_not_advise_to_take_things_away() {
    let broker = Broker::prepared(|_| String::new());
    let config = broker.path("keyhatch.toml");
    std::fs::create_dir(broker.path("cache")).unwrap();
    let uid = format!("checked as uid {STRANGER}, as whom a start without root would run; run it as root ");
    let check = |more: &[&str]| {
        let mut check = support::as_uid(STRANGER, env!("CARGO_BIN_EXE_keyhatch"));
        check.arg("check").args(more).arg(&config).output().unwrap()
    };
    std::os::unix::fs::chown(&config, Some(STRANGER), None).unwrap();
    let told = check(&[]);
    assert!(stderr(&told).starts_with(&format!("keyhatch: note: {uid}")), "{told:?}");
    assert!(stderr(&told).contains(&format!("is owned by uid 0, not by {STRANGER}")), "{told:?}");
    assert!(!stderr(&told).contains("chown"), "{told:?}");
    let told: serde_json::Value = serde_json::from_str(stdout(&check(&["--json"]))).unwrap();
    assert!(told["notes"][0].as_str().unwrap().starts_with(&uid), "{told}");
}

#[test]
#[ignore = "needs root: the configuration is root's"]
fn check_tells_of_key_files_that_are_of_no_use() {
    let google = |token: &str| {
        let auth = format!(
            "type = \"google-service-account\", key = \"{token}\", scope = \"a\", token-url = \"https://a.example/t\""
        );
        format!(
            "[keys.\"/{token}\"]\nsource = {{ type = \"http\", url = \"https://b.example/\", auth = {{ {auth} }} }}\n"
        )
    };
    let aws = |token: &str, more: &str| {
        let credentials = format!("credentials = {{ type = \"file\", token = \"{token}\"{more} }}");
        let auth = format!("type = \"aws-sigv4\", service = \"ssm\", region = \"eu-west-1\", {credentials}");
        format!(
            "[keys.\"/{token}\"]\nsource = {{ type = \"http\", url = \"https://b.example/\", auth = {{ {auth} }} }}\n"
        )
    };
    let other = support::service_account::key_file("https://elsewhere.example/t").0;
    let right = support::service_account::key_file("https://a.example/t").0;
    let profile = "[planted]\naws_access_key_id = AKIDPLANTEDEXAMPLE\naws_secret_access_key = planted-secret\n";
    let cases = [
        ("google", google("google"), right.as_str(), ""),
        (
            "text",
            google("text"),
            "planted-secret\n",
            "the key file is of no use: it is not JSON; it must be the key of a service account",
        ),
        ("no-key", google("no-key"), "{\"client_email\": \"planted-secret\"}", "private_key is not in it"),
        ("no-mail", google("no-mail"), "{\"private_key\": \"planted-secret\"}", "client_email is not in it"),
        (
            "other",
            google("other"),
            other.as_str(),
            "its token_uri is another one than `token-url` in the configuration",
        ),
        ("aws", aws("aws", ", profile = \"planted\""), profile, ""),
        ("lines", aws("lines", ""), "planted-secret\n", "the secret access key is not in it; it must have the lines"),
        ("default", aws("default", ""), profile, "the profile `default` is not in it"),
        ("profile", aws("profile", ", profile = \"x\""), profile, "the profile `x` is not in it"),
    ];
    let tokens: String = cases.iter().map(|(name, ..)| format!("{name} = {{ file = \"DIR/{name}\" }}\n")).collect();
    let keys: String = cases.iter().map(|(_, key, ..)| key.as_str()).collect();
    let broker = Broker::prepared(|_| format!("[tokens]\n{tokens}{keys}[clients.a]\nuser = 0\nkeys = \"/**\"\n"));
    cases.iter().for_each(|(name, _, content, _)| broker.write(name, content, 0o400));
    let found = keyhatch(&["check", broker.path("keyhatch.toml").to_str().unwrap()]);
    assert_eq!(found.status.code(), Some(78), "{}", stderr(&found));
    for (name, _, _, says) in cases {
        let line = stderr(&found).lines().find(|line| line.contains(&format!("token `{name}`")));
        match says {
            "" => assert_eq!(line, None),
            says => assert!(line.is_some_and(|line| line.contains(says)), "{name}: {}", stderr(&found)),
        }
    }
    assert!(!stderr(&found).contains("planted-secret"), "{}", stderr(&found));
}

#[test]
#[ignore = "needs root: the configuration is root's"]
fn check_finds_credentials_where_it_is_told_that_they_are() {
    let broker = Broker::prepared(|_| {
        "[tokens]\nbilling = { credential = \"billing\" }\n[clients.a]\nuser = 0\nkeys = \"/**\"\n".to_owned()
    });
    let config = broker.path("keyhatch.toml");
    let check = |directory: Option<&str>| {
        let mut check = Command::new(env!("CARGO_BIN_EXE_keyhatch"));
        check.arg("check").arg(&config).env_remove("CREDENTIALS_DIRECTORY");
        check.envs(directory.map(|name| ("CREDENTIALS_DIRECTORY", broker.path(name)))).output().unwrap()
    };
    std::fs::create_dir(broker.path("credentials")).unwrap();
    let without = check(None);
    assert_eq!(without.status.code(), Some(78));
    assert!(stderr(&without).contains("$CREDENTIALS_DIRECTORY is not set"), "{}", stderr(&without));
    let empty = check(Some("credentials"));
    assert!(empty.status.code() == Some(78) && stderr(&empty).contains("token `billing`"), "{}", stderr(&empty));
    broker.write("credentials/billing", support::TOKEN, 0o400);
    let found = check(Some("credentials"));
    assert_eq!(found.status.code(), Some(0), "{}", stderr(&found));
    broker.write("credentials/billing", "one\ntwo\n", 0o400);
    let lines = check(Some("credentials"));
    assert!(
        stderr(&lines).contains("token `billing`") && stderr(&lines).contains("more than one line"),
        "{}",
        stderr(&lines)
    );
}

#[test]
#[ignore = "needs root: the configuration is root's"]
fn check_tells_a_script_the_same() {
    let checked = |sections: &str| {
        let broker = Broker::prepared(|_| sections.to_owned());
        let output = keyhatch(&["check", "--json", broker.path("keyhatch.toml").to_str().unwrap()]);
        let told: serde_json::Value = serde_json::from_str(stdout(&output)).unwrap();
        assert!(stderr(&output).is_empty(), "{output:?}");
        assert_eq!(told["file"], broker.path("keyhatch.toml").to_str().unwrap());
        (output.status.code(), told)
    };
    let key =
        "[keys.\"/a\"]\nsource = { type = \"file\", path = \"DIR/token\" }\n[clients.a]\nuser = 0\nkeys = \"/a\"\n";
    let (code, told) = checked(key);
    assert_eq!((code, told["good"].as_bool(), told["keys"].as_u64()), (Some(0), Some(true), Some(1)), "{told}");
    let (code, told) = checked("");
    assert_eq!((code, told["warnings"].as_array().unwrap().len()), (Some(0), 1), "{told}");
    let (code, told) = checked(&key.replace("DIR/token", "DIR/no-such-file"));
    assert_eq!((code, told["good"].as_bool()), (Some(78), Some(false)));
    assert!(told["errors"][0].as_str().unwrap().contains("no-such-file"), "{told}");
    let (code, told) = checked("[clients.a]\nuser = 0\nkees = \"/a\"\n[tokens]\nt = \"hunter2-hunter2\"\n");
    assert!(code == Some(78) && told["errors"].as_array().unwrap().len() >= 2 && told["keys"].is_null(), "{told}");
    assert!(!told.to_string().contains("hunter2"), "{told}");
}

#[test]
#[ignore = "needs root: the configuration is root's, and /proc is mounted anew"]
fn a_unit_is_explained_and_what_is_in_its_way_is_told() {
    let broker = Broker::prepared(|_| {
        format!(
            "[keys.\"/a\"]\nsource = {{ type = \"file\", path = \"DIR/a\", format = \"text\" }}\n\
             [clients.web]\nuser = {GRANTED}\nunit = [\"web@*.service\", \"db.service\"]\nkeys = \"/a\"\n\
             [clients.alone]\nunit = \"*\"\nkeys = \"/a\"\n"
        )
    });
    broker.write("a", "the value", 0o600);
    let config = broker.path("keyhatch.toml");
    let config = config.to_str().unwrap();
    let user = GRANTED.to_string();
    let explain = |more: &[&str]| keyhatch(&[&["explain", "--config", config, "--user", &user, "/a"], more].concat());
    let granted = explain(&["--unit", "web@1.service"]);
    assert_eq!(granted.status.code(), Some(0), "{granted:?}");
    let said = stdout(&granted);
    assert!(said.contains("unit web@1.service:\n/a is granted by client `web` ("), "{said}");
    assert!(said.contains("and whose unit is `web@*.service` or `db.service`"), "{said}");
    for more in [&["--unit", "web.service"][..], &[]] {
        let denied = explain(more);
        assert_eq!(denied.status.code(), Some(77));
        let said = stdout(&denied);
        assert!(
            said.contains("holds the key, but the peer is not in its unit `web@*.service` or `db.service`"),
            "{said}"
        );
        assert!(said.contains("holds the key, but is for LoadCredential= of systemd alone"), "{said}");
    }
    assert_eq!(explain(&["--unit", "a/b"]).status.code(), Some(64));

    let check = |script: &str| {
        let mut shell = std::process::Command::new("unshare");
        let script = format!("{script} && exec \"$0\" check --config \"$1\"");
        shell.args(["--mount", "sh", "-c", &script, env!("CARGO_BIN_EXE_keyhatch"), config]).output().unwrap()
    };
    let found = check("true");
    assert_eq!(found.status.code(), Some(0), "{found:?}");
    assert!(!stderr(&found).contains("alone"), "{found:?}");
    let hidden = check("mount -t proc -o hidepid=2 proc /proc");
    assert_eq!(hidden.status.code(), Some(78), "{hidden:?}");
    assert!(stderr(&hidden).contains("/proc is mounted with hidepid"), "{hidden:?}");
    let excepted = check(&format!("mount -t proc -o hidepid=2,gid={} proc /proc", support::PARENT));
    assert_eq!(excepted.status.code(), Some(0), "{excepted:?}");
}
