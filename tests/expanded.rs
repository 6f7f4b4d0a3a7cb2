//! Keys with parameters from outside: who gets which path, what reaches the upstream, and what is kept of it all.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::process::Command;

use serde_json::Value;
use support::process::Process;
use support::{Broker, GRANTED, STRANGER, wait_until};

/// An upstream and a broker with these keys; `PORT` in them is the upstream's.
fn serving(sections: &str) -> (Process, Broker) {
    let mut upstream = None;
    let mut broker = Broker::prepared(|directory| {
        let started = Process::start(directory);
        let text = sections.replace("PORT", &started.port("plain").to_string());
        upstream = Some(started);
        format!("[limits]\nfetches-per-user = 100000\n[tokens]\nt = {{ file = \"DIR/token\" }}\n{text}")
    });
    broker.start();
    (upstream.unwrap(), broker)
}

/// One key whose values are all alike, with these settings.
fn alike(settings: &str) -> (Process, Broker) {
    serving(&format!(
        "[keys.\"/n/{{n}}\"]\nsource = {{ type = \"http\", url = \"http://127.0.0.1:PORT/good?n={{n}}\", field = \"value\" }}\n\
         params.n = {{ matches = \"[a-z0-9]+\" }}\n{settings}\n\
         [clients.all]\nuser = [{GRANTED}, {STRANGER}]\nkeys = [\"/n/**\"]\n"
    ))
}

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).unwrap_or_default().parse().unwrap_or(0)
}

fn good(broker: &Broker, uid: u32, key: &str) -> String {
    let answer = broker.curl(uid, key, &[]);
    assert_eq!(status(&answer), 200, "{key}: {answer}\n{}", broker.log());
    answer
}

/// The paths that this peer is shown.
fn listed(broker: &Broker, uid: u32) -> Vec<String> {
    let answer = broker.curl(uid, "/-/keys", &[]);
    let body: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    body["keys"].as_array().unwrap().iter().map(|key| key["key"].as_str().unwrap().to_owned()).collect()
}

/// The keys that have a sealed file, as the program tells.
fn sealed(broker: &Broker) -> Vec<String> {
    let mut list = Command::new(env!("CARGO_BIN_EXE_keyhatch"));
    let done = list.args(["cache", "ls", "--json", "--config"]).arg(broker.path("keyhatch.toml")).output().unwrap();
    let listed: Value = serde_json::from_slice(&done.stdout).unwrap();
    let keys = listed["files"].as_array().unwrap().iter().filter_map(|file| file["key"].as_str());
    keys.map(str::to_owned).collect()
}

fn was_asked(answer: &str) -> bool {
    answer.contains("fwd=")
}

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

fn resident(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Asks for the paths with these numbers, several at a time, and says how many were answered.
fn ask_many(broker: &Broker, uid: u32, range: &str) -> usize {
    let answers =
        broker.curl(uid, &format!("/n/{range}"), &["--parallel", "--parallel-max", "16", "--no-progress-meter"]);
    answers.matches("HTTP/1.1 200 ").count()
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn ten_thousand_arguments_leave_a_hundred_entries_a_hundred_files_and_flat_memory() {
    let (_upstream, mut broker) = alike("max-age = \"1h\"\nmax-entries = 100");
    let files = || std::fs::read_dir(broker.path("cache")).unwrap().count();
    assert_eq!(ask_many(&broker, GRANTED, "[0-2999]"), 3000);
    let before = [resident(broker.parent()), resident(broker.worker())];
    assert_eq!(ask_many(&broker, GRANTED, "[3000-9999]"), 7000);
    let after = [resident(broker.parent()), resident(broker.worker())];
    for (before, after) in before.into_iter().zip(after) {
        assert!(after < before + 2048, "{before} KiB became {after} KiB");
    }
    assert_eq!(listed(&broker, GRANTED).len(), 100);
    // Beside those of values there are the clock and the ledger.
    wait_until("a hundred files are left", || sealed(&broker).len() == 100 && files() <= 102);
    let mut kept = listed(&broker, GRANTED);
    kept.sort();
    let mut on_disk = sealed(&broker);
    on_disk.sort();
    assert_eq!(kept, on_disk);

    assert_eq!(broker.end("TERM"), Some(0));
    broker.start();
    assert_eq!(listed(&broker, GRANTED).len(), 100);
    for key in kept.iter().take(10) {
        assert!(!was_asked(&good(&broker, GRANTED, key)), "{key} is still fresh");
    }
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn the_least_recently_used_goes_also_when_uses_were_answered_from_memory() {
    let (_upstream, broker) = alike("max-age = \"1h\"\nmax-entries = 3");
    for key in ["/n/a", "/n/b", "/n/c"] {
        assert!(was_asked(&good(&broker, GRANTED, key)));
    }
    assert!(!was_asked(&good(&broker, GRANTED, "/n/a")), "the parent is not asked for this one");
    good(&broker, GRANTED, "/n/d");
    assert_eq!(listed(&broker, GRANTED), ["/n/a", "/n/c", "/n/d"]);
    assert!(was_asked(&good(&broker, GRANTED, "/n/b")), "it is out of the worker's memory, too");
    assert_eq!(listed(&broker, GRANTED), ["/n/a", "/n/b", "/n/d"]);
    wait_until("as many files are left", || sealed(&broker).len() == 3);
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn the_least_frequently_used_goes_also_when_uses_were_answered_from_memory() {
    let (_upstream, broker) = alike("max-age = \"1h\"\nmax-entries = 3\neviction = \"lfu\"");
    for (key, times) in [("/n/a", 4), ("/n/b", 2), ("/n/c", 3)] {
        (0..times).for_each(|_| drop(good(&broker, GRANTED, key)));
    }
    good(&broker, GRANTED, "/n/d");
    assert_eq!(listed(&broker, GRANTED), ["/n/a", "/n/c", "/n/d"]);
    good(&broker, GRANTED, "/n/e");
    assert_eq!(listed(&broker, GRANTED), ["/n/a", "/n/c", "/n/e"], "the new one of before was used least");
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn whoever_has_the_most_loses_first() {
    let (_upstream, broker) = alike("max-age = \"1h\"\nmax-entries = 10");
    for key in ["/n/mine1", "/n/mine2"] {
        good(&broker, STRANGER, key);
    }
    assert_eq!(ask_many(&broker, GRANTED, "[0-99]"), 100);
    let listed = listed(&broker, STRANGER);
    assert_eq!(listed.len(), 10);
    assert!(listed.contains(&"/n/mine1".to_owned()) && listed.contains(&"/n/mine2".to_owned()), "{listed:?}");
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn a_restart_keeps_the_entries_and_what_is_too_many_goes() {
    let (mut upstream, mut broker) = alike("max-entries = 5");
    for key in ["/n/a", "/n/b", "/n/c", "/n/d"] {
        good(&broker, GRANTED, key);
    }
    assert_eq!(broker.end("TERM"), Some(0));
    upstream.stop();
    broker.start();
    assert_eq!(listed(&broker, GRANTED), ["/n/a", "/n/b", "/n/c", "/n/d"]);
    let answer = good(&broker, GRANTED, "/n/b");
    assert!(answer.ends_with("{\"value\":\"good-value\"}") && answer.contains("detail=connect-refused"), "{answer}");
    assert_eq!(status(&broker.curl(GRANTED, "/n/e", &[])), 503);
    assert_eq!(broker.end("TERM"), Some(0));

    let text = std::fs::read_to_string(broker.path("keyhatch.toml")).unwrap();
    broker.write("keyhatch.toml", &text.replace("max-entries = 5", "max-entries = 2"), 0o600);
    broker.start();
    assert_eq!(listed(&broker, GRANTED), ["/n/c", "/n/d"]);
    wait_until("the others' files are gone", || sealed(&broker) == ["/n/c", "/n/d"]);
    assert_eq!(broker.end("TERM"), Some(0));

    // Out of its constraint, a path is no key any more, whatever is on disk; another source is another value.
    let text = std::fs::read_to_string(broker.path("keyhatch.toml")).unwrap();
    broker.write("keyhatch.toml", &text.replace("[a-z0-9]+", "[a-c]").replace("good?n", "other?n"), 0o600);
    broker.start();
    assert_eq!(status(&broker.curl(GRANTED, "/n/d", &[])), 400);
    assert_eq!(status(&broker.curl(GRANTED, "/n/c", &[])), 503);
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn a_failing_argument_is_nobody_elses_outage_and_takes_no_entry() {
    let (upstream, broker) = serving(&format!(
        "[keys.\"/p/{{p}}\"]\nsource = {{ type = \"http\", url = \"http://127.0.0.1:PORT/{{p}}\", format = \"text\", auth = {{ type = \"bearer\", token = \"t\" }}, allow-plaintext = true }}\n\
         params.p = {{ matches = \"[a-z0-9.-]+\" }}\nmax-entries = 2\ntimeout = \"1s\"\nfetch-timeout = \"2s\"\n\
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
    let many = broker.curl(GRANTED, "/p/none[1-600]", &["--parallel", "--parallel-max", "16", "--no-progress-meter"]);
    assert_eq!(many.matches("HTTP/1.1 502 ").count(), 600);
    assert_eq!(listed(&broker, GRANTED), ["/p/one", "/p/two"]);
    let told: Value = {
        let mut status = Command::new(env!("CARGO_BIN_EXE_keyhatch"));
        let done = status.args(["status", "--json", "--admin-socket"]).arg(broker.path("admin.sock")).output().unwrap();
        serde_json::from_slice(&done.stdout).unwrap()
    };
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
