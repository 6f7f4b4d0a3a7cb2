//! A broker with a few keys of one upstream, and what its peers get.

use serde_json::Value;

use super::process::Process;
use super::{Broker, GRANTED, wait_until};

pub const GOOD: &str = "{\"value\":\"good-value\"}";
pub const BEARER: &str = "auth = { type = \"bearer\", token = \"t\" }, allow-plaintext = true";

/// Name, source beside its type, settings.
pub type Key = (&'static str, String, &'static str);

/// An upstream and a broker with these keys.
pub fn serving(keys: &dyn Fn(&Process) -> Vec<Key>) -> (Process, Broker) {
    let mut upstream = None;
    let mut broker = Broker::prepared(|directory| {
        let started = Process::start(directory);
        let text = configuration(&keys(&started));
        upstream = Some(started);
        text
    });
    broker.start();
    (upstream.unwrap(), broker)
}

pub fn configuration(keys: &[Key]) -> String {
    let key = |(name, source, settings): &(&str, String, &str)| {
        let kind = if source.contains("path =") { "file" } else { "http" };
        format!("[keys.\"/{name}\"]\nsource = {{ type = \"{kind}\", {source} }}\n{settings}\n")
    };
    let keys: String = keys.iter().map(key).collect();
    // Several names of one token: origins back off for each name by itself.
    let tokens: String = "tuvwxyz".chars().map(|name| format!("{name} = {{ file = \"DIR/token\" }}\n")).collect();
    format!(
        "[limits]\nvalue-size = \"4KiB\"\ndocument-size = \"4KiB\"\n\
         [tokens]\nabsent = {{ file = \"DIR/absent\" }}\n{tokens}{keys}[clients.all]\nuser = {GRANTED}\nkeys = [\"/**\"]\n"
    )
}

/// A source at this path of the upstream, with a field as the value.
pub fn at(upstream: &Process, path: &str, more: &str) -> String {
    let more = if more.is_empty() { String::new() } else { format!(", {more}") };
    format!("url = \"http://127.0.0.1:{}{path}\", field = \"value\"{more}", upstream.port("plain"))
}

pub fn good(broker: &Broker, key: &str) {
    let answer = broker.curl(GRANTED, key, &[]);
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with(GOOD), "{key}: {answer}\n{}", broker.log());
}

/// That a peer with nothing to fall back on is told this.
pub fn fails(broker: &Broker, key: &str, status: u16, detail: &str) {
    let answer = broker.curl(GRANTED, key, &[]);
    let says = answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(&format!("detail={detail}\r\n"));
    assert!(says, "{key}, {detail} expected: {answer}\n{}", broker.log());
}

/// That a peer gets the value that is held, and why it is not a new one.
pub fn stale(broker: &Broker, key: &str, detail: &str) {
    let answer = broker.curl(GRANTED, key, &[]);
    let says = answer.starts_with("HTTP/1.1 200 ") && answer.contains(&format!("detail={detail}\r\n"));
    assert!(says, "{key}, {detail} expected: {answer}\n{}", broker.log());
}

/// That the log comes to say this: lines are written when there is time for them.
pub fn logs(broker: &Broker, text: &str) {
    wait_until(&format!("the log says {text:?}"), || broker.log().contains(text));
}

pub fn header<'r>(request: &'r Value, name: &str) -> Option<&'r str> {
    request["headers"][name].as_str()
}
