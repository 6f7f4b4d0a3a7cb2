//! The image of docs/containers.md, built and run as that page says, in a container of podman's; what a container takes away.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "units/lab.rs"]
#[allow(dead_code, reason = "it has no use for another Debian")]
mod lab;
#[path = "docs/markdown.rs"]
#[allow(dead_code, reason = "it looks for no links")]
mod markdown;

use std::path::Path;
use std::process::Command;

use lab::{HOST, INSIDE, Lab, text};

const USER: u32 = 61_010;

/// What this place needs besides: layers without another overlay, no limits above those that there are, no settings of the kernel.
const PODMAN: &str = r#"#!/bin/sh
export CONTAINERS_CONF=/etc/keyhatch-test.conf
own="--root /var/tmp/podman --runroot /run/podman-test --storage-driver vfs --events-backend none --cgroup-manager cgroupfs"
case "$1" in
run) shift; exec /usr/bin/podman $own run --ulimit nofile=8192:8192 --ulimit nproc=1000:1000 $MORE "$@";;
*) exec /usr/bin/podman $own "$@";;
esac
"#;

struct Engine(Lab);

impl Engine {
    fn up() -> Self {
        let lab = Lab::up(HOST, &[("podman", PODMAN), ("conf", "[containers]\ndefault_sysctls = []\n")]);
        let engine = Self(lab);
        engine
            .run("install -m 0755 DIR/podman /usr/local/bin/podman; install -m 0644 DIR/conf /etc/keyhatch-test.conf");
        engine.run(&format!("useradd --system --uid {USER} keyhatch-test"));
        engine
    }

    fn try_to(&self, script: &str) -> (bool, String) {
        let done = self.0.run(&["sh", "-ec", script]);
        (done.status.success(), text(&done))
    }

    fn run(&self, script: &str) -> String {
        let (done, said) = self.try_to(script);
        assert!(done, "{script}\n{said}");
        said
    }

    /// The container as `run` makes it, with more options; it is there when it serves, or has ended.
    fn container(&self, run: &str, more: &str) -> String {
        self.run("podman rm --force --ignore keyhatch");
        // The engine can set up devices by cgroups only where it need not forbid any.
        let cgroups = if run.contains("--privileged") { "" } else { "--cgroups disabled" };
        self.run(&format!("MORE='{cgroups} {more}' {run}"));
        let mut log = String::new();
        for _ in 0..400 {
            log = self.log();
            if log.contains("INFO serving") || self.run("podman ps --quiet").trim().is_empty() {
                break;
            }
            std::thread::park_timeout(std::time::Duration::from_millis(50));
        }
        log
    }

    fn log(&self) -> String {
        self.run("podman logs keyhatch 2>&1")
    }

    fn configure(&self, name: &str, text: &str) {
        self.run(&format!("cat > /etc/keyhatch/conf.d/{name}.toml <<'EOF'\n{text}EOF"));
    }

    /// A value, as a user of the host.
    fn get(&self, uid: u32, path: &str) -> String {
        let curl =
            "curl --silent --max-time 20 --header 'Accept: text/plain' --unix-socket /run/keyhatch/keyhatch.sock";
        self.run(&format!("setpriv --reuid={uid} --regid={uid} --clear-groups {curl} http://k{path}"))
    }

    /// What a unit of the host reads from its credential, and how its start ends.
    fn credential(&self) -> String {
        let load = "LoadCredential=billing.database-url:/run/keyhatch/keyhatch.sock";
        self.0.in_unit("app", &[load], &["sh", "-c", "cat `env | sed -n s/^CREDENTIALS_[A-Z]*=//p`/*"])
    }
}

/// No shared library, and nothing that would load one.
fn stands_alone(program: &Path) {
    let read =
        Command::new("readelf").args(["--program-headers", "--dynamic", "--wide"]).arg(program).output().unwrap();
    let said = text(&read);
    assert!(read.status.success() && said.contains("LOAD"), "{said}");
    assert!(!said.contains("INTERP") && !said.contains("NEEDED"), "{said}");
}

/// What a reload can bring.
const FIRST: &str = r#"[keys."/billing/database-url"]
source = { type = "file", path = "/etc/keyhatch/value", format = "text" }
[clients.billing]
user = 61010
keys = ["/billing/*"]
"#;
/// A user of the host.
const NAMED: &str = "[clients.named]\nuser = \"keyhatch-test\"\nkeys = [\"/**\"]\n";
/// What a restart can bring.
const SECOND: &str = r#"[keys."/billing/by-name"]
source = { type = "http", url = "http://keyhatch-upstream:8001/good", field = "value", auth = { type = "bearer", token = "t" }, allow-plaintext = true }
[tokens]
t = { file = "/etc/keyhatch/tokens/t" }
[clients.unit]
unit = "app.service"
keys = ["/billing/*"]
"#;

#[test]
#[ignore = "needs root: boots a systemd in namespaces and runs containers there"]
fn the_image_serves_in_a_container_and_says_what_it_takes() {
    let page = markdown::read("docs/containers.md");
    let shown: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("    ")).collect();
    let [build, image, directories, tokens, configuration, run, check, reload] = shown[..] else { panic!("{shown:?}") };
    assert_eq!(build, "packaging/build image");

    let engine = Engine::up();
    let packages = engine.0.directory.path().join("target/packages");
    // Of the program that is under test, not optimised.
    let mut building = Command::new(markdown::root().join("packaging/build"));
    let built = building.args(["image", "dev", "0.1.0-1"]).arg(&packages).output().unwrap();
    assert!(built.status.success(), "{}", text(&built));
    stands_alone(&packages.join("image/root/usr/bin/keyhatch"));
    engine.run(&format!("cd {INSIDE}; {image}"));

    let packaged = markdown::root().join("packaging/keyhatch.toml");
    std::fs::create_dir(engine.0.directory.path().join("packaging")).unwrap();
    std::fs::copy(packaged, engine.0.directory.path().join("packaging/keyhatch.toml")).unwrap();
    for line in [directories, tokens, configuration] {
        engine.run(&format!("cd {INSIDE}; {line}"));
    }
    let upstream = "/opt/keyhatch/examples/upstream --ca /run/ca.pem --token the-token --port 8001";
    engine.run(&format!("systemd-run -q --unit=upstream {upstream}"));
    let log = engine.container(run, "");
    assert!(log.contains("INFO serving") && log.contains("no keys"), "{log}");

    engine.run("printf 'the value' | install -m 0400 /dev/stdin /etc/keyhatch/value");
    engine.configure("a", &format!("{FIRST}{NAMED}"));
    for command in [check, reload] {
        let (good, said) = engine.try_to(&format!("{command} 2>&1"));
        assert!(!good && said.contains("keyhatch-test"), "{said}");
    }
    engine.configure("a", FIRST);
    engine.run(check);
    engine.run(reload);
    assert_eq!(engine.get(USER, "/billing/database-url"), "the value");
    assert!(engine.get(USER + 1, "/billing/database-url").contains("\"code\":\"denied\""));
    the_layers_are_those_of_a_host_but_one(&engine);

    // A restart finds seal key and cache. The program's own C library resolves a name.
    engine.run("podman stop keyhatch");
    assert!(engine.log().contains("INFO ending"));
    engine.run("echo the-token | install -m 0400 /dev/stdin /etc/keyhatch/tokens/t");
    engine.configure("b", SECOND);
    let log = engine.container(run, "--add-host keyhatch-upstream:127.0.0.1");
    assert!(log.contains("INFO serving"), "{log}");
    assert!(engine.run("podman exec keyhatch keyhatch status").contains("/billing/database-url  stale"));
    assert_eq!(engine.get(USER, "/billing/by-name"), "good-value", "{}", engine.log());
    // A unit of the host has no name here, so it does not start.
    let said = engine.credential();
    assert!(
        !said.contains("the value") && engine.log().contains("its process is in no unit"),
        "{said}\n{}",
        engine.log()
    );

    let log = engine.container(&run.replace(" --cap-add setuid,setgid,setpcap", ""), "");
    assert!(log.contains("there is no way to drop") && !log.contains("serving"), "{log}");
    with_calls_that_the_engine_forbids(&engine, run);
    with_the_pids_and_cgroups_of_the_host(&engine, run);
    assert!(!engine.log().contains("panicked"));
}

fn the_layers_are_those_of_a_host_but_one(engine: &Engine) {
    let status = engine.run("podman exec keyhatch keyhatch status");
    let layers: Vec<&str> =
        status.lines().filter(|line| line.starts_with("parent ") || line.starts_with("worker ")).collect();
    let lacking: Vec<_> = layers.iter().filter(|line| line.contains("  NO  ")).collect();
    assert!(layers.len() >= 17 && lacking.len() == 1 && lacking[0].contains("namespaces"), "{status}");
}

fn with_calls_that_the_engine_forbids(engine: &Engine, run: &str) {
    let forbid = |call: &str| {
        let rule = format!(r#"{{"names":["{call}"],"action":"SCMP_ACT_ERRNO","errnoRet":1}}"#);
        let profile = format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{rule}]}}"#);
        engine.run(&format!("cat > /run/{call}.json <<'EOF'\n{profile}\nEOF"));
        engine
            .container(run, &format!("--add-host keyhatch-upstream:127.0.0.1 --security-opt seccomp=/run/{call}.json"))
    };
    let log = forbid("memfd_secret");
    assert!(log.contains("INFO serving") && log.contains("layer token-memory: locked"), "{log}");
    let log = forbid("landlock_create_ruleset");
    assert!(log.contains("landlock") && !log.contains("INFO serving"), "{log}");
}

fn with_the_pids_and_cgroups_of_the_host(engine: &Engine, run: &str) {
    let run = run.replace(" --cap-drop all --cap-add setuid,setgid,setpcap", " --privileged --pids-limit 0");
    let log = engine.container(&run, "--pid host --cgroupns private");
    assert!(log.contains("INFO serving"), "{log}");
    assert!(!engine.credential().contains("the value"), "{}", engine.log());
    let log = engine.container(&run, "--pid host --cgroupns host");
    assert!(log.contains("INFO serving"), "{log}");
    assert_eq!(engine.credential(), "the value", "{}", engine.log());
    let status = engine.run("podman exec keyhatch keyhatch status");
    assert!(status.contains("namespaces    yes"), "{status}");
}
