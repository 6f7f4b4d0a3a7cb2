//! A guest with the units of this project, installed as the documentation says.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::lab::{Lab, text};
use crate::support::wait_until;

pub(crate) struct Scene {
    pub(crate) lab: Lab,
}

const CONFIGURATION: &str = r#"
[keys."/up"]
source = { type = "http", url = "http://127.0.0.1:8001/good", field = "value" }
[keys."/unit"]
source = { type = "file", path = "/etc/keyhatch/value", format = "text" }
[keys."/root"]
source = { type = "file", path = "/etc/keyhatch/value", format = "text" }
[clients.all]
anyone = true
keys = "/up"
[clients.one]
user = "dynamic"
unit = "one.service"
keys = "/unit"
[clients.root]
user = 0
keys = "/root"
"#;

/// What docs/systemd.md says to do, up to where it starts anything.
fn install() -> String {
    let page = std::fs::read_to_string(units().with_file_name("docs/systemd.md")).unwrap();
    let section = page.split("## By hand").nth(1).unwrap();
    let lines = section.lines().filter_map(|line| line.strip_prefix("    "));
    let lines: Vec<&str> = lines.take_while(|line| !line.starts_with("keyhatch check")).collect();
    assert!(lines.len() > 5, "{lines:?}");
    let files = "install -m 0600 keyhatch.toml /etc/keyhatch/\ninstall -m 0400 value /etc/keyhatch/";
    format!(
        "set -e\ncd /srv/keyhatch\nln -s /opt/keyhatch/keyhatch /usr/bin/keyhatch\n{}\n{files}\nkeyhatch check",
        lines.join("\n")
    )
}

/// Where the units are.
pub(crate) fn units() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd")
}

/// Asks for a path, on a connection of its own.
pub(crate) fn request(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: k\r\nAccept: application/json\r\nConnection: close\r\n\r\n").into_bytes()
}

impl Scene {
    pub(crate) fn up(root: &str) -> Self {
        let scene = Self::with(root, CONFIGURATION);
        scene.start_upstream();
        scene
    }

    /// With this configuration and without an upstream.
    pub(crate) fn with(root: &str, configuration: &str) -> Self {
        let lab = Lab::up(root, &[("keyhatch.toml", configuration), ("value", "the value of a unit")]);
        let scene = Self { lab };
        copy(&units(), &scene.lab.directory.path().join("systemd"));
        let installed = scene.run(&install());
        assert!(installed.status.success(), "{}", text(&installed));
        scene
    }

    /// By a shell of the guest.
    pub(crate) fn run(&self, script: &str) -> std::process::Output {
        self.lab.run(&["sh", "-c", script])
    }

    pub(crate) fn systemctl(&self, arguments: &str) {
        let done = self.run(&format!("systemctl {arguments}"));
        assert!(done.status.success(), "{arguments}: {}\n{}", text(&done), self.journal());
    }

    pub(crate) fn property(&self, name: &str) -> String {
        text(&self.run(&format!("systemctl show --value -p {name} keyhatch.service"))).trim().to_owned()
    }

    /// What systemd has still to do.
    pub(crate) fn jobs(&self) -> String {
        text(&self.run("systemctl list-jobs --no-legend"))
    }

    pub(crate) fn journal(&self) -> String {
        text(&self.run("journalctl --no-pager -o short -u 'keyhatch*'"))
    }

    pub(crate) fn signal(&self, signal: &str, role: &str) {
        let pid = self.property("MainPID");
        let script = match role {
            "serve" => format!("kill -{signal} {pid}"),
            _ => format!("kill -{signal} $(cat /proc/{pid}/task/{pid}/children)"),
        };
        assert!(self.run(&script).status.success(), "{script}");
    }

    /// In place of an earlier one; empty for none.
    pub(crate) fn drop_in(&self, unit: &str, text: &str) {
        std::fs::write(self.lab.directory.path().join("drop-in"), text).unwrap();
        let to = format!("/etc/systemd/system/{unit}.d");
        let done = self.run(&format!(
            "mkdir -p {to} && install -m 0644 /srv/keyhatch/drop-in {to}/test.conf && systemctl daemon-reload"
        ));
        assert!(done.status.success());
    }

    pub(crate) fn start_upstream(&self) {
        let upstream = "/opt/keyhatch/examples/upstream --ca /run/ca.pem --token t --port 8001";
        let started = self.run(&format!("systemd-run -q --collect --unit=upstream {upstream}"));
        assert!(started.status.success(), "{}", text(&started));
        wait_until("the upstream listens", || {
            self.run("perl -MIO::Socket::INET -e 'exit !IO::Socket::INET->new(\"127.0.0.1:8001\")'").status.success()
        });
    }

    /// The guest's root directory, as seen from here.
    fn root(&self) -> PathBuf {
        let status = text(&self.lab.command().arg("status").output().unwrap());
        let pid = status.split(" pid ").nth(1).and_then(|rest| rest.split(' ').next());
        PathBuf::from(format!("/proc/{}/root", pid.unwrap_or_else(|| panic!("{status}"))))
    }

    /// Sockets are reached through the guest's root from here.
    pub(crate) fn socket(&self) -> PathBuf {
        self.root().join("run/keyhatch/keyhatch.sock")
    }

    pub(crate) fn connect(&self) -> io::Result<UnixStream> {
        let stream = UnixStream::connect(self.socket())?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        Ok(stream)
    }

    /// The answer to one request on a new connection.
    pub(crate) fn get(&self, path: &str) -> String {
        let mut stream = self.connect().unwrap();
        stream.write_all(&request(path)).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
