//! Keys with parameters from outside: who gets which path, and what reaches the upstream.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use support::parameters::{alike, good, listed, serving, status};
use support::{GRANTED, STRANGER, wait_until};

const HEROKU: &str = r#"
[keys."/heroku/{app}/{var}"]
source = { type = "heroku", app = "{app}", config-var = "{var}", token = "t", base-url = "http://127.0.0.1:PORT", allow-plaintext = true }
params.app = { one-of = ["billing", "shop"] }
params.var = { matches = "[A-Z_]+" }
max-age = "1h"
"#;

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn the_acl_sees_the_path_with_its_values() {
    let (upstream, broker) = serving(&format!(
        "{HEROKU}[clients.billing]\nuser = {GRANTED}\nkeys = [\"/heroku/billing/*\"]\n\
         [clients.ops]\nuser = {STRANGER}\nkeys = [\"/heroku/**\"]\n"
    ));
    for uid in [GRANTED, STRANGER] {
        assert!(good(&broker, uid, "/heroku/billing/DATABASE_URL").ends_with("{\"DATABASE_URL\":\"good-value\"}"));
    }
    good(&broker, STRANGER, "/heroku/shop/OTHER");
    assert_eq!(upstream.requests_for("/apps/billing/config-vars").len(), 1);
    assert_eq!(upstream.requests_for("/apps/shop/config-vars").len(), 1);

    let asks = |uid, key: &str| status(&broker.curl(uid, key, &[]));
    for (uid, key, expected) in [
        (GRANTED, "/heroku/shop/OTHER", 403),
        (GRANTED, "/heroku/other/OTHER", 403),
        (GRANTED, "/heroku/billing/lower", 400),
        (STRANGER, "/heroku/other/OTHER", 400),
        (STRANGER, "/heroku/billing/lower", 400),
        (STRANGER, "/heroku/billing", 403),
        (STRANGER, "/heroku/billing/A/B", 403),
        (STRANGER, "/other/billing/A", 403),
        (0, "/heroku/billing/DATABASE_URL", 403),
        (0, "/heroku/other/OTHER", 403),
    ] {
        assert_eq!(asks(uid, key), expected, "{uid} {key}");
    }
    // One and the same answer for what is not granted and what does not exist.
    let told = |key: &str| {
        let answer = broker.curl(GRANTED, key, &[]);
        answer.split_once("\r\n\r\n").unwrap().1.split("\"request-id\"").next().unwrap().to_owned()
    };
    assert_eq!(told("/heroku/shop/OTHER"), told("/heroku/nothing/OTHER"));
    assert_eq!(upstream.requests().len(), 2, "nothing else has reached the upstream");
    assert_eq!(listed(&broker, GRANTED), ["/heroku/billing/DATABASE_URL"]);
    assert_eq!(listed(&broker, STRANGER), ["/heroku/billing/DATABASE_URL", "/heroku/shop/OTHER"]);
    assert_eq!(listed(&broker, 0), Vec::<String>::new());
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn a_value_is_decoded_once_and_encoded_for_where_it_stands() {
    let (upstream, broker) = serving(&format!(
        r#"
[keys."/u/{{v}}"]
source = {{ type = "http", url = "http://127.0.0.1:PORT/u/{{v}}/x?q={{v}}&end", format = "text" }}
params.v = {{ matches = "(?s).*" }}
[keys."/json/{{v}}"]
source = {{ type = "http", url = "http://127.0.0.1:PORT/echo", method = "POST", body = '{{"v":"{{v}}"}}', pointer = "/body", headers = {{ content-type = "application/json" }} }}
params.v = {{ matches = ".*" }}
[keys."/form/{{v}}"]
source = {{ type = "http", url = "http://127.0.0.1:PORT/echo", method = "POST", body = "v={{v}}&w=1", pointer = "/body", headers = {{ content-type = "application/x-www-form-urlencoded" }} }}
params.v = {{ matches = ".*" }}
[clients.all]
user = {GRANTED}
keys = ["/**"]
"#
    ));
    let long = format!("/u/{}", "a".repeat(257));
    for bad in [
        "/u/..",
        "/u/.",
        "/u/%2e%2e",
        "/u/%2E",
        "/u/a%2fb",
        "/u/a%2Fb",
        "/u/%00",
        "/u/a%00",
        "/u/%252e%252e",
        "/u/%252f",
        "/u/%25",
        "/u/a%20b",
        "/u/%0d%0a",
        "/u/a%3fb",
        "/u/%ff",
        "/u/%c3%a4",
        "/u/",
        "/u//",
        "/u/a;b",
        "/u/a?b=c",
        "/u/a&b",
        "/u/a=b",
        "/u/a%26b",
        "/u/%",
        "/u/%4",
        &long,
    ] {
        assert_eq!(status(&broker.curl(GRANTED, bad, &[])), 400, "{bad}");
    }
    assert_eq!(upstream.requests().len(), 0, "none of these has reached the upstream");
    for (path, target) in [
        ("/u/a+b", "/u/a%2Bb/x?q=a%2Bb&end"),
        ("/u/a@b:c", "/u/a%40b%3Ac/x?q=a%40b%3Ac&end"),
        ("/u/...", "/u/.../x?q=...&end"),
        ("/u/%7Ex%2dy", "/u/~x-y/x?q=~x-y&end"),
    ] {
        broker.curl(GRANTED, path, &[]);
        let last = upstream.requests().pop().unwrap();
        assert_eq!(last["target"], target, "{path}");
    }
    assert!(good(&broker, GRANTED, "/json/a+b@c").ends_with(r#""{\"v\":\"a+b@c\"}""#));
    assert!(good(&broker, GRANTED, "/form/a+b@c").ends_with(r#""v=a%2Bb%40c&w=1""#));
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn a_failing_argument_is_nobody_elses_outage_and_takes_no_entry() {
    let (upstream, broker) = serving(&format!(
        "[keys.\"/p/{{p}}\"]\nsource = {{ type = \"http\", url = \"http://127.0.0.1:PORT/{{p}}\", format = \"text\", auth = {{ type = \"bearer\", token = \"t\" }}, allow-plaintext = true }}\n\
         params.p = {{ matches = \"[a-z0-9.-]+\" }}\nmax-entries = 2\ntimeout = \"3s\"\nfetch-timeout = \"4s\"\n\
         [clients.all]\nuser = {GRANTED}\nkeys = [\"/p/*\"]\n"
    ));
    for (path, does) in
        [("/slow", "/hang"), ("/gone", "/status/404"), ("/bad", "/status/500"), ("/one", "/good"), ("/two", "/good")]
    {
        upstream.behave(path, does);
    }
    good(&broker, GRANTED, "/p/one");
    for (key, expected) in [("/p/slow", 503), ("/p/gone", 502), ("/p/bad", 503), ("/p/nothing", 502)] {
        assert_eq!(status(&broker.curl(GRANTED, key, &[])), expected, "{key}");
        let answer = good(&broker, GRANTED, "/p/one");
        assert!(answer.contains("fwd-status=200"), "after {key}: {answer}");
    }
    let again = broker.curl(GRANTED, "/p/bad", &[]);
    assert!(again.contains("detail=breaker-open"), "its failure is remembered: {again}");
    assert!(good(&broker, GRANTED, "/p/two").contains("fwd-status=200"));
    assert_eq!(listed(&broker, GRANTED), ["/p/one", "/p/two"]);
    assert_eq!(upstream.requests_for("/bad").len(), 1);
    // However many fail: those with a value stay.
    let many = broker.curl(GRANTED, "/p/none[1-600]", &["--parallel", "--parallel-max", "50", "--no-progress-meter"]);
    assert_eq!(many.matches("HTTP/1.1 502 ").count(), 600);
    assert_eq!(listed(&broker, GRANTED), ["/p/one", "/p/two"]);
    let told: Value = {
        let mut status = Command::new(env!("CARGO_BIN_EXE_keyhatch"));
        let done = status.args(["status", "--json", "--admin-socket"]).arg(broker.path("admin.sock")).output().unwrap();
        serde_json::from_slice(&done.stdout).unwrap()
    };
    let mut status = Command::new(env!("CARGO_BIN_EXE_keyhatch"));
    let table = status.args(["status", "--admin-socket"]).arg(broker.path("admin.sock")).output().unwrap();
    let table = String::from_utf8(table.stdout).unwrap();
    let line = table.lines().find(|line| line.starts_with("/p/{p} ")).unwrap_or_else(|| panic!("{table}"));
    assert_eq!(line.split_whitespace().take(5).collect::<Vec<_>>(), ["/p/{p}", "2", "of", "2", "lru"]);
    let template = &told["templates"][0];
    assert_eq!((&template["key"], &template["entries"]), (&"/p/{p}".into(), &2.into()), "{told}");
    assert!(template["failing"].as_u64().unwrap() <= 256, "{told}");
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn paths_of_one_document_share_its_fetch() {
    let (upstream, broker) =
        serving(&format!("{}[clients.all]\nuser = {GRANTED}\nkeys = [\"/heroku/**\"]\n", HEROKU.replace("1h", "0s")));
    good(&broker, GRANTED, "/heroku/billing/DATABASE_URL");
    good(&broker, GRANTED, "/heroku/billing/OTHER");
    assert_eq!(status(&broker.curl(GRANTED, "/heroku/billing/NOTHING", &[])), 502);
    let fetches = upstream.requests_for("/apps/billing/config-vars").len();
    // The one that asks refreshes the others as well.
    upstream.set_value("newer");
    good(&broker, GRANTED, "/heroku/billing/OTHER");
    upstream.behave("/apps/billing/config-vars", "/status/500");
    let answer = good(&broker, GRANTED, "/heroku/billing/DATABASE_URL");
    assert!(answer.ends_with("{\"DATABASE_URL\":\"newer\"}"), "{answer}");
    assert_eq!(upstream.requests_for("/apps/billing/config-vars").len(), fetches + 2);
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn first_fetches_that_hang_leave_room_for_others() {
    let (upstream, broker) = serving(&format!(
        "[keys.\"/g/{{n}}\"]\nsource = {{ type = \"http\", url = \"http://127.0.0.1:PORT/gate?n={{n}}\", field = \"value\" }}\n\
         params.n = {{ matches = \"[0-9]+\" }}\ntimeout = \"20s\"\n\
         [clients.all]\nuser = [{GRANTED}, 0]\nkeys = [\"/g/*\"]\n"
    ));
    let ask = |n: usize| {
        let mut stream = UnixStream::connect(broker.path("keyhatch.sock")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        write!(stream, "GET /g/{n} HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap();
        stream
    };
    let answer = |mut stream: UnixStream| {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        status(&answer)
    };
    let waiting: Vec<UnixStream> = (0..128).map(ask).collect();
    wait_until("all are asked for", || upstream.requests_for("/gate").len() == 128);
    assert_eq!(answer(ask(128)), 429, "one user has no more than half of the places");
    let joined = ask(0);
    upstream.behave("/gate", "/good");
    assert_eq!(status(&broker.curl(GRANTED, "/g/200", &[])), 200, "another user has the other half");
    upstream.set_gate(true);
    assert!(waiting.into_iter().chain([joined]).all(|stream| answer(stream) == 200));
    assert_eq!(upstream.requests_for("/gate").len(), 129);
    assert_eq!(listed(&broker, GRANTED).len(), 100);
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn who_waits_for_a_path_learns_of_its_change() {
    let (upstream, broker) = alike("max-age = \"1h\"");
    let answer = good(&broker, GRANTED, "/n/a");
    let tag = answer.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap().trim();
    let mut waiting = support::as_uid(GRANTED, "curl");
    waiting.args(["--silent", "--include", "--max-time", "30", "--unix-socket"]).arg(broker.path("keyhatch.sock"));
    waiting.args(["--header", &format!("If-None-Match: {tag}"), "--header", "Prefer: wait=25", "http://keyhatch/n/a"]);
    let waiting = waiting.stdout(Stdio::piped()).spawn().unwrap();
    upstream.set_value("newer");
    wait_until("it is asked anew", || {
        broker.curl(STRANGER, "/n/a", &["--header", "Cache-Control: no-cache"]).ends_with("{\"value\":\"newer\"}")
    });
    let told = String::from_utf8(waiting.wait_with_output().unwrap().stdout).unwrap();
    assert!(told.starts_with("HTTP/1.1 200 ") && told.ends_with("{\"value\":\"newer\"}"), "{told}");
}
