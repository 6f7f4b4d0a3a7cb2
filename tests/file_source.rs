//! Files as sources: read again for each fetch, noticed when replaced, refused when others can read them.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use support::serving::{configuration, fails, logs, stale};
use support::{Broker, GRANTED, wait_until};

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn a_file_is_read_again_for_each_fetch() {
    let file = |name: &str, more: &str| format!("path = \"DIR/{name}\"{more}");
    let mut broker = Broker::prepared(|_| {
        configuration(&[
            ("text", file("text", ""), ""),
            ("json", file("json", ", format = \"json\", pointer = \"/a/0\""), ""),
            ("env", file("env", ", format = \"env\", field = \"B\""), ""),
            ("toml", file("toml", ", format = \"toml\", field = \"c\""), ""),
            ("large", file("large", ""), ""),
            ("absent", file("not-there", ""), ""),
        ])
    });
    broker.write("text", "first\n", 0o400);
    broker.write("json", "{\"a\": [1.50]}", 0o400);
    broker.write("env", "A=1\nB='x y'\n", 0o400);
    broker.write("toml", "c = 'd'\n", 0o600);
    broker.write("large", &"x".repeat(4097), 0o400);
    broker.start();
    let text = |key: &str| broker.curl(GRANTED, key, &["--header", "Accept: text/plain"]);
    assert!(text("/text").ends_with("\r\n\r\nfirst"), "{}", text("/text"));
    assert!(text("/json").ends_with("\r\n\r\n1.50"));
    assert!(text("/env").ends_with("\r\n\r\nx y"));
    assert!(text("/toml").ends_with("\r\n\r\nd"));
    fails(&broker, "/large", 502, "document-too-large");
    fails(&broker, "/absent", 503, "source-unreadable");
    logs(&broker, "/not-there\" reason=");
    assert!(broker.curl(GRANTED, "/-/health", &[]).contains("\"degraded\""));

    std::fs::write(broker.path("text"), "second\n\n").unwrap();
    let second = text("/text");
    assert!(second.ends_with("\r\n\r\nsecond\n"), "one line end goes: {second}");
    assert!(second.contains("cache-status: keyhatch; fwd=stale; stored; ttl="), "a file has no status: {second}");

    std::fs::write(broker.path("text"), "").unwrap();
    stale(&broker, "/text", "empty-body");
    broker.write("new", "third\n", 0o400);
    std::fs::rename(broker.path("new"), broker.path("text")).unwrap();
    wait_until("the replacement is seen", || text("/text").contains("detail=source-replaced"));
    assert!(text("/text").ends_with("second\n"));
    logs(&broker, "keyhatch reload");
}

#[test]
#[ignore = "needs root: the files are root's"]
fn a_file_that_others_can_read_stops_the_start_and_is_named() {
    let broker = Broker::prepared(|_| configuration(&[("a", "path = \"DIR/open\"".to_owned(), "")]));
    let refused = |expected: &str| {
        let (code, told) = broker.refused();
        assert_eq!(code, Some(78), "{told}");
        assert!(told.contains("/open") && told.contains("key `/a`") && told.contains(expected), "{told}");
    };
    broker.write("open", "x", 0o440);
    refused("chmod 0400");
    broker.write("open", "x", 0o400);
    std::os::unix::fs::chown(broker.path("open"), Some(GRANTED), None).unwrap();
    refused("chown root");
    std::fs::remove_file(broker.path("open")).unwrap();
    std::os::unix::fs::symlink(broker.path("token"), broker.path("open")).unwrap();
    refused("is a symbolic link");
}

/// As who lets the parent search the directory, and who does not.
#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn a_file_that_something_else_took_the_place_of_is_not_read() {
    type Act = fn(&std::path::Path);
    let acts: [(&str, Act); 4] = [
        ("renamed over", |at| std::fs::rename(at.join("new"), at.join("file")).unwrap()),
        ("kept as a backup", |at| {
            std::fs::rename(at.join("file"), at.join("file~")).unwrap();
            std::fs::rename(at.join("new"), at.join("file")).unwrap();
        }),
        ("linked as a backup", |at| {
            std::fs::hard_link(at.join("file"), at.join("file~")).unwrap();
            std::fs::rename(at.join("new"), at.join("file")).unwrap();
        }),
        ("its directory moved", |at| std::fs::rename(at, at.with_file_name("moved")).unwrap()),
    ];
    for mode in [0o700, 0o755] {
        let names = ["over", "away", "link", "move"];
        let mut broker = Broker::prepared(|_| {
            let key = |name: &&'static str| (*name, format!("path = \"DIR/{name}/file\""), "");
            configuration(&names.iter().map(key).collect::<Vec<_>>())
        });
        for name in names {
            std::fs::create_dir(broker.path(name)).unwrap();
            broker.write(&format!("{name}/file"), "old\n", 0o400);
            broker.write(&format!("{name}/new"), "new\n", 0o400);
            std::fs::set_permissions(broker.path(name), std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        }
        broker.start();
        for (name, (told, act)) in names.iter().zip(acts) {
            let text = || broker.curl(GRANTED, &format!("/{name}"), &["--header", "Accept: text/plain"]);
            assert!(text().ends_with("\r\n\r\nold") && !text().contains("detail="), "{told}: {}", text());
            act(&broker.path(name));
            let answer = text();
            assert!(
                answer.contains("detail=source-replaced\r\n") && answer.ends_with("old"),
                "{told} {mode:o}: {answer}"
            );
        }
    }
}
