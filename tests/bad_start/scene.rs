//! One start of the broker, and what came of it.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::support::wait_until;

/// A start in a directory of its own. The directory is below /run, where root alone can write all the way up.
pub(crate) struct Scene {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) child: Option<Child>,
}

impl Scene {
    pub(crate) fn new(configuration: &str) -> Self {
        let directory = tempfile::Builder::new().prefix("keyhatch-test-").tempdir_in("/run").unwrap();
        let scene = Self { directory, child: None };
        chmod(scene.path(), 0o755);
        scene.file("token", "planted-token\n", 0o400);
        scene.file("keyhatch.toml", &configuration.replace('@', &scene.path().display().to_string()), 0o600);
        scene
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn file(&self, name: &str, content: &str, mode: u32) {
        fs::write(self.path().join(name), content).unwrap();
        chmod(&self.path().join(name), mode);
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path().join("log")).unwrap_or_default()
    }

    pub(crate) fn start(&mut self, mut serve: Command) {
        let log = File::options().create(true).append(true).open(self.path().join("log")).unwrap();
        serve.args(["serve", "--config"]).arg(self.path().join("keyhatch.toml"));
        self.child = Some(serve.stdin(Stdio::null()).stderr(log).spawn().unwrap());
    }

    /// Starts, and expects that it ends by itself with this code.
    pub(crate) fn refused(&mut self, serve: Command, code: i32) -> String {
        self.start(serve);
        let child = self.child.as_mut().unwrap();
        let log = self.directory.path().join("log");
        let mut ended = None;
        wait_until("it ends or serves", || {
            ended = child.try_wait().unwrap();
            ended.is_some() || fs::read_to_string(&log).unwrap().contains("serving")
        });
        if ended.is_some() {
            self.child = None;
        }
        assert_eq!(ended.and_then(|status| status.code()), Some(code), "{}", self.log());
        self.log()
    }

    /// Starts, and expects that it serves.
    pub(crate) fn serves(&mut self, serve: Command) -> String {
        self.start(serve);
        let child = self.child.as_mut().unwrap();
        let log = self.directory.path().join("log");
        wait_until("it serves", || {
            let log = fs::read_to_string(&log).unwrap();
            assert!(child.try_wait().unwrap().is_none(), "{log}");
            log.contains("serving")
        });
        self.log()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub(crate) fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}
