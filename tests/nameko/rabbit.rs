//! A RabbitMQ of one test: its own directory, ports on loopback that nobody else has, its own port mapper. Ended with the test.

use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::TOKEN;

pub(crate) const USER: &str = "keyhatch";

pub(crate) struct Rabbit {
    directory: tempfile::TempDir,
    pub(crate) port: u16,
    pub(crate) tls_port: u16,
    internal: [u16; 2],
    mapper: Child,
    server: Option<Child>,
}

fn free_ports<const N: usize>() -> [u16; N] {
    // All at once, so that they differ.
    let held: [TcpListener; N] = std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    held.map(|listener| listener.local_addr().unwrap().port())
}

impl Rabbit {
    /// Its certificate for TLS and the key of that, as PEM.
    pub(crate) fn start(certificate: &str, key: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let [port, tls_port, distribution, names] = free_ports();
        let mut mapper = Command::new("epmd");
        mapper.args(["-address", "127.0.0.1", "-port", &names.to_string()]).stdin(Stdio::null());
        let mapper = mapper
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("epmd: {error}; tests/run installs it"));
        let mut rabbit = Self { directory, port, tls_port, internal: [distribution, names], mapper, server: None };
        let at = rabbit.directory.path();
        std::fs::write(at.join("server.pem"), certificate).unwrap();
        std::fs::write(at.join("server.key"), key).unwrap();
        std::fs::write(at.join("plugins"), "[].").unwrap();
        let shown = at.display();
        let settings = format!(
            "listeners.tcp.default = 127.0.0.1:{port}\nlisteners.ssl.default = 127.0.0.1:{tls_port}\n\
             ssl_options.cacertfile = {shown}/server.pem\nssl_options.certfile = {shown}/server.pem\n\
             ssl_options.keyfile = {shown}/server.key\nssl_options.verify = verify_none\n\
             default_user = {USER}\ndefault_pass = {TOKEN}\nheartbeat = 20\n"
        );
        std::fs::write(at.join("rabbitmq.conf"), settings).unwrap();
        rabbit.resume();
        rabbit
    }

    pub(crate) fn uri(&self) -> String {
        format!("amqp://{USER}:{TOKEN}@127.0.0.1:{}//", self.port)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn environment(&self, command: &mut Command) {
        let [distribution, names] = self.internal;
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", self.directory.path());
        command.env("RABBITMQ_NODENAME", format!("keyhatch-{}@localhost", self.port));
        for (name, file) in [
            ("CONFIG_FILE", "rabbitmq.conf"),
            ("MNESIA_BASE", "data"),
            ("LOG_BASE", "log"),
            ("ENABLED_PLUGINS_FILE", "plugins"),
            ("CONF_ENV_FILE", "none"),
        ] {
            command.env(format!("RABBITMQ_{name}"), self.path(file));
        }
        command.env("RABBITMQ_DIST_PORT", distribution.to_string()).env("ERL_EPMD_PORT", names.to_string());
        command.env("ERL_EPMD_ADDRESS", "127.0.0.1").env("ERL_CRASH_DUMP", "/dev/null");
    }

    /// After [`kill`](Self::kill): with the queues that last.
    pub(crate) fn resume(&mut self) {
        let mut server = Command::new("/usr/lib/rabbitmq/bin/rabbitmq-server");
        self.environment(&mut server);
        let out = std::fs::File::create(self.path("out")).unwrap();
        server.stdin(Stdio::null()).stdout(out).stderr(Stdio::null()).process_group(0);
        self.server =
            Some(server.spawn().unwrap_or_else(|error| panic!("rabbitmq-server: {error}; tests/run installs it")));
        let give_up = Instant::now() + Duration::from_secs(90);
        while !std::fs::read_to_string(self.path("out")).unwrap().contains("completed with") {
            assert!(Instant::now() < give_up, "{}", std::fs::read_to_string(self.path("out")).unwrap());
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }

    /// As if the power were gone.
    pub(crate) fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            let group = format!("-{}", server.id());
            assert!(Command::new("kill").args(["-KILL", "--", &group]).status().unwrap().success());
            server.wait().unwrap();
        }
    }

    /// What `rabbitmqctl` says to this.
    pub(crate) fn control(&self, arguments: &[&str]) -> String {
        let mut control = Command::new("/usr/lib/rabbitmq/bin/rabbitmqctl");
        self.environment(&mut control);
        let done =
            control.args(["--quiet", "--node", &format!("keyhatch-{}@localhost", self.port)]).args(arguments).output();
        let done = done.unwrap();
        assert!(done.status.success(), "{arguments:?}: {done:?}");
        String::from_utf8(done.stdout).unwrap()
    }
}

impl Drop for Rabbit {
    fn drop(&mut self) {
        self.kill();
        // It is of no use any more.
        let _ = self.mapper.kill();
        let _ = self.mapper.wait();
    }
}

/// The interpreter with Nameko in it, and a script of this folder.
pub(crate) fn python(script: &str) -> Command {
    let target = Path::new(env!("CARGO_BIN_EXE_keyhatch")).parent().unwrap().parent().unwrap();
    let python = target.join("tools/nameko/bin/python");
    assert!(python.exists(), "{} is missing: tests/run makes it", python.display());
    let mut command = Command::new(python);
    command.arg("-W").arg("ignore").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nameko").join(script));
    command
}
