//! Drills: seen by clients, not by the upstream, and without a trace afterwards.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::process::{Child, ChildStdout};

use super::*;

/// A drill in the foreground, as a person has it.
struct Drill {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Drill {
    fn begin(broker: &Broker, arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keyhatch"));
        command.arg("drill").args(arguments).args(["--json", "--admin-socket"]).arg(broker.path("admin.sock"));
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.contains("the drill is on"), "{line}");
        let out = BufReader::new(child.stdout.take().unwrap());
        Self { child, out }
    }

    fn report(mut self) -> Value {
        let mut text = String::new();
        self.out.read_to_string(&mut text).unwrap();
        assert!(self.child.wait().unwrap().success());
        serde_json::from_str(&text).unwrap()
    }

    /// Ctrl-C.
    fn end(self) -> Value {
        support::send("INT", self.child.id());
        self.report()
    }
}

fn detail(answer: &str) -> &str {
    answer.split("detail=").nth(1).map_or("", |rest| rest.split(['\r', ';']).next().unwrap())
}

/// The names, contents and times of what is sealed.
fn sealed(broker: &Broker) -> Vec<(String, i64, i64, Vec<u8>)> {
    let read = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.unwrap();
        let about = entry.metadata().unwrap();
        (
            entry.file_name().into_string().unwrap(),
            about.mtime(),
            about.mtime_nsec(),
            std::fs::read(entry.path()).unwrap(),
        )
    };
    let mut all: Vec<_> = std::fs::read_dir(broker.path("cache")).unwrap().map(read).collect();
    all.sort();
    all
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn every_kind_of_failure_is_seen_and_leaves_no_trace() {
    // One refusal would be enough to lose the value, and one failure would be remembered for an hour.
    const SETTINGS: &str = "failover-timeout = \"200ms\"\ntimeout = \"200ms\"\nnegative-max-age = \"1h\"\nrevoked-after = 1\nrevoked-over = \"0s\"";
    let (upstream, broker) = serving(&|upstream| {
        vec![("held", at(upstream, "/held", BEARER), SETTINGS), ("none", at(upstream, "/none", BEARER), SETTINGS)]
    });
    upstream.behave("/held", "/good");
    upstream.behave("/none", "/good");
    good(&broker, "/held");
    let file = broker.sealed_file("/held");
    let as_it_was = || {
        let about = file.metadata().unwrap();
        (about.mtime(), about.mtime_nsec(), about.ino(), std::fs::read(&file).unwrap())
    };
    let before = as_it_was();
    let names = |of: Vec<(String, i64, i64, Vec<u8>)>| of.into_iter().map(|one| one.0).collect::<Vec<_>>();
    let files = names(sealed(&broker));
    for (fail, status, shape) in [
        ("connect", 503, "fwd=stale; ttl"),
        ("timeout", 503, "fwd=stale; ttl"),
        ("503", 503, "fwd=stale; fwd-status=503"),
        ("401", 502, "fwd=stale; fwd-status=401"),
        ("403", 502, "fwd=stale; fwd-status=403"),
    ] {
        let asked = upstream.requests().len();
        let state = key(&broker, "/held");
        let drill = Drill::begin(&broker, &["--token", "t", "--fail", fail, "--for", "1h"]);
        let held = broker.curl(GRANTED, "/held", &[]);
        assert!(held.starts_with("HTTP/1.1 200 ") && held.ends_with(GOOD), "{fail}: {held}");
        assert!(detail(&held) == "drill" && held.contains(shape), "{fail}: {held}");
        let none = broker.curl(GRANTED, "/none", &[]);
        assert!(none.starts_with(&format!("HTTP/1.1 {status} ")) && detail(&none) == "drill", "{fail}: {none}");
        let health = broker.curl(GRANTED, "/-/health", &[]);
        assert!(health.contains("\"drill\":true"), "{fail}: {health}");
        assert!(done(&broker, &["status"]).contains("A DRILL IS ON: token t"));
        let refreshed = operate(&broker, &["refresh", "/held"]);
        assert_eq!(refreshed.status.code(), Some(1), "{refreshed:?}");
        let report = drill.end();
        assert_eq!(report["over"], "asked", "{report}");
        let served = |key: &str| {
            report["served"]
                .as_array()
                .unwrap()
                .iter()
                .find(|line| line["key"] == key)
                .unwrap_or_else(|| panic!("{report}"))
        };
        assert_eq!((&served("/held")["stale"], &served("/held")["client"]), (&1.into(), &"all".into()), "{report}");
        assert_eq!((&served("/held")["uid"], &served("/held")["fresh"]), (&GRANTED.into(), &0.into()), "{report}");
        assert!(served("/held")["oldest"].is_u64());
        assert_eq!(served("/none")["failures"][status.to_string()], 1, "{report}");

        assert_eq!(upstream.requests().len(), asked, "{fail}: nothing went upstream");
        assert_eq!(as_it_was(), before, "{fail}");
        assert_eq!(names(sealed(&broker)), files, "{fail}");
        let after = key(&broker, "/held");
        assert_eq!(after["state"], state["state"], "{fail}");
        assert_eq!(after["last-outcome"]["class"], "answered", "{fail}");
        let none = key(&broker, "/none");
        assert_eq!((&none["state"], &none["next-attempt-in"]), (&"never-fetched".into(), &Value::Null), "{fail}");
        let health = broker.curl(GRANTED, "/-/health", &[]);
        assert!(health.contains("\"drill\":false"), "{fail}: {health}");
    }
    // No failure is remembered, nothing backs off, and the token is as good as it was.
    good(&broker, "/none");
    let now = broker.curl(GRANTED, "/held", &[]);
    assert!(now.contains("fwd-status=200") && detail(&now).is_empty(), "{now}");
    assert!(!broker.log().contains("withheld") && !broker.log().contains("shredded"));
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn what_the_worker_holds_is_seen_to_be_in_the_drill_and_out_of_it() {
    let (upstream, broker) = serving(&|upstream| {
        vec![
            ("one", at(upstream, "/one", BEARER), "max-age = \"1h\""),
            ("two", at(upstream, "/two", ""), "max-age = \"1h\""),
        ]
    });
    for (key, path) in [("/one", "/one"), ("/two", "/two")] {
        upstream.behave(path, "/good");
        good(&broker, key);
        assert!(broker.curl(GRANTED, key, &[]).contains("keyhatch; hit"));
    }
    let drill = Drill::begin(&broker, &["--key", "/o*", "--fail", "connect", "--for", "1h"]);
    for _ in 0..3 {
        assert_eq!(detail(&broker.curl(GRANTED, "/one", &[])), "drill");
    }
    assert_eq!(detail(&broker.curl(GRANTED, "/two", &[])), "", "another key");
    let told = ask(&broker, 0, "POST", "/drill", "{\"key\":\"/two\",\"fail\":\"503\",\"for\":5}");
    assert!(told.starts_with("HTTP/1.1 409 "), "one at a time: {told}");
    let report = drill.end();
    assert_eq!((&report["served"][0]["fresh"], &report["served"][0]["stale"]), (&3.into(), &0.into()), "{report}");
    assert_eq!(detail(&broker.curl(GRANTED, "/one", &[])), "");
    assert_eq!(upstream.requests().len(), 2);
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn a_drill_ends_by_its_time_and_with_whoever_began_it() {
    let (upstream, broker) = one_key("");
    upstream.behave("/one", "/good");
    good(&broker, "/one");
    let origin = format!("http://127.0.0.1:{}", upstream.port("plain"));
    for (wrong, exit, why) in [
        (format!("{origin}/one"), 64, "scheme, host and port"),
        ("http://x/".into(), 1, "no key is covered by origin http://x:80"),
    ] {
        let told = operate(&broker, &["drill", "--origin", &wrong, "--fail", "503", "--for", "2s"]);
        let said = String::from_utf8_lossy(&told.stderr);
        assert!(told.status.code() == Some(exit) && said.contains(why), "{told:?}");
    }
    // As a person writes it.
    let origin = origin.replace("http", "HTTP") + "/";
    let drill = Drill::begin(&broker, &["--origin", &origin, "--fail", "503", "--for", "2s"]);
    assert_eq!(detail(&broker.curl(GRANTED, "/one", &[])), "drill");
    assert_eq!(drill.report()["over"], "time");
    assert_eq!(detail(&broker.curl(GRANTED, "/one", &[])), "");

    let mut drill = Drill::begin(&broker, &["--key", "/one", "--fail", "503", "--for", "1h"]);
    assert_eq!(detail(&broker.curl(GRANTED, "/one", &[])), "drill");
    drill.child.kill().unwrap();
    drill.child.wait().unwrap();
    wait_until("the broker sees that", || detail(&broker.curl(GRANTED, "/one", &[])).is_empty());
    logs(&broker, "the drill is over covers=key /one over=HungUp");
    assert_eq!(broker.log().matches("a drill begins uid=0").count(), 2, "{}", broker.log());
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn a_refresh_in_the_background_is_covered_and_paths_of_keys_with_parameters_are() {
    let (upstream, broker) = parameters::serving(
        "[keys.\"/n/{n}\"]\nsource = { type = \"http\", url = \"http://127.0.0.1:PORT/good?n={n}\", field = \"value\" }\n\
         params.n = { matches = \"[a-z0-9]+\" }\n\
         [keys.\"/one\"]\nsource = { type = \"http\", url = \"http://127.0.0.1:PORT/one\", field = \"value\" }\nrefresh = \"1s\"\n\
         [clients.all]\nuser = 61010\nkeys = [\"/**\"]\n",
    );
    upstream.behave("/one", "/good");
    wait_until("it is refreshed", || upstream.requests_for("/one").len() > 1);
    parameters::good(&broker, GRANTED, "/n/a");
    let drill = Drill::begin(&broker, &["--key", "/**", "--fail", "connect", "--for", "3s"]);
    // A call that was under way may land.
    let asked = upstream.requests().len();
    assert_eq!(detail(&broker.curl(GRANTED, "/n/a", &[])), "drill");
    assert!(broker.curl(GRANTED, "/n/b", &[]).starts_with("HTTP/1.1 503 "));
    let report = drill.report();
    assert!(report["served"].as_array().unwrap().len() == 2, "{report}");
    assert!(upstream.requests_for("/good").len() == 1, "nothing was asked for by a client");
    let during = upstream.requests().len() - asked;
    assert!(during <= 2, "{during} calls in 3 s: one may have been under way, one may come at the end");
    assert_eq!(parameters::listed(&broker, GRANTED), ["/n/a", "/one"]);
    wait_until("it is refreshed again", || upstream.requests().len() > asked + during);
    parameters::good(&broker, GRANTED, "/n/b");
}
