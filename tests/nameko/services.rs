//! The services of `services.py`, and the one of `front.py` that asks them.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use serde_json::{Value, json};

use crate::rabbit::python;
use crate::support::wait_until;

/// `nameko run`.
pub(crate) struct Services {
    child: Child,
    calls: PathBuf,
}

impl Services {
    pub(crate) fn start(uri: &str, directory: &Path) -> Self {
        let config = directory.join("nameko.yaml");
        std::fs::write(&config, format!("AMQP_URI: {uri}\n")).unwrap();
        let log = directory.join("nameko.log");
        let script = python("services.py");
        let folder = Path::new(script.get_args().last().unwrap()).parent().unwrap().to_owned();
        let mut run = Command::new(Path::new(script.get_program()).with_file_name("nameko"));
        run.args(["run", "--config"]).arg(config).arg("services").current_dir(folder);
        let calls = directory.join("calls");
        run.env("CALLS", &calls).env("PYTHONDONTWRITEBYTECODE", "1").stdin(Stdio::null()).stdout(Stdio::null());
        run.stderr(std::fs::File::create(&log).unwrap());
        let child = run.spawn().unwrap();
        wait_until("the services are connected", || std::fs::read_to_string(&log).unwrap().contains("Connected to"));
        Self { child, calls }
    }

    /// How often this method was called.
    pub(crate) fn calls(&self, method: &str) -> usize {
        let calls = std::fs::read_to_string(&self.calls).unwrap_or_default();
        calls.lines().filter(|line| line.split(' ').next() == Some(method)).count()
    }

    /// Whether a method misbehaves from now on.
    pub(crate) fn set(&self, what: &str, on: bool) {
        let flag = self.calls.with_extension(what);
        if on { std::fs::write(flag, "").unwrap() } else { std::fs::remove_file(flag).unwrap() }
    }

    /// Its queue stays, and nobody takes from it.
    pub(crate) fn stop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        self.stop();
    }
}

pub(crate) struct Front {
    child: Child,
    input: ChildStdin,
    output: BufReader<std::process::ChildStdout>,
}

impl Front {
    pub(crate) fn start(uri: &str, socket: &Path, directory: &Path) -> Self {
        let mut run = python("front.py");
        run.env("AMQP_URI", uri)
            .env("SOCKET", socket)
            .env("PAGE", Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/nameko.md"));
        run.stderr(std::fs::File::create(directory.join("front.log")).unwrap());
        let mut child = run.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut front = Self { child, input, output };
        assert_eq!(front.line(), "ready");
        front
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(self.output.read_line(&mut line).unwrap() > 0, "the service that asks has ended");
        line.trim_end().to_owned()
    }

    pub(crate) fn ask(&mut self, by: &str, method: &str, args: Value, kwargs: Value) -> Value {
        writeln!(self.input, "{}", json!({ "by": by, "method": method, "args": args, "kwargs": kwargs })).unwrap();
        serde_json::from_str(&self.line()).unwrap()
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        // It is of no use any more.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
