//! The main job in one terminal: a stand-in upstream, the real broker, an outage, a restart, the recovery.
//!
//! Scripts nothing: every line shown is what the processes answered.
#![forbid(unsafe_code)]

mod upstream;

pub use upstream::serve as serve_upstream;

use std::fs::{self, File, Permissions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::sys::{creds, process};

/// Users that no machine has an entry for: what a root's demo drops to.
const PARENT: u32 = 61_001;
const WORKER: u32 = 61_002;

/// Runs the demonstration in a directory of its own, which is removed at the end. With `once` it ends by itself.
pub fn run(once: bool) -> io::Result<()> {
    let mut scene = Scene::prepare()?;
    let done = scene.play(once);
    scene.leave();
    done
}

struct Scene {
    directory: PathBuf,
    upstream: Option<Child>,
    port: u16,
    broker: Option<Child>,
}

impl Scene {
    fn prepare() -> io::Result<Self> {
        let directory = std::env::temp_dir().join(format!("keyhatch-demo-{}", std::process::id()));
        fs::create_dir(&directory)?;
        // Peers of other users must reach the socket.
        fs::set_permissions(&directory, Permissions::from_mode(0o755))?;
        let mut scene = Self { directory, upstream: None, port: 0, broker: None };
        scene.start_upstream()?;
        scene.write("token", "demo-token\n", 0o400)?;
        let at = |name: &str| scene.directory.join(name).display().to_string();
        let users =
            if creds::is_root() { format!("parent-user = {PARENT}\nworker-user = {WORKER}\n") } else { String::new() };
        let text = format!(
            r#"[server]
socket = "{socket}"
admin-socket = "{admin}"
sandbox = "best-effort"
{users}
[cache]
directory = "{cache}"
seal-key = {{ file = "{seal}" }}

[tokens]
heroku = {{ file = "{token}" }}

[keys."/billing/database-url"]
source = {{ type = "heroku", app = "billing", config-var = "DATABASE_URL", token = "heroku", base-url = "http://127.0.0.1:{port}", allow-plaintext = true }}

[keys."/shop/stripe-key"]
source = {{ type = "heroku", app = "shop", config-var = "STRIPE_KEY", token = "heroku", base-url = "http://127.0.0.1:{port}", allow-plaintext = true }}

[clients.you]
user = {uid}
keys = ["/billing/*"]
"#,
            socket = at("keyhatch.sock"),
            admin = at("admin.sock"),
            cache = at("cache"),
            seal = at("seal.key"),
            token = at("token"),
            port = scene.port,
            uid = creds::own_uid(),
        );
        scene.write("keyhatch.toml", &text, 0o600)?;
        Ok(scene)
    }

    fn write(&self, name: &str, content: &str, mode: u32) -> io::Result<()> {
        let path = self.directory.join(name);
        fs::write(&path, content)?;
        fs::set_permissions(path, Permissions::from_mode(mode))
    }

    fn socket(&self) -> PathBuf {
        self.directory.join("keyhatch.sock")
    }

    fn play(&mut self, once: bool) -> io::Result<()> {
        say(&format!(
            "A stand-in for Heroku's API listens on 127.0.0.1:{}; its token is in a file of ours.",
            self.port
        ))?;
        self.start_broker()?;
        let log = self.directory.join("log");
        say(&format!("keyhatch serves on {}; its log is {}", self.socket().display(), log.display()))?;
        self.show("A value, with its headers:", "/billing/database-url")?;
        self.show("Who you are here, and which clients you match:", "/-/whoami")?;
        self.show("The keys that are granted to you, and how they are:", "/-/keys")?;
        self.show("A key that is not granted to you:", "/shop/stripe-key")?;
        stop(&mut self.upstream)?;
        // Old enough to see that the age is told.
        std::thread::sleep(Duration::from_secs(2));
        self.show("The upstream is down. The last known good value, with its age:", "/billing/database-url")?;
        stop(&mut self.broker)?;
        self.start_broker()?;
        self.show("keyhatch was restarted while it is down:", "/billing/database-url")?;
        self.start_upstream()?;
        self.await_recovery()?;
        self.show("The upstream is back:", "/billing/database-url")?;
        if once {
            return Ok(());
        }
        // A Ctrl-C reaches the broker, too: it ends, and then this does, with nothing left behind.
        process::ignore_end_signals()?;
        self.invite()?;
        if let Some(broker) = &mut self.broker {
            broker.wait()?;
        }
        Ok(())
    }

    /// What can be typed in another terminal, by the same user.
    fn invite(&self) -> io::Result<()> {
        let (program, socket, admin) = (std::env::current_exe()?, self.socket(), self.directory.join("admin.sock"));
        let (program, socket, admin) = (program.display(), socket.display(), admin.display());
        say(&format!(
            "It stays up for you to play with, until Ctrl-C. In another terminal:

    A value:              {program} get --socket {socket} /billing/database-url
    The same by HTTP:     curl -i --unix-socket {socket} http://keyhatch/billing/database-url
    One that is denied:   {program} get --socket {socket} /shop/stripe-key
    How the keys are:     {program} status --admin-socket {admin}"
        ))
    }

    fn start_upstream(&mut self) -> io::Result<()> {
        let mut child = own().args(["demo-upstream", &self.port.to_string()]).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        if let Some(out) = child.stdout.take() {
            BufReader::new(out).read_line(&mut line)?;
        }
        self.upstream = Some(child);
        self.port = line.trim().parse().map_err(|_| io::Error::other("the stand-in upstream did not start"))?;
        Ok(())
    }

    fn start_broker(&mut self) -> io::Result<()> {
        let log = File::options().create(true).append(true).open(self.directory.join("log"))?;
        let mut serve = own();
        serve.args(["serve", "--config"]).arg(self.directory.join("keyhatch.toml")).stdin(Stdio::null()).stderr(log);
        let mut child = serve.spawn()?;
        let give_up = Instant::now() + Duration::from_secs(10);
        while ask(&self.socket(), "/-/health").is_err() {
            if child.try_wait()?.is_some() || Instant::now() > give_up {
                let log = fs::read_to_string(self.directory.join("log"))?;
                return Err(io::Error::other(format!("the broker did not start:\n{log}")));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.broker = Some(child);
        Ok(())
    }

    /// Back-off paces the attempts: the next one comes within seconds.
    fn await_recovery(&self) -> io::Result<()> {
        let give_up = Instant::now() + Duration::from_secs(30);
        while !ask(&self.socket(), "/billing/database-url")?.contains("fwd-status=200") {
            if Instant::now() > give_up {
                return Err(io::Error::other("the broker did not ask the upstream again"));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    fn show(&self, what: &str, path: &str) -> io::Result<()> {
        let socket = self.socket();
        say(&format!("\n== {what}\n$ curl -i --unix-socket {} http://keyhatch{path}", socket.display()))?;
        say(&ask(&socket, path)?)
    }

    fn leave(&mut self) {
        // Nothing more can be done for what is already gone.
        let _ = stop(&mut self.broker);
        let _ = stop(&mut self.upstream);
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn own() -> Command {
    Command::new("/proc/self/exe")
}

fn stop(child: &mut Option<Child>) -> io::Result<()> {
    let Some(mut child) = child.take() else { return Ok(()) };
    process::terminate(child.id())?;
    child.wait().map(drop)
}

fn ask(socket: &Path, path: &str) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: keyhatch\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.replace('\r', ""))
}

fn say(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}
