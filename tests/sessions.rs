//! Sessions, against stand-ins of where they come from that check what they are sent: how often is logged in, what becomes of
//! sessions that end, of logins that are refused or down, and of answers that are none.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;
#[path = "sessions/told.rs"]
mod told;

#[path = "sessions/google.rs"]
mod google;
#[path = "sessions/once.rs"]
mod once;
#[path = "sessions/replaced.rs"]
mod replaced;

use std::time::{Duration, Instant};

use support::process::Process;
use support::serving::{at, fails, good, logs, serving, stale};
use support::{Broker, GRANTED, wait_until};

const BODY: &str = "body = '{\"role_id\": \"role\", \"secret_id\": \"{secret}\"}', secrets = { secret = \"t\" }";
const ANSWER: &str =
    "pointer = \"/auth/client_token\", lifetime = \"/auth/lease_duration\", header = \"X-Vault-Token\"";

/// A login at this path of the upstream, with more settings of `auth`.
pub(crate) fn login(upstream: &Process, path: &str, more: &str) -> String {
    let port = upstream.port("plain");
    format!(
        "auth = {{ type = \"login\", url = \"http://127.0.0.1:{port}{path}\", {BODY}, {ANSWER}{more} }}, allow-plaintext = true"
    )
}

fn logins(upstream: &Process) -> usize {
    upstream.requests_for("/session/login").len()
}

fn status(broker: &Broker, more: &[&str]) -> String {
    let mut status = std::process::Command::new(env!("CARGO_BIN_EXE_keyhatch"));
    let done = status.arg("status").args(more).arg("--admin-socket").arg(broker.path("admin.sock")).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    String::from_utf8(done.stdout).unwrap()
}

/// The state of each, as the operator is told.
fn sessions(broker: &Broker) -> Vec<String> {
    let told: serde_json::Value = serde_json::from_str(&status(broker, &["--json"])).unwrap();
    assert!(!told.to_string().contains("planted-session"), "{told}");
    told["sessions"].as_array().unwrap().iter().map(|one| one["state"].as_str().unwrap().to_owned()).collect()
}

/// Asks for what the upstream says now.
fn fresh(broker: &Broker, key: &str) -> String {
    broker.curl(GRANTED, key, &["--header", "Cache-Control: no-cache"])
}

const NAMES: [&str; 12] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];
const NEVER_TWICE: &str = "negative-max-age = \"0s\"";

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn one_login_serves_all_keys() {
    let (upstream, broker) = serving(&|upstream| {
        let key = |name: &&'static str| {
            let target = format!("/session/secret?{name}");
            (*name, at(upstream, &target, &login(upstream, "/session/login", "")), "")
        };
        NAMES.iter().map(key).collect()
    });
    std::thread::scope(|scope| {
        for name in NAMES {
            let broker = &broker;
            scope.spawn(move || good(broker, &format!("/{name}")));
        }
    });
    assert_eq!(logins(&upstream), 1, "{}", broker.log());
    let shown: std::collections::HashSet<String> = upstream
        .requests_for("/session/secret")
        .iter()
        .map(|request| request["headers"]["x-vault-token"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(shown.into_iter().collect::<Vec<_>>(), ["planted-session-1"]);
    // All of them are refused at once, and wait for one login.
    upstream.revoke();
    std::thread::scope(|scope| {
        for name in NAMES {
            let broker = &broker;
            scope.spawn(move || good(broker, &format!("/{name}")));
        }
    });
    assert_eq!(logins(&upstream), 2, "{}", broker.log());
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn a_session_that_ends_in_mid_flight_costs_one_login() {
    let (upstream, broker) = serving(&|upstream| {
        vec![
            ("a", at(upstream, "/session/secret?a", &login(upstream, "/session/login", "")), ""),
            ("b", at(upstream, "/session/secret?b", &login(upstream, "/session/login", "")), ""),
        ]
    });
    good(&broker, "/a");
    good(&broker, "/b");
    upstream.revoke();
    good(&broker, "/a");
    assert_eq!((logins(&upstream), upstream.requests_for("/session/secret").len()), (2, 4), "{}", broker.log());
    good(&broker, "/b");
    assert_eq!((logins(&upstream), upstream.requests_for("/session/secret").len()), (2, 5));
    // What every session is refused is the document's own answer, and sets no pace of logins.
    upstream.behave("/session/secret", "/status/403");
    stale(&broker, "/a", "stale-if-error");
    for _ in 0..5 {
        fresh(&broker, "/b");
    }
    assert_eq!(logins(&upstream), 2, "so soon after the last one: {}", broker.log());
    logs(&broker, "failing key=/a outcome=\"refused\"");
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn who_is_refused_is_not_asked_at_the_pace_of_peers() {
    let (upstream, broker) = serving(&|upstream| {
        let wrong = login(upstream, "/session/login?takes=another", "");
        // Documents of their own, so that none rests because of another one.
        let key = |name: &&'static str| (*name, at(upstream, &format!("/session/secret?{name}"), &wrong), NEVER_TWICE);
        let mut keys: Vec<_> = NAMES.iter().map(key).collect();
        keys.push(("other", at(upstream, "/good", ""), ""));
        keys
    });
    let asked = Instant::now();
    for name in NAMES {
        fails(&broker, &format!("/{name}"), 502, "login-refused");
    }
    let most = 1 + usize::try_from(asked.elapsed().as_secs()).unwrap() + 1;
    assert!(logins(&upstream) <= most && most < NAMES.len(), "{} logins\n{}", logins(&upstream), broker.log());
    for _ in 0..20 {
        let answer = fresh(&broker, "/b");
        assert!(answer.starts_with("HTTP/1.1 502 ") && answer.contains("\"refused\""), "{answer}");
    }
    let most = 2 + usize::try_from(asked.elapsed().as_secs()).unwrap();
    assert!(logins(&upstream) <= most, "{} logins\n{}", logins(&upstream), broker.log());
    assert_eq!(upstream.requests_for("/session/secret").len(), 0);
    good(&broker, "/other");
    logs(&broker, "no session");
    logs(&broker, "failing key=/a outcome=\"token-refused\"");
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn where_sessions_come_from_can_be_down_and_come_back() {
    let (upstream, broker) = serving(&|upstream| {
        vec![
            ("a", at(upstream, "/session/secret", &login(upstream, "/session/login", "")), ""),
            (
                "hangs",
                at(upstream, "/session/secret?h", &login(upstream, "/hang", "").replace("\"t\"", "\"u\"")),
                "timeout = \"1s\"",
            ),
            ("other", at(upstream, "/good", ""), ""),
        ]
    });
    upstream.behave("/session/login", "/status/503");
    fails(&broker, "/a", 503, "login-failed");
    assert_eq!(sessions(&broker), ["failing"]);
    fails(&broker, "/hangs", 503, "failover-timeout");
    good(&broker, "/other");
    logs(&broker, "no session");
    assert!(broker.log().contains("reason=status 503"), "{}", broker.log());
    upstream.behave("/session/login", "/session/login");
    wait_until("it logs in once the login is back", || fresh(&broker, "/a").starts_with("HTTP/1.1 200 "));
    assert_eq!(sessions(&broker)[0], "good");
    let told = status(&broker, &[]);
    let line = told.lines().find(|line| line.contains(" good ")).unwrap_or_else(|| panic!("{told}"));
    assert!(told.contains("SESSION OF") && line.contains(&format!(":{} ", upstream.port("plain"))), "{told}");
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn a_session_that_ends_while_the_login_is_down_is_an_outage() {
    let (upstream, broker) =
        serving(&|upstream| vec![("a", at(upstream, "/session/secret", &login(upstream, "/session/login", "")), "")]);
    good(&broker, "/a");
    upstream.behave("/session/login", "/status/503");
    upstream.revoke();
    stale(&broker, "/a", "login-failed");
    logs(&broker, "failing key=/a outcome=\"unavailable\" reason=login-failed");
    upstream.behave("/session/login", "/session/login");
    wait_until("it logs in once the login is back", || fresh(&broker, "/a").contains("fwd-status=200"));
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn a_login_goes_the_way_of_its_document() {
    let (upstream, broker) = serving(&|upstream| {
        let tls = |more: &str| {
            let port = upstream.port("tls");
            let auth = login(upstream, "/session/login", "");
            let auth = auth
                .replace(&format!("http://127.0.0.1:{}", upstream.port("plain")), &format!("https://localhost:{port}"));
            let auth = auth.replace(", allow-plaintext = true", "");
            format!("url = \"https://localhost:{port}/session/secret?{}\", field = \"value\", {auth}{more}", more.len())
        };
        let proxied = login(upstream, "/session/login?by-proxy", "");
        let proxy = format!("{proxied}, proxy = \"http://127.0.0.1:{}\"", upstream.port("proxy"));
        vec![
            ("trusted", tls(", ca-file = \"DIR/ca.pem\""), ""),
            ("untrusted", tls(""), ""),
            ("proxied", at(upstream, "/session/secret?p", &proxy), ""),
        ]
    });
    good(&broker, "/trusted");
    fails(&broker, "/untrusted", 503, "login-failed");
    logs(&broker, "reason=tls");
    good(&broker, "/proxied");
    let by = |request: &serde_json::Value| request["listener"].as_str().unwrap().to_owned();
    let ways: Vec<String> = upstream.requests_for("/session/login").iter().map(by).collect();
    assert_eq!(ways, ["tls", "proxy"], "{}", broker.log());
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn an_answer_without_a_session_is_none() {
    let paths = ["no-json", "no-token", "odd-token", "huge"];
    let (_upstream, broker) = serving(&|upstream| {
        let key = |name: &&'static str| {
            let login = login(upstream, &format!("/session/{name}"), "");
            // A token of its own for each: origins back off for each name by itself.
            let login = login.replace(
                "\"t\"",
                &format!("\"{}\"", ["t", "u", "v", "w"][paths.iter().position(|path| path == name).unwrap()]),
            );
            (*name, at(upstream, &format!("/session/secret?{name}"), &login), "")
        };
        paths.iter().map(key).collect()
    });
    for path in paths {
        let began = Instant::now();
        fails(&broker, &format!("/{path}"), 503, "login-failed");
        assert!(began.elapsed() < Duration::from_secs(10), "a gigabyte is not read");
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", broker.parent())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap().trim().trim_end_matches(" kB");
    assert!(peak.parse::<u64>().unwrap() < 200 << 10, "{peak} kB");
    logs(&broker, "of no use: it is not JSON");
    logs(&broker, "of no use: the token is not in it");
    logs(&broker, "of no use: the token is not one that could be sent");
    logs(&broker, "reason=document-too-large");
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn odd_lifetimes_are_lived_with() {
    const LEASES: [(&str, &str); 6] = [
        ("zero", "0"),
        ("long", "1000000000000"),
        ("minus", "-5"),
        ("text", "%22x%22"),
        ("null", "null"),
        ("huge", "1e400"),
    ];
    let (upstream, broker) = serving(&|upstream| {
        let key = |(name, lease): &(&'static str, &str)| {
            // As a text, so that nothing of it has a meaning in a URL.
            let lease = lease.replace("%22", "");
            let login = login(upstream, &format!("/session/login?{name}&lease-text={lease}"), "");
            (*name, at(upstream, &format!("/session/secret?{name}"), &login), "")
        };
        LEASES.iter().map(key).collect()
    });
    for (name, _) in LEASES {
        good(&broker, &format!("/{name}"));
        good(&broker, &format!("/{name}"));
    }
    assert_eq!(logins(&upstream), LEASES.len(), "one for each: {}", broker.log());

    logs(&broker, "lasts=86400");
    logs(&broker, "lasts=3600");
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn a_session_is_renewed_before_it_ends() {
    let renew = |upstream: &Process| {
        format!(", renew = \"http://127.0.0.1:{}/session/renew?lease=11\"", upstream.port("plain"))
    };
    let (upstream, broker) = serving(&|upstream| {
        vec![
            (
                "renewed",
                at(upstream, "/session/secret", &login(upstream, "/session/login?lease=11", &renew(upstream))),
                "",
            ),
            ("anew", at(upstream, "/session/secret?n", &login(upstream, "/session/login?n&lease=11", "")), ""),
        ]
    });
    good(&broker, "/renewed");
    good(&broker, "/anew");
    assert_eq!(logins(&upstream), 2);
    // Nobody asks meanwhile.
    wait_until("it is renewed at two thirds", || !upstream.requests_for("/session/renew").is_empty());
    let renewed = upstream.requests_for("/session/renew")[0]["millis"].as_u64().unwrap();
    let began = upstream.requests_for("/session/login")[0]["millis"].as_u64().unwrap();
    assert!((6000..10_000).contains(&(renewed - began)), "{began} {renewed}");
    assert_eq!(logins(&upstream), 2, "nobody asks for the other one");
    wait_until("a use begins another one behind", || {
        good(&broker, "/anew");
        logins(&upstream) == 3
    });
    good(&broker, "/renewed");
    assert_eq!(
        upstream.requests_for("/session/secret").iter().filter(|one| one["headers"]["x-vault-token"].is_null()).count(),
        0
    );
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn client_credentials_of_oauth() {
    let auth = |upstream: &Process, query: &str, more: &str| {
        format!(
            "auth = {{ type = \"oauth2-client-credentials\", token-url = \"http://127.0.0.1:{}/session/oauth?{query}\", \
             client-id = \"a client\", client-secret = \"t\", scope = \"read:all x/y\"{more} }}, allow-plaintext = true",
            upstream.port("plain")
        )
    };
    let (upstream, broker) = serving(&|upstream| {
        vec![
            ("basic", at(upstream, "/session/bearer?a", &auth(upstream, "", "")), ""),
            ("body", at(upstream, "/session/bearer?b", &auth(upstream, "send=body", ", send = \"body\"")), ""),
            ("wrong", at(upstream, "/session/bearer?c", &auth(upstream, "send=body", "").replace("a client", "b")), ""),
            ("text", at(upstream, "/session/bearer?d", &auth(upstream, "lease=%2260%22", "")), ""),
        ]
    });
    good(&broker, "/basic");
    good(&broker, "/body");
    fails(&broker, "/wrong", 502, "login-refused");
    upstream.revoke();
    good(&broker, "/basic");
    assert!(!broker.log().contains("planted-session"), "{}", broker.log());
}
