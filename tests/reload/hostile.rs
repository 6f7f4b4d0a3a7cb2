//! What else comes by the operator's socket, and from whom.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};
use std::time::Duration;

use keyhatch::parent::reload::{MAX_CONFIG, MAX_OFFER, Offer};
use keyhatch::sys::{memfd, pass};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::HOUR;
use crate::scene::{Scene, all, me, told};
use crate::support::{GRANTED, STRANGER, as_uid, wait_until};

/// A connection that is the reloader's, after its greeting.
fn greeted(scene: &Scene) -> UnixStream {
    let mut stream = UnixStream::connect(scene.broker.path("admin.sock")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let request = "POST /reload HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: keyhatch-reload\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"}\n") {
        let mut byte = [0];
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&seen));
        seen.push(byte[0]);
    }
    assert!(seen.starts_with(b"HTTP/1.1 101 "));
    stream
}

fn rest(mut stream: UnixStream) -> String {
    let mut text = String::new();
    // A peer that is cut off in the middle of what it sends sees a reset.
    let _ = stream.read_to_string(&mut text);
    text
}

fn frame(offer: &Offer) -> Vec<u8> {
    let offer = postcard::to_stdvec(offer).unwrap();
    [&u32::try_from(offer.len()).unwrap().to_le_bytes()[..], &offer].concat()
}

fn version() -> String {
    env!("CARGO_PKG_VERSION").to_owned()
}

#[test]
fn frames_that_are_no_use_cost_the_connection_and_nothing_else() {
    let scene = Scene::new(&[("/a", "/good", HOUR)]);
    assert_eq!(scene.get("/a").status, 200);
    let empty = memfd::sealed(b"").unwrap();
    let offer = |version: String, len, descriptors| frame(&Offer { version, len, descriptors });
    let too_long = [&u32::try_from(MAX_OFFER + 1).unwrap().to_le_bytes()[..], &vec![b'x'; MAX_OFFER + 1]].concat();
    let frames: [(Vec<u8>, usize, &str); 9] = [
        (b"\x05\0\0\0".to_vec(), 0, "ended before"),
        (b"\xff\xff\xff\xff garbage".to_vec(), 0, "longest legal"),
        (too_long, 0, "longest legal"),
        (b"\x05\0\0\0\xff\xff\xff\xff\xff".to_vec(), 0, "does not decode"),
        (offer(version(), 0, 0), 0, "without its configuration"),
        (offer(version(), 0, 0), 2, "without its configuration"),
        (offer("0.0.0-other".into(), 0, 0), 1, "needs a restart"),
        (offer(version(), u64::MAX, 0), 1, "does not decode"),
        (offer(version(), 0, u32::MAX), 1, "needs a restart"),
    ];
    for (bytes, fds, says) in frames {
        let stream = greeted(&scene);
        let beside = vec![empty.as_fd(); fds];
        pass::send(stream.as_fd(), &bytes, &beside).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let told = rest(stream);
        assert!(told.contains("\"step\":\"refused\"") && told.contains(says), "{says}: {told}");
    }
    // More descriptors than were announced, and more than there is room for.
    for many in [3, 70] {
        let stream = greeted(&scene);
        pass::send(stream.as_fd(), &offer(version(), 0, 1), &[empty.as_fd()]).unwrap();
        pass::send(stream.as_fd(), b".", &vec![empty.as_fd(); many]).unwrap();
        assert!(rest(stream).contains("\"step\":\"refused\""));
    }
    // A payload that can still be changed, is not as long as was said, or is longer than any.
    let unsealed = memfd_create(c"planted", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap();
    std::fs::File::from(unsealed.try_clone().unwrap()).write_all(b"1234").unwrap();
    let sealed = memfd::sealed(b"1234").unwrap();
    let longest = usize::try_from(MAX_CONFIG).unwrap();
    let longer = memfd::sealed(&vec![0; longest + 1]).unwrap();
    for (payload, length) in [(&unsealed, 4), (&sealed, 3), (&sealed, 5), (&longer, MAX_CONFIG + 1)] {
        let stream = greeted(&scene);
        pass::send(stream.as_fd(), &offer(version(), length, 0), &[payload.as_fd()]).unwrap();
        let told = rest(stream);
        assert!(told.contains("not sealed, or not of the size announced"), "{length}: {told}");
    }
    assert_eq!(scene.get("/a").status, 200);
    assert!(scene.reloads().contains("configuration 2 holds"), "and the next one is as good as ever");
}

#[test]
fn one_reload_waits_for_the_other_and_many_are_told_to_come_later() {
    let scene = Scene::new(&[("/a", "/good", HOUR)]);
    let first = greeted(&scene);
    let mut second = scene.command(false).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let path = scene.broker.path("admin.sock").display().to_string();
    // The listener, and both connections.
    let connected = || std::fs::read_to_string("/proc/net/unix").unwrap().matches(&path).count() >= 3;
    wait_until("the second one is connected", connected);
    assert!(second.try_wait().unwrap().is_none());
    drop(first);
    assert!(second.wait().unwrap().success(), "{}", scene.broker.log());

    let first = greeted(&scene);
    let connect = || {
        let mut stream = UnixStream::connect(scene.broker.path("admin.sock")).unwrap();
        let request = "POST /reload HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: keyhatch-reload\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        stream
    };
    let waiting: Vec<UnixStream> = (0..16).map(|_| connect()).collect();
    let done = scene.reload();
    assert!(done.status.code() == Some(69) && told(&done).contains("try again later"), "{}", told(&done));
    drop((first, waiting));
    wait_until("all have gone", || scene.reload().status.success());
}

#[test]
fn the_request_is_answered_as_http_does() {
    let scene = Scene::new(&[]);
    let ask = |head: &str| {
        let mut stream = UnixStream::connect(scene.broker.path("admin.sock")).unwrap();
        stream.write_all(format!("{head} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).unwrap();
        rest(stream)
    };
    assert!(ask("PUT /reload").starts_with("HTTP/1.1 405 "));
    assert!(ask("GET /reload").starts_with("HTTP/1.1 200 "), "what it was started with");
    assert!(ask("POST /reload").starts_with("HTTP/1.1 426 "));
    assert!(ask("GET /other").contains("/reload"));
}

#[test]
fn no_broker_is_69_and_what_is_none_is_told() {
    let mut scene = Scene::new(&[]);
    assert_eq!(scene.broker.end("TERM"), Some(0));
    let done = scene.reload();
    assert_eq!(done.status.code(), Some(69), "{}", told(&done));
}

#[test]
#[ignore = "needs root: asks as others"]
fn only_root_may_reload_what_root_has_started() {
    let group = 61_020;
    let mut scene = Scene::new(&[("/a", "/good", HOUR)]);
    assert_eq!(scene.broker.end("TERM"), Some(0));
    let config = std::fs::read_to_string(scene.broker.path("keyhatch.toml")).unwrap();
    scene.broker.write(
        "keyhatch.toml",
        &config.replacen("[server]\n", &format!("[server]\nadmin-group = {group}\n"), 1),
        0o600,
    );
    scene.broker.start();
    let asks = |command: &[&str], uid: u32, groups: &str| {
        let mut asks = Command::new("setpriv");
        asks.args([format!("--reuid={uid}"), format!("--regid={uid}"), format!("--groups={groups}")]);
        asks.arg(env!("CARGO_BIN_EXE_keyhatch"))
            .args(command)
            .arg("--config")
            .arg(scene.broker.path("keyhatch.toml"))
            .arg("--admin-socket")
            .arg(scene.broker.path("admin.sock"));
        asks.output().unwrap()
    };
    assert_eq!(asks(&["status"], GRANTED, &group.to_string()).status.code(), Some(0), "the group may look");
    let denied = asks(&["reload"], GRANTED, &group.to_string());
    assert!(denied.status.code() == Some(77) && told(&denied).contains("only root"), "{}", told(&denied));
    let stranger = asks(&["reload"], STRANGER, &STRANGER.to_string());
    assert_eq!(stranger.status.code(), Some(77), "{}", told(&stranger));
    // The user that the parent has dropped to is nobody who may change anything.
    let own = asks(&["reload"], crate::support::PARENT, &group.to_string());
    assert_eq!(own.status.code(), Some(77), "{}", told(&own));
    assert_eq!(scene.reload().status.code(), Some(0));

    // A member who only checks a file does not stand in the log as one who wanted more.
    let looks = scene.broker.path("looks");
    std::fs::create_dir(&looks).unwrap();
    let text = "[server]\nadmin-socket = \"DIR/admin.sock\"\n[cache]\ndirectory = \"DIR/looks/cache\"\n\
                seal-key = { file = \"DIR/looks/key\" }\n";
    let text = text.replace("DIR", &scene.broker.path("").display().to_string());
    scene.broker.write("looks/keyhatch.toml", &text.replace("//", "/"), 0o644);
    std::os::unix::fs::chown(&looks, Some(GRANTED), Some(GRANTED)).unwrap();
    let denials = scene.broker.log().matches("denied on the admin socket").count();
    assert!(denials > 0, "{}", scene.broker.log());
    let mut check = Command::new("setpriv");
    check.args([format!("--reuid={GRANTED}"), format!("--regid={GRANTED}"), format!("--groups={group}")]);
    let done =
        check.arg(env!("CARGO_BIN_EXE_keyhatch")).arg("check").arg(looks.join("keyhatch.toml")).output().unwrap();
    assert_eq!(done.status.code(), Some(0), "{}", told(&done));
    let denied = asks(&["reload"], GRANTED, &group.to_string());
    assert_eq!(denied.status.code(), Some(77), "{}", told(&denied));
    wait_until("that one is in the log", || scene.broker.log().matches("denied on the admin socket").count() > denials);
    assert_eq!(scene.broker.log().matches("denied on the admin socket").count(), denials + 1, "{}", scene.broker.log());
}

#[test]
#[ignore = "needs root: starts a broker as another user"]
fn root_hands_nothing_to_a_broker_that_others_have_started() {
    let mut scene = Scene::new(&[]);
    assert_eq!(scene.broker.end("TERM"), Some(0));
    let owned = Command::new("chown").arg("-R").arg(GRANTED.to_string()).arg(scene.broker.directory.path()).status();
    assert!(owned.unwrap().success());
    scene.broker.start_by(as_uid(GRANTED, env!("CARGO_BIN_EXE_keyhatch")), &[]);
    let done = scene.reload();
    assert!(done.status.code() == Some(77) && told(&done).contains(&format!("uid {GRANTED}")), "{}", told(&done));
    let mut own = scene.command(false);
    own.uid(GRANTED).gid(GRANTED);
    let done = own.output().unwrap();
    assert_eq!(done.status.code(), Some(0), "{}", told(&done));
    scene.configure(&[], &all());
}

/// What a command makes of a broker that says this to the first who connects.
fn told_by_a_false_broker(command: &[&str], says: &str) -> Output {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("admin.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let says = says.to_owned();
    let broker = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 4096];
        assert!(stream.read(&mut request).unwrap() > 0);
        stream.write_all(says.as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        // Until the command is done.
        rest(stream)
    });
    let mut asks = Command::new(env!("CARGO_BIN_EXE_keyhatch"));
    let done = asks.args(command).arg("--admin-socket").arg(&path).output().unwrap();
    broker.join().unwrap();
    done
}

#[test]
fn a_broker_that_was_taken_over_says_nothing_that_a_terminal_obeys() {
    let evil = "x\\u001b]0;owned\\u0007\\u001b[2J\\u009b2J\u{9b}2J\u{7f}\\nkeyhatch: all is well";
    let steps = format!(
        "HTTP/1.1 101 x\r\n\r\n{{\"step\":\"token\",\"token\":\"{evil}\",\"outcome\":\"refused\",\"reason\":\"{evil}\"}}\n\
         {{\"step\":\"done\",\"refused-tokens\":0}}\n"
    );
    let greeting = format!(
        "HTTP/1.1 101 x\r\n\r\n{{\"version\":\"{}\",\"config\":\"/{evil}\",\"fixed\":{{\"settings\":[[\"{evil}\",\"{evil}\"]],\
         \"units\":true,\"ports\":[],\"commands\":[]}}}}\n",
        version()
    );
    let with_body = |body: &str| {
        format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let status = with_body(&format!(
        "{{\"version\":\"{evil}\",\"uptime\":1,\"keys\":[{{\"key\":\"{evil}\",\"state\":\"{evil}\",\"age\":null}}],\"templates\":[],\
         \"origins\":[],\"tokens\":[{{\"token\":\"{evil}\",\"state\":\"{evil}\",\"ago\":null}}],\
         \"drill\":{{\"covers\":\"{evil}\",\"fail\":\"{evil}\",\"ends-in\":1}},\"layers\":[]}}"
    ));
    let purged = with_body(&format!("{{\"keys\":[\"{evil}\"],\"had-a-value\":1}}"));
    let metrics = with_body("# \x1b[2J\u{9b}2J\n");
    let started = with_body(&format!("{{\"config\":\"/{evil}\"}}"));
    let cases: [(&[&str], &str); 10] = [
        (&["reload"], &steps),
        (&["reload", "--json"], &steps),
        (&["reload"], &greeting),
        (&["status"], &status),
        (&["status", "--json"], &status),
        (&["top"], &status),
        (&["purge", "/a"], &purged),
        (&["purge", "/a", "--json"], &purged),
        (&["purge", "/a", "--config", "/own.toml"], &started),
        (&["metrics"], &metrics),
    ];
    for (command, says) in cases {
        let said = told(&told_by_a_false_broker(command, says));
        assert!(!said.is_empty() && !said.chars().any(|c| c.is_control() && c != '\n'), "{command:?}: {said:?}");
        assert!(!said.lines().any(|line| line.starts_with("keyhatch: all is well")), "{command:?}: {said:?}");
        let wanted = if command.contains(&"metrics") { "# \\u{1b}[2J" } else { "owned" };
        assert!(said.contains(wanted), "{command:?}: {said:?}");
        if command.contains(&"--json") {
            said.lines().for_each(|line| drop(serde_json::from_str::<serde_json::Value>(line).unwrap()));
        }
    }
}

/// The greeting of a broker that says that it was started with this file.
fn greeting(config: &std::path::Path) -> String {
    let greeting = serde_json::json!({ "version": version(), "config": config, "fixed": fixed(config) });
    format!("HTTP/1.1 101 x\r\n\r\n{greeting}\n")
}

/// What it would say in earnest, if the file can be read.
fn fixed(config: &std::path::Path) -> serde_json::Value {
    let trust = keyhatch::config::Trust::Caller(me().into());
    match keyhatch::config::load(config, trust) {
        Ok(config) => serde_json::to_value(keyhatch::config::Fixed::of(&config, config.acl.has_units())).unwrap(),
        Err(_) => serde_json::json!({ "settings": [], "units": true, "ports": [], "commands": [] }),
    }
}

#[test]
fn a_broker_that_was_taken_over_does_not_choose_what_is_read() {
    let scene = Scene::new(&[("/a", "/good", "")]);
    let private = scene.broker.path("private");
    scene.broker.write("private", "PRIVATE-LINE\n", 0o600);
    let own = scene.broker.path("keyhatch.toml");
    let named = ["reload", "--config", own.to_str().unwrap()];

    let done = told_by_a_false_broker(&named, &greeting(&private));
    let said = told(&done);
    assert!(done.status.code() == Some(78) && said.contains("was started with --config"), "{said}");
    assert!(!said.contains("PRIVATE-LINE"), "{said}");

    let done = told_by_a_false_broker(&named, &greeting(&own));
    let said = told(&done);
    assert!(done.status.code() == Some(78) && said.contains("its broker is at"), "nothing is handed over: {said}");
    scene.reloads();
}
