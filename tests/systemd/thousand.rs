//! A thousand units at once, each with a credential of its own: all that they can have is the right value or no start.

use std::time::{Duration, Instant};

use crate::lab::{self, text};
use crate::scene::Scene;

const MANY: usize = 1000;

/// How long all of them may take on a busy machine with two cores.
const PATIENCE: Duration = Duration::from_secs(120);

const CONFIGURATION: &str = r#"
[keys."/down/{n}"]
source = { type = "http", url = "http://127.0.0.1:8001/echo", method = "POST", headers = { content-type = "application/x-www-form-urlencoded" }, body = "value={n}", pointer = "/body" }
params.n = { matches = "[0-9]+" }
max-entries = 2000

[keys."/many/{n}"]
source = { type = "http", url = "http://127.0.0.1:8001/echo", method = "POST", headers = { content-type = "application/x-www-form-urlencoded" }, body = "value={n}", pointer = "/body" }
params.n = { matches = "[0-9]+" }
max-entries = 2000
on-missing = "wait"

[clients.units]
unit = ["down@*.service", "many@*.service"]
keys = ["/down/*", "/many/*"]
"#;

/// What the shell reads stands in `/run/NAME`: an empty file is a start with an empty credential.
const TEMPLATE: &str = r#"[Unit]
Wants=keyhatch.socket
After=keyhatch.socket
[Service]
Type=oneshot
RemainAfterExit=yes
LoadCredential=NAME.%i:/run/keyhatch/keyhatch.sock
ExecStart=/bin/sh -c 'read -r v < $${CREDENTIALS_DIRECTORY}/NAME.%i; echo "$$v" > /run/NAME/%i'
"#;

#[test]
#[ignore = "needs root: boots a systemd in namespaces"]
fn a_thousand_units_start_with_their_values_or_not_at_all() {
    let _one = super::one_at_a_time();
    let scene = Scene::with(lab::HOST, CONFIGURATION);
    for name in ["down", "many"] {
        let unit = TEMPLATE.replace("NAME", name);
        std::fs::write(scene.lab.directory.path().join("unit"), unit).unwrap();
        let install =
            format!("install -m 0644 /srv/keyhatch/unit /etc/systemd/system/{name}@.service && mkdir /run/{name}");
        assert!(scene.run(&install).status.success());
    }
    scene.systemctl("daemon-reload");
    scene.systemctl("start keyhatch.service");
    let before = scene.roles();

    // Nothing is held and nothing can be fetched: none starts.
    start_all(&scene, "down");
    wait_long("all have ended", || scene.count("down", "failed,active") == MANY);
    assert_eq!(scene.started("down"), 0, "some have started");
    let statuses = text(&scene.run("systemctl show --value -p ExecMainStatus 'down@*' | grep -c '^243$'"));
    assert_eq!(statuses.trim(), MANY.to_string());
    scene.systemctl("reset-failed 'down@*'");

    // All of them are with the broker at the same time: a connection and a process for each. Each has a fetch of its own.
    start_all(&scene, "many");
    let [held, _] = before.map(|role| role.descriptors + 2 * MANY);
    wait_long("all wait", || scene.roles()[0].descriptors > held - 20);
    assert_eq!(scene.count("many", "activating"), MANY);

    // Nor do all of them lose it by the death of both roles, once systemd has a duplicate of each connection.
    wait_long("all are kept", || scene.kept() == MANY);
    scene.kill_both();
    wait_long("all wait again", || scene.roles()[0].descriptors > held - 20);
    assert_eq!(scene.count("many", "activating"), MANY);
    scene.start_upstream();
    wait_long("all start", || scene.count("many", "active") == MANY);
    let wrong = "cd /run/many; for n in *; do read -r v < $n; [ \"$v\" = \"value=$n\" ] || echo \"$n: '$v'\"; done";
    assert_eq!((scene.started("many"), text(&scene.run(wrong))), (MANY, String::new()));

    // It costs what it costs only for as long as it lasts.
    wait_long("all is closed", || {
        scene.roles().iter().zip(&before).all(|(now, then)| now.descriptors < then.descriptors + 10)
    });
    for (now, then) in scene.roles().iter().zip(&before) {
        assert!(now.peak < then.peak + (32 << 10), "{before:?}, then {:?}", scene.roles());
    }
    assert_eq!((scene.kept(), scene.property("NRestarts").as_str()), (0, "1"), "{}", scene.journal());
}

/// Looks seldom: each look is a process in the guest.
fn wait_long(what: &str, mut holds: impl FnMut() -> bool) {
    let give_up = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < give_up, "it did not come to this: {what}");
        std::thread::park_timeout(Duration::from_millis(500));
    }
}

fn start_all(scene: &Scene, name: &str) {
    scene.systemctl(&format!("start --no-block $(seq -f {name}@%.0f.service {MANY})"));
}

/// What a process has.
#[derive(Debug, Clone, Copy)]
struct Role {
    descriptors: usize,
    /// The most memory that it ever had, in KiB.
    peak: usize,
}

impl Scene {
    fn roles(&self) -> [Role; 2] {
        let pid = self.property("MainPID");
        let script = format!(
            "for pid in {pid} $(cat /proc/{pid}/task/{pid}/children); do ls /proc/$pid/fd | wc -l; sed -n 's/^VmHWM:[^0-9]*\\([0-9]*\\).*/\\1/p' /proc/$pid/status; done"
        );
        let told = text(&self.run(&script));
        let numbers: Vec<usize> = told.split_whitespace().map(|number| number.parse().unwrap()).collect();
        let [parent, of_parent, worker, of_worker] = numbers[..] else { panic!("{told}") };
        [Role { descriptors: parent, peak: of_parent }, Role { descriptors: worker, peak: of_worker }]
    }

    /// How many of these units are in one of these states.
    fn count(&self, name: &str, states: &str) -> usize {
        text(&self.run(&format!("systemctl list-units --all --no-legend --state={states} '{name}@*' | wc -l")))
            .trim()
            .parse()
            .unwrap()
    }

    /// How many of them have come to run.
    fn started(&self, name: &str) -> usize {
        text(&self.run(&format!("ls /run/{name} | wc -l"))).trim().parse().unwrap()
    }
}
