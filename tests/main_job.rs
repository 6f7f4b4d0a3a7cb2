//! The main job from outside: real processes, a real socket, an upstream that dies, peers of other uids.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::fmt::Display;
use std::process::Command;
use std::sync::atomic::Ordering;

use support::{Broker, GRANTED, STRANGER, Upstream, VALUE, as_uid, wait_until};

const KEY: &str = "/billing/database-url";

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn a_granted_user_gets_the_value_and_nobody_else() {
    let upstream = Upstream::start(0);
    let broker = Broker::new(upstream.port, "max-age = \"1h\"");
    let answer = broker.curl(GRANTED, KEY, &[]);
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}\n{}", broker.log());
    assert!(answer.ends_with(&format!("{{\"DATABASE_URL\":\"{VALUE}\"}}")), "{answer}");
    assert!(answer.contains("cache-status: keyhatch; fwd=uri-miss; fwd-status=200; stored; ttl=35"), "{answer}");
    let again = broker.curl(GRANTED, KEY, &["--header", "Accept: text/plain"]);
    assert!(again.contains("cache-status: keyhatch; hit; ttl=35") && again.ends_with(VALUE), "{again}");
    assert_eq!(upstream.calls.load(Ordering::SeqCst), 1, "a fresh value costs no call");

    let tag = answer.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap().trim().to_owned();
    let unchanged = broker.curl(GRANTED, KEY, &["--header", &format!("If-None-Match: {tag}")]);
    assert!(unchanged.starts_with("HTTP/1.1 304 "), "{unchanged}");

    for (uid, key) in [(STRANGER, KEY), (STRANGER, "/no/such/key"), (GRANTED, "/no/such/key"), (0, KEY)] {
        let refused = broker.curl(uid, key, &[]);
        assert!(refused.starts_with("HTTP/1.1 403 ") && refused.contains("\"code\":\"denied\""), "{refused}");
    }
    let keys = broker.curl(GRANTED, "/-/keys", &[]);
    assert!(keys.contains(&format!("\"key\":\"{KEY}\"")) && keys.contains("\"state\":\"fresh\""), "{keys}");
    assert!(broker.curl(STRANGER, "/-/keys", &[]).ends_with("{\"keys\":[]}"));
    assert!(broker.curl(GRANTED, "/-/health", &[]).contains("\"fresh\":1"));
    assert!(broker.curl(STRANGER, "/-/health", &[]).contains("\"fresh\":0"));
    let status = |uid| {
        let mut status = support::as_uid(uid, env!("CARGO_BIN_EXE_keyhatch"));
        status.arg("status").arg("--admin-socket").arg(broker.path("admin.sock")).output().unwrap()
    };
    let root = status(0);
    assert!(String::from_utf8_lossy(&root.stdout).contains(&format!("{KEY}  fresh")), "{root:?}");
    assert_eq!(status(GRANTED).status.code(), Some(77), "the operator's socket is root's");
    let got = broker.get(GRANTED, KEY);
    assert_eq!((got.status.code(), got.stdout.as_slice()), (Some(0), VALUE.as_bytes()));
    assert_eq!(broker.get(STRANGER, KEY).status.code(), Some(77));
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn the_last_known_good_outlives_the_upstream_and_a_restart() {
    let mut upstream = Upstream::start(0);
    let mut broker = Broker::new(upstream.port, "stale-if-error = \"1h\"");
    assert!(broker.curl(GRANTED, KEY, &[]).starts_with("HTTP/1.1 200 OK"));
    upstream.stop();
    let stale = broker.curl(GRANTED, KEY, &[]);
    assert!(stale.starts_with("HTTP/1.1 200 OK") && stale.contains(VALUE), "{stale}");
    assert!(stale.contains("fwd=stale") && stale.contains("detail=connect-refused"), "{stale}");

    assert_eq!(broker.end("TERM"), Some(0), "{}", broker.log());
    broker.start();
    let restarted = broker.curl(GRANTED, KEY, &[]);
    assert!(restarted.contains(VALUE) && restarted.contains("detail=connect-refused"), "{restarted}");
    assert!(restarted.contains("\r\nage: "), "{restarted}");
    let got = broker.get(GRANTED, KEY);
    assert_eq!(got.stdout, VALUE.as_bytes());
    assert!(String::from_utf8_lossy(&got.stderr).contains("stale"), "get says so on stderr");

    let port = upstream.port;
    let _back = Upstream::start(port);
    wait_until("the upstream is asked again", || broker.curl(GRANTED, KEY, &[]).contains("fwd-status=200"));
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn bad_input_gets_its_status_and_harms_nobody() {
    let upstream = Upstream::start(0);
    let broker = Broker::new(upstream.port, "max-age = \"1h\"");
    for path in ["/../x", "//x", "/%2e%2e/x", "/billing%2fdatabase-url", "/a%00", "/billing/database-url?x=1", "/a/"] {
        let refused = broker.curl(GRANTED, path, &[]);
        assert!(
            refused.starts_with("HTTP/1.1 400 ") && refused.contains("\"code\":\"malformed\""),
            "{path}: {refused}"
        );
    }
    let method = broker.curl(GRANTED, KEY, &["--request", "DELETE"]);
    assert!(method.starts_with("HTTP/1.1 405 ") && method.contains("allow: GET, HEAD"), "{method}");
    assert!(broker.curl(GRANTED, KEY, &["--request", "GET", "--data", "x"]).starts_with("HTTP/1.1 413 "));
    assert!(broker.curl(GRANTED, KEY, &["--header", "Accept: image/png"]).starts_with("HTTP/1.1 406 "));
    assert!(broker.curl(GRANTED, KEY, &[]).starts_with("HTTP/1.1 200 OK"));
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn hanging_up_and_asking_again_gains_nothing_and_harms_nobody() {
    let upstream = Upstream::start(0);
    let limits = "[limits]\nconnections = 16\nconnections-per-user = 4\n";
    let broker = Broker::with(upstream.port, "timeout = \"20s\"", limits);
    upstream.held.store(true, Ordering::SeqCst);
    let impatient = || broker.curl(GRANTED, KEY, &["--max-time", "0.2"]);
    // Each of the first four takes one of the user's places, and the parent is asked no more than that.
    for _ in 0..4 {
        assert_eq!(impatient(), "", "it hangs up before there is an answer");
    }
    for _ in 0..20 {
        let refused = impatient();
        assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}\n{}", broker.log());
    }
    assert!(broker.curl(STRANGER, "/-/whoami", &[]).starts_with("HTTP/1.1 200 OK"));
    upstream.held.store(false, Ordering::SeqCst);
    wait_until("the places are free again", || broker.curl(GRANTED, KEY, &[]).starts_with("HTTP/1.1 200 OK"));
    assert!(upstream.calls.load(Ordering::SeqCst) <= 2, "all of them shared one fetch");
}

/// A group of its own for a peer, beside its primary one.
fn curl_in_group(broker: &Broker, group: impl Display, path: &str) -> String {
    curl_in_groups(broker, STRANGER, group, path)
}

fn curl_in_groups(broker: &Broker, uid: u32, groups: impl Display, path: &str) -> String {
    let mut curl = Command::new("setpriv");
    curl.args([&format!("--reuid={uid}"), &format!("--regid={uid}"), &format!("--groups={groups}"), "curl"]);
    curl.args(["--silent", "--include", "--max-time", "20", "--unix-socket"]).arg(broker.path("keyhatch.sock"));
    String::from_utf8(curl.arg(format!("http://keyhatch{path}")).output().unwrap().stdout).unwrap()
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn supplementary_groups_count_and_ids_without_a_mapping_do_not() {
    const GROUP: u32 = 61_050;
    let upstream = Upstream::start(0);
    let clients = format!(
        "[clients.group]\ngroup = {GROUP}\nkeys = [\"/**\"]\n\
         [clients.nobody]\nuser = 65534\nkeys = [\"/**\"]\n[clients.nogroup]\ngroup = 65534\nkeys = [\"/**\"]\n"
    );
    let mut broker = Broker::with(upstream.port, "max-age = \"1h\"", &clients);
    assert!(curl_in_group(&broker, GROUP, KEY).starts_with("HTTP/1.1 200 OK"), "{}", broker.log());
    assert!(curl_in_group(&broker, GROUP + 1, KEY).starts_with("HTTP/1.1 403 "));
    assert!(curl_in_group(&broker, 65_534, KEY).starts_with("HTTP/1.1 403 "));
    assert!(broker.curl(65_534, KEY, &[]).starts_with("HTTP/1.1 403 "));

    // In a user namespace that knows one user: to it, all others have the overflow ids.
    broker.end("TERM");
    let mut chown = Command::new("chown");
    let own = format!("{GRANTED}:{GRANTED}");
    assert!(chown.args(["-R", &own]).arg(broker.directory.path()).status().unwrap().success());
    std::fs::remove_file(broker.path("keyhatch.sock")).unwrap();
    std::fs::remove_file(broker.path("admin.sock")).unwrap();
    let mut serve = as_uid(GRANTED, "unshare");
    serve.args(["--user", "--map-current-user", env!("CARGO_BIN_EXE_keyhatch")]);
    broker.start_by(serve, &[]);
    assert!(broker.curl(GRANTED, KEY, &[]).starts_with("HTTP/1.1 200 OK"), "{}", broker.log());
    assert!(curl_in_group(&broker, GROUP, KEY).starts_with("HTTP/1.1 403 "));
    let whoami = curl_in_group(&broker, GROUP, "/-/whoami");
    assert!(whoami.contains("\"uid\":65534") && whoami.contains("\"groups\":[65534]"), "{whoami}");
    assert!(whoami.contains("\"clients\":[]"), "{whoami}");
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn who_has_too_many_groups_to_look_at_has_none() {
    let upstream = Upstream::start(0);
    let clients = "[clients.group]\ngroup = 70001\nkeys = [\"/billing/*\"]\n";
    let broker = Broker::with(upstream.port, "max-age = \"1h\"", clients);
    // What decides it is the number of groups, not that of the one that is granted.
    for (count, status, may) in [(1024, "200", true), (1025, "403", false)] {
        let groups: Vec<String> = (70_001..).take(count).map(|gid: u32| gid.to_string()).collect();
        let groups = groups.join(",");
        assert_eq!(curl_in_group(&broker, &groups, KEY).get(9..12), Some(status));
        let whoami = curl_in_group(&broker, &groups, "/-/whoami");
        assert_eq!(whoami.contains("\"groups\":[]"), !may, "{whoami}");
        assert_eq!(whoami.contains("\"clients\":[\"group\"]"), may, "{whoami}");
        let mut asleep = Command::new("setpriv");
        asleep.args([&format!("--regid={STRANGER}"), &format!("--groups={groups}"), "sleep", "60"]);
        let mut asleep = asleep.spawn().unwrap();
        let explained = || {
            let mut explain = Command::new(env!("CARGO_BIN_EXE_keyhatch"));
            explain.args(["explain", "--config"]).arg(broker.path("keyhatch.toml"));
            explain.args(["--pid", &asleep.id().to_string(), KEY]).output().unwrap().status.success()
        };
        wait_until("the same is explained", || explained() == may);
        asleep.kill().unwrap();
        asleep.wait().unwrap();
    }
    // It is nothing that takes away what another grant gives.
    let groups: Vec<String> = (1..=2000).map(|gid| gid.to_string()).collect();
    assert!(curl_in_groups(&broker, GRANTED, groups.join(","), KEY).starts_with("HTTP/1.1 200 "));
}
