//! A service account: its assertion is verified with the public key, at the time of the other side.

use crate::support::process::Process;
use crate::support::service_account::key_file;
use crate::support::serving::{Key, at, configuration, fails, good};
use crate::support::{Broker, wait_until};

fn serving(keys: &dyn Fn(&Process) -> Vec<Key>) -> (Process, Broker) {
    let (mut upstream, mut file) = (None, String::new());
    let mut broker = Broker::prepared(|directory| {
        let started = Process::start(directory);
        let (text, public) = key_file(&format!("http://127.0.0.1:{}/session/google", started.port("plain")));
        started.set_public_key(&public);
        file = text;
        let text = configuration(&keys(&started));
        upstream = Some(started);
        text.replace("u = { file = \"DIR/token\" }", "u = { file = \"DIR/key.json\" }")
    });
    broker.write("key.json", &file, 0o400);
    broker.start();
    (upstream.unwrap(), broker)
}

fn auth(upstream: &Process, path: &str) -> String {
    format!(
        "auth = {{ type = \"google-service-account\", key = \"u\", scope = \"a b\", token-url = \"http://127.0.0.1:{}{path}\" }}, \
         allow-plaintext = true",
        upstream.port("plain")
    )
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn two_keys_share_the_session_of_one_assertion() {
    let (upstream, broker) = serving(&|upstream| {
        vec![
            ("a", at(upstream, "/session/bearer?a", &auth(upstream, "/session/google")), ""),
            ("b", at(upstream, "/session/bearer?b", &auth(upstream, "/session/google")), ""),
        ]
    });
    good(&broker, "/a");
    good(&broker, "/b");
    assert_eq!(upstream.requests_for("/session/google").len(), 1);
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn a_key_file_for_another_place_is_refused_by_a_reload_and_nothing_is_sent_there() {
    let (upstream, broker) =
        serving(&|upstream| vec![("a", at(upstream, "/session/bearer", &auth(upstream, "/session/google")), "")]);
    good(&broker, "/a");
    let (text, _) = key_file(&format!("http://127.0.0.1:{}/session/elsewhere", upstream.port("plain")));
    broker.write("next", &text, 0o400);
    std::fs::rename(broker.path("next"), broker.path("key.json")).unwrap();
    let done = crate::replaced::reload(&broker);
    let said = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(78), "{said}");
    assert!(said.contains("token `u`") && said.contains("its token_uri is another one than `token-url`"), "{said}");
    good(&broker, "/a");
    assert_eq!(upstream.requests_for("/session/elsewhere").len(), 0, "nothing is sent there");
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn ten_minutes_between_the_clocks_cost_one_request() {
    let (upstream, broker) =
        serving(&|upstream| vec![("a", at(upstream, "/session/bearer", &auth(upstream, "/session/google")), "")]);
    upstream.set_session_ahead(-600);
    good(&broker, "/a");
    assert_eq!(upstream.requests_for("/session/google").len(), 2);
    upstream.revoke();
    good(&broker, "/a");
    assert_eq!(upstream.requests_for("/session/google").len(), 3, "the clock is known");
    assert_eq!(broker.log().matches("clock is ahead by this").count(), 1, "{}", broker.log());
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn a_clock_that_is_days_off_is_not_believed() {
    let (upstream, broker) =
        serving(&|upstream| vec![("a", at(upstream, "/session/bearer", &auth(upstream, "/session/google")), "")]);
    upstream.set_session_ahead(-3 * 86_400);
    fails(&broker, "/a", 503, "login-failed");
    wait_until("it says why", || broker.log().contains("more than a day off"));
    assert_eq!(upstream.requests_for("/session/google").len(), 1);
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn another_key_file_signs_before_the_old_one_goes() {
    let (upstream, broker) =
        serving(&|upstream| vec![("a", at(upstream, "/session/bearer", &auth(upstream, "/session/google")), "")]);
    good(&broker, "/a");
    let (text, public) = key_file(&format!("http://127.0.0.1:{}/session/google", upstream.port("plain")));
    broker.write("next", &text, 0o400);
    std::fs::rename(broker.path("next"), broker.path("key.json")).unwrap();
    let told = |done: std::process::Output| {
        String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr)
    };
    let said = told(crate::replaced::reload(&broker));
    assert!(said.contains("token `u`: REFUSED"), "nobody knows its public half yet: {said}\n{}", broker.log());
    good(&broker, "/a");
    upstream.set_public_key(&public);
    let said = told(crate::replaced::reload(&broker));
    assert!(said.contains("token `u`: accepted"), "{said}\n{}", broker.log());
    assert!(!broker.log().contains("PRIVATE"), "{}", broker.log());
}
