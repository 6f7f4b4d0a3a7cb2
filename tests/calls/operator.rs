//! What an operator does about keys that are calls, and what is told of them.

use std::process::{Command, Output};

use crate::standin::StandIn;
use crate::support::parameters::status;
use crate::support::{Broker, GRANTED, STRANGER, TOKEN};
use crate::{broker_of, post, prepared, source, told, value};

fn run(broker: &Broker, arguments: &[&str]) -> Output {
    let mut run = Command::new(env!("CARGO_BIN_EXE_keyhatch"));
    run.args(arguments).arg("--config").arg(broker.path("keyhatch.toml")).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn a_new_password_is_tried_by_logging_in_and_calls_nothing() {
    let standin = StandIn::start();
    let broker = broker_of(&format!("[keys.\"/rpc/quote\"]\n{}", source(standin.port, "quote")));
    value(&broker, &post(&broker, "/rpc/quote", "{}"));
    for (password, accepted) in [("another", false), (TOKEN, true)] {
        broker.write("token", password, 0o400);
        let done = run(&broker, &["reload", "--admin-socket", broker.path("admin.sock").to_str().unwrap()]);
        assert_eq!(done.status.success(), accepted, "{}\n{}", text(&done.stderr), broker.log());
        assert_eq!(standin.calls(), 1, "a password is no reason for a call");
        let said = text(&[done.stdout, done.stderr].concat());
        assert!((accepted || said.contains("login-refused")) && !said.contains(password), "{said}");
        let answer = post(&broker, "/rpc/quote", "{\"args\":[1]}");
        assert_eq!(status(&answer), 200, "the old one is good: {answer}");
        standin.forget_calls();
        value(&broker, &post(&broker, "/rpc/quote", "{}"));
    }
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn a_path_is_told_of_whatever_it_is_called_with() {
    let standin = StandIn::start();
    let keys = format!("[keys.\"/rpc/{{m}}\"]\n{}params.m = {{ one-of = [\"quote\"] }}\n", source(standin.port, "{m}"));
    let mut broker = prepared("", &keys);
    let check = run(&broker, &["check"]);
    assert!(check.status.success(), "{check:?}");
    broker.start();
    for (uid, granted) in [(GRANTED, true), (STRANGER, false)] {
        let explained = run(&broker, &["explain", "--user", &uid.to_string(), "/rpc/quote"]);
        assert_eq!(explained.status.success(), granted, "{explained:?}");
    }
    assert_eq!(told(&broker, &["purge", "/rpc/quote"], true)["had-a-value"], 0, "nothing was called yet");
    // Without arguments it is a call, too.
    let got = broker.get(GRANTED, "/rpc/quote");
    assert!(got.status.success() && text(&got.stdout).contains("\"number\":0"), "{got:?}");
    assert_eq!(broker.get(STRANGER, "/rpc/quote").status.code(), Some(77));
    let mut list = Command::new(env!("CARGO_BIN_EXE_keyhatch"));
    let listed = list.args(["cache", "ls", "--config"]).arg(broker.path("keyhatch.toml")).output().unwrap();
    let row = text(&listed.stdout).lines().find(|line| line.starts_with("/rpc/quote?")).unwrap().to_owned();
    assert!(row.split_whitespace().next().is_some_and(|name| name.len() == "/rpc/quote?".len() + 12), "{row}");
    assert_eq!(told(&broker, &["purge", "/rpc/*"], true)["had-a-value"], 1);
}
