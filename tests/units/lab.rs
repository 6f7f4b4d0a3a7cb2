//! A real systemd in namespaces of its own (tests/systemd-lab), with a broker as one of its services.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Where the directory of the broker is in the guest.
pub(crate) const INSIDE: &str = "/srv/keyhatch";

/// The system of this machine. Or a suite of Debian with little else than its systemd: the first one who wants it waits for its
/// packages, and fails where there are none to be had.
pub(crate) const HOST: &str = "host";
pub(crate) const TRIXIE: &str = "trixie";

pub(crate) struct Lab {
    name: String,
    pub(crate) directory: tempfile::TempDir,
}

impl Lab {
    /// `root` is `HOST` or a suite. `files` are written into the directory of the broker, as root's alone.
    pub(crate) fn up(root: &str, files: &[(&str, &str)]) -> Self {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let mode = std::fs::Permissions::from_mode;
        std::fs::set_permissions(directory.path(), mode(0o755)).unwrap();
        for (name, text) in files {
            let path = directory.path().join(name);
            std::fs::write(&path, text.replace("DIR", INSIDE)).unwrap();
            std::fs::set_permissions(&path, mode(0o600)).unwrap();
        }
        let lab = Self { name: format!("keyhatch-{}-{root}", std::process::id()), directory };
        let program = Path::new(env!("CARGO_BIN_EXE_keyhatch")).parent().unwrap();
        let binds =
            [format!("{}:/opt/keyhatch:ro", program.display()), format!("{}:{INSIDE}", lab.directory.path().display())];
        let mut up = lab.command();
        up.args(["up", "--root", root, "--bind", &binds[0], "--bind", &binds[1]]);
        if root != HOST {
            up.args(["--packages", "curl,dbus-user-session,passwd"]);
        }
        let up = up.output().unwrap();
        assert!(up.status.success(), "{}", text(&up));
        lab
    }

    pub(crate) fn command(&self) -> Command {
        let mut lab = Command::new(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/systemd-lab"));
        lab.env("SYSTEMD_LAB_NAME", &self.name);
        lab
    }

    /// As root in the guest, in a scope of its own. `KEYHATCH` is the program.
    pub(crate) fn run(&self, command: &[&str]) -> Output {
        let inside = |part: &&str| part.replace("KEYHATCH", "/opt/keyhatch/keyhatch").replace("DIR", INSIDE);
        self.command().arg("run").args(command.iter().map(inside)).output().unwrap()
    }

    /// In a unit of this name, with these settings, to its end: what it says on stdout and stderr.
    pub(crate) fn in_unit(&self, unit: &str, settings: &[&str], command: &[&str]) -> String {
        let unit = format!("--unit={unit}");
        let mut all = vec!["systemd-run", "-q", "--wait", "--pipe", "--collect", &unit];
        for setting in settings {
            all.extend(["-p", setting]);
        }
        all.extend(command);
        text(&self.run(&all))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.command().arg("down").output();
    }
}

pub(crate) fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
