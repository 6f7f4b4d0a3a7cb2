//! A broker whose keys have parameters, and what there is of their paths.

use std::process::Command;

use serde_json::Value;

use super::process::Process;
use super::{Broker, GRANTED, STRANGER};

/// An upstream and a broker with these keys; `PORT` in them is the upstream's.
pub fn serving(sections: &str) -> (Process, Broker) {
    let mut upstream = None;
    let mut broker = Broker::prepared(|directory| {
        let started = Process::start(directory);
        let text = sections.replace("PORT", &started.port("plain").to_string());
        upstream = Some(started);
        format!(
            "[limits]\nconnections-per-user = 200\nfetches-per-user = 100000\n[tokens]\nt = {{ file = \"DIR/token\" }}\n{text}"
        )
    });
    broker.start();
    (upstream.unwrap(), broker)
}

/// One key whose values are all alike, with these settings.
pub fn alike(settings: &str) -> (Process, Broker) {
    serving(&format!(
        "[keys.\"/n/{{n}}\"]\nsource = {{ type = \"http\", url = \"http://127.0.0.1:PORT/good?n={{n}}\", field = \"value\" }}\n\
         params.n = {{ matches = \"[a-z0-9]+\" }}\n{settings}\n\
         [clients.all]\nuser = [{GRANTED}, {STRANGER}]\nkeys = [\"/n/**\"]\n"
    ))
}

pub fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).unwrap_or_default().parse().unwrap_or(0)
}

pub fn good(broker: &Broker, uid: u32, key: &str) -> String {
    let answer = broker.curl(uid, key, &[]);
    assert_eq!(status(&answer), 200, "{key}: {answer}\n{}", broker.log());
    answer
}

/// The paths that this peer is shown.
pub fn listed(broker: &Broker, uid: u32) -> Vec<String> {
    let answer = broker.curl(uid, "/-/keys", &[]);
    let body: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    body["keys"].as_array().unwrap().iter().map(|key| key["key"].as_str().unwrap().to_owned()).collect()
}

/// The keys that have a sealed file, as the program tells.
pub fn sealed(broker: &Broker) -> Vec<String> {
    let mut list = Command::new(env!("CARGO_BIN_EXE_keyhatch"));
    let done = list.args(["cache", "ls", "--json", "--config"]).arg(broker.path("keyhatch.toml")).output().unwrap();
    let listed: Value = serde_json::from_slice(&done.stdout).unwrap();
    let keys = listed["files"].as_array().unwrap().iter().filter_map(|file| file["key"].as_str());
    keys.map(str::to_owned).collect()
}

pub fn was_asked(answer: &str) -> bool {
    answer.contains("fwd=")
}
