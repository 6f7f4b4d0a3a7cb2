//! Roles killed while units wait for a credential: systemd has their connections for the next broker.

use crate::lab::{self, text};
use crate::scene::Scene;
use crate::support::wait_until;

const CONFIGURATION: &str = r#"
[keys."/up"]
source = { type = "http", url = "http://127.0.0.1:8001/good", field = "value" }
on-missing = "wait"
[clients.units]
unit = "app@*.service"
keys = "/up"
"#;

const UNIT: &str = r#"[Service]
Type=oneshot
RemainAfterExit=yes
LoadCredential=up:/run/keyhatch/keyhatch.sock
ExecStart=/bin/sh -c 'read -r v < $${CREDENTIALS_DIRECTORY}/up; echo "$$v" > /run/app/%i'
"#;

#[test]
#[ignore = "needs root: boots a systemd in namespaces"]
fn units_wait_for_the_next_broker_when_roles_are_killed() {
    units_wait_for_the_next_broker(lab::HOST);
}

#[test]
#[ignore = "needs root: boots the systemd of another Debian in namespaces"]
fn units_wait_for_the_next_broker_on_debian_13() {
    units_wait_for_the_next_broker(lab::TRIXIE);
}

fn units_wait_for_the_next_broker(root: &str) {
    let _one = super::one_at_a_time();
    let scene = Scene::with(root, CONFIGURATION);
    std::fs::write(scene.lab.directory.path().join("unit"), UNIT).unwrap();
    let install = "install -m 0644 /srv/keyhatch/unit /etc/systemd/system/app@.service && mkdir /run/app";
    assert!(scene.run(install).status.success());
    scene.systemctl("daemon-reload");
    scene.systemctl("start keyhatch.service");

    // Twice: systemd has them until they are at their end.
    scene.ask();
    for brokers in 1..=2 {
        wait_until("they wait", || scene.waits() == 3 * brokers && scene.kept() == 3);
        scene.kill_both();
        assert_eq!(scene.states(), ["activating"; 3], "{}", scene.journal());
    }
    wait_until("they wait", || scene.waits() == 9);
    scene.start_upstream();
    wait_until("they start", || scene.states() == ["active"; 3]);
    assert_eq!(text(&scene.run("cat /run/app/*")), "good-value\n".repeat(3), "{}", scene.journal());
    wait_until("systemd has let go of them", || scene.kept() == 0);

    // The parent alone: systemd kills the rest of a service whose main process has died, and the worker with it, in the midst
    // of its refusals. What it has begun to refuse fails.
    scene.forget();
    scene.ask();
    wait_until("they wait", || scene.waits() == 12 && scene.kept() == 3);
    scene.kill(|| scene.signal("KILL", "serve"));
    scene.start_upstream();
    wait_until("they have ended", || scene.states().iter().all(|state| state == "active" || state == "failed"));
    let values = text(&scene.run("cat /run/app/* 2> /dev/null"));
    assert!(values.lines().all(|value| value == "good-value"), "{values}\n{}", scene.journal());

    // No broker comes after this one: what systemd has is lost, but for what the start that fails says to it.
    scene.forget();
    let waits = scene.waits();
    scene.ask();
    wait_until("they wait", || scene.waits() == waits + 3 && scene.kept() == 3);
    assert!(scene.run("echo '[wrong' > /etc/keyhatch/conf.d/wrong.toml").status.success());
    scene.kill_both();
    wait_until("they fail", || scene.states() == ["failed"; 3]);
    assert_eq!(text(&scene.run("ls /run/app")), "", "{}", scene.journal());
    assert_eq!(scene.property("ExecMainStatus"), "78", "{}", scene.journal());
}

impl Scene {
    fn ask(&self) {
        self.systemctl("start --no-block app@1 app@2 app@3");
    }

    /// Back to where nothing is held and nothing can be fetched.
    fn forget(&self) {
        self.systemctl("stop upstream app@1 app@2 app@3");
        let forget = "systemctl reset-failed; rm -f /run/app/*; keyhatch purge --all --yes";
        assert!(self.run(forget).status.success());
    }

    /// By the kernel, with their control group (cgroups(7)): neither sees the end of the other.
    pub(crate) fn kill_both(&self) {
        let group = self.property("ControlGroup");
        self.kill(|| assert!(self.run(&format!("echo 1 > /sys/fs/cgroup{group}/cgroup.kill")).status.success()));
    }

    /// Until another broker serves, or none will.
    fn kill(&self, kill: impl FnOnce()) {
        let before = self.property("MainPID");
        kill();
        wait_until("it has an end", || {
            let now = self.property("MainPID");
            match self.property("ActiveState").as_str() {
                "active" => now != before && now != "0",
                state => state == "failed",
            }
        });
    }

    fn states(&self) -> [String; 3] {
        let states = text(&self.run("systemctl is-active app@1 app@2 app@3"));
        let states: Vec<String> = states.lines().map(str::to_owned).collect();
        states.try_into().unwrap()
    }

    /// How often it was told that a unit waits, by all brokers.
    fn waits(&self) -> usize {
        self.journal().matches("credential: the unit waits").count()
    }

    /// How many connections systemd has.
    pub(crate) fn kept(&self) -> usize {
        self.property("NFileDescriptorStore").parse().unwrap()
    }
}
