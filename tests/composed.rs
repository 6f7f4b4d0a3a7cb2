//! Keys with several sources, from outside: one object, as old as its oldest part and as good as its worst.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::process::Command;

use support::process::Process;
use support::serving::{at, configuration, logs};
use support::{Broker, GRANTED, STRANGER, wait_until};

/// The value of `/app` while both of its upstreams are well: names in their order.
const WHOLE: &str = "{\"cache\":{\"value\":\"good-value\"},\"db\":{\"value\":\"good-value\"}}";

/// `/app` is of `/db` and `/cache`; `/alone` is of `/db` too.
fn serving(settings: &str) -> (Process, Broker) {
    let mut upstream = None;
    let mut broker = Broker::prepared(|directory| {
        let started = Process::start(directory);
        let text = sections(&started, settings);
        for path in ["/db", "/cache"] {
            started.behave(path, "/good");
        }
        upstream = Some(started);
        text
    });
    broker.start();
    (upstream.unwrap(), broker)
}

fn sections(upstream: &Process, settings: &str) -> String {
    let part = |path| format!("{{ type = \"http\", {} }}", at(upstream, path, ""));
    let (db, cache) = (part("/db"), part("/cache"));
    beside()
        + &format!("[keys.\"/app\"]\nsources = {{ db = {db}, cache = {cache} }}\n{settings}\n")
        + &format!("[keys.\"/alone\"]\nsource = {db}\nmax-age = \"1h\"\n")
}

/// A reload wants every token to be there.
fn beside() -> String {
    configuration(&[]).replace("absent = { file = \"DIR/absent\" }\n", "")
}

fn gives(broker: &Broker, more: &[&str], value: &str) -> String {
    let answer = broker.curl(GRANTED, "/app", more);
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with(value), "{answer}\n{}", broker.log());
    answer
}

fn age(answer: &str) -> u64 {
    answer.lines().find_map(|line| line.strip_prefix("age: ")).unwrap().parse().unwrap()
}

fn admin(broker: &Broker, arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keyhatch"));
    let done = command.args(arguments).arg("--admin-socket").arg(broker.path("admin.sock")).output().unwrap();
    String::from_utf8(done.stdout).unwrap() + &String::from_utf8(done.stderr).unwrap()
}

#[test]
#[ignore = "needs root: drops to two uids"]
fn a_document_is_fetched_once_for_all_who_need_it() {
    let (upstream, broker) = serving("max-age = \"1h\"");
    upstream.set_gate(false);
    for path in ["/db", "/cache"] {
        upstream.behave(path, "/gate");
    }
    std::thread::scope(|scope| {
        let whole = scope.spawn(|| gives(&broker, &[], WHOLE));
        let alone = scope.spawn(|| broker.curl(GRANTED, "/alone", &[]));
        // Both parts are asked for at once: neither has been answered.
        wait_until("both are asked", || ["/db", "/cache"].iter().all(|path| !upstream.requests_for(path).is_empty()));
        upstream.set_gate(true);
        assert!(whole.join().unwrap().contains("fwd=uri-miss"));
        assert!(alone.join().unwrap().starts_with("HTTP/1.1 200 "));
    });
    let again = gives(&broker, &[], WHOLE);
    assert!(again.contains("cache-status: keyhatch; hit; ttl="), "{again}");
    assert_eq!([upstream.requests_for("/db").len(), upstream.requests_for("/cache").len()], [1, 1]);
    // A peer that has it is not given it again, also after a restart.
    let tag = again.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap().to_owned();
    let mut broker = broker;
    broker.end("TERM");
    broker.start();
    let answer = broker.curl(GRANTED, "/app", &["-H", &format!("If-None-Match: {tag}")]);
    assert!(answer.starts_with("HTTP/1.1 304 "), "{answer}");
    assert!(broker.curl(STRANGER, "/app", &[]).starts_with("HTTP/1.1 403 "));
}

#[test]
#[ignore = "needs root: drops to two uids"]
fn one_part_that_is_down_ages_the_whole_and_keeps_no_other_back() {
    let (upstream, broker) = serving("");
    gives(&broker, &[], WHOLE);
    upstream.behave("/cache", "/status/503");
    upstream.set_value("new");
    let (old, new) = ("{\"value\":\"good-value\"}", "{\"value\":\"new\"}");
    let mixed = format!("{{\"cache\":{old},\"db\":{new}}}");
    let stale = gives(&broker, &[], &mixed);
    assert!(stale.contains("fwd=stale; fwd-status=503") && stale.contains("detail=stale-if-error"), "{stale}");
    wait_until("it is as old as its oldest part", || age(&gives(&broker, &[], &mixed)) >= 2);
    // What peers and operators are told of it.
    let keys = broker.curl(GRANTED, "/-/keys", &[]);
    assert!(keys.contains("\"key\":\"/app\"") && !keys.contains('#'), "{keys}");
    assert!(keys.contains("failing"), "{keys}");
    let status = admin(&broker, &["status"]);
    assert!(status.contains("/app#cache") && status.contains("/app#db"), "{status}");
    upstream.behave("/cache", "/good");
    admin(&broker, &["refresh", "/app"]);
    assert_eq!(age(&gives(&broker, &[], &format!("{{\"cache\":{new},\"db\":{new}}}"))), 0);
}

#[test]
#[ignore = "needs root: drops to two uids"]
fn without_one_part_there_is_no_whole() {
    let (upstream, broker) = serving("negative-max-age = \"0s\"");
    for (db, cache, status, code) in [
        ("/status/503", "/status/404", 502, "gone"),
        ("/status/400", "/status/503", 502, "misconfigured"),
        ("/good", "/status/503", 503, "unavailable"),
    ] {
        upstream.behave("/db", db);
        upstream.behave("/cache", cache);
        let refreshed = admin(&broker, &["refresh", "/app"]);
        assert!(refreshed.contains("/app#db") && refreshed.contains("/app#cache"), "{refreshed}");
        let answer = broker.curl(GRANTED, "/app", &[]);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}\n{refreshed}");
        assert!(answer.contains(&format!("\"code\":\"{code}\"")), "{answer}");
    }
}

#[test]
#[ignore = "needs root: drops to two uids"]
fn a_whole_is_no_longer_than_a_value_may_be() {
    // Of 4 KiB, 40 bytes are names and what stands around them.
    let (upstream, broker) = serving("");
    let of = |length: usize| "x".repeat(length);
    for (length, status) in [((4096 - 40) / 2, 200), ((4096 - 40) / 2 + 1, 502)] {
        upstream.set_value(&of(length));
        let answer = broker.curl(GRANTED, "/app", &["-H", "Cache-Control: no-cache"]);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{length}: {answer}");
    }
    let answer = broker.curl(GRANTED, "/app", &[]);
    assert!(answer.contains("\"code\":\"misconfigured\""), "{answer}");
}

#[test]
#[ignore = "needs root: drops to two uids"]
fn what_becomes_of_a_part_becomes_of_the_whole() {
    let (upstream, broker) = serving("max-age = \"1h\"");
    gives(&broker, &[], WHOLE);
    // The worker holds the whole, and forgets it with any part.
    upstream.set_value("new");
    admin(&broker, &["refresh", "/app"]);
    gives(&broker, &[], "{\"cache\":{\"value\":\"new\"},\"db\":{\"value\":\"new\"}}");
    upstream.behave("/db", "/hang");
    let purged = admin(&broker, &["purge", "/app"]);
    assert!(purged.contains('2'), "{purged}");
    let answer = broker.curl(GRANTED, "/app", &[]);
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    // One that may be read as a whole is not to be had in parts, whatever the parent calls them.
    for path in ["/app%23db", "/app#db"] {
        let answer = broker.curl(GRANTED, path, &[]);
        assert!(!answer.contains("\"value\""), "{answer}");
    }
}

#[test]
#[ignore = "needs root: drops to two uids"]
fn a_key_becomes_composed_and_simple_again_by_reload() {
    let (upstream, broker) = serving("max-age = \"1h\"");
    gives(&broker, &[], WHOLE);
    let reload = || {
        let mut reload = Command::new(env!("CARGO_BIN_EXE_keyhatch"));
        reload.arg("reload").arg("--config").arg(broker.path("keyhatch.toml"));
        let done = reload.arg("--admin-socket").arg(broker.path("admin.sock")).output().unwrap();
        assert!(done.status.success(), "{done:?}");
        String::from_utf8(done.stdout).unwrap()
    };
    let simple = format!("[keys.\"/app\"]\nsource = {{ type = \"http\", {} }}\n", at(&upstream, "/db", ""));
    broker.configure(&(beside() + &simple));
    let told = reload();
    assert!(told.contains("; 1 removed"), "the other one; parts are no keys: {told}");
    gives(&broker, &[], "{\"value\":\"good-value\"}");
    broker.configure(&sections(&upstream, "max-age = \"1h\""));
    reload();
    gives(&broker, &[], WHOLE);
    broker.configure(
        &sections(&upstream, "max-age = \"1h\"").replace("/db\"", "/other\"").replace("/cache\"", "/other\""),
    );
    let told = reload();
    assert!(told.contains("; 2 defined otherwise"), "{told}");
    broker.configure(&beside());
    let told = reload();
    assert!(told.contains("; 2 removed"), "{told}");
    logs(&broker, "reloaded");
}
