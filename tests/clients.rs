//! Programs that ask for values: the client of the library, and the examples of docs/clients.md.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "clients/examples.rs"]
mod examples;
#[path = "docs/markdown.rs"]
#[allow(dead_code, reason = "it looks for no links")]
mod markdown;
mod support;

use std::time::Duration;

use keyhatch::client::blocking::Client;
use keyhatch::client::{Error, Form};
use support::{Broker, Upstream, VALUE};

const KEY: &str = "/billing/database-url";

/// A broker that grants all to root, who the tests run as.
fn broker(port: u16, settings: &str) -> Broker {
    let config = format!(
        "[keys.\"/billing/gone\"]\nsource = {{ type = \"heroku\", app = \"no-such-app\", config-var = \"X\", \
         token = \"heroku\", base-url = \"http://127.0.0.1:{port}\", allow-plaintext = true }}\n\
         [clients.root]\nuser = 0\nkeys = [\"/billing/*\"]\n"
    );
    Broker::with(port, settings, &config)
}

#[test]
#[ignore = "needs root: drops to two uids"]
fn a_program_in_rust_gets_values_their_age_and_their_changes() {
    let mut upstream = Upstream::start(0);
    let broker = broker(upstream.port, "");
    let client = Client::at(broker.path("keyhatch.sock"));
    let value = client.text(KEY).unwrap();
    assert_eq!((value.as_str(), value.stale(), value.age() < Duration::from_secs(20)), (VALUE, None, true));
    let json = client.json(KEY).unwrap();
    let parsed: std::collections::HashMap<String, String> = json.parse().unwrap();
    assert_eq!(parsed["DATABASE_URL"], VALUE);
    assert_eq!(client.get(KEY, Form::TextOrJson).unwrap().as_str(), VALUE);
    assert!(client.changed(&value, Duration::from_secs(1)).unwrap().is_none(), "it is the same");

    let error = |key: &str| client.text(key).err().unwrap();
    assert!(matches!(error("billing"), Error::Key(_)));
    assert!(matches!(error("/elsewhere"), Error::Denied(problem) if problem.code == "denied"));
    let gone = error("/billing/gone");
    assert!(matches!(&gone, Error::Refused(problem) if problem.code == "gone" && !problem.request_id.is_empty()));
    assert!(!gone.is_temporary());

    upstream.stop();
    let stale = client.fresh(KEY, Form::Text).unwrap();
    assert_eq!((stale.as_str(), stale.stale()), (VALUE, Some("connect-refused")));
}

#[test]
fn a_program_without_a_broker_is_told_where_there_is_none() {
    let client = Client::at("/nonexistent/keyhatch.sock");
    let error = client.text(KEY).err().unwrap();
    assert!(error.to_string().contains("/nonexistent/keyhatch.sock") && error.is_temporary(), "{error}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // Neither a panic nor a runtime that stands still.
    runtime.block_on(async { assert!(matches!(client.text(KEY), Err(Error::WithinRuntime))) });
}
