//! The Debian package on a real systemd: installed, upgraded, removed and purged. The package for RPM: what is in it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "units/lab.rs"]
#[allow(dead_code, reason = "it has no unit of its own")]
mod lab;

use std::path::{Path, PathBuf};
use std::process::Command;

use lab::{Lab, text};

/// Builds a package of the program that is under test, as `version`.
fn package(kind: &str, version: &str, directory: &Path) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut build = Command::new(root.join("packaging/build"));
    let done = build.args([kind, "dev", version]).arg(directory).output().unwrap();
    assert!(done.status.success(), "{}", text(&done));
    let built = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut of_kind: Vec<PathBuf> = built.filter(|path| path.to_string_lossy().contains(version)).collect();
    of_kind.retain(|path| path.extension().is_some_and(|extension| extension == kind));
    assert_eq!(of_kind.len(), 1, "{of_kind:?}");
    of_kind.remove(0)
}

struct Guest(Lab);

impl Guest {
    fn run(&self, script: &str) -> String {
        let done = self.0.run(&["sh", "-ec", script]);
        assert!(done.status.success(), "{script}: {}", text(&done));
        text(&done)
    }

    fn health(&self) -> String {
        self.run("curl --silent --show-error --max-time 20 --unix-socket /run/keyhatch/keyhatch.sock http://k/-/health")
    }
}

#[test]
#[ignore = "needs root: boots a systemd in namespaces and installs packages there"]
fn the_debian_package_serves_keeps_and_goes() {
    installed_upgraded_and_gone(lab::HOST);
}

#[test]
#[ignore = "needs root: boots the systemd of another Debian in namespaces"]
fn the_debian_package_does_the_same_on_debian_13() {
    installed_upgraded_and_gone(lab::TRIXIE);
}

fn installed_upgraded_and_gone(root: &str) {
    let directory = tempfile::tempdir().unwrap();
    let (first, second) = (package("deb", "0.1.0-1", directory.path()), package("deb", "0.1.0-2", directory.path()));
    let guest = Guest(Lab::up(root, &[]));
    for package in [&first, &second] {
        std::fs::copy(package, guest.0.directory.path().join(package.file_name().unwrap())).unwrap();
    }
    let inside = |package: &Path| format!("DIR/{}", package.file_name().unwrap().to_string_lossy());

    guest.run(&format!("export DEBIAN_FRONTEND=noninteractive; dpkg --install {}", inside(&first)));
    // It serves as it is, without a key.
    assert!(guest.health().contains("\"status\":\"ok\""));
    assert_eq!(guest.run("systemctl is-enabled keyhatch.service keyhatch.socket").trim(), "enabled\nenabled");
    let modes = guest.run("stat -c '%a %U %n' /etc/keyhatch/tokens /etc/keyhatch/keyhatch.toml /var/cache/keyhatch /var/lib/keyhatch /var/lib/keyhatch/seal.key");
    let expected = "700 root /etc/keyhatch/tokens\n644 root /etc/keyhatch/keyhatch.toml\n700 keyhatch /var/cache/keyhatch\n700 root /var/lib/keyhatch\n400 root /var/lib/keyhatch/seal.key\n";
    assert_eq!(modes, expected);
    assert!(guest.run("keyhatch check 2>&1").contains("good: 0 keys"));
    guest.run("test -s /usr/share/man/man1/keyhatch.1.gz -a -s /usr/share/bash-completion/completions/keyhatch");

    // What an operator does then.
    guest.run(
        "install -m 0400 /dev/stdin /etc/keyhatch/tokens/t <<EOF\nthe-token\nEOF\n\
         install -m 0400 /dev/stdin /etc/keyhatch/value <<EOF\nthe value\nEOF\n\
         printf '[keys.\"/v\"]\\nsource = { type = \"file\", path = \"/etc/keyhatch/value\", format = \"text\" }\\n\
         [clients.root]\\nuser = 0\\nkeys = \"/v\"\\n' >> /etc/keyhatch/keyhatch.toml; systemctl reload keyhatch",
    );
    assert_eq!(guest.run("keyhatch get /v").trim(), "the value");
    let before = guest
        .run("systemctl show -P MainPID keyhatch; sha256sum /var/lib/keyhatch/seal.key /etc/keyhatch/keyhatch.toml");

    guest.run(&format!("export DEBIAN_FRONTEND=noninteractive; dpkg --install {}", inside(&second)));
    let after = guest
        .run("systemctl show -P MainPID keyhatch; sha256sum /var/lib/keyhatch/seal.key /etc/keyhatch/keyhatch.toml");
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    assert_ne!(lines(&before)[0], lines(&after)[0], "the new program runs");
    assert_eq!(lines(&before)[1..], lines(&after)[1..], "and finds what there was");
    assert_eq!(guest.run("keyhatch get /v").trim(), "the value");

    guest.run("dpkg --remove keyhatch");
    guest.run("! systemctl is-active keyhatch.service keyhatch.socket && test ! -e /usr/bin/keyhatch");
    guest.run("test -s /etc/keyhatch/keyhatch.toml -a -s /etc/keyhatch/tokens/t -a -s /var/lib/keyhatch/seal.key");
    guest.run("dpkg --purge keyhatch");
    guest.run("test ! -e /etc/keyhatch -a ! -e /var/lib/keyhatch -a ! -e /var/cache/keyhatch");
}

#[test]
#[ignore = "needs root: its tools are installed by tests/run as root"]
fn the_rpm_package_has_what_the_other_one_has() {
    let directory = tempfile::tempdir().unwrap();
    let (deb, rpm) = (package("deb", "0.1.0-3", directory.path()), package("rpm", "0.1.0-3", directory.path()));
    let listed = |command: &mut Command| {
        let done = command.output().unwrap();
        assert!(done.status.success(), "{}", text(&done));
        let text = String::from_utf8(done.stdout).unwrap();
        let mut files: Vec<String> = text.lines().filter(|line| !line.ends_with('/')).map(str::to_owned).collect();
        files.sort_unstable();
        files
    };
    let in_rpm = listed(Command::new("rpm").args(["-qpl", "--nosignature"]).arg(&rpm));
    let tar = "dpkg-deb --fsys-tarfile \"$0\" | tar --list";
    let in_deb = listed(Command::new("sh").args(["-c", tar]).arg(&deb));
    let in_deb: Vec<String> = in_deb
        .iter()
        .map(|file| file.trim_start_matches('.').replace("vendor-completions", "site-functions"))
        .filter(|file| !file.ends_with("/copyright"))
        .collect();
    assert!(in_deb.len() > 30 && in_deb.contains(&"/usr/bin/keyhatch".to_owned()), "{in_deb:?}");
    assert_eq!(in_rpm, in_deb);
}
