//! `keyhatch reload`: what it changes at once, what stays, and what it refuses as a whole.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "reload/hostile.rs"]
mod hostile;
#[path = "reload/load.rs"]
mod load;
#[path = "reload/scene.rs"]
mod scene;
mod support;
#[path = "reload/tokens.rs"]
mod tokens;

use std::time::Duration;

use scene::{Kept, Scene, all, client};
use support::process::Process;
use support::{Broker, GRANTED, memory_holds, send, wait_until};

const HOUR: &str = "max-age = \"1h\"";
const GOOD: &str = "{\"value\":\"good-value\"}";

#[test]
fn a_withdrawn_grant_is_denied_on_a_connection_that_stays() {
    let scene = Scene::new(&[("/one/a", "/good", HOUR), ("/two/b", "/good", HOUR)]);
    let mut kept = Kept::new(&scene.broker);
    assert_eq!((kept.ask("/one/a", "").status, kept.ask("/two/b", "").status), (200, 200));
    scene.configure(&[("/one/a", "/good", HOUR), ("/two/b", "/good", HOUR)], &client("/two/*"));
    scene.reloads();
    assert_eq!((kept.ask("/one/a", "").status, kept.ask("/two/b", "").status), (403, 200));
    assert_eq!(scene.upstream.requests_for("/good").len(), 1, "the other one kept its value");
    scene.configure(&[("/one/a", "/good", HOUR), ("/two/b", "/good", HOUR)], &all());
    scene.reloads();
    assert_eq!((kept.ask("/one/a", "").status, kept.ask("/two/b", "").status), (200, 200), "and is granted again");
}

#[test]
fn a_grant_holds_for_a_connection_that_was_denied_before() {
    let keys = [("/one/a", "/good", HOUR), ("/two/b", "/good", HOUR)];
    let scene = Scene::with(&keys, &client("/two/*"), "");
    let mut kept = Kept::new(&scene.broker);
    assert_eq!((kept.ask("/one/a", "").status, kept.ask("/two/b", "").status), (403, 200));
    scene.configure(&keys, &client("/one/*"));
    scene.reloads();
    assert_eq!((kept.ask("/one/a", "").status, kept.ask("/two/b", "").status), (200, 403));
}

#[test]
#[ignore = "needs root: asks as another user"]
fn a_withdrawn_grant_is_denied_by_the_worker_that_has_the_value_for_others() {
    let keys = [("/a", "/good", HOUR)];
    let scene = Scene::new(&keys);
    let mut kept = Kept::new(&scene.broker);
    assert_eq!(kept.ask("/a", "").status, 200);
    scene.configure(&keys, &format!("[clients.all]\nuser = {GRANTED}\nkeys = [\"/**\"]\n"));
    scene.reloads();
    // The first answer to another user puts the value into the worker's memory.
    for _ in 0..2 {
        let answer = scene.broker.curl(GRANTED, "/a", &[]);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert_eq!(kept.ask("/a", "").status, 403);
    }
}

#[test]
fn a_request_that_waits_for_a_slow_upstream_is_judged_again_at_once() {
    let scene = Scene::new(&[("/slow", "/gate", "timeout = \"25s\""), ("/other", "/gate?other", "timeout = \"25s\"")]);
    let (mut withdrawn, mut stays) = (Kept::new(&scene.broker), Kept::new(&scene.broker));
    withdrawn.send("/slow", "");
    stays.send("/other", "");
    wait_until("both are asked for", || scene.upstream.requests_for("/gate").len() == 2);
    scene.configure(&[("/slow", "/gate", ""), ("/other", "/gate?other", "timeout = \"25s\"")], &client("/other"));
    scene.reloads();
    assert_eq!(withdrawn.answer().status, 403, "the gate is still shut");
    scene.upstream.set_gate(true);
    let answer = stays.answer();
    assert_eq!((answer.status, answer.body.as_str()), (200, GOOD), "{}", answer.head);
    assert_eq!(scene.upstream.requests_for("/gate").len(), 2, "the fetch that was under way is the one that counts");
}

#[test]
fn a_request_that_waits_for_the_old_source_gets_the_value_of_the_new_one() {
    let scene = Scene::new(&[("/a", "/gate", "timeout = \"25s\"")]);
    let mut waiting = Kept::new(&scene.broker);
    waiting.send("/a", "");
    wait_until("it is asked for", || !scene.upstream.requests_for("/gate").is_empty());
    scene.configure(&[("/a", "/etag", HOUR)], &all());
    scene.reloads();
    assert_eq!(waiting.answer().body, GOOD);
    assert_eq!(scene.upstream.requests_for("/etag").len(), 1);
}

#[test]
fn who_waits_for_a_change_is_judged_again_and_else_waits_on() {
    let keys = [("/one/a", "/good", HOUR), ("/two/b", "/good", HOUR)];
    let scene = Scene::new(&keys);
    let wait = |key: &str| {
        let mut kept = Kept::new(&scene.broker);
        let answer = kept.ask(key, "");
        let tag = answer.head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap().trim().to_owned();
        kept.send(key, &format!("If-None-Match: {tag}\r\nPrefer: wait=25\r\n"));
        kept
    };
    let (mut withdrawn, mut stays) = (wait("/one/a"), wait("/two/b"));
    scene.configure(&keys, &client("/two/*"));
    scene.reloads();
    assert_eq!(withdrawn.answer().status, 403);
    scene.upstream.set_value("changed");
    let mut other = Kept::new(&scene.broker);
    wait_until("it is asked anew", || other.ask("/two/b", "Cache-Control: no-cache\r\n").body.contains("changed"));
    let answer = stays.answer();
    assert_eq!((answer.status, answer.body.as_str()), (200, "{\"value\":\"changed\"}"));
    assert!(answer.head.contains("preference-applied: wait=25"), "{}", answer.head);
}

#[test]
fn a_removed_key_is_not_served_and_comes_back_with_its_value_and_age() {
    let mut scene = Scene::new(&[("/a", "/good", HOUR), ("/b", "/good", HOUR)]);
    assert_eq!((scene.get("/a").status, scene.get("/b").status), (200, 200));
    let file = scene.broker.sealed_file("/a");
    wait_until("it has an age", || scene.get("/a").age() >= 1);
    scene.configure(&[("/b", "/good", HOUR)], &all());
    let told = scene.reloads();
    assert!(told.contains("1 removed") && told.contains("a sealed value of 1 key not in the configuration"), "{told}");
    assert_eq!((scene.get("/a").status, scene.get("/b").status), (403, 200));
    assert!(file.exists(), "until forget-after");
    scene.upstream.stop();
    scene.configure(&[("/a", "/good", HOUR), ("/b", "/good", HOUR)], &all());
    scene.reloads();
    let back = scene.get("/a");
    assert_eq!((back.status, back.body.as_str()), (200, GOOD), "{}", scene.broker.log());
    assert!(back.age() >= 1);
}

#[test]
#[ignore = "needs root: reads the memory of both roles"]
fn a_removed_key_is_out_of_both_memories_when_the_command_ends() {
    let scene = Scene::new(&[("/a", "/good", HOUR)]);
    scene.upstream.set_value("planted-for-reload-7c1e");
    assert_eq!(scene.get("/a").status, 200);
    let (parent, worker) = (scene.broker.parent(), scene.broker.worker());
    assert!(memory_holds(worker, b"planted-for-reload-7c1e") && memory_holds(parent, b"planted-for-reload-7c1e"));
    scene.configure(&[], &all());
    scene.reloads();
    assert!(!memory_holds(worker, b"\"planted-for-reload-7c1e\""), "in the worker");
    // What hyper and the C library keep of the wire is not ours to wipe: the value's own bytes are.
    assert_eq!(scene.get("/a").status, 403);
}

#[test]
fn values_and_ages_stay_and_changed_settings_hold_at_once() {
    let mut scene = Scene::new(&[("/a", "/good", "")]);
    assert_eq!(scene.get("/a").status, 200);
    wait_until("the upstream gave it a second ago", || {
        scene.configure(&[("/a", "/good", HOUR)], &all());
        scene.reloads();
        scene.get("/a").age() >= 1
    });
    assert_eq!(scene.upstream.requests_for("/good").len(), 1, "max-age holds for the value that there was");
    assert!(scene.get("/a").head.contains("cache-status: keyhatch; hit"), "and from memory");
    scene.upstream.stop();
    scene.configure(&[("/a", "/good", "max-age = \"0s\"\nstale-if-error = \"0s\"")], &all());
    scene.reloads();
    assert_eq!(scene.get("/a").status, 503, "the lease of an hour is taken back");
    scene.configure(&[("/a", "/good", HOUR)], &all());
    scene.reloads();
    assert_eq!(scene.get("/a").status, 200);
}

#[test]
fn a_changed_definition_loses_the_value_and_the_command_says_so() {
    let scene = Scene::new(&[("/a", "/good", HOUR), ("/b", "/good", HOUR)]);
    assert_eq!((scene.get("/a").status, scene.get("/b").status), (200, 200));
    scene.upstream.set_value("of-the-new-source");
    scene.configure(&[("/a", "/etag", HOUR), ("/b", "/good", HOUR)], &all());
    let told = scene.reloads();
    assert!(told.contains("the sealed value of 1 key would be lost") && told.contains("1 defined otherwise"), "{told}");
    assert_eq!(scene.get("/a").body, "{\"value\":\"of-the-new-source\"}");
    assert_eq!(scene.get("/b").body, GOOD);
}

#[test]
fn paths_of_a_key_with_parameters_stay_while_they_are_within_it() {
    let key = |matches: &str| format!("params.n = {{ matches = \"{matches}\" }}\nmax-entries = 3\n{HOUR}");
    let (wide, narrow) = (key("[a-z0-9]+"), key("[a-z]+"));
    let mut scene = Scene::new(&[("/n/{n}", "/good?n={n}", &wide)]);
    for path in ["/n/a", "/n/b", "/n/1"] {
        assert_eq!(scene.get(path).status, 200);
    }
    scene.upstream.stop();
    scene.configure(&[("/n/{n}", "/good?n={n}", &narrow)], &all());
    scene.reloads();
    assert_eq!([scene.get("/n/a").status, scene.get("/n/b").status, scene.get("/n/1").status], [200, 200, 400]);
    let one = narrow.replace("max-entries = 3", "max-entries = 1");
    scene.configure(&[("/n/{n}", "/good?n={n}", &one)], &all());
    scene.reloads();
    assert_eq!([scene.get("/n/a").status, scene.get("/n/b").status], [503, 200], "the one that was used last stays");
}

#[test]
fn a_source_file_that_was_replaced_is_opened_anew() {
    let mut scene = Scene::new(&[]);
    let sections =
        format!("[keys.\"/f\"]\nsource = {{ type = \"file\", path = \"DIR/source\", format = \"text\" }}\n{}", all());
    scene.broker.write("source", "old", 0o600);
    scene.broker.configure(&sections);
    scene.reloads();
    assert_eq!(scene.get("/f").body, "\"old\"");
    scene.broker.write("new", "new", 0o600);
    std::fs::rename(scene.broker.path("new"), scene.broker.path("source")).unwrap();
    assert!(scene.get("/f").head.contains("detail=source-replaced"));
    scene.reloads();
    wait_until("the new file is read", || scene.get("/f").body == "\"new\"");
    std::fs::rename(scene.broker.path("source"), scene.broker.path("moved-away")).unwrap();
    assert!(scene.get("/f").head.contains("detail=source-replaced"), "what a reload has opened is watched, too");
    scene.upstream.stop();
}

#[test]
fn what_is_wrong_changes_nothing_and_costs_no_value() {
    let keys = [("/a", "/good", HOUR)];
    let mut scene = Scene::new(&keys);
    assert_eq!(scene.get("/a").status, 200);
    scene.upstream.stop();
    for (sections, says) in [
        ("[keys.\"/a\"]\nsource = { type = \"http\", url = \"http://127".to_owned(), "keyhatch.toml"),
        ("[keys.\"/a\"]\n".to_owned(), "`source`"),
        (format!("{}[clients.nobody]\nuser = \"no-such-user-here\"\nkeys = [\"/**\"]\n", all()), "no-such-user-here"),
        ("[tokens]\nt = { file = \"DIR/absent\" }\n".to_owned(), "token `t`"),
        ("[tokens]\nt = { credential = \"absent\" }\n".to_owned(), "CREDENTIALS_DIRECTORY"),
    ] {
        scene.broker.configure(&sections);
        let told = scene.refuses();
        assert!(told.contains(says), "{told}");
        assert_eq!(scene.get("/a").status, 200, "{told}");
    }
    for content in ["one\ntwo\n", ""] {
        scene.configure(&keys, &client("/nothing"));
        std::fs::remove_file(scene.broker.path("token")).unwrap();
        scene.broker.write("token", content, 0o400);
        let told = scene.refuses();
        assert!(told.contains("token `t`"), "{told}");
        assert_eq!(scene.get("/a").status, 200, "{told}");
    }
    let refused =
        || scene.broker.log().matches("the configuration did not pass; `keyhatch reload` has told why").count();
    // But for the credential, which the broker alone knows not to be there.
    wait_until("the log says why of each", || refused() == 6);
    assert!(!scene.broker.log().contains("ended before"), "{}", scene.broker.log());
    assert!(!scene.broker.log().contains("reloaded"), "{}", scene.broker.log());
}

#[test]
fn what_only_a_start_can_change_needs_a_restart() {
    let scene = Scene::new(&[("/a", "/good", HOUR)]);
    assert_eq!(scene.get("/a").status, 200);
    let config = std::fs::read_to_string(scene.broker.path("keyhatch.toml")).unwrap();
    let replaced = |from: &str, to: &str| {
        assert!(config.contains(from), "{from}");
        config.replacen(from, to, 1)
    };
    let changed = [
        ("server.socket ", replaced("keyhatch.sock", "other.sock")),
        ("server.socket-mode", replaced("[server]\n", "[server]\nsocket-mode = \"0600\"\n")),
        ("server.admin-socket", replaced("admin.sock", "other.sock")),
        ("server.admin-group", replaced("[server]\n", "[server]\nadmin-group = 77\n")),
        ("server.parent-user", replaced("parent-user = ", "parent-user = 4")),
        ("server.worker-user", replaced("worker-user = ", "worker-user = 4")),
        ("server.sandbox", replaced("[server]\n", "[server]\nsandbox = \"best-effort\"\n")),
        ("cache.directory", replaced("/cache\"", "/elsewhere\"")),
        ("cache.seal-key", replaced("/seal.key\"", "/other.key\"")),
        ("limits.connections", format!("{config}[limits]\nconnections = 2000\n")),
        ("limits.value-size", format!("{config}[limits]\nvalue-size = \"2MiB\"\n")),
        (
            "TCP port 1 of http://127.0.0.1:1, of key `/a`, is a new one",
            replaced(&format!(":{}/", scene.upstream.port("plain")), ":1/"),
        ),
    ];
    let check = || {
        let mut check = std::process::Command::new(env!("CARGO_BIN_EXE_keyhatch"));
        let done = check.arg("check").arg(scene.broker.path("keyhatch.toml")).output().unwrap();
        assert_eq!(done.status.code(), Some(0), "{}", scene::told(&done));
        scene::told(&done)
    };
    for (setting, text) in changed {
        scene.broker.write("keyhatch.toml", &text.replace("keys = [\"/**\"]", "keys = [\"/nothing\"]"), 0o600);
        let told = scene.refuses();
        assert!(told.contains("needs a restart") && told.contains(setting), "{setting}: {told}");
        assert_eq!(scene.get("/a").status, 200, "{setting}: nothing of it is applied");
        // At the socket of that name nobody is to be asked yet, and the cache directory is not that user's.
        if !["server.admin-socket", "server.parent-user"].contains(&setting) {
            let said = check();
            assert!(
                said.contains("warning: the broker that runs will refuse a reload: this needs a restart: "),
                "{said}"
            );
            assert!(said.contains(setting), "{setting}: {said}");
        }
    }
    scene.broker.write(
        "keyhatch.toml",
        &format!("{config}[limits]\nmemory = \"32MiB\"\nidle-timeout = \"1s\"\n"),
        0o600,
    );
    assert!(!check().contains("restart"));
    scene.reloads();
}

#[test]
fn sighup_is_ignored_with_a_line_that_names_reload() {
    let scene = Scene::new(&[("/a", "/good", HOUR)]);
    send("HUP", scene.broker.parent());
    wait_until("the log says so", || scene.broker.log().contains("SIGHUP is ignored: `keyhatch reload`"));
    assert_eq!(scene.get("/a").status, 200);
}

#[test]
fn a_key_with_refresh_is_fetched_as_the_newest_setting_says() {
    let scene = Scene::new(&[("/a", "/good", "refresh = \"1h\"")]);
    wait_until("at start", || scene.upstream.requests_for("/good").len() == 1);
    scene.configure(&[("/a", "/good", "refresh = \"100ms\""), ("/b", "/etag", "refresh = \"1h\"")], &all());
    scene.reloads();
    wait_until("often", || scene.upstream.requests_for("/good").len() > 3);
    wait_until("a new one at once", || scene.upstream.requests_for("/etag").len() == 1);
    scene.configure(&[], &all());
    scene.reloads();
    let asked = scene.upstream.requests_for("/good").len();
    std::thread::park_timeout(Duration::from_millis(500));
    assert!(scene.upstream.requests_for("/good").len() <= asked + 1, "nobody wants it any more");
}

#[test]
fn what_a_reload_brings_is_not_waited_for_by_back_off() {
    let file = "[keys.\"/f\"]\nsource = { type = \"file\", path = \"DIR/value\", format = \"text\" }\n";
    let text = |token: &str| {
        let of_token = file.replace("/f\"", "/t\"").replace(
            "type = \"file\", path = \"DIR/value\", format = \"text\"",
            &format!("type = \"http\", url = \"http://127.0.0.1:PORT/good\", field = \"value\", auth = {{ type = \"bearer\", token = \"{token}\" }}, allow-plaintext = true"),
        );
        format!("[tokens]\nlate = {{ file = \"DIR/late\" }}\n{file}{of_token}{}", all())
    };
    let mut upstream = None;
    let mut broker = Broker::prepared(|directory| {
        let started = Process::start(directory);
        let text = text("late").replace("PORT", &started.port("plain").to_string());
        upstream = Some(started);
        text
    });
    broker.write("value", "first", 0o400);
    broker.start();
    let scene = Scene { upstream: upstream.unwrap(), broker };
    let backs_off = |path: &str, reason: &str| {
        wait_until("it waits for longer than a test does", || {
            let _ = scene.get(path);
            let status = scene.status();
            let line = status["keys"].as_array().unwrap().iter().find(|line| line["key"] == path).unwrap().clone();
            line["last-outcome"]["reason"] == reason && line["next-attempt-in"].as_u64().is_some_and(|wait| wait >= 3)
        });
    };
    assert_eq!(scene.get("/f").body, "\"first\"");
    scene.broker.write("new", "second", 0o400);
    std::fs::rename(scene.broker.path("new"), scene.broker.path("value")).unwrap();
    backs_off("/f", "source-replaced");
    backs_off("/t", "token-missing");
    scene.broker.write("late", "any-token", 0o400);
    scene.reloads();
    assert_eq!(scene.get("/f").body, "\"second\"", "at once");
    assert_eq!(scene.get("/t").status, 200, "at once");
}
