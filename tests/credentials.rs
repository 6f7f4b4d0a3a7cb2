//! `LoadCredential=` over the broker's socket, without a systemd: whoever asks reads its value or more than a credential can
//! have, and never nothing or a part.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "credentials/kept.rs"]
mod kept;
#[path = "credentials/killed.rs"]
mod killed;
#[path = "credentials/lab.rs"]
mod lab;
#[path = "units/lab.rs"]
mod lab_of_units;
#[path = "credentials/manager.rs"]
mod manager;
mod support;

use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;

use manager::{Asking, Group, Read};
use support::{Broker, STRANGER, Upstream, VALUE, send, wait_until};

/// More than the buffer of a socket holds (some 200 KiB), and so little that systemd would take it with much more in it.
const MIDDLING: usize = 300_000;

/// Different for each test, as tests run at once.
fn unit(name: &str) -> String {
    format!("keyhatch-{name}-{}.service", std::process::id())
}

fn address(number: usize, unit: &str, id: &str) -> String {
    format!("{number:x}/unit/{unit}/{id}")
}

/// `settings` are those of `/billing/database-url`, which comes from the upstream; `clients` stand at the end.
fn configuration(upstream: u16, settings: &str, clients: &str) -> String {
    let file = |key: &str, name: &str, more: &str| {
        format!("[keys.\"{key}\"]\nsource = {{ type = \"file\", path = \"DIR/{name}\", {more} }}\n")
    };
    format!(
        "[limits]\nvalue-size = \"4MiB\"\ndocument-size = \"8MiB\"\nconnections = 2000\n\
         [tokens]\nheroku = {{ file = \"DIR/token\" }}\n\
         [keys.\"/billing/database-url\"]\nsource = {{ type = \"heroku\", app = \"billing-prod\", config-var = \"DATABASE_URL\", \
         token = \"heroku\", base-url = \"http://127.0.0.1:{upstream}\", allow-plaintext = true }}\n{settings}\n\
         {}{}{}{}{}{}{clients}",
        file("/web/db-password", "password", "format = \"text\""),
        file("/web/object", "object", "format = \"json\""),
        file("/web/empty", "empty", "format = \"json\""),
        file("/web/middling", "middling", "format = \"text\""),
        file("/web/large", "large", "format = \"text\""),
        file("/web/huge", "huge", "format = \"text\""),
    )
}

fn broker(upstream: u16, settings: &str, clients: &str) -> Broker {
    let mut broker = Broker::prepared(|_| configuration(upstream, settings, clients));
    broker.write("password", "the password", 0o600);
    broker.write("object", "{\"a\": [1, 2]}", 0o600);
    broker.write("empty", "\"\"", 0o600);
    broker.write("middling", &"v".repeat(MIDDLING), 0o600);
    broker.write("large", &"v".repeat(1_000_000), 0o600);
    broker.write("huge", &"v".repeat(2_000_000), 0o600);
    broker.start();
    broker
}

fn client(name: &str, unit: &str, more: &str) -> String {
    format!("[clients.{name}]\nunit = \"{unit}\"\n{more}\n")
}

fn ask(broker: &Broker, group: &Group, unit: &str, id: &str) -> Read {
    group.ask(&broker.path("keyhatch.sock"), &[address(7, unit, id)]).read_one()
}

fn log_says(broker: &Broker, parts: &[&str]) {
    let says = |line: &str| parts.iter().all(|part| line.contains(part));
    wait_until(&format!("a line with {parts:?} in\n{}", broker.log()), || broker.log().lines().any(says));
}

#[test]
#[ignore = "needs root: makes control groups"]
fn a_unit_reads_what_it_is_granted_and_fails_for_all_else() {
    let upstream = Upstream::start(0);
    let (unit, other) = (unit("good"), unit("good-other"));
    let clients =
        client("named", &unit, "keys = [\"/web/*\", \"/billing/*\"]\ncredentials = { pw = \"/web/db-password\" }")
            + &client("beside", &unit, "user = 0\nkeys = [\"/user/*\"]")
            + &client("other", &other, "keys = \"/web/object\"");
    let broker = broker(upstream.port, "", &clients);
    let (group, elsewhere) = (Group::new(&unit), Group::new(&other));
    for (id, value) in [
        ("pw", "the password"),
        ("web.db-password", "the password"),
        ("billing.database-url", VALUE),
        ("web.object", "{\"a\": [1, 2]}"),
    ] {
        let read = ask(&broker, &group, &unit, id);
        assert_eq!((read.ended, read.text.as_str()), (true, value), "{id}\n{}", broker.log());
        log_says(&broker, &["INFO credential ", &format!("unit={unit}"), &format!("id=\"{id}\""), "client=\"named\""]);
    }
    let read = ask(&broker, &group, &unit, "web.large");
    assert_eq!((read.ended, read.length), (true, 1_000_000));
    for (id, why) in [
        ("web.nothing", "no key of the configuration"),
        ("user.x", "no client grants it"),
        ("nothing", "no client grants it"),
        ("...", "no client grants it"),
        ("web.empty", "the value is empty"),
        ("web.huge", "systemd takes 1 MiB"),
    ] {
        let read = ask(&broker, &group, &unit, id);
        assert!(read.fails_the_unit(), "{id}: {read:?}\n{}", broker.log());
        log_says(&broker, &["credential refused", &format!("id=\"{id}\""), why]);
    }
    // Another unit has its own.
    assert!(ask(&broker, &elsewhere, &other, "web.db-password").fails_the_unit());
    assert_eq!(ask(&broker, &elsewhere, &other, "web.object").text, "{\"a\": [1, 2]}");
    // A drill is what it is for others: the last known good, and nothing where there is none.
    let operate = |arguments: &[&str]| {
        let mut operate = Command::new(env!("CARGO_BIN_EXE_keyhatch"));
        let done = operate.args(arguments).arg("--admin-socket").arg(broker.path("admin.sock")).output().unwrap();
        assert!(done.status.success(), "{done:?}");
        String::from_utf8(done.stdout).unwrap()
    };
    let mut drill = Command::new(env!("CARGO_BIN_EXE_keyhatch"));
    drill.args(["drill", "--key", "/web/*", "--fail", "503", "--for", "60s", "--admin-socket"]);
    let mut drill = drill.arg(broker.path("admin.sock")).stdout(Stdio::null()).spawn().unwrap();
    wait_until("a drill is told", || {
        assert_eq!(ask(&broker, &group, &unit, "pw").text, "the password");
        broker.log().contains("verdict=\"drill\"")
    });
    drill.kill().unwrap();
    drill.wait().unwrap();
    // HTTP goes on as before, for root too, from wherever it connects.
    let root = Asking::new(&broker.path("keyhatch.sock"), "", 0, &["-".to_owned(), format!("own/{unit}")]);
    assert!(root.read().iter().all(|read| !read.fails_the_unit()));
    let told = operate(&["metrics"]);
    let line = |line: &&str| {
        line.starts_with("keyhatch_requests_total{") && line.contains("named") && line.contains("fetched")
    };
    assert!(told.lines().any(|one| line(&one) && !one.ends_with(" 0")), "{told}");
    assert!(!broker.log().contains("the password") && !broker.log().contains(VALUE), "{}", broker.log());
}

#[test]
#[ignore = "needs root: makes control groups"]
fn an_address_is_believed_of_root_in_its_unit_alone() {
    let unit = unit("forged");
    let broker = broker(1, "", &client("named", &unit, "keys = \"/web/*\""));
    let socket = broker.path("keyhatch.sock");
    let (group, wrong) = (Group::new(&unit), Group::new(&self::unit("forger")));
    let name = address(1, &unit, "web.db-password");
    // Root elsewhere; root in no unit; the unit's own user.
    let read = wrong.ask(&socket, std::slice::from_ref(&name)).read_one();
    assert!(read.fails_the_unit(), "{read:?}");
    log_says(&broker, &["credential refused", &format!("unit={unit}"), "its process is in keyhatch-forger"]);
    let read = Asking::new(&socket, "", 0, std::slice::from_ref(&name)).read_one();
    assert!(read.fails_the_unit(), "{read:?}");
    let read = Asking::new(&socket, "", STRANGER, std::slice::from_ref(&name)).read_one();
    assert!(read.fails_the_unit(), "{read:?}");
    log_says(&broker, &["denied", &format!("uid={STRANGER}"), "credential"]);
    for malformed in [
        format!("/unit/{unit}/web.db-password"),
        format!("x/unit/{unit}/web.db-password"),
        format!("00000000000000001/unit/{unit}/web.db-password"),
        format!("1/unit/{unit}/web.db-password/x"),
        format!("1/unit/{unit}/web:db-password"),
        format!("1/unit/{unit}/"),
        format!("1/unit/{unit}"),
        "1/unit/../web.db-password".to_owned(),
        "1/unit/".to_owned(),
    ] {
        let read = group.ask(&socket, std::slice::from_ref(&malformed)).read_one();
        assert!(read.fails_the_unit(), "{malformed}: {read:?}");
    }
    log_says(&broker, &["credential refused: an address that systemd does not make"]);
    assert_eq!(ask(&broker, &group, &unit, "web.db-password").text, "the password");
}

#[test]
#[ignore = "needs root: drops to two uids and asks as another"]
fn a_manager_of_a_user_over_its_limit_is_refused_and_never_closed_with_nothing() {
    let broker = broker(1, "", "");
    let socket = broker.path("keyhatch.sock");
    // Some more than may be in, and than are refused at a time beside those.
    let names: Vec<String> = (0..100).map(|number| address(number, "a.service", "b")).collect();
    let read = Asking::new(&socket, "", STRANGER, &names).read();
    let lengths: Vec<usize> = read.iter().map(|read| read.length).collect();
    assert!(read.iter().all(Read::fails_the_unit), "{lengths:?}");
}

#[test]
#[ignore = "needs root: makes control groups"]
fn a_thousand_at_once_all_start() {
    let upstream = Upstream::start(0);
    upstream.held.store(true, Ordering::SeqCst);
    let unit = unit("thousand");
    let broker =
        broker(upstream.port, "timeout = \"30s\"", &client("named", &unit, "keys = [\"/web/*\", \"/billing/*\"]"));
    let group = Group::new(&unit);
    let id = |n: usize| if n.is_multiple_of(2) { "web.db-password" } else { "billing.database-url" };
    let names: Vec<String> = (0..1000).map(|n| address(n, &unit, id(n))).collect();
    let asking = group.ask(&broker.path("keyhatch.sock"), &names);
    // All of them are with the broker, half of them in one fetch.
    upstream.held.store(false, Ordering::SeqCst);
    for (n, read) in asking.read().into_iter().enumerate() {
        let value = if n.is_multiple_of(2) { "the password" } else { VALUE };
        assert_eq!((read.ended, read.text.as_str()), (true, value), "{n}\n{}", broker.log());
    }
    assert!(upstream.calls.load(Ordering::SeqCst) < 20);
}

#[test]
#[ignore = "needs root: makes control groups"]
fn a_unit_fails_or_waits_while_there_is_no_value() {
    let mut upstream = Upstream::start(0);
    let port = upstream.port;
    upstream.stop();
    let unit = unit("missing");
    let clients = client("named", &unit, "keys = [\"/web/*\", \"/billing/*\"]");
    let group = Group::new(&unit);
    let id = "billing.database-url";
    {
        let broker = broker(port, "", &clients);
        let read = ask(&broker, &group, &unit, id);
        assert!(read.fails_the_unit(), "{read:?}");
        log_says(&broker, &["credential refused", "unavailable: "]);
    }
    let mut broker = broker(port, "on-missing = \"wait\"", &clients);
    let socket = broker.path("keyhatch.sock");
    let names = [address(1, &unit, id)];
    // One that gives up costs nothing.
    let gone = group.ask(&socket, &names);
    log_says(&broker, &["credential: the unit waits", id]);
    drop(gone);
    log_says(&broker, &["credential refused", "the unit has gone"]);
    let waiting = group.ask(&socket, &names);
    wait_until("it waits", || broker.log().matches("the unit waits").count() == 2);
    let upstream = Upstream::start(port);
    assert_eq!(waiting.read_one().text, VALUE, "{}", broker.log());
    drop(upstream);

    // A reload judges those that wait anew: one loses its grant.
    let away =
        |port: u16| configuration(port, "on-missing = \"wait\"\nmax-age = \"0s\"\nstale-if-error = \"0s\"", &clients);
    broker.configure(&away(port));
    reload(&broker);
    let waiting = group.ask(&socket, &names);
    wait_until("it waits", || broker.log().matches("the unit waits").count() == 3);
    broker.configure(&configuration(port, "on-missing = \"wait\"", &client("named", &unit, "keys = [\"/web/*\"]")));
    reload(&broker);
    assert!(waiting.read_one().fails_the_unit());
    log_says(&broker, &["credential refused", "no client grants it", id]);

    // The end of the service is the end of waiting.
    broker.configure(&away(port));
    reload(&broker);
    let waiting = group.ask(&socket, &names);
    wait_until("it waits", || broker.log().matches("the unit waits").count() == 4);
    send("TERM", broker.parent());
    assert!(waiting.read_one().fails_the_unit());
    wait_until("it ends", || broker.has_ended());
    assert!(broker.log().contains("the broker ends"), "{}", broker.log());
}

fn reload(broker: &Broker) {
    let mut reload = Command::new(env!("CARGO_BIN_EXE_keyhatch"));
    reload.arg("reload").arg("--config").arg(broker.path("keyhatch.toml"));
    let done = reload.arg("--admin-socket").arg(broker.path("admin.sock")).output().unwrap();
    assert!(done.status.success(), "{done:?}");
}
