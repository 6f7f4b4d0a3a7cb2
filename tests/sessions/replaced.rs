//! Tokens of logins that a reload replaces: tried on a real login before the old one goes.

use std::process::{Command, Output};

use crate::support::process::Process;
use crate::support::serving::{at, good, serving};
use crate::support::{Broker, GRANTED, TOKEN, memory_holds, wait_until};
use crate::{login, logins};

pub(crate) fn reload(broker: &Broker) -> Output {
    // A token that is missing is an error of a reload.
    broker.write("absent", "there", 0o400);
    reload_as_it_is(broker)
}

fn reload_as_it_is(broker: &Broker) -> Output {
    let mut reload = Command::new(env!("CARGO_BIN_EXE_keyhatch"));
    reload.arg("reload").arg("--config").arg(broker.path("keyhatch.toml"));
    reload.arg("--admin-socket").arg(broker.path("admin.sock")).output().unwrap()
}

fn replace(broker: &Broker, content: &str) {
    broker.write("next", content, 0o400);
    std::fs::rename(broker.path("next"), broker.path("token")).unwrap();
}

fn scene() -> (Process, Broker) {
    serving(&|upstream| {
        let login = login(upstream, "/session/login?takes=TOKEN,planted-token-next", "");
        vec![("a", at(upstream, "/session/secret?a", &login), ""), ("b", at(upstream, "/session/secret?b", &login), "")]
    })
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn a_token_that_logs_in_takes_the_place_of_the_old_one() {
    let (upstream, broker) = scene();
    good(&broker, "/a");
    replace(&broker, "planted-token-next\n");
    let done = reload(&broker);
    let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    assert!(said.contains("token `t`: accepted"), "{said}\n{}", broker.log());
    assert_eq!(logins(&upstream), 2);
    good(&broker, "/a");
    good(&broker, "/b");
    assert_eq!(logins(&upstream), 2, "the session of the new one is there already");
    let shown = upstream.requests_for("/session/secret");
    assert!(shown[1..].iter().all(|one| one["headers"]["x-vault-token"] == "planted-session-2"), "{shown:?}");
    assert!(!memory_holds(broker.worker(), b"planted-session"), "the worker never has one");
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn a_token_that_does_not_log_in_stays_out() {
    let (upstream, broker) = scene();
    good(&broker, "/a");
    replace(&broker, "planted-token-wrong\n");
    let done = reload(&broker);
    let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    assert!(said.contains("token `t`: REFUSED") && done.status.code() == Some(1), "{said}\n{}", broker.log());
    let before = logins(&upstream);
    good(&broker, "/a");
    good(&broker, "/b");
    assert_eq!(logins(&upstream), before, "the session of the old one goes on");
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn tokens_that_belong_together_are_tried_together() {
    let (upstream, broker) = serving(&|upstream| {
        let auth = format!(
            "auth = {{ type = \"login\", url = \"http://127.0.0.1:{}/session/pair\", body = '{{\"a\": \"{{a}}\", \"b\": \"{{b}}\"}}', \
             secrets = {{ a = \"t\", b = \"absent\" }}, pointer = \"/auth/client_token\", header = \"X-Vault-Token\" }}, \
             allow-plaintext = true",
            upstream.port("plain")
        );
        vec![("a", at(upstream, "/session/secret", &auth), "")]
    });
    // One is not there yet.
    crate::fails(&broker, "/a", 503, "token-missing");
    broker.write("absent", TOKEN, 0o400);
    assert!(reload_as_it_is(&broker).status.success(), "{}", broker.log());
    wait_until("it is asked again", || broker.curl(GRANTED, "/a", &[]).contains("fwd-status=200"));
    replace(&broker, "planted-next-a\n");
    broker.write("absent-next", "planted-next-b\n", 0o400);
    std::fs::rename(broker.path("absent-next"), broker.path("absent")).unwrap();
    let done = reload_as_it_is(&broker);
    let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    assert!(
        said.contains("token `t`: accepted") && said.contains("token `absent`: accepted"),
        "{said}\n{}",
        broker.log()
    );
    good(&broker, "/a");
    // Of two that are changed and do not fit, neither is taken.
    replace(&broker, "planted-next-x\n");
    broker.write("absent-next", "planted-next-y\n", 0o400);
    std::fs::rename(broker.path("absent-next"), broker.path("absent")).unwrap();
    let done = reload_as_it_is(&broker);
    let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    assert!(
        said.contains("token `t`: REFUSED") && said.contains("token `absent`: REFUSED"),
        "{said}\n{}",
        broker.log()
    );
    good(&broker, "/a");
    assert!(upstream.requests_for("/session/pair").len() >= 5, "together, each alone, and the old ones");
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn a_login_elsewhere_never_sees_the_old_token() {
    let (upstream, broker) = scene();
    good(&broker, "/a");
    replace(&broker, "planted-token-next\n");
    let text = std::fs::read_to_string(broker.path("keyhatch.toml")).unwrap();
    // The same port by another name: another origin.
    broker.write("keyhatch.toml", &text.replace("url = \"http://127.0.0.1:", "url = \"http://localhost:"), 0o600);
    reload(&broker);
    good(&broker, "/a");
    let shown: Vec<String> = upstream
        .requests_for("/session/login")
        .iter()
        .map(|one| one["headers"]["host"].as_str().unwrap().to_owned())
        .collect();
    assert!(shown.len() == 2 && shown[0].starts_with("127.") && shown[1].starts_with("localhost"), "{shown:?}");
}
