//! A kernel that has no `SO_PEERPIDFD` (before Linux 6.5): a unit narrows a user that is named, and decides nothing by itself.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::support::{Broker, GRANTED, as_uid};

/// A control group with the name of a service, below the one that cgroup v2 is mounted at.
struct Service(PathBuf);

impl Service {
    fn new() -> Self {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let root = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2")).unwrap();
        let name = format!("older-{}.service", std::process::id());
        let group = Path::new(root.split(' ').nth(1).unwrap()).join(name);
        std::fs::create_dir(&group).unwrap();
        Self(group)
    }

    /// The status of this key for a process of it.
    fn status(&self, broker: &Broker, key: &str) -> String {
        let mut peer = Command::new("sh");
        peer.args(["-c", "echo 0 > \"$0\" && exec \"$@\""]).arg(self.0.join("cgroup.procs"));
        let curl = as_uid(GRANTED, "curl");
        peer.arg(curl.get_program()).args(curl.get_args());
        peer.args(["--silent", "--output", "/dev/null", "--write-out", "%{http_code}", "--unix-socket"]);
        let done = peer.arg(broker.path("keyhatch.sock")).arg(format!("http://k{key}")).output().unwrap();
        String::from_utf8(done.stdout).unwrap()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may be in use for a moment yet.
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// The program on such a kernel.
fn older() -> Command {
    let program = Path::new(env!("CARGO_BIN_EXE_keyhatch")).with_file_name("examples").join("probe");
    assert!(program.exists(), "{} is missing: cargo build --example probe", program.display());
    let mut command = Command::new(program);
    command.args(["refuse", "SO_PEERPIDFD", env!("CARGO_BIN_EXE_keyhatch")]);
    command
}

#[test]
#[ignore = "needs root: makes a control group, drops to two uids and asks as others"]
fn without_the_peers_pidfd_a_unit_only_narrows_a_named_user() {
    let service = Service::new();
    let mut broker = Broker::prepared(|_| {
        let key = |name| {
            format!("[keys.\"/{name}\"]\nsource = {{ type = \"file\", path = \"DIR/value\", format = \"text\" }}\n")
        };
        let unit = "unit = \"older-*.service\"";
        format!(
            "{}{}[clients.named]\nuser = {GRANTED}\n{unit}\nkeys = [\"/named\"]\n\
             [clients.grouped]\ngroup = {GRANTED}\n{unit}\nkeys = [\"/grouped\"]\n",
            key("named"),
            key("grouped")
        )
    });
    broker.write("value", "x", 0o400);
    let why = "client `grouped` matches nobody: this kernel has no SO_PEERPIDFD";
    for (serve, of_group) in [(Command::new(env!("CARGO_BIN_EXE_keyhatch")), "200"), (older(), "403")] {
        broker.start_by(serve, &[]);
        assert_eq!(service.status(&broker, "/named"), "200", "{}", broker.log());
        assert_eq!(service.status(&broker, "/grouped"), of_group, "{}", broker.log());
        for key in ["/named", "/grouped"] {
            assert!(broker.curl(GRANTED, key, &[]).starts_with("HTTP/1.1 403 "), "not in the unit");
        }
        assert_eq!(broker.log().matches(why).count(), usize::from(of_group == "403"), "{}", broker.log());
        broker.end("TERM");
    }
    let checked = older().arg("check").arg(broker.path("keyhatch.toml")).output().unwrap();
    let told = String::from_utf8([checked.stdout, checked.stderr].concat()).unwrap();
    assert!(checked.status.code() == Some(78) && told.contains(why) && !told.contains("client `named`"), "{told}");
}
