//! Sources of type `command`, with programs that behave and programs that do not: what a peer gets, and that nothing of a run
//! is left.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "command/scene.rs"]
mod scene;
mod support;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use scene::{Key, Scene, configuration, prepared, serving};
use support::{GRANTED, TOKEN, wait_until};

const SHORT: &str = "timeout = \"1s\"\nfetch-timeout = \"1s\"";

#[test]
#[ignore = "needs root: runs programs as another user"]
fn what_a_program_writes_is_the_value() {
    let mut scene = prepared(&[
        ("text", "echo hello", "", ""),
        ("one-line-end-goes", "printf 'a\\n\\n'", "", ""),
        ("json", "echo '{\"a\": {\"b\": [1, 2.50]}}'", "format = \"json\", pointer = \"/a/b/1\"", ""),
        ("env", "echo 'A=1'; echo 'B=2'", "format = \"env\", field = \"B\"", ""),
        ("much", "head -c 200000 /dev/zero | tr '\\0' x", "", ""),
        ("arguments", "printf '<%s>' \"$@\"", "", ""),
        ("given", "cat <&3", "token = \"t\"", ""),
        ("opened-by-name", "test \"$KEYHATCH_TOKEN_FD\" = 3 && cat /dev/fd/3 > /dev/stdout", "token = \"t\"", ""),
        ("long", "sleep 0.3; wc -c <&3", "token = \"long-token\"", ""),
        ("on-stdin", "cat; cat /dev/stdin", "token = \"t\", token-on = \"stdin\"", ""),
        ("not-wanted", "exec 3<&-; echo value", "token = \"t\"", ""),
        ("nothing-on-stdin", "cat; echo done", "", ""),
        ("pipeline", "seq 1 100 | sort -n | tail -n 1", "", ""),
    ]);
    scene.broker.write("long-token", &"t".repeat(64 << 10), 0o400);
    scene.broker.start();
    assert_eq!(scene.good("/long"), (64 << 10).to_string());
    assert_eq!(scene.good("/text"), "hello");
    assert_eq!(scene.good("/one-line-end-goes"), "a\n");
    assert_eq!(scene.good("/json"), "2.50");
    assert_eq!(scene.good("/env"), "2");
    assert_eq!(scene.good("/much"), "x".repeat(200_000));
    assert_eq!(scene.good("/arguments"), "<one><two words>");
    for key in ["/given", "/opened-by-name", "/on-stdin"] {
        assert_eq!(scene.good(key), TOKEN, "{key}");
    }
    assert_eq!(scene.good("/not-wanted"), "value");
    assert_eq!(scene.good("/nothing-on-stdin"), "done");
    assert_eq!(scene.good("/pipeline"), "100");
    scene.nothing_is_left("them");
}

#[test]
#[ignore = "needs root: runs programs as another user"]
fn the_script_of_the_documentation_hands_the_token_on() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/upstreams.md")).unwrap();
    let script = page.split("```sh\n").find(|block| block.contains("exec op read")).unwrap();
    let script = script.split("```").next().unwrap();
    let mut scene = prepared(&[("op", script, "token = \"t\", environment = { PATH = \"DIR:/usr/bin:/bin\" }", "")]);
    scene.write("op", "echo \"$OP_SERVICE_ACCOUNT_TOKEN: $*\"; ls -m /proc/$$/fd");
    scene.broker.start();
    assert_eq!(scene.good("/op"), format!("{TOKEN}: read --no-newline one\n0, 1, 10, 2, 3"));
}

#[test]
#[ignore = "needs root: runs programs as another user"]
fn a_program_can_be_one_of_several_sources() {
    let mut scene = prepared(&[("a", "echo one", "", ""), ("b", "exit 3", "", "")]);
    let part = |name: &str| format!("{{ type = \"command\", run = [\"DIR/run-{name}\"], user = {} }}", scene.user);
    let several = format!(
        "[keys.\"/both\"]\nsources = {{ a = {}, again = {} }}\n[keys.\"/half\"]\nsources = {{ a = {}, b = {} }}\n\
         [clients.all]\nuser = {GRANTED}\nkeys = [\"/**\"]\n",
        part("a"),
        part("a"),
        part("a"),
        part("b")
    );
    scene.broker.configure(&several);
    scene.broker.start();
    let answer = scene.broker.curl(GRANTED, "/both", &[]);
    assert!(answer.ends_with("{\"a\":\"one\",\"again\":\"one\"}"), "{answer}");
    scene.fails("/half", 503, "exit-code");
    scene.nothing_is_left("them");
}

#[test]
#[ignore = "needs root: runs programs as another user"]
fn what_a_program_does_wrong_is_told_apart() {
    let scene = serving(&[
        ("failing", "echo half-a-secret; echo planted-complaint >&2; exit 3", "", ""),
        ("silent", "true", "", ""),
        ("complaining", "echo planted-complaint >&2", "", ""),
        ("only-a-line-end", "echo", "", ""),
        ("killed", "echo half-a-secret; kill -SEGV $$", "", ""),
        ("absent", "exit 2", "exit-codes = { 2 = \"gone\", 4 = \"token-refused\" }", ""),
        ("refused", "exit 4", "exit-codes = { 2 = \"gone\", 4 = \"token-refused\" }, token = \"t\"", ""),
        ("other", "exit 5", "exit-codes = { 2 = \"gone\", 4 = \"token-refused\" }", ""),
        ("binary", "printf '\\377\\376'", "", ""),
        ("no-json", "echo '{'", "format = \"json\"", ""),
        ("no-field", "echo '{}'", "format = \"json\", field = \"a\"", ""),
        ("no-interpreter", "#!/no/such/shell", "", ""),
        ("no-directory", "echo x", "directory = \"/no/such/directory\"", ""),
        ("no-user", "echo x", "user = \"no-such-user-here\"", ""),
        ("no-token", "echo x", "token = \"absent\"", ""),
        ("flood", "head -c 1000000000 /dev/zero; sleep 600", "", ""),
    ]);
    scene.fails("/failing", 503, "exit-code");
    scene.fails("/silent", 503, "empty-body");
    scene.fails("/complaining", 503, "empty-body");
    scene.fails("/only-a-line-end", 503, "empty-body");
    scene.fails("/killed", 503, "killed");
    scene.fails("/absent", 502, "exit-code");
    scene.fails("/refused", 502, "exit-code");
    scene.fails("/other", 503, "exit-code");
    scene.fails("/binary", 503, "invalid-body");
    scene.fails("/no-json", 503, "invalid-body");
    scene.fails("/no-field", 502, "field-missing");
    for key in ["/no-interpreter", "/no-directory", "/no-user"] {
        scene.fails(key, 502, "not-started");
    }
    scene.fails("/no-token", 503, "token-missing");
    scene.fails("/flood", 502, "document-too-large");
    scene.nothing_is_left("them");
    let (_, _, body) = scene.ask("/absent");
    assert!(body.contains("\"code\":\"gone\"") && body.contains("exit code 2"), "{body}");
    wait_until("the log tells what there was to read", || scene.broker.log().contains("stderr_bytes=18"));
    for planted in ["planted-complaint", "half-a-secret"] {
        assert!(!scene.broker.log().contains(planted), "{}", scene.broker.log());
    }
    assert!(
        scene.broker.log().contains("No such file or directory"),
        "why nothing was started: {}",
        scene.broker.log()
    );
}

/// What a program can do to stay, and whether it gave a value before that.
const STAYING: &[(&str, &str, bool)] = &[
    ("child", "sleep 600 & echo value", true),
    ("holder", "sh -c 'sleep 600; echo more' & echo value", true),
    ("session", "setsid sh -c 'sleep 600' & echo value", true),
    (
        "daemon",
        "#!/usr/bin/perl\nuse POSIX;\nif (fork == 0) { setsid; if (fork == 0) { $SIG{$_} = 'IGNORE' for keys %SIG; sleep 600 } exit } wait; print \"value\\n\";",
        true,
    ),
    ("deaf", "trap '' TERM INT HUP QUIT; echo value; while :; do sleep 1; done", false),
    ("mute", "echo value; exec >&- 2>&-; exec sleep 600", false),
    ("stopped", "echo value; kill -STOP $$", false),
    ("killer", "kill -KILL -1; sleep 600 & echo value", true),
    ("writer", "while :; do echo more >&2; done", false),
];

#[test]
#[ignore = "needs root: runs programs as another user"]
fn nothing_of_a_run_is_left_whatever_it_does_to_stay() {
    let keys: Vec<Key<'_>> = STAYING.iter().map(|(name, script, _)| (*name, *script, "", SHORT)).collect();
    let scene = serving(&keys);
    for (name, _, gives) in STAYING {
        let began = Instant::now();
        let key = format!("/{name}");
        if *gives {
            assert_eq!(scene.good(&key), "value", "{name}");
        } else {
            scene.fails(&key, 503, "failover-timeout");
        }
        scene.nothing_is_left(name);
        assert!(began.elapsed() < Duration::from_secs(10), "{name} took {:?}", began.elapsed());
    }
    // The runner has seen all that, and is as it was.
    assert_eq!(scene.good("/child"), "value");
}

#[test]
#[ignore = "needs root: runs programs as another user"]
fn a_program_that_hangs_before_it_is_executed_is_ended_as_well() {
    let scene = serving(&[("held", "echo value", "", SHORT)]);
    // Whoever opens it now waits until the lease is given back, or for 45 s (fcntl(2)); an exec opens it as the program's user.
    let lease = "alarm 60; $SIG{IO} = 'IGNORE'; open F, '<', $ARGV[0]; fcntl(F, 1024, 1) or die $!; $| = 1; print \"held\\n\"; sleep";
    let mut holder = Command::new("perl");
    let mut holder =
        holder.args(["-e", lease]).arg(scene.broker.path("run-held")).stdout(Stdio::piped()).spawn().unwrap();
    let mut told = String::new();
    BufReader::new(holder.stdout.take().unwrap()).read_line(&mut told).unwrap();
    assert_eq!(told, "held\n");
    let began = Instant::now();
    scene.fails("/held", 503, "failover-timeout");
    scene.nothing_is_left("a program that never was");
    assert!(began.elapsed() < Duration::from_secs(20), "by the deadline, and not by the end of the lease");
    holder.kill().unwrap();
    holder.wait().unwrap();
    wait_until("it runs again", || scene.ask("/held").0 == 200);
}

#[test]
#[ignore = "needs root: runs programs as another user"]
fn no_more_run_at_a_time_than_may_and_the_others_wait() {
    let names: Vec<String> = (0..20).map(|n| format!("k{n}")).collect();
    let script = "cd \"$(dirname \"$0\")/scratch\" && mkdir $$ && ls | wc -l && sleep 0.3 && rmdir $$";
    let keys: Vec<Key<'_>> = names.iter().map(|name| (name.as_str(), script, "", "timeout = \"20s\"")).collect();
    let mut scene = prepared(&keys);
    scene.scratch();
    scene.broker.start();
    let count = |name: &str| scene.good(&format!("/{name}")).trim().parse::<u32>().unwrap();
    let most = std::thread::scope(|scope| {
        let asked: Vec<_> = names.iter().map(|name| scope.spawn(|| count(name))).collect();
        asked.into_iter().map(|asked| asked.join().unwrap()).max()
    });
    assert!((2..=8).contains(&most.unwrap()), "{most:?} at a time");
}

#[test]
#[ignore = "needs root: runs programs as another user"]
fn a_peer_that_leaves_and_a_second_one_cost_one_run() {
    let script = "cd \"$(dirname \"$0\")/scratch\" && mktemp XXXXXX && sleep 0.5";
    let mut scene = prepared(&[("slow", script, "", "max-age = \"1h\"")]);
    let scratch = scene.scratch();
    scene.broker.start();
    scene.broker.curl(GRANTED, "/slow", &["--max-time", "0.1"]);
    let values =
        std::thread::scope(|scope| [(); 3].map(|()| scope.spawn(|| scene.good("/slow"))).map(|a| a.join().unwrap()));
    assert!(values.iter().all(|value| *value == values[0]), "{values:?}");
    assert_eq!(std::fs::read_dir(scratch).unwrap().count(), 1);
}

#[test]
#[ignore = "needs root: runs programs as another user"]
fn check_says_what_is_wrong_with_a_program_and_serve_does_not_start_with_one_that_others_can_change() {
    let key = |more| ("a", "echo x", more, "");
    let scene = prepared(&[key("")]);
    assert_eq!(scene.keyhatch(&["check"]).0, Some(0));

    let program = scene.broker.path("run-a");
    let told = |scene: &Scene, says: &str| {
        let (code, said) = scene.keyhatch(&["check"]);
        assert!(code == Some(78) && said.contains(says), "{says} expected: {said}");
    };
    scene.broker.write("run-a", "#!/bin/sh\n", 0o644);
    told(&scene, &format!("run-a: it is not executable. Mend it with: chmod a+x {}", program.display()));
    scene.broker.write("run-a", "#!/bin/sh\n", 0o777);
    told(&scene, "can be written by others (mode 0777)");
    assert_eq!(scene.broker.refused().0, Some(78));
    scene.broker.write("run-a", "#!/bin/sh\n", 0o755);
    std::os::unix::fs::chown(&program, Some(scene.user), None).unwrap();
    told(&scene, &format!("belongs to uid {}", scene.user));
    assert_eq!(scene.broker.refused().0, Some(78));
    std::fs::remove_file(&program).unwrap();
    told(&scene, "run-a: No such file or directory");
    std::fs::create_dir(&program).unwrap();
    told(&scene, "it is a directory");

    let mut scene = prepared(&[("a", "echo x", "user = \"no-such-user-here\"", "")]);
    told(&scene, "key `/a`: there is no user `no-such-user-here` to run its command; make it with: useradd --system ");
    scene.broker.start();
    assert!(scene.broker.curl(GRANTED, "/-/health", &[]).contains("\"degraded\""));
    scene.fails("/a", 502, "not-started");
    assert_eq!(scene.processes(), Vec::<u32>::new());
}

#[test]
#[ignore = "needs root: reloads as root"]
fn a_new_command_needs_a_restart_and_what_the_parent_does_with_its_output_does_not() {
    let scene = serving(&[("a", "echo '{\"x\": \"one\"}'", "", "")]);
    assert_eq!(scene.good("/a"), "{\"x\": \"one\"}");
    let admin = scene.broker.path("admin.sock");
    let reload = || {
        let mut reload = Command::new(env!("CARGO_BIN_EXE_keyhatch"));
        reload.args(["reload", "--config"]).arg(scene.broker.path("keyhatch.toml")).arg("--admin-socket").arg(&admin);
        let done = reload.output().unwrap();
        (done.status.code(), String::from_utf8([done.stdout, done.stderr].concat()).unwrap())
    };
    let configure = |keys: &[Key<'_>]| {
        scene.broker.configure(&configuration(scene.user, keys));
    };
    scene.write("run-b", "echo b");
    configure(&[("a", "", "", ""), ("b", "", "", "")]);
    let (code, said) = reload();
    let program = scene.broker.path("run-b").display().to_string();
    let told = format!("the source of type `command` that runs `{program} one two words` is a new one, or has changed");
    assert!(code == Some(78) && said.contains(&told), "{said}");
    for changed in ["environment = { A = \"b\" }", "user = 61021", "directory = \"/tmp\"", "token = \"t\""] {
        configure(&[("a", "", changed, "")]);
        let (code, said) = reload();
        assert!(code == Some(78) && said.contains("is a new one, or has changed"), "{changed}: {said}");
    }
    configure(&[("a", "", "format = \"json\", field = \"x\", exit-codes = { 2 = \"gone\" }", "")]);
    let (code, said) = reload();
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(scene.good("/a"), "one");
    configure(&[]);
    assert_eq!(reload().0, Some(0));
    assert_eq!(scene.ask("/a").0, 403);
    configure(&[("a", "", "", "")]);
    assert_eq!(reload().0, Some(0), "what was listed at start may come back");
    assert_eq!(scene.good("/a"), "{\"x\": \"one\"}");
}
