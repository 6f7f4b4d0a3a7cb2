//! Credentials that are good for one use: used once, their session renewed, and an error that says what to do.

use crate::support::process::Process;
use crate::support::serving::{at, fails, good, logs, serving, stale};
use crate::support::wait_until;
use crate::{login, logins};

fn unwrap(upstream: &Process) -> String {
    let port = upstream.port("plain");
    format!(
        ", unwrap = {{ secret = \"secret\", url = \"http://127.0.0.1:{port}/session/unwrap\", pointer = \"/data/secret_id\" }}"
    )
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn a_wrapping_token_is_unwrapped_once() {
    let (upstream, mut broker) = serving(&|upstream| {
        let wrapped = login(upstream, "/session/login?takes=planted-wrapped-secret", &unwrap(upstream));
        vec![
            ("a", at(upstream, "/session/secret?a", &wrapped), ""),
            ("b", at(upstream, "/session/secret?b", &wrapped), ""),
        ]
    });
    good(&broker, "/a");
    good(&broker, "/b");
    upstream.revoke();
    good(&broker, "/a");
    assert_eq!((upstream.requests_for("/session/unwrap").len(), logins(&upstream)), (1, 2), "{}", broker.log());
    let asked = &upstream.requests_for("/session/unwrap")[0];
    assert_eq!(asked["headers"]["content-length"], "0", "in the header alone");
    assert!(!broker.log().contains("planted-"), "{}", broker.log());

    // What it was good for was in memory alone.
    assert_eq!(broker.end("TERM"), Some(0));
    broker.start();
    stale(&broker, "/a", "login-refused");
    logs(&broker, "ALARM: the wrapping token cannot be unwrapped");
    logs(&broker, "put a new one into the file of the token `t` and run keyhatch reload");
    let tries = upstream.requests_for("/session/unwrap").len();
    wait_until("it is to be tried again", || {
        broker.curl(crate::GRANTED, "/b", &[]);
        broker.log().contains("the wrapping token is used")
    });
    assert_eq!((tries, upstream.requests_for("/session/unwrap").len()), (2, 2), "it is shown no more");
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn a_wrapping_token_from_elsewhere_is_not_unwrapped() {
    let (upstream, broker) = serving(&|upstream| {
        let made = |path: &str| {
            let unwrap = unwrap(upstream).replace(" }", &format!(", creation-path=\"{path}\" }}"));
            login(upstream, "/session/login?takes=planted-wrapped-secret", &unwrap)
        };
        vec![
            ("other", at(upstream, "/session/secret?a", &made("auth/approle/role/other/secret-id")), ""),
            ("real", at(upstream, "/session/secret?b", &made("auth/approle/role/billing/secret-id")), ""),
        ]
    });
    fails(&broker, "/other", 502, "login-refused");
    logs(&broker, "ALARM: the wrapping token was not made at `creation-path`");
    assert_eq!(upstream.requests_for("/session/unwrap").len(), 0);
    good(&broker, "/real");
    assert_eq!(upstream.requests_for("/session/unwrap").len(), 1);
    assert!(!broker.log().contains("planted-"), "{}", broker.log());
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn what_logs_in_once_keeps_its_session() {
    let (upstream, broker) = serving(&|upstream| {
        let port = upstream.port("plain");
        let more = format!(", once = true, renew = \"http://127.0.0.1:{port}/session/renew?lease=11\"");
        vec![("a", at(upstream, "/session/secret", &login(upstream, "/session/login?lease=11", &more)), "")]
    });
    good(&broker, "/a");
    wait_until("it is renewed though nobody asks", || upstream.requests_for("/session/renew").len() >= 2);
    good(&broker, "/a");
    assert_eq!(logins(&upstream), 1);
    upstream.revoke();
    stale(&broker, "/a", "stale-if-error");
    wait_until("what cannot be renewed ends", || broker.log().contains("what logs in once is used"));
    assert_eq!(logins(&upstream), 1, "what is used is not sent again");
    logs(&broker, "put a new one into the file of the token `t` and run keyhatch reload");
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn who_refuses_what_logs_in_once_is_not_asked_again() {
    let (upstream, broker) = serving(&|upstream| {
        let port = upstream.port("plain");
        let more = format!(", once = true, renew = \"http://127.0.0.1:{port}/session/renew\"");
        vec![("a", at(upstream, "/session/secret", &login(upstream, "/session/login?takes=x", &more)), "")]
    });
    fails(&broker, "/a", 502, "login-refused");
    logs(&broker, "what logs in once is refused: put a new one into the file of the token `t`");
    wait_until("it is tried again", || {
        broker.curl(crate::GRANTED, "/a", &[]);
        broker.log().contains("what logs in once is used")
    });
    assert_eq!(logins(&upstream), 1);
}
