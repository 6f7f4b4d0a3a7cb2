//! What the tests from outside share: an upstream, a broker, and peers of another uid.
#![allow(clippy::unwrap_used, unreachable_pub, dead_code, reason = "a test may panic; each test uses its share")]

pub mod channel;
pub mod parameters;
pub mod process;
pub mod service_account;
pub mod serving;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Numeric users that no machine has an entry for.
pub const PARENT: u32 = 61_001;
pub const WORKER: u32 = 61_002;
pub const GRANTED: u32 = 61_010;
pub const STRANGER: u32 = 61_011;

pub const TOKEN: &str = "planted-token-6f1b";
pub const VALUE: &str = "postgres://planted-value-93ad";

/// Heroku's config vars on loopback, for whoever shows the token; counts its calls.
pub struct Upstream {
    pub port: u16,
    pub calls: Arc<AtomicUsize>,
    /// While it is set, calls are counted and wait for their answer.
    pub held: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Upstream {
    pub fn start(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let calls = Arc::new(AtomicUsize::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let held = Arc::new(AtomicBool::new(false));
        let (counted, stopped, waits) = (calls.clone(), stop.clone(), held.clone());
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                answer(stream.unwrap(), &counted, &waits);
            }
        });
        Self { port, calls, held, stop, thread: Some(thread) }
    }

    /// From then on connections are refused.
    pub fn stop(&mut self) {
        self.held.store(false, Ordering::SeqCst);
        self.stop.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(("127.0.0.1", self.port)));
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stop();
    }
}

fn answer(mut stream: TcpStream, calls: &AtomicUsize, held: &AtomicBool) {
    let head: Vec<String> =
        BufReader::new(&stream).lines().map_while(Result::ok).take_while(|l| !l.is_empty()).collect();
    calls.fetch_add(1, Ordering::SeqCst);
    while held.load(Ordering::SeqCst) {
        std::thread::park_timeout(Duration::from_millis(5));
    }
    let shown = head.iter().any(|line| line.eq_ignore_ascii_case(&format!("authorization: Bearer {TOKEN}")));
    let asked = head.first().is_some_and(|line| line == "GET /apps/billing-prod/config-vars HTTP/1.1");
    let (status, body) = match (shown, asked) {
        (false, _) => ("401 Unauthorized", "{}".to_owned()),
        (true, false) => ("404 Not Found", "{}".to_owned()),
        (true, true) => ("200 OK", format!("{{\"DATABASE_URL\": \"{VALUE}\", \"OTHER\": \"x\"}}\n")),
    };
    let length = body.len();
    // A client that has gone is no failure of the upstream.
    let _ = write!(stream, "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}");
}

/// A directory with a configuration, a token and room for a cache; a broker in it.
pub struct Broker {
    pub directory: tempfile::TempDir,
    child: Option<Child>,
}

impl Broker {
    pub fn new(upstream: u16, settings: &str) -> Self {
        Self::with(upstream, settings, "")
    }

    /// `settings` are the key's, `sections` stand beside it.
    pub fn with(upstream: u16, settings: &str, sections: &str) -> Self {
        let mut broker = Self::prepared(|_| {
            format!(
                "[tokens]\nheroku = {{ file = \"DIR/token\" }}\n\
                 [keys.\"/billing/database-url\"]\nsource = {{ type = \"heroku\", app = \"billing-prod\", \
                 config-var = \"DATABASE_URL\", token = \"heroku\", base-url = \"http://127.0.0.1:{upstream}\", \
                 allow-plaintext = true }}\n{settings}\n{sections}\n\
                 [clients.billing]\nuser = {GRANTED}\nkeys = [\"/billing/*\"]\n"
            )
        });
        broker.start();
        broker
    }

    /// Not started yet. What `sections` gives stands below `[server]` and `[cache]`; `DIR` in it becomes the directory.
    pub fn prepared(sections: impl FnOnce(&Path) -> String) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        std::fs::set_permissions(root, std::fs::Permissions::from_mode(0o755)).unwrap();
        let broker = Self { directory, child: None };
        broker.write("token", &format!("{TOKEN}\n"), 0o400);
        broker.configure(&sections(broker.directory.path()));
        broker
    }

    /// Writes the configuration, for the next start.
    pub fn configure(&self, sections: &str) {
        let text = format!(
            "[server]\nsocket = \"DIR/keyhatch.sock\"\nadmin-socket = \"DIR/admin.sock\"\n\
             parent-user = {PARENT}\nworker-user = {WORKER}\n\
             [cache]\ndirectory = \"DIR/cache\"\nseal-key = {{ file = \"DIR/seal.key\" }}\n{sections}",
        );
        let text = text.replace("DIR", &self.directory.path().display().to_string());
        self.write("keyhatch.toml", &text, 0o600);
    }

    /// Starts it although it cannot: the exit code, and what it says.
    pub fn refused(&self) -> (Option<i32>, String) {
        self.refused_by(Command::new(env!("CARGO_BIN_EXE_keyhatch")))
    }

    /// The same by a command that ends in the program's path and executes it.
    pub fn refused_by(&self, mut serve: Command) -> (Option<i32>, String) {
        let done = serve.args(["serve", "--config"]).arg(self.path("keyhatch.toml")).output().unwrap();
        (done.status.code(), String::from_utf8(done.stderr).unwrap())
    }

    /// A file of this mode in the directory.
    pub fn write(&self, name: &str, content: &str, mode: u32) {
        std::fs::write(self.path(name), content).unwrap();
        std::fs::set_permissions(self.path(name), std::fs::Permissions::from_mode(mode)).unwrap();
    }

    pub fn start(&mut self) {
        self.start_with(&[]);
    }

    /// With more arguments to `serve`.
    pub fn start_with(&mut self, more: &[&str]) {
        self.start_by(Command::new(env!("CARGO_BIN_EXE_keyhatch")), more);
    }

    /// Starts it by a command that ends in the program's path and executes it.
    pub fn start_by(&mut self, serve: Command, more: &[&str]) {
        let already = self.log().matches("serving").count();
        self.launch(serve, more);
        wait_until("the broker serves", || {
            assert!(!self.has_ended(), "the broker ended:\n{}", self.log());
            self.log().matches("serving").count() > already
        });
    }

    /// The same, and does not wait until it serves.
    pub fn launch(&mut self, mut serve: Command, more: &[&str]) {
        let log = std::fs::File::options().create(true).append(true).open(self.path("log")).unwrap();
        serve.args(["serve", "--config"]).arg(self.path("keyhatch.toml")).args(more).stdin(Stdio::null()).stderr(log);
        wait_until("it is executed", || {
            // A program that was just copied is busy while a process that another test forked still holds it open.
            let busy = |error: std::io::Error| error.kind() == std::io::ErrorKind::ExecutableFileBusy;
            self.child = serve.spawn().map_or_else(|error| (!busy(error)).then(|| panic!("it is not executed")), Some);
            self.child.is_some()
        });
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// The file that the value of this key is sealed in, as the program tells.
    pub fn sealed_file(&self, key: &str) -> PathBuf {
        let mut list = Command::new(env!("CARGO_BIN_EXE_keyhatch"));
        let done = list.args(["cache", "ls", "--json", "--config"]).arg(self.path("keyhatch.toml")).output().unwrap();
        let listed: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
        let files = listed["files"].as_array().unwrap();
        let file = files.iter().find(|file| file["key"] == key).unwrap_or_else(|| panic!("no {key} in {listed}"));
        self.path("cache").join(file["file"].as_str().unwrap())
    }

    pub fn parent(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// The one child of the parent.
    pub fn worker(&self) -> u32 {
        children(self.parent())[0]
    }

    /// Whether it is gone without being told to.
    pub fn has_ended(&mut self) -> bool {
        let ended = self.child.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some());
        if ended {
            self.child = None;
        }
        ended
    }

    /// Ends it by this signal and gives its exit code, if it exited.
    pub fn end(&mut self, signal: &str) -> Option<i32> {
        send(signal, self.parent());
        let mut child = self.child.take().unwrap();
        let mut code = None;
        wait_until("the broker ends", || {
            let ended = child.try_wait().unwrap();
            code = ended.and_then(|status| status.code());
            ended.is_some()
        });
        code
    }

    /// An answer, head and body, to a peer of this uid.
    pub fn curl(&self, uid: u32, path: &str, more: &[&str]) -> String {
        let mut curl = as_uid(uid, "curl");
        curl.args(["--silent", "--include", "--max-time", "20", "--path-as-is", "--unix-socket"]);
        curl.arg(self.path("keyhatch.sock")).args(more).arg(format!("http://keyhatch{path}"));
        String::from_utf8(curl.output().unwrap().stdout).unwrap()
    }

    pub fn get(&self, uid: u32, key: &str) -> Output {
        let mut get = as_uid(uid, env!("CARGO_BIN_EXE_keyhatch"));
        get.args(["get", key, "--socket"]).arg(self.path("keyhatch.sock")).output().unwrap()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.end("KILL");
        }
    }
}

/// A listener that nobody can connect to without waiting, and what fills it.
pub fn full_listener(path: &Path) -> (OwnedFd, Vec<OwnedFd>) {
    use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket};
    let address = UnixAddr::new(path).unwrap();
    let new = |flags| socket(AddressFamily::Unix, SockType::Stream, flags, None).unwrap();
    let listener = new(SockFlag::SOCK_CLOEXEC);
    bind(listener.as_raw_fd(), &address).unwrap();
    listen(&listener, Backlog::new(1).unwrap()).unwrap();
    let mut waiting = Vec::new();
    loop {
        let client = new(SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK);
        if connect(client.as_raw_fd(), &address).is_err() {
            return (listener, waiting);
        }
        waiting.push(client);
    }
}

pub fn as_uid(uid: u32, program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={uid}"), format!("--regid={uid}"), "--clear-groups".into(), program.into()]);
    command
}

pub fn children(pid: u32) -> Vec<u32> {
    let told = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    told.split_whitespace().map(|child| child.parse().unwrap()).collect()
}

pub fn send(signal: &str, pid: u32) {
    assert!(Command::new("kill").arg(format!("-{signal}")).arg(pid.to_string()).status().unwrap().success());
}

/// Looks again and again, for at most 20 s.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let give_up = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < give_up, "it did not come to this: {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// Whether the readable memory of a process holds these bytes.
pub fn memory_holds(pid: u32, wanted: &[u8]) -> bool {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let memory = std::fs::File::open(Path::new("/proc").join(pid.to_string()).join("mem")).unwrap();
    maps.lines().filter(|line| line.contains(" r")).any(|line| {
        let (start, end) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
        let start = u64::from_str_radix(start, 16).unwrap();
        let length = u64::from_str_radix(end, 16).unwrap() - start;
        let mut bytes = Vec::new();
        let mut region = &memory;
        // Some regions, such as [vvar], cannot be read.
        let read = std::io::Seek::seek(&mut region, std::io::SeekFrom::Start(start))
            .and_then(|_| region.take(length).read_to_end(&mut bytes));
        read.is_ok() && bytes.windows(wanted.len()).any(|part| part == wanted)
    })
}
