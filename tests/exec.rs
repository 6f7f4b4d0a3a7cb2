//! `keyhatch exec` from outside: what the command is given, how it is treated, and how it ends.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Output, Stdio};

use support::process::Process;
use support::serving::{Key, at, serving};
use support::{Broker, GRANTED, as_uid, send, wait_until};

const GOOD: &str = "good-value";

/// A command as the granted user, in the broker's directory.
fn exec(broker: &Broker, options: &[&str], command: &[&str]) -> Command {
    let mut exec = as_uid(GRANTED, env!("CARGO_BIN_EXE_keyhatch"));
    exec.args(["exec", "--socket"]).arg(broker.path("keyhatch.sock")).args(options).arg("--").args(command);
    exec.current_dir(broker.path("work")).stdin(Stdio::null()).stdout(Stdio::null());
    exec
}

/// One that goes on; it is gone after the test whatever that comes to.
struct Running(Child);

impl Running {
    fn start(exec: &mut Command) -> Self {
        Self(exec.spawn().unwrap())
    }

    fn ended(&mut self) -> Option<i32> {
        let mut code = None;
        wait_until("the command ends", || {
            let ended = self.0.try_wait().unwrap();
            code = ended.and_then(|status| status.code());
            ended.is_some()
        });
        code
    }

    fn end(&mut self, signal: &str) -> Option<i32> {
        send(signal, self.0.id());
        self.ended()
    }

    /// The process that it has started.
    fn command(&self) -> u32 {
        let path = format!("/proc/{0}/task/{0}/children", self.0.id());
        std::fs::read_to_string(path).unwrap().trim().parse().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Of a script that goes on; not for ever, should nobody end it.
const ON: &str = "n=0; while [ $((n += 1)) -lt 1000 ]; do sleep 0.05; done";

fn run(broker: &Broker, options: &[&str], command: &[&str]) -> Output {
    exec(broker, options, command).stdout(Stdio::piped()).output().unwrap()
}

fn of(output: &Output) -> (Option<i32>, &str, &str) {
    let text = |bytes| std::str::from_utf8(bytes).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn keys(upstream: &Process) -> Vec<Key> {
    vec![
        ("good", at(upstream, "/good", ""), "stale-if-error = \"1d\""),
        ("held", at(upstream, "/etag", ""), "max-age = \"1s\""),
        ("gone", at(upstream, "/status/404", ""), ""),
        ("down", at(upstream, "/status/503", ""), ""),
        ("nul", "path = \"DIR/nul\", format = \"text\"".to_owned(), ""),
    ]
}

fn broker() -> (Process, Broker) {
    let (upstream, broker) = serving(&keys);
    // For what commands leave behind.
    std::fs::create_dir(broker.path("work")).unwrap();
    std::fs::set_permissions(broker.path("work"), std::fs::Permissions::from_mode(0o777)).unwrap();
    (upstream, broker)
}

#[test]
#[ignore = "needs root: drops to two uids and runs commands as another one"]
fn a_command_is_given_values_and_nobody_else_sees_them() {
    let (_upstream, broker) = broker();
    broker.write("work/mapping", "# by line\nMAPPED=/good\n", 0o644);
    let options = ["--env", "A=/good", "--file", "B=/good", "--env-file", "mapping"];
    let script = "echo $A:$MAPPED:$(cat $B); cat $B; stat -L -c %a:%s $B; tr '\\0' ' ' </proc/$$/cmdline; echo no >>$B";
    let output = run(&broker, &options, &["sh", "-c", script]);
    let (_, out, err) = of(&output);
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[0], format!("{GOOD}:{GOOD}:{GOOD}"), "{output:?}");
    assert_eq!(lines[1], format!("{GOOD}400:{}", GOOD.len()), "no newline is added");
    assert!(!lines[2].contains(GOOD), "{out}");
    assert!(err.contains("denied") || err.contains("not permitted"), "a file cannot be written: {err}");
    // In its own place: the command is the process that was started, and its only one.
    let mut cat = exec(&broker, &["--env", "A=/good"], &["sh", "-c", "echo $$; exec cat"]);
    let mut cat = Running::start(cat.stdin(Stdio::piped()).stdout(Stdio::piped()));
    let mut pid = [0; 16];
    let length = cat.0.stdout.as_mut().unwrap().read(&mut pid).unwrap();
    assert_eq!(std::str::from_utf8(&pid[..length]).unwrap().trim(), cat.0.id().to_string());
    assert_eq!(cat.end("TERM"), None, "nothing stands between, the signal itself is seen");
}

#[test]
#[ignore = "needs root: drops to two uids and runs commands as another one"]
fn nothing_is_started_unless_all_values_are_there() {
    let (mut upstream, mut broker) = broker();
    broker.write("nul", "a\0b", 0o600);
    broker.end("TERM");
    broker.start();
    let started = broker.path("work/started");
    let ends = |options: &[&str], code: i32, says: &str| {
        for watch in [&[][..], &["--watch"]] {
            let output = run(&broker, &[watch, options].concat(), &["touch", started.to_str().unwrap()]);
            let (ended, _, err) = of(&output);
            assert_eq!(ended, Some(code), "{options:?}: {err}");
            assert!(err.contains(says), "{options:?}, {says:?} expected: {err}");
            assert!(!started.exists(), "{options:?}");
        }
    };
    ends(&["--env", "A=/good", "--env", "B=/gone"], 76, "/gone: 502");
    ends(&["--env", "A=/down"], 69, "/down: 503");
    ends(&["--file", "A=/not-there", "--env", "B=/good"], 77, "/not-there: 403");
    ends(&["--env", "A=/nul"], 1, "NUL byte, which no variable can hold; use --file A=/nul");
    ends(&["--env", "1A=/good"], 64, "no name for a variable");
    ends(&["--env", "A=/good", "--file", "A=/good"], 64, "`A` is given twice");
    ends(&["--env", "A=s3cr3t"], 64, "no key");
    ends(&[], 64, "nothing to give");
    ends(&["--env-file", "no-such-mapping"], 64, "no-such-mapping");
    let denied = as_uid(support::STRANGER, env!("CARGO_BIN_EXE_keyhatch"))
        .args(["exec", "--env", "A=/good", "--socket"])
        .arg(broker.path("keyhatch.sock"))
        .args(["--", "true"])
        .output()
        .unwrap();
    assert_eq!(of(&denied).0, Some(77));
    // Stale is a value, with a note.
    assert_eq!(of(&run(&broker, &["--env", "A=/good"], &["true"])), (Some(0), "", ""));
    upstream.stop();
    let stale = run(&broker, &["--env", "A=/good", "--file", "B=/good"], &["sh", "-c", "echo $A$(cat $B)"]);
    let (code, out, err) = of(&stale);
    assert_eq!((code, out.trim_end()), (Some(0), format!("{GOOD}{GOOD}").as_str()));
    assert_eq!(err.matches("/good: stale, ").count(), 1, "{err}");
    broker.end("TERM");
    assert_eq!(of(&run(&broker, &["--env", "A=/good"], &["true"])).0, Some(69));
}

#[test]
#[ignore = "needs root: drops to two uids and runs commands as another one"]
fn the_end_is_that_of_the_command() {
    let (_upstream, broker) = broker();
    broker.write("work/no-program", "", 0o644);
    for watch in [&[][..], &["--watch"], &["--watch=HUP"]] {
        let options = [watch, &["--env", "A=/good"]].concat();
        let code = |command: &[&str]| {
            let output = run(&broker, &options, command);
            // A shell's way of telling a signal, for what has none between.
            (output.status.code(), String::from_utf8(output.stderr).unwrap())
        };
        assert_eq!(code(&["sh", "-c", "exit 7"]).0, Some(7));
        let killed = code(&["sh", "-c", "kill -USR1 $$"]).0;
        assert_eq!(killed, if watch.is_empty() { None } else { Some(128 + 10) }, "{watch:?}");
        let (missing, says) = code(&["no-such-program-here"]);
        assert!(missing == Some(127) && says.contains("no-such-program-here"), "{missing:?}: {says}");
        assert_eq!(code(&["./no-program"]).0, Some(126));
        assert_eq!(
            code(&["sh", "-c", "grep -q '^SigBlk:\\s*0*$' /proc/self/status"]).0,
            Some(0),
            "no signal is blocked"
        );
    }
    for wrong in [&["--watch=NOSUCH"][..], &["--grace", "1s"], &["--watch", "--grace", "soon"]] {
        let output = run(&broker, &[wrong, &["--env", "A=/good"]].concat(), &["true"]);
        assert_eq!(of(&output).0, Some(64), "{output:?}");
    }
}

/// What a command has written into a file, line by line.
fn lines(broker: &Broker, name: &str) -> Vec<String> {
    std::fs::read_to_string(broker.path("work").join(name)).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[test]
#[ignore = "needs root: drops to two uids and runs commands as another one"]
fn a_change_restarts_the_command_and_kills_one_that_does_not_end() {
    let (upstream, broker) = broker();
    let script = format!("echo $A:$(cat $B) >>seen; trap 'echo told >>seen' TERM; {ON}");
    let options = ["--watch", "--grace", "300ms", "--env", "A=/held", "--file", "B=/held", "--env", "C=/good"];
    let mut child = exec(&broker, &options, &["sh", "-c", &script]);
    let mut child = Running::start(child.stderr(std::fs::File::create(broker.path("work/said")).unwrap()));
    wait_until("it has started", || lines(&broker, "seen") == [format!("{GOOD}:{GOOD}")]);
    upstream.set_value("another");
    broker.get(GRANTED, "/held");
    wait_until("it is started again", || lines(&broker, "seen").last().unwrap() == "another:another");
    assert_eq!(lines(&broker, "seen"), [&format!("{GOOD}:{GOOD}"), "told", "another:another"]);
    let said = lines(&broker, "said").join("\n");
    assert!(said.contains("the command is restarted") && said.contains("it is killed"), "{said}");
    assert!(!said.contains("another"), "{said}");
    // A signal is passed on, and does not end what does not end by it.
    send("TERM", child.0.id());
    wait_until("it was told", || lines(&broker, "seen").last().unwrap() == "told");
    assert!(child.0.try_wait().unwrap().is_none());
    send("KILL", child.command());
    assert_eq!(child.ended(), Some(137));
}

#[test]
#[ignore = "needs root: drops to two uids and runs commands as another one"]
fn a_change_is_signalled_and_the_file_holds_the_new_value() {
    let (upstream, mut broker) = broker();
    let script = format!("trap 'echo $A:$(cat $B) >>seen' USR1; trap 'exit 3' TERM; echo $A:$(cat $B) >>seen; {ON}");
    // Not SIGHUP: a shell cannot trap what was ignored when it began, as whoever runs the tests by nohup has it.
    let options = ["--watch=SIGUSR1", "--env", "A=/held", "--file", "B=/held"];
    let mut child = Running::start(&mut exec(&broker, &options, &["sh", "-c", &script]));
    wait_until("it has started", || lines(&broker, "seen") == [format!("{GOOD}:{GOOD}")]);
    // Neither an outage of the broker nor its restart is a change.
    broker.end("TERM");
    broker.start();
    upstream.set_value("another");
    wait_until("it asks again", || {
        broker.get(GRANTED, "/held");
        lines(&broker, "seen").len() > 1
    });
    assert_eq!(lines(&broker, "seen"), [format!("{GOOD}:{GOOD}"), format!("{GOOD}:another")]);
    assert_eq!(child.end("TERM"), Some(3));
}

#[test]
#[ignore = "needs root: drops to two uids and runs commands as another one"]
fn the_command_does_not_outlive_who_watches_for_it() {
    let (_upstream, broker) = broker();
    let options = ["--watch", "--env", "A=/good"];
    let script = format!("trap 'echo ended >>seen; exit' TERM; echo on >>seen; {ON}");
    let mut child = Running::start(&mut exec(&broker, &options, &["sh", "-c", &script]));
    wait_until("it has started", || lines(&broker, "seen") == ["on"]);
    child.end("KILL");
    wait_until("it has ended", || lines(&broker, "seen") == ["on", "ended"]);
}
