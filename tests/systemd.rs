//! The units in `systemd/` on a real systemd: started by a connection, restarted under load, watched, crashed, refused.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "systemd/killed.rs"]
mod killed;
#[path = "units/lab.rs"]
mod lab;
#[path = "systemd/scene.rs"]
mod scene;
mod support;
#[path = "systemd/thousand.rs"]
mod thousand;

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lab::text;
use scene::{Scene, request};
use support::serving::GOOD;
use support::wait_until;

#[test]
#[ignore = "needs root: boots a systemd in namespaces"]
fn the_units_do_what_they_promise() {
    all_in_one_guest(lab::HOST);
}

#[test]
#[ignore = "needs root: boots the systemd of another Debian in namespaces"]
fn the_units_do_the_same_on_debian_13() {
    all_in_one_guest(lab::TRIXIE);
}

/// One after the other: each leaves a broker that serves. One guest after the other, too: the watchdog is short.
fn all_in_one_guest(root: &str) {
    let _one = one_at_a_time();
    let scene = Scene::up(root);
    the_units_are_sound(&scene);
    the_first_connection_starts_it(&scene);
    a_restart_under_load_refuses_and_loses_nothing(&scene);
    the_watchdog_ends_what_stands_still(&scene);
    a_crash_while_the_upstream_is_down_costs_no_value(&scene);
    a_change_of_files_is_one_reload(&scene);
    a_program_runs_within_the_unit(&scene);
    a_wrong_configuration_is_not_restarted(&scene);
    socket_units_of_another_kind_are_told(&scene);
    the_journal_has_priorities_and_no_secret(&scene);
}

fn one_at_a_time() -> impl Sized {
    static ONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn the_units_are_sound(scene: &Scene) {
    let verified = scene.run("systemd-analyze verify /etc/systemd/system/keyhatch*.*");
    assert!(verified.status.success() && text(&verified).is_empty(), "{}", text(&verified));
    let judge = "systemd-analyze security --no-pager --offline=yes --threshold=23 /etc/systemd/system/keyhatch.service";
    let judged = scene.run(judge);
    assert!(judged.status.success(), "{}", text(&judged));
    // What it counts against us is told, in the unit itself and to whoever reads about it.
    let unit = std::fs::read_to_string(scene::units().join("keyhatch.service")).unwrap();
    let page = std::fs::read_to_string(scene::units().with_file_name("docs/systemd.md")).unwrap();
    let open = text(&judged);
    let open: Vec<&str> =
        open.lines().filter_map(|line| line.trim().strip_prefix("✗ ")?.split_whitespace().next()).collect();
    assert!(open.len() > 8, "{open:?}");
    for directive in open {
        let name = directive.split(['=', '/']).next().unwrap();
        // Closing /dev by PrivateDevices= opens it for the clock, which ProtectClock= then shuts.
        if name == "DeviceAllow" {
            continue;
        }
        let told = format!("{name}=");
        let lines: Vec<&str> = unit.lines().collect();
        let named = lines.iter().any(|line| line.starts_with('#') && line.contains(&told));
        let above = lines.windows(2).any(|pair| pair[0].starts_with('#') && pair[1].starts_with(&told));
        assert!(named || above, "{directive} is open in the unit, without a reason");
        assert!(page.contains(&told) || name == "SystemCallFilter", "{directive} is not in docs/systemd.md");
    }
}

fn the_first_connection_starts_it(scene: &Scene) {
    scene.systemctl("start keyhatch.socket keyhatch-admin.socket");
    assert_eq!(scene.property("ActiveState"), "inactive");
    let answer = scene.get("/up");
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with(GOOD), "{answer}\n{}", scene.journal());
    assert_eq!(scene.property("ActiveState"), "active");
    assert!(scene.property("StatusText").starts_with("3 keys, "), "{}", scene.property("StatusText"));
    // The unit leaves it what it needs to tell the units of peers.
    let said = scene.lab.in_unit("one", &["DynamicUser=yes"], &["KEYHATCH", "get", "/unit"]);
    assert_eq!(said, "the value of a unit", "{}", scene.journal());
    let said = scene.lab.in_unit("two", &["DynamicUser=yes"], &["KEYHATCH", "get", "/unit"]);
    assert!(said.contains("not granted"), "{said}");
    let status = text(&scene.run("keyhatch status"));
    assert!(status.contains("namespaces    NO") && !status.contains("missing"), "{status}");
    assert!(status.contains("secret pages") || status.contains("locked"), "{status}");
}

struct EndOfLoad<'a>(&'a AtomicBool);

impl Drop for EndOfLoad<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn a_restart_under_load_refuses_and_loses_nothing(scene: &Scene) {
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let load: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut answers = 0;
                    while !ended.load(Ordering::Relaxed) {
                        let answer = scene.get("/up");
                        assert!(answer.starts_with("HTTP/1.1 200 "), "after {answers}: {answer:?}");
                        answers += 1;
                    }
                    answers
                })
            })
            .collect();
        // However this ends, so do they.
        let end = EndOfLoad(&ended);
        let before = scene.property("MainPID");
        for _ in 0..3 {
            // It has said nothing yet: whether it was accepted or not, it gets its answer.
            let mut early = scene.connect().unwrap();
            scene.systemctl("restart --no-block keyhatch");
            early.write_all(&request("/up")).unwrap();
            let mut answer = String::new();
            early.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer:?}");
            wait_until("it is restarted", || scene.jobs().is_empty());
            assert_eq!(scene.property("ActiveState"), "active", "{}", scene.journal());
        }
        drop(end);
        let answers: Vec<u64> = load.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert!(answers.iter().all(|answers| *answers > 3), "{answers:?}");
        assert_ne!(scene.property("MainPID"), before);
    });
}

fn the_watchdog_ends_what_stands_still(scene: &Scene) {
    scene.drop_in("keyhatch.service", "[Service]\nWatchdogSec=1s\n");
    scene.systemctl("restart keyhatch");
    for role in ["serve", "worker"] {
        let before = scene.property("MainPID");
        scene.signal("STOP", role);
        wait_until(&format!("another broker, after {role} was stopped"), || {
            let now = scene.property("MainPID");
            now != before && now != "0" && scene.property("ActiveState") == "active"
        });
        assert!(scene.get("/up").starts_with("HTTP/1.1 200 "));
    }
    assert_eq!(scene.journal().matches("Watchdog timeout").count(), 2, "{}", scene.journal());
    scene.drop_in("keyhatch.service", "");
}

fn a_crash_while_the_upstream_is_down_costs_no_value(scene: &Scene) {
    scene.systemctl("stop upstream");
    for role in ["serve", "worker"] {
        let before = scene.property("MainPID");
        scene.signal("KILL", role);
        wait_until("another broker", || {
            let now = scene.property("MainPID");
            now != before && now != "0" && scene.property("ActiveState") == "active"
        });
        let answer = scene.get("/up");
        let age = answer.lines().find_map(|line| line.to_lowercase().strip_prefix("age: ")?.parse::<u64>().ok());
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with(GOOD), "{answer}");
        assert!(age.is_some_and(|age| age >= 1), "{answer}");
        assert!(answer.contains("detail=connect-refused") || answer.contains("detail=breaker-open"), "{answer}");
    }
    wait_until("the status tells what fails", || {
        let status = scene.property("StatusText");
        status.contains("1 stale (since 20") && status.contains("1 failing")
    });
    scene.start_upstream();
}

/// Which files change, and how, is the operator's; here what follows from it is counted.
fn a_change_of_files_is_one_reload(scene: &Scene) {
    scene.drop_in(
        "keyhatch.service",
        "[Service]\nExecReload=\nExecReload=/bin/sh -c 'echo once >> /var/lib/keyhatch/reloads'\n",
    );
    scene.systemctl("start keyhatch-reload.path");
    let reloads = || text(&scene.run("cat /var/lib/keyhatch/reloads 2>/dev/null")).lines().count();
    let burst = "for part in a b c; do echo '# nothing' > /etc/keyhatch/conf.d/$part.toml; echo x > /etc/keyhatch/tokens/$part; sleep 0.1; done";
    assert!(scene.run(burst).status.success());
    wait_until("one reload", || reloads() == 1);
    wait_until("the service of the path has ended", || scene.jobs().is_empty());
    scene.drop_in("keyhatch.service", "");
    // A file that is replaced is opened anew by the real one.
    let replace = "rm /etc/keyhatch/conf.d/*.toml /etc/keyhatch/tokens/*; \
                   install -m 0400 /dev/stdin /etc/keyhatch/new <<X && mv /etc/keyhatch/new /etc/keyhatch/value\nanother value\nX";
    assert!(scene.run(replace).status.success());
    wait_until("the new value is served", || text(&scene.run("keyhatch get /root")).contains("another value"));
    wait_until("the service of the path has ended", || scene.jobs().is_empty());
    assert_eq!(reloads(), 1, "by the command of the unit");
    scene.systemctl("stop keyhatch-reload.path");
}

/// As docs/systemd.md says: what the unit leaves to the programs of `command` sources, and what a drop-in opens.
fn a_program_runs_within_the_unit(scene: &Scene) {
    let program = r#"#!/bin/sh
echo "user $(id -u)"
echo "token $(cat <&3)"
{ echo kept > "$HOME/file"; } 2> /dev/null && echo "writes HOME"
for place in /etc /usr/local /var/lib/keyhatch /var/cache/keyhatch /home; do (: > $place/file) 2> /dev/null && echo "writes $place"; done
perl -MIO::Socket::INET -e 'exit !IO::Socket::INET->new("127.0.0.1:8001")' && echo "reaches the network"
sleep 600 &
"#;
    let keys = r#"
[tokens]
op = { file = "/etc/keyhatch/tokens/op" }
[keys."/command"]
source = { type = "command", run = ["/usr/local/sbin/op-read", "x"], user = 61130, token = "op", environment = { HOME = "/var/lib/op-runner" } }
[clients.command]
anyone = true
keys = "/command"
"#;
    let directory = scene.lab.directory.path();
    std::fs::write(directory.join("op-read"), program).unwrap();
    std::fs::write(directory.join("command.toml"), keys).unwrap();
    let install = "set -e; cd /srv/keyhatch; install -D -m 0755 op-read /usr/local/sbin/op-read; install -m 0600 command.toml /etc/keyhatch/conf.d/; \
                   install -m 0400 /dev/stdin /etc/keyhatch/tokens/op <<X\nplanted-token\nX\ninstall -d -m 0700 -o 61130 -g 61130 /var/lib/op-runner";
    let done = scene.run(install);
    assert!(done.status.success(), "{}", text(&done));
    scene.drop_in("keyhatch.service", "[Service]\nReadWritePaths=/var/lib/op-runner\n");
    scene.systemctl("restart keyhatch");
    let told = text(&scene.run("keyhatch get /command"));
    assert_eq!(told, "user 61130\ntoken planted-token\nwrites HOME\nreaches the network", "{}", scene.journal());
    let status = text(&scene.run("keyhatch status"));
    assert!(status.contains("runner  capabilities  yes    CAP_SETUID and CAP_SETGID, none for programs"), "{status}");
    // The smallest Debian 13 has no ps.
    let processes = || text(&scene.run("cat /proc/[0-9]*/status 2> /dev/null | grep '^Uid:.*61130'")).trim().to_owned();
    wait_until("nothing is left of it", || processes().is_empty());

    let before = scene.property("MainPID");
    let kill = format!("kill -KILL $(cut -d' ' -f2 /proc/{before}/task/{before}/children)");
    assert!(scene.run(&kill).status.success());
    wait_until("another broker, after the runner was killed", || {
        let now = scene.property("MainPID");
        now != before && now != "0" && scene.property("ActiveState") == "active"
    });
    assert!(text(&scene.run("keyhatch get /command")).contains("planted-token"), "{}", scene.journal());
    assert!(scene.run("rm /etc/keyhatch/conf.d/command.toml").status.success());
    scene.drop_in("keyhatch.service", "");
    scene.systemctl("restart keyhatch");
}

fn a_wrong_configuration_is_not_restarted(scene: &Scene) {
    assert!(scene.run("echo '[wrong' > /etc/keyhatch/conf.d/wrong.toml").status.success());
    assert!(!scene.run("systemctl restart keyhatch").status.success());
    let refused =
        |scene: &Scene| scene.connect().is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused);
    wait_until("nobody listens", || refused(scene));
    let state = ["ActiveState", "ExecMainStatus", "NRestarts"].map(|name| scene.property(name));
    assert_eq!(state, ["failed", "78", "0"], "{}", scene.journal());

    // A client that waits is let go, and starts it no second time.
    let starts = |scene: &Scene| scene.journal().matches("Starting keyhatch.service").count();
    scene.systemctl("start keyhatch.socket keyhatch-admin.socket");
    let before = starts(scene);
    let mut waiting = scene.connect().unwrap();
    waiting.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let let_go = waiting.read(&mut [0]);
    assert!(matches!(&let_go, Ok(0)) || let_go.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset));
    wait_until("nobody listens", || refused(scene));
    assert_eq!(starts(scene), before + 1, "{}", scene.journal());

    assert!(scene.run("rm /etc/keyhatch/conf.d/wrong.toml").status.success());
    scene.systemctl("start keyhatch");
    assert!(scene.get("/up").starts_with("HTTP/1.1 200 "));
}

fn socket_units_of_another_kind_are_told(scene: &Scene) {
    for (unit, lines, told) in [
        (
            "keyhatch.socket",
            "ListenStream=\nListenDatagram=/run/keyhatch/keyhatch.sock",
            "ListenStream=, not ListenDatagram=",
        ),
        ("keyhatch-admin.socket", "FileDescriptorName=data", "two sockets have the name `data`"),
    ] {
        scene.systemctl("stop keyhatch.service keyhatch.socket keyhatch-admin.socket");
        scene.drop_in(unit, &format!("[Socket]\n{lines}\n"));
        assert!(!scene.run("systemctl start keyhatch").status.success(), "{unit}");
        assert_eq!(scene.property("ExecMainStatus"), "78", "{}", scene.journal());
        wait_until("it is told", || scene.journal().contains(told));
        scene.drop_in(unit, "");
    }
    scene.systemctl("start keyhatch");
    assert!(scene.get("/up").starts_with("HTTP/1.1 200 "));
}

fn the_journal_has_priorities_and_no_secret(scene: &Scene) {
    let stranger = "setpriv --reuid=61120 --regid=61120 --clear-groups";
    let denied = scene.run(&format!("{stranger} curl -s --unix-socket /run/keyhatch/keyhatch.sock http://k/root"));
    assert!(text(&denied).contains("\"code\":\"denied\""), "{}", text(&denied));
    let of =
        |priority: u8| text(&scene.run(&format!("journalctl --no-pager -o cat -t keyhatch -p {priority}..{priority}")));
    wait_until("the denial is a warning", || of(4).contains("denied role=\"worker\" uid=61120"));
    assert!(of(6).contains("INFO serving\n"), "{}", of(6));
    assert!(of(3).contains("keyhatch.toml") || of(3).contains("wrong.toml"), "{}", of(3));
    for secret in ["good-value", "the value of a unit", "planted-token"] {
        assert!(!scene.journal().contains(secret));
    }
    assert!(!scene.journal().contains("panicked"), "{}", scene.journal());
}
