//! Calls as peers make them: what arguments are, how they are judged, and what is kept of their answers.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "calls/hostile.rs"]
mod hostile;
#[path = "calls/operator.rs"]
mod operator;
#[path = "calls/standin.rs"]
mod standin;
mod support;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};
use standin::{StandIn, reply, returns};
use support::parameters::{listed, sealed, status, was_asked};
use support::{Broker, GRANTED, STRANGER, TOKEN, memory_holds, wait_until};

/// A source for a method, or for the parameter of a key.
fn source(port: u16, method: &str) -> String {
    format!(
        "source = {{ type = \"nameko\", broker = \"amqp://127.0.0.1:{port}\", user = \"keyhatch\", token = \"t\", \
         service = \"pricing\", method = \"{method}\", allow-plaintext = true }}\n"
    )
}

fn prepared(limits: &str, keys: &str) -> Broker {
    Broker::prepared(|_| {
        format!(
            "[limits]\nfetches-per-user = 1000\n{limits}\n[tokens]\nt = {{ file = \"DIR/token\" }}\n{keys}\n\
             [clients.all]\nuser = [{GRANTED}, 0]\nkeys = [\"/rpc/**\"]\n"
        )
    })
}

/// With these keys alone.
fn broker_of(keys: &str) -> Broker {
    serving("", keys)
}

fn serving(limits: &str, keys: &str) -> Broker {
    let mut broker = prepared(limits, keys);
    broker.start_with(&["--log-level", "trace", "--log-requests"]);
    broker
}

fn post(broker: &Broker, path: &str, body: &str) -> String {
    let file = broker.path("body");
    std::fs::write(&file, body).unwrap();
    let data = format!("@{}", file.display());
    broker.curl(GRANTED, path, &["--header", "Content-Type: application/json", "--data-binary", &data])
}

fn body(answer: &str) -> Value {
    let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
    serde_json::from_str(body).unwrap_or_else(|_| panic!("{answer}"))
}

/// The value, which there is.
fn value(broker: &Broker, answer: &str) -> Value {
    assert_eq!(status(answer), 200, "{answer}\n{}", broker.log());
    body(answer)
}

/// What an operator's command says, as JSON.
fn told(broker: &Broker, command: &[&str], admin: bool) -> Value {
    let mut run = Command::new(env!("CARGO_BIN_EXE_keyhatch"));
    run.args(command).arg("--json");
    if admin {
        run.arg("--admin-socket").arg(broker.path("admin.sock"));
    } else {
        run.arg("--config").arg(broker.path("keyhatch.toml"));
    }
    let done = run.output().unwrap();
    serde_json::from_slice(&done.stdout).unwrap_or_else(|_| panic!("{command:?}: {done:?}"))
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn equal_arguments_share_an_entry_however_they_are_written() {
    let standin = StandIn::start();
    let broker = serving("", &format!("[keys.\"/rpc/quote\"]\n{}max-age = \"1h\"\n", source(standin.port, "quote")));
    let meant = json!({ "args": [1, { "b": null, "a": "é\n" }], "kwargs": { "x": 1.5, "y": [] } });
    let first = post(&broker, "/rpc/quote", r#"{"args":[1,{"b":null,"a":"é\n"}],"kwargs":{"x":1.5,"y":[]}}"#);
    assert_eq!(value(&broker, &first), json!({ "number": 0, "given": meant }));
    assert!(first.contains("fwd=uri-miss"), "{first}");
    let args = "args=%5B1%2C%7B%22a%22%3A%22%5Cu00e9%5Cn%22%2C%22b%22%3Anull%7D%5D";
    let query = format!("/rpc/quote?kwargs=%7B%22y%22:[],%22x%22:+1.5%7D&{args}");
    for again in [
        post(
            &broker,
            "/rpc/quote",
            r#" {"kwargs": {"y": [], "x": 1.5}, "args": [1, {"a": "\u00e9\u000a", "b": null}]} "#,
        ),
        broker.curl(GRANTED, &query, &["--globoff"]),
    ] {
        assert_eq!(value(&broker, &again)["number"], 0, "another call: {again}");
        assert!(!was_asked(&again), "{again}");
    }
    let head = broker.curl(GRANTED, &query, &["--globoff", "--head"]);
    assert!(status(&head) == 200 && head.ends_with("\r\n\r\n"), "{head}");
    let tag = head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap_or_else(|| panic!("{head}"));
    let same = broker.curl(GRANTED, &query, &["--globoff", "--header", &format!("If-None-Match: {tag}")]);
    assert_eq!(status(&same), 304, "{same}");
    let waits = ["--globoff", "--header", &format!("If-None-Match: {tag}"), "--header", "Prefer: wait=1"];
    let waited = broker.curl(GRANTED, &query, &waits);
    assert!(status(&waited) == 304 && waited.contains("preference-applied: wait=1\r\n"), "{waited}");

    // No arguments are arguments, too; and nearly the same is another thing.
    for (number, other) in ["{}", r#"{"args":[1.0]}"#, r#"{"args":[1]}"#, r#"{"args":["1"]}"#].into_iter().enumerate() {
        assert_eq!(value(&broker, &post(&broker, "/rpc/quote", other))["number"], number + 1, "{other}");
    }
    assert_eq!(value(&broker, &broker.curl(GRANTED, "/rpc/quote", &[]))["number"], 1);
    // One path, whatever it was called with.
    assert_eq!(listed(&broker, GRANTED), ["/rpc/quote"]);
    assert_eq!(standin.connections(), 1);
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn arguments_are_judged_in_the_order_of_all_requests() {
    let standin = StandIn::start();
    let file = "[keys.\"/rpc/plain\"]\nsource = { type = \"file\", path = \"DIR/token\", format = \"text\" }\n";
    let broker = serving(
        "value-size = \"16KiB\"\nheader-timeout = \"1s\"",
        &format!(
            "[keys.\"/rpc/{{method}}\"]\n{}params.method = {{ matches = \"[a-z.]+\" }}\n{file}",
            source(standin.port, "{method}")
        ),
    );
    let (json, large) = ("Content-Type: application/json", "x".repeat(17 << 10));
    let asked = |uid, path: &str, more: &[&str]| {
        let answer = broker.curl(uid, path, more);
        (status(&answer), answer)
    };
    // Malformed, before anything else.
    for query in ["args", "args=%5B", "args=[]&args=[]", "args={}", "x=[]", "kwargs=%7B%22a%22:1,%22a%22:2%7D"] {
        for method in ["GET", "DELETE"] {
            let (status, answer) = asked(GRANTED, &format!("/rpc/quote?{query}"), &["--globoff", "--request", method]);
            assert_eq!((status, &body(&answer)["code"]), (400, &"malformed".into()), "{method} {query}: {answer}");
        }
    }
    for text in
        ["", "[]", "{\"args\":[NaN]}", "{\"args\":{}}", "{\"a\":1}", "{\"kwargs\":{\"a\":1,\"\\u0061\":1}}", "{} {}"]
    {
        let answer = post(&broker, "/rpc/quote", text);
        assert_eq!((status(&answer), &body(&answer)["code"]), (400, &"malformed".into()), "{text}: {answer}");
    }
    assert_eq!(asked(GRANTED, "/rpc/quote?args=[]", &["--globoff", "--header", json, "--data-binary", "{}"]).0, 400);
    // Not granted: what is sent is not even read, and no name is told by it.
    for path in ["/rpc/quote", "/rpc/plain", "/nothing"] {
        let (status, answer) = asked(STRANGER, path, &["--header", json, "--data-binary", &large]);
        assert_eq!(status, 403, "{path}: {answer}");
        assert_eq!(asked(STRANGER, &format!("{path}?args=[]"), &["--globoff"]).0, 400, "{path}");
    }
    // A name with a dot would be another service's.
    assert_eq!(asked(GRANTED, "/rpc/a.b", &[]).0, 403);
    // Then the method, then the length, then what is accepted.
    let (status_of, answer) = asked(GRANTED, "/rpc/quote", &["--request", "PUT", "--data-binary", &large]);
    assert!(status_of == 405 && answer.contains("allow: GET, HEAD, POST\r\n"), "{answer}");
    let accept = ["--header", "Accept: image/png"];
    let (status_of, answer) =
        asked(GRANTED, "/rpc/quote", &[&["--header", json, "--data-binary", &large], &accept[..]].concat());
    assert_eq!(status_of, 413, "{answer}");
    let chunked = ["--header", json, "--header", "Transfer-Encoding: chunked", "--data-binary", &large];
    assert_eq!(asked(GRANTED, "/rpc/quote", &chunked).0, 413);
    assert_eq!(asked(GRANTED, "/rpc/quote", &["--request", "GET", "--data-binary", "{}"]).0, 413);
    assert_eq!(asked(GRANTED, "/rpc/quote", &["--data-binary", "{}"]).0, 415, "curl says that it is a form");
    assert_eq!(asked(GRANTED, "/rpc/quote", &accept).0, 406);
    assert_eq!(standin.calls(), 0, "none of these was called");

    // For a key that takes none, all is as it was, also where one with parameters would take them.
    assert_eq!(asked(GRANTED, "/rpc/plain?args=[]", &["--globoff"]).0, 400);
    let (status_of, answer) = asked(GRANTED, "/rpc/plain", &["--header", json, "--data-binary", "{}"]);
    assert!(status_of == 405 && answer.contains("allow: GET, HEAD\r\n"), "{answer}");
    assert!(asked(GRANTED, "/rpc/plain", &[]).1.contains(TOKEN), "the file's value");
    assert_eq!(asked(GRANTED, "/-/health?args=[]", &["--globoff"]).0, 400);

    // A body that does not come is waited for as long as a head would be.
    let mut slow = UnixStream::connect(broker.path("keyhatch.sock")).unwrap();
    slow.write_all(b"POST /rpc/quote HTTP/1.1\r\nHost: k\r\nContent-Length: 10\r\n\r\n{\"ar").unwrap();
    let (began, mut answer) = (Instant::now(), String::new());
    slow.read_to_string(&mut answer).unwrap();
    assert!(answer.is_empty() || status(&answer) == 408, "{answer}");
    assert!((900..8000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn long_arguments_and_answers_cross_whole() {
    let standin = StandIn::start();
    let broker = serving("", &format!("[keys.\"/rpc/quote\"]\n{}max-age = \"1h\"\n", source(standin.port, "quote")));
    // Below a frame of the channel, about as long as one, and nearly as long as a value may be.
    for length in [30_000, 32_700, 32_768, 65_536, 1_000_000] {
        let given = json!({ "args": ["é".repeat(length / 2)], "kwargs": {} });
        let answer = value(&broker, &post(&broker, "/rpc/quote", &given.to_string()));
        assert!(answer["given"] == given, "{length}");
        assert!(!was_asked(&post(&broker, "/rpc/quote", &given.to_string())), "{length}");
    }
    // As long as a value may be, with `kwargs` that are not written; and longer only because of that.
    let exactly =
        |length: usize| format!("{{\"args\":[\"{}\"]}}", "x".repeat(length - r#"{"args":[""],"kwargs":{}}"#.len()));
    standin.react(|called| returns(called, &called.body.len().into()));
    assert_eq!(value(&broker, &post(&broker, "/rpc/quote", &exactly(1 << 20))), 1 << 20);
    assert_eq!(status(&post(&broker, "/rpc/quote", &exactly((1 << 20) + 1))), 413);
    standin.react(|called| returns(called, &json!("x".repeat((1 << 20) - 2))));
    assert_eq!(value(&broker, &post(&broker, "/rpc/quote", "{}")).as_str().unwrap().len(), (1 << 20) - 2);
    standin.react(|called| returns(called, &json!("x".repeat((1 << 20) - 1))));
    let answer = post(&broker, "/rpc/quote", "{\"args\":[1]}");
    assert_eq!((status(&answer), &body(&answer)["code"]), (502, &"misconfigured".into()), "{answer}");
    assert!(answer.contains("detail=value-too-large"), "{answer}");
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn entries_are_bounded_and_found_again_after_a_restart() {
    let standin = StandIn::start();
    let keys = format!(
        "[keys.\"/rpc/{{method}}\"]\n{}params.method = {{ one-of = [\"quote\", \"list\"] }}\nmax-entries = 3\n",
        source(standin.port, "{method}")
    );
    let mut broker = serving("", &keys);
    let ask =
        |broker: &Broker, method: &str, n: u32| post(broker, &format!("/rpc/{method}"), &format!("{{\"args\":[{n}]}}"));
    for n in 0..5 {
        value(&broker, &ask(&broker, "quote", n));
    }
    value(&broker, &ask(&broker, "list", 4));
    wait_until("the first ones are evicted", || sealed(&broker) == ["/rpc/list", "/rpc/quote", "/rpc/quote"]);
    assert_eq!(listed(&broker, GRANTED), ["/rpc/list", "/rpc/quote"]);
    let status_of = told(&broker, &["status"], true);
    assert_eq!(status_of["templates"][0]["entries"], 3);
    let digests = |listed: &Value, what: &str| {
        let lines = listed[what].as_array().unwrap().iter();
        let mut digests: Vec<String> = lines.filter_map(|line| Some(line["arguments"].as_str()?.to_owned())).collect();
        digests.sort_unstable();
        digests
    };
    let shown = digests(&status_of, "keys");
    assert!(shown.len() == 3 && shown.iter().all(|digest| digest.len() == 64), "{status_of}");
    assert_eq!(digests(&told(&broker, &["cache", "ls"], false), "files"), shown);

    broker.end("TERM");
    broker.start();
    standin.react(|called| standin::frame(3, 9, &called.body));
    let answer = ask(&broker, "quote", 4);
    assert_eq!(value(&broker, &answer)["given"]["args"], json!([4]), "the value from before the restart");
    assert!(answer.contains("detail=invalid-frame"), "{answer}");
    let answer = ask(&broker, "quote", 0);
    assert_eq!((status(&answer), &body(&answer)["code"]), (503, &"unavailable".into()), "evicted: {answer}");

    // Without its arguments a call cannot be made anew, and it can be purged.
    let refreshed = told(&broker, &["refresh", "/rpc/quote"], true);
    assert_eq!(refreshed["keys"][0]["outcome"], "call", "{refreshed}");
    assert_eq!(told(&broker, &["purge", "/rpc/quote"], true)["had-a-value"], 2);
    assert_eq!(sealed(&broker), ["/rpc/list"]);
    assert_eq!(status(&ask(&broker, "quote", 4)), 503);
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn an_exception_is_an_answer_and_nothing_else() {
    let standin = StandIn::start();
    let keys = format!("[keys.\"/rpc/quote\"]\n{}stale-if-error = \"forever\"\n", source(standin.port, "quote"));
    let broker = serving("", &keys);
    assert_eq!(value(&broker, &post(&broker, "/rpc/quote", "{}"))["number"], 0);
    standin.react(|called| {
        let error =
            json!({ "exc_type": "OutOfStock", "exc_path": "shop.OutOfStock", "exc_args": ["pear"], "value": "pear" });
        reply(called, json!({ "result": null, "error": error }).to_string().as_bytes())
    });
    for n in 1..5 {
        // Each is asked for: also what has a value, and at once, many times more than revoke a value.
        for arguments in ["{}", "{\"args\":[1]}"] {
            let answer = post(&broker, "/rpc/quote", arguments);
            assert_eq!(status(&answer), 502, "{answer}");
            assert!(answer.to_lowercase().contains("content-type: application/problem+json\r\n"), "{answer}");
            let problem = body(&answer);
            assert_eq!(
                (&problem["code"], &problem["exception"]["exc_type"]),
                (&"exception".into(), &"OutOfStock".into())
            );
            assert_eq!(
                (&problem["exception"]["exc_args"], &problem["exception"]["value"]),
                (&json!(["pear"]), &"pear".into())
            );
            assert!(answer.contains("cache-status: keyhatch; fwd="), "{answer}");
        }
        assert_eq!(standin.calls(), 1 + 2 * n);
    }
    let status_of = told(&broker, &["status"], true);
    assert_eq!((&status_of["origins"][0]["failures"], &status_of["origins"][0]["back-off"]), (&0.into(), &Value::Null));
    assert_eq!(sealed(&broker), ["/rpc/quote"]);
    standin.react(|_| standin::close(1, 404));
    assert_eq!(value(&broker, &post(&broker, "/rpc/quote", "{}"))["number"], 0, "what it gave before");
    assert!(!broker.log().contains("pear") && !broker.log().contains("OutOfStock"), "{}", broker.log());
}

/// As tests/secrecy.rs does for other sources.
#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn neither_password_nor_arguments_nor_answers_leave_their_way() {
    const ARGUMENT: &str = "planted-argument-77c0";
    const ANSWER: &str = "planted-answer-41d9";
    let standin = StandIn::start();
    standin.react(|called| returns(called, &ANSWER.into()));
    let keys = format!("[keys.\"/rpc/quote\"]\n{}", source(standin.port, "quote"));
    let broker = serving("value-size = \"16KiB\"", &keys);
    let arguments = json!({ "args": [ARGUMENT], "kwargs": { ARGUMENT: 1 } }).to_string();
    assert_eq!(value(&broker, &post(&broker, "/rpc/quote", &arguments)), ANSWER);
    let mut said = vec![
        post(&broker, "/rpc/quote", &arguments[1..]),
        post(&broker, "/rpc/quote", &arguments.replace("args", "parts")),
        post(&broker, "/rpc/quote", &arguments.replace(ARGUMENT, &ARGUMENT.repeat(1000))),
        broker.curl(GRANTED, &format!("/rpc/quote?args={ARGUMENT}"), &[]),
        broker.curl(GRANTED, &format!("/rpc/quote?{ARGUMENT}=1"), &[]),
        broker.curl(GRANTED, "/-/keys", &[]),
        broker.curl(GRANTED, "/-/health", &[]),
    ];
    for (bytes, wanted) in [(b"no".to_vec(), 503), (b"{}".to_vec(), 503), (vec![b'x'; 9 << 20], 502)] {
        standin.react(move |called| reply(called, &bytes));
        let other = arguments.replace(":1", &format!(":{wanted}{}", said.len()));
        let answer = post(&broker, "/rpc/quote", &other);
        assert_eq!(status(&answer), wanted, "{answer}");
        said.push(answer);
    }
    let digests = told(&broker, &["status"], true);
    let digest = digests["keys"][0]["arguments"].as_str().unwrap().to_owned();
    said.push(digests.to_string());
    said.push(told(&broker, &["cache", "ls"], false).to_string());
    said.push(told(&broker, &["cache", "verify"], false).to_string());
    said.push(broker.log());
    for text in &said {
        for secret in [TOKEN, ARGUMENT, ANSWER] {
            assert!(!text.contains(secret), "{secret} is in {text}");
        }
    }
    assert!(!broker.log().contains(&digest[..12]), "a digest of arguments that can be guessed tells them");
    assert!(!memory_holds(broker.worker(), TOKEN.as_bytes()), "the worker has the password");
    for file in std::fs::read_dir(broker.path("cache")).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        let holds = |secret: &str| bytes.windows(secret.len()).any(|part| part == secret.as_bytes());
        assert!(!holds(ARGUMENT) && !holds(ANSWER) && !holds(&digest));
    }
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn one_connection_carries_all_calls_and_another_one_follows_it() {
    let standin = StandIn::start();
    let keys = format!(
        "[keys.\"/rpc/{{method}}\"]\n{}params.method = {{ matches = \"[a-z]+\" }}\nnegative-max-age = \"0s\"\n",
        source(standin.port, "{method}")
    );
    let broker = serving("", &keys);
    std::thread::scope(|scope| {
        for method in ["a", "b", "c", "d", "e", "f"] {
            let broker = &broker;
            scope.spawn(move || value(broker, &broker.curl(GRANTED, &format!("/rpc/{method}"), &[])));
        }
    });
    assert_eq!((standin.connections(), standin.calls()), (1, 6));
    standin.react(|_| standin::close(0, 320));
    let answer = broker.curl(GRANTED, "/rpc/g", &[]);
    assert!(status(&answer) == 503 && answer.contains("detail=broker-closed"), "{answer}");
    standin.react(standin::echo);
    let calls = standin.calls();
    let answer = broker.curl(GRANTED, "/rpc/h", &[]);
    assert!(status(&answer) == 503 && answer.contains("detail=breaker-open"), "backing off: {answer}");
    assert_eq!(standin.calls(), calls);
    wait_until("it is asked again", || status(&broker.curl(GRANTED, "/rpc/h", &[])) == 200);
    assert_eq!(standin.connections(), 2);
}
