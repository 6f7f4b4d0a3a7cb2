//! The place of the sealed files is not what it was: it cannot be written, or is not there any more.

use super::*;

const NEWER: &str = "{\"value\":\"newer\"}";

/// A broker with one value, ended, and its upstream.
fn one_value() -> (Process, Broker) {
    let upstream = std::cell::OnceCell::new();
    let mut broker = Broker::prepared(|directory| {
        let started = upstream.get_or_init(|| Process::start(directory));
        configuration(&[("a", at(started, "/good", ""), "")])
    });
    broker.start();
    assert!(broker.curl(GRANTED, "/a", &[]).ends_with(GOOD));
    assert_eq!(broker.end("TERM"), Some(0));
    (upstream.into_inner().unwrap(), broker)
}

/// Serves what it had and then what the upstream gives.
fn answers(upstream: &Process, broker: &Broker) {
    upstream.behave("/good", "/status/503");
    let held = broker.curl(GRANTED, "/a", &[]);
    assert!(held.ends_with(GOOD) && held.contains("detail=stale-if-error"), "{held}\n{}", broker.log());
    upstream.behave("/good", "/good");
    upstream.set_value("newer");
    wait_until("the upstream is asked again", || broker.curl(GRANTED, "/a", &[]).ends_with(NEWER));
    assert!(broker.curl(GRANTED, "/-/health", &[]).starts_with("HTTP/1.1 200 "));
}

#[test]
#[ignore = "needs root: mounts a directory anew, drops to two uids and asks as others"]
fn a_file_system_that_is_read_only_costs_persistence_and_no_answer() {
    let (upstream, mut broker) = one_value();
    let cache = broker.path("cache").display().to_string();
    let mount = format!("mount --bind {cache} {cache} && mount -o remount,ro,bind {cache} && exec \"$0\" \"$@\"");
    let mut serve = Command::new("unshare");
    serve.args(["--mount", "sh", "-c", &mount, env!("CARGO_BIN_EXE_keyhatch")]);
    broker.start_by(serve, &[]);
    answers(&upstream, &broker);
    logs(&broker, "not persisted; still served from memory key=/a error=Read-only file system");
    assert_eq!(broker.end("TERM"), Some(0), "{}", broker.log());

    upstream.behave("/good", "/status/503");
    broker.start();
    assert!(broker.curl(GRANTED, "/a", &[]).ends_with(GOOD), "what was sealed before: {}", broker.log());
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn a_directory_that_vanishes_costs_persistence_and_no_answer() {
    let (upstream, mut broker) = one_value();
    broker.start();
    assert!(broker.curl(GRANTED, "/a", &[]).ends_with(GOOD));
    std::fs::remove_dir_all(broker.path("cache")).unwrap();
    answers(&upstream, &broker);
    logs(&broker, "not persisted; still served from memory key=/a error=No such file or directory");
    assert_eq!(broker.end("TERM"), Some(0), "{}", broker.log());

    // The next start makes it anew.
    broker.start();
    assert!(broker.curl(GRANTED, "/a", &[]).ends_with(NEWER));
    broker.end("KILL");
    upstream.behave("/good", "/status/503");
    broker.start();
    assert!(broker.curl(GRANTED, "/a", &[]).ends_with(NEWER), "{}", broker.log());
}
