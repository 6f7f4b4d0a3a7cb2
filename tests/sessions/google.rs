//! A service account: its assertion is verified with the public key, at the time of the other side.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::KeyPair as _;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::support::process::Process;
use crate::support::serving::{Key, at, configuration, fails, good, logs};
use crate::support::{Broker, wait_until};

/// A key file as Google writes it, and the public half.
fn key_file(token_uri: &str) -> (String, Vec<u8>) {
    let key = KeyPair::generate(KeySize::Rsa2048).unwrap();
    let der: Pkcs8V1Der<'_> = key.as_der().unwrap();
    let encoded = STANDARD.encode(der.as_ref());
    let lines: Vec<&str> = encoded.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n"));
    let file = serde_json::json!({
        "type": "service_account", "project_id": "project", "private_key_id": "planted-key-id", "private_key": pem,
        "client_email": "broker@project.iam.example", "client_id": "1", "token_uri": token_uri,
    });
    (serde_json::to_string_pretty(&file).unwrap(), key.public_key().as_ref().to_vec())
}

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
fn an_assertion_is_signed_for_the_configured_place_alone() {
    let (upstream, broker) = serving(&|upstream| {
        vec![
            ("a", at(upstream, "/session/bearer?a", &auth(upstream, "/session/google")), ""),
            ("b", at(upstream, "/session/bearer?b", &auth(upstream, "/session/google")), ""),
            ("elsewhere", at(upstream, "/session/bearer?c", &auth(upstream, "/session/elsewhere")), ""),
        ]
    });
    good(&broker, "/a");
    good(&broker, "/b");
    assert_eq!(upstream.requests_for("/session/google").len(), 1);
    fails(&broker, "/elsewhere", 502, "login-failed");
    logs(&broker, "its token_uri is another one");
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
