//! What an operator sees and does through the socket of the operator, with its effect on clients, upstream and disk.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "operator/drills.rs"]
mod drills;
#[path = "operator/looks.rs"]
mod looks;
#[path = "operator/stuck.rs"]
mod stuck;
mod support;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use support::process::Process;
use support::serving::{BEARER, GOOD, at, good, logs, serving};
use support::{Broker, GRANTED, PARENT, STRANGER, TOKEN, as_uid, parameters, wait_until};

const LOOKER: u32 = 61_020;

fn operate(broker: &Broker, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keyhatch"));
    command.args(arguments).arg("--admin-socket").arg(broker.path("admin.sock")).stdin(Stdio::null()).output().unwrap()
}

/// What a command that must be good prints.
fn done(broker: &Broker, arguments: &[&str]) -> String {
    let done = operate(broker, arguments);
    assert!(done.status.success(), "{arguments:?}: {done:?}\n{}", broker.log());
    String::from_utf8(done.stdout).unwrap()
}

fn json(broker: &Broker, arguments: &[&str]) -> Value {
    serde_json::from_str(&done(broker, &[arguments, &["--json"]].concat())).unwrap()
}

/// The line of this key in the status.
fn key(broker: &Broker, key: &str) -> Value {
    let status = json(broker, &["status"]);
    let keys = status["keys"].as_array().unwrap();
    keys.iter().find(|one| one["key"] == key).unwrap_or_else(|| panic!("no {key} in {status}")).clone()
}

/// An answer of the operator's socket to somebody, head and body.
fn ask(broker: &Broker, uid: u32, method: &str, path: &str, body: &str) -> String {
    let mut curl = as_uid(uid, "curl");
    curl.args(["--silent", "--include", "--max-time", "20", "--request", method, "--unix-socket"]);
    curl.arg(broker.path("admin.sock")).args(["--data-binary", body]).arg(format!("http://keyhatch{path}"));
    String::from_utf8(curl.output().unwrap().stdout).unwrap()
}

fn denied(answer: &str) {
    assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("members of `admin-group` may ask"), "{answer}");
    assert!(!answer.contains("/status"), "not even what there is to ask: {answer}");
}

fn one_key(settings: &'static str) -> (Process, Broker) {
    serving(&|upstream| vec![("one", at(upstream, "/one", BEARER), settings)])
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn root_changes_the_group_looks_and_others_are_told_so() {
    let mut upstream = None;
    let mut broker = Broker::prepared(|directory| {
        let started = Process::start(directory);
        let text = support::serving::configuration(&[("one", at(&started, "/good", ""), "max-age = \"1h\"")]);
        upstream = Some(started);
        text
    });
    let text = std::fs::read_to_string(broker.path("keyhatch.toml")).unwrap();
    broker.write("keyhatch.toml", &text.replace("[server]", &format!("[server]\nadmin-group = {LOOKER}")), 0o600);
    broker.start();
    good(&broker, "/one");
    // Whatever the mode says.
    let open = || Command::new("chmod").arg("666").arg(broker.path("admin.sock")).status().unwrap();
    assert!(ask(&broker, LOOKER, "GET", "/status", "").starts_with("HTTP/1.1 200 "), "by its group alone");
    assert!(ask(&broker, STRANGER, "GET", "/status", "").is_empty(), "the mode keeps others out");
    assert!(open().success());
    let changes = [
        ("POST", "/refresh", "{\"keys\":[\"/one\"]}"),
        ("POST", "/purge", "{\"all\":true}"),
        ("POST", "/drill", "{\"key\":\"/**\",\"fail\":\"503\",\"for\":9}"),
        ("DELETE", "/drill", ""),
    ];
    for (method, path, body) in changes {
        let answer = ask(&broker, LOOKER, method, path, body);
        assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("only root may change"), "{path}: {answer}");
        for nobody in [STRANGER, GRANTED, PARENT] {
            denied(&ask(&broker, nobody, method, path, body));
        }
    }
    assert!(ask(&broker, LOOKER, "GET", "/metrics", "").contains("# EOF"));
    for (nobody, path) in [(STRANGER, "/status"), (PARENT, "/status"), (STRANGER, "/nosuch")] {
        denied(&ask(&broker, nobody, "GET", path, ""));
    }
    let by_stranger = |command: &str| {
        let mut stranger = as_uid(STRANGER, env!("CARGO_BIN_EXE_keyhatch"));
        stranger.args([command, "--admin-socket"]).arg(broker.path("admin.sock")).output().unwrap()
    };
    for command in ["status", "metrics", "reload"] {
        let told = by_stranger(command);
        let said = String::from_utf8_lossy(&told.stderr);
        assert!(told.status.code() == Some(77), "{told:?}");
        assert!(said.contains("members of `admin-group` may ask"), "{command}: {said}");
    }
    assert!(Command::new("chmod").arg("660").arg(broker.path("admin.sock")).status().unwrap().success());
    for command in ["status", "metrics"] {
        let told = by_stranger(command);
        let said = String::from_utf8_lossy(&told.stderr);
        assert!(said.contains("Permission denied") && said.contains("members of `admin-group` may ask"), "{said}");
        assert_eq!(told.status.code(), Some(77), "{said}");
    }
    let upstream = upstream.unwrap();
    assert_eq!(upstream.requests_for("/good").len(), 1, "nothing has happened");
    logs(&broker, &format!("denied on the admin socket uid={STRANGER}"));
    assert_eq!(operate(&broker, &["refresh", "/one"]).status.code(), Some(0));
    logs(&broker, "refresh uid=0");
    assert_eq!(broker.log().matches("refresh uid=0").count(), 1, "{}", broker.log());
}

/// A file that names this broker's socket and is not its own; or no socket, where the option does.
#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn what_is_for_the_broker_of_another_file_changes_nothing() {
    let (upstream, broker) = one_key("max-age = \"1h\"");
    upstream.behave("/one", "/good");
    good(&broker, "/one");
    let socket = broker.path("admin.sock");
    broker.write("other.toml", &format!("[server]\nadmin-socket = {socket:?}\n"), 0o600);
    broker.write("silent.toml", "", 0o600);
    let asked = |file: &str, by_variable: bool, arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keyhatch"));
        let file = broker.path(file);
        if by_variable {
            command.env("KEYHATCH_CONFIG", file)
        } else {
            command.arg("--config").arg(file)
        };
        command.args(arguments).stdin(Stdio::null()).output().unwrap()
    };
    let to_socket = ["--admin-socket", socket.to_str().unwrap()];
    let changes = [
        &["purge", "--all", "--yes"][..],
        &["purge", "/one"],
        &["refresh", "/one"],
        &["drill", "--key", "/one", "--fail", "503", "--for", "1s"],
    ];
    for change in changes {
        for (file, option) in [("other.toml", &[][..]), ("other.toml", &to_socket), ("silent.toml", &to_socket)] {
            for by_variable in [false, true] {
                let refused = asked(file, by_variable, &[change, option].concat());
                let (own, named) = (broker.path("keyhatch.toml"), broker.path(file));
                let (own, named) = (own.display(), named.display());
                let said = format!(
                    "keyhatch: the broker was started with --config {own}, this is about {named}; nothing was changed\n"
                );
                assert_eq!(String::from_utf8(refused.stderr).unwrap(), said, "{change:?}");
                assert_eq!((refused.status.code(), refused.stdout.len()), (Some(78), 0), "{change:?}");
            }
        }
    }
    let log = broker.log();
    assert!(!["refresh uid=", "purge uid=", "purge of all", "a drill"].iter().any(|line| log.contains(line)), "{log}");
    assert_eq!((upstream.requests_for("/one").len(), &key(&broker, "/one")["state"]), (1, &"fresh".into()));
    // What only looks is answered, and so is what names the file that the broker has.
    for look in [&["status"][..], &["metrics"], &["top", "--json"]] {
        let mut looks = Command::new("timeout");
        let looks =
            looks.args(["1", env!("CARGO_BIN_EXE_keyhatch"), "--config"]).arg(broker.path("other.toml")).args(look);
        assert!(!looks.output().unwrap().stdout.is_empty(), "{look:?}");
    }
    for change in changes.iter().rev() {
        let done = asked("keyhatch.toml", true, change);
        assert!(done.status.success(), "{change:?}: {done:?}");
    }
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn a_purged_value_is_gone_although_the_worker_had_it_under_a_long_lease() {
    let (upstream, mut broker) = one_key("max-age = \"1h\"");
    upstream.behave("/one", "/good");
    good(&broker, "/one");
    let backup = broker.sealed_file("/one");
    let sealed = std::fs::read(&backup).unwrap();
    upstream.set_value("another-value");
    good(&broker, "/one");
    assert_eq!(upstream.requests_for("/one").len(), 1, "it is under a lease");
    assert!(done(&broker, &["purge", "/one"]).contains("1 of them had a value"));
    assert!(!backup.exists());
    assert!(!support::memory_holds(broker.worker(), b"good-value"));
    let line = key(&broker, "/one");
    assert_eq!((&line["state"], &line["age"]), (&"never-fetched".into(), &Value::Null));
    assert!(broker.curl(GRANTED, "/one", &[]).ends_with("{\"value\":\"another-value\"}"));
    assert_eq!(upstream.requests_for("/one").len(), 2);
    // Nor does an older backup of the file bring it back.
    done(&broker, &["purge", "--all", "--yes"]);
    broker.end("TERM");
    std::fs::write(&backup, sealed).unwrap();
    upstream.behave("/one", "/status/503");
    broker.start();
    let answer = broker.curl(GRANTED, "/one", &[]);
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn what_is_purged_is_asked_for_by_the_next_request() {
    let (upstream, broker) = one_key("");
    upstream.behave("/one", "/good");
    good(&broker, "/one");
    upstream.behave("/one", "/status/500");
    wait_until("it backs off for longer than a test lasts", || {
        let _ = broker.curl(GRANTED, "/one", &[]);
        key(&broker, "/one")["next-attempt-in"].as_u64().is_some_and(|wait| wait >= 3)
    });
    let asked = upstream.requests_for("/one").len();
    done(&broker, &["purge", "/one"]);
    let answer = broker.curl(GRANTED, "/one", &[]);
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("fwd=uri-miss; fwd-status=500"), "{answer}");
    assert_eq!(upstream.requests_for("/one").len(), asked + 1);
    // And purged once more, without a call in between that would say why: the reason is a real one.
    upstream.behave("/one", "/good");
    done(&broker, &["purge", "/one"]);
    good(&broker, "/one");
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn what_was_asked_for_before_a_purge_is_not_kept() {
    let (upstream, broker) = one_key("max-age = \"1h\"");
    upstream.behave("/one", "/gate");
    let answer = std::thread::scope(|scope| {
        let asking = scope.spawn(|| broker.curl(GRANTED, "/one", &[]));
        wait_until("the upstream is asked", || upstream.requests_for("/one").len() == 1);
        done(&broker, &["purge", "/one"]);
        upstream.behave("/one", "/good");
        upstream.set_gate(true);
        asking.join().unwrap()
    });
    assert!(answer.ends_with(GOOD), "{answer}");
    assert_eq!(upstream.requests_for("/one").len(), 2, "the request went on with a call of its own");
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn a_path_of_a_key_with_parameters_is_purged() {
    let (upstream, broker) = parameters::alike("max-age = \"1h\"");
    for path in ["/n/a", "/n/b"] {
        parameters::good(&broker, GRANTED, path);
    }
    wait_until("both are sealed", || parameters::sealed(&broker).len() == 2);
    done(&broker, &["purge", "/n/a"]);
    assert_eq!(parameters::sealed(&broker), ["/n/b"]);
    assert_eq!(parameters::listed(&broker, GRANTED), ["/n/b"]);
    assert!(parameters::was_asked(&parameters::good(&broker, GRANTED, "/n/a")));
    assert!(!parameters::was_asked(&parameters::good(&broker, GRANTED, "/n/b")));
    assert_eq!(upstream.requests_for("/good").len(), 3);
    assert!(done(&broker, &["purge", "/n/*"]).contains("2 of them had a value"));
    assert!(parameters::listed(&broker, GRANTED).is_empty() && parameters::sealed(&broker).is_empty());
    assert!(done(&broker, &["purge", "/n/c"]).contains("0 of them"), "one that nobody has asked for");
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn refresh_asks_at_once_whatever_back_off_says() {
    let (upstream, broker) = one_key("");
    upstream.behave("/one", "/status/503?retry-after=300");
    assert!(broker.curl(GRANTED, "/one", &[]).starts_with("HTTP/1.1 503 "));
    upstream.behave("/one", "/good");
    assert!(broker.curl(GRANTED, "/one", &[]).contains("detail=breaker-open"));
    assert_eq!(upstream.requests_for("/one").len(), 1);
    let told = json(&broker, &["refresh", "/one"]);
    assert_eq!(told["keys"][0]["outcome"], "answered", "{told}");
    assert_eq!(upstream.requests_for("/one").len(), 2);
    good(&broker, "/one");
    upstream.set_value("another");
    assert_eq!(json(&broker, &["refresh", "/o*"])["keys"][0]["changed"], true);
    for (behaviour, code, outcome) in [("/status/503", 69, "unavailable"), ("/status/404", 76, "gone")] {
        upstream.behave("/one", behaviour);
        let failed = operate(&broker, &["refresh", "/one"]);
        assert_eq!(failed.status.code(), Some(code), "{failed:?}");
        assert!(String::from_utf8(failed.stdout).unwrap().contains(outcome));
    }
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn bad_input_is_refused_with_a_sentence() {
    let (_upstream, broker) = one_key("");
    let long = format!("{{\"keys\":[\"/{}\"]}}", "x".repeat(70_000));
    for (method, path, body, status, sentence) in [
        ("GET", "/nothing", "", 404, "there are /status, /metrics, /refresh, /purge, /reload, /drill"),
        ("GET", "/refresh", "", 405, "/refresh takes POST"),
        ("POST", "/status", "", 405, "/status takes GET"),
        ("POST", "/refresh", "garbage", 400, "the body: expected value at line 1"),
        ("POST", "/refresh", "", 400, "the body: EOF"),
        ("POST", "/refresh", "{\"keys\":[]}", 400, "no key is named"),
        ("POST", "/refresh", "{\"keys\":[\"/one\"],\"more\":1}", 400, "unknown field `more`"),
        ("POST", "/refresh", "{\"keys\":[\"/two\"]}", 404, "/two: there is no such key"),
        ("POST", "/refresh", "{\"keys\":[\"/t*\"]}", 404, "/t*: matches no key"),
        ("POST", "/refresh", "{\"keys\":[\"one\"]}", 400, "one: a key begins with `/`"),
        ("POST", "/refresh", &long, 413, "a body has at most 65536 bytes"),
        ("POST", "/purge", "{}", 400, "no key is named"),
        ("POST", "/purge", "{\"all\":true,\"keys\":[\"/one\"]}", 400, "exclude each other"),
        ("POST", "/purge", "{\"keys\":[\"/a**\"]}", 400, "/a**: "),
        ("POST", "/drill", "{\"fail\":\"503\",\"for\":5}", 400, "one of `key`, `token` and `origin`"),
        ("POST", "/drill", "{\"key\":\"/one\",\"token\":\"t\",\"fail\":\"503\",\"for\":5}", 400, "one of"),
        ("POST", "/drill", "{\"key\":\"/one\",\"fail\":\"418\",\"for\":5}", 400, "unknown variant `418`"),
        ("POST", "/drill", "{\"key\":\"/one\",\"fail\":\"503\",\"for\":7200}", 400, "1 to 3600 seconds, not 7200"),
        ("POST", "/drill", "{\"key\":\"/one\",\"fail\":\"503\",\"for\":0}", 400, "1 to 3600 seconds"),
        ("POST", "/drill", "{\"key\":\"one\",\"fail\":\"503\",\"for\":5}", 400, "one: "),
        ("POST", "/drill", "{\"key\":\"/two\",\"fail\":\"503\",\"for\":5}", 404, "no key is covered by key /two"),
        ("POST", "/drill", "{\"token\":\"nobody\",\"fail\":\"503\",\"for\":5}", 404, "there is no token `nobody`"),
        ("POST", "/drill", "{\"origin\":\"http://a\",\"fail\":\"503\",\"for\":5}", 404, "no key is covered by origin"),
        ("DELETE", "/drill", "", 404, "no drill is on"),
    ] {
        let answer = ask(&broker, 0, method, path, body);
        let says = answer.starts_with(&format!("HTTP/1.1 {status} "));
        assert!(says && answer.contains("application/problem+json"), "{path} {body:.50}: {answer}");
        let problem: Value = serde_json::from_str(answer.split("\r\n\r\n").last().unwrap()).unwrap();
        assert!(problem["detail"].as_str().unwrap().contains(sentence), "{path} {body:.50}: {problem}");
    }
    let two_hours = operate(&broker, &["drill", "--key", "/one", "--fail", "503", "--for", "2h"]);
    assert_eq!(two_hours.status.code(), Some(64), "{two_hours:?}");
    assert_eq!(operate(&broker, &["purge", "--all"]).status.code(), Some(64), "nobody can be asked");
    assert_eq!(operate(&broker, &["purge"]).status.code(), Some(64));
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn clients_that_hang_or_hang_up_hurt_nobody() {
    let (upstream, broker) = one_key("");
    upstream.behave("/one", "/good");
    let mut hanging: Vec<UnixStream> =
        (0..40).map(|_| UnixStream::connect(broker.path("admin.sock")).unwrap()).collect();
    for (at, stream) in hanging.iter_mut().enumerate() {
        // Some are closed already: there are too many.
        let _ = stream
            .write_all([&b"GET /sta"[..], b"POST /refresh HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{"][at % 2]);
    }
    good(&broker, "/one");
    wait_until("their time is over", || operate(&broker, &["status"]).status.success());
    for stream in &mut hanging {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        // To its end, which may be a reset.
        let _ = stream.read_to_end(&mut Vec::new());
    }
    drop(hanging);
    for _ in 0..100 {
        let mut gone = UnixStream::connect(broker.path("admin.sock")).unwrap();
        let _ = gone.write_all(b"GET /status HTTP/1.1\r\nhost: x\r\n\r\n");
    }
    wait_until("there is room again", || operate(&broker, &["status"]).status.success());
    good(&broker, "/one");
}
