//! A worker that says whatever a test wants, byte by byte.

use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader, IoSlice};
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use keyhatch::ipc::wire::{self, FetchRequest, PROTOCOL, RequestId, ToParent, ToWorker};
use keyhatch::parent::cache::new_seal_key_text;
use keyhatch::secret::KeyPath;
use keyhatch::sys::spawn::channel_pair;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, bind, connect, recv, sendmsg, socket,
};

use crate::support::{GRANTED, wait_until};

/// The most connections that the configuration allows, and with them the most requests in flight.
pub(crate) const CONNECTIONS: u64 = 4;

/// A real parent at the other end of the channel, and the listener whose connections it believes.
pub(crate) struct Worker {
    pub(crate) channel: OwnedFd,
    pub(crate) listener: UnixListener,
    directory: tempfile::TempDir,
    /// Takes connections and never answers.
    _upstream: TcpListener,
    child: Child,
}

impl Worker {
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let upstream = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let source = format!("{{ type = \"http\", url = \"http://{}/\" }}", upstream.local_addr().unwrap());
        let keys = ["/open", "/closed", "/mine", "/unit"].map(|key| format!("[keys.\"{key}\"]\nsource = {source}\n"));
        let own = nix::unistd::Uid::effective();
        let text = format!(
            "[limits]\nconnections = {CONNECTIONS}\n{}[clients.all]\nanyone = true\nkeys = [\"/open\"]\n\
             [clients.mine]\nuser = {GRANTED}\nkeys = [\"/mine\"]\n\
             [clients.unit]\nuser = {own}\nunit = \"keyhatch-*.service\"\nkeys = [\"/unit\"]\n",
            keys.concat()
        );
        fs::write(at("keyhatch.toml"), text).unwrap();
        fs::write(at("seal.key"), new_seal_key_text().unwrap().as_bytes()).unwrap();
        fs::create_dir(at("cache")).unwrap();
        fs::set_permissions(at("cache"), Permissions::from_mode(0o700)).unwrap();
        let listener = UnixListener::bind(at("keyhatch.sock")).unwrap();
        let (channel, theirs) = channel_pair().unwrap();
        let program = Path::new(env!("CARGO_BIN_EXE_keyhatch")).with_file_name("examples").join("hostile-worker");
        assert!(program.exists(), "cargo build --example hostile-worker makes what this test needs");
        let child = Command::new(program)
            .arg(directory.path())
            .stdin(theirs)
            .stdout(Stdio::piped())
            .stderr(File::create(at("log")).unwrap())
            .spawn()
            .unwrap();
        Self { channel, listener, directory, _upstream: upstream, child }
    }

    /// A parent that has greeted and serves.
    pub(crate) fn greeted() -> Self {
        let worker = Self::start();
        worker.say(&hello());
        assert!(matches!(worker.hear(), Some(ToWorker::Configure { .. })), "{}", worker.log());
        worker.say(&ToParent::Ready { layers: Vec::new() });
        wait_until("the parent serves", || worker.log().contains("serving"));
        worker
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("keyhatch.sock")
    }

    /// A peer and the worker's end of its connection.
    pub(crate) fn peer(&self) -> (UnixStream, UnixStream) {
        let peer = UnixStream::connect(self.socket()).unwrap();
        (peer, self.listener.accept().unwrap().0)
    }

    /// The same, with an abstract address like systemd's: one that no other run of this test has at the same time.
    pub(crate) fn peer_named(&self, number: u64, of: &str) -> (OwnedFd, UnixStream) {
        let name = format!("{:x}{number:06x}/unit/{of}", std::process::id());
        let peer = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        bind(peer.as_raw_fd(), &UnixAddr::new_abstract(name.as_bytes()).unwrap()).unwrap();
        connect(peer.as_raw_fd(), &UnixAddr::new(&self.socket()).unwrap()).unwrap();
        (peer, self.listener.accept().unwrap().0)
    }

    /// One frame, as it is. False when the parent has gone.
    pub(crate) fn send(&self, frame: &[u8], fds: &[BorrowedFd<'_>]) -> bool {
        let fds: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&fds)];
        let control = if fds.is_empty() { &rights[..0] } else { &rights[..] };
        self.poll(PollFlags::POLLOUT);
        sendmsg::<()>(self.channel.as_raw_fd(), &[IoSlice::new(frame)], control, MsgFlags::MSG_NOSIGNAL, None).is_ok()
    }

    pub(crate) fn say(&self, message: &ToParent) {
        assert!(self.send(&wire::encode(message).unwrap(), &[]), "{}", self.log());
    }

    pub(crate) fn ask(&self, id: u64, key: &str, fds: &[BorrowedFd<'_>]) -> bool {
        self.send(&fetch(id, key), fds)
    }

    /// Asks by a fresh connection, which is a peer of this very user.
    pub(crate) fn ask_honestly(&self, id: u64, key: &str) -> bool {
        let (_peer, accepted) = self.peer();
        self.ask(id, key, &[accepted.as_fd()])
    }

    /// Lets another program connect, which then waits for an answer: it, and the worker's end of its connection.
    pub(crate) fn peer_of(&self, mut program: Command) -> (Child, UnixStream) {
        // Others than root must be able to come here.
        fs::set_permissions(self.directory.path(), Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(self.socket(), Permissions::from_mode(0o666)).unwrap();
        let child = program.arg(self.socket()).arg("http://k/").stdout(Stdio::null()).spawn().unwrap();
        let mut waiting = [PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut waiting, PollTimeout::from(20_000_u16)).unwrap(), 1, "it does not connect");
        (child, self.listener.accept().unwrap().0)
    }

    /// Whether the parent has not ended.
    pub(crate) fn lives(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// How many descriptors the parent has.
    pub(crate) fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// What the parent says next, but for facts that it takes back; `None` when it has gone.
    pub(crate) fn hear(&self) -> Option<ToWorker> {
        loop {
            match self.hear_any() {
                Some(ToWorker::Unattested { .. }) => {}
                said => return said,
            }
        }
    }

    pub(crate) fn hear_any(&self) -> Option<ToWorker> {
        let mut frame = vec![0; wire::MAX_FRAME];
        assert!(self.poll(PollFlags::POLLIN), "the parent says nothing:\n{}", self.log());
        let length = recv(self.channel.as_raw_fd(), &mut frame, MsgFlags::empty()).unwrap_or(0);
        (length > 0).then(|| wire::decode(&frame[..length]).unwrap())
    }

    /// Waits for at most 20 s until the channel is ready for this, or closed.
    fn poll(&self, what: PollFlags) -> bool {
        let mut fds = [PollFd::new(self.channel.as_fd(), what)];
        poll(&mut fds, PollTimeout::from(20_000_u16)).unwrap() > 0
    }

    /// Leaves the parent without a descriptor.
    pub(crate) fn starve(&mut self) {
        fs::write(self.directory.path().join("starve"), "").unwrap();
        let mut line = String::new();
        BufReader::new(self.child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "starved\n");
    }

    /// The parent ends by itself, with a failure and one line that says this.
    pub(crate) fn expect_end(mut self, name: &str, told: &str) {
        let mut ended = None;
        wait_until(&format!("the parent ends: {name}"), || {
            ended = self.child.try_wait().unwrap();
            ended.is_some()
        });
        let log = self.log();
        assert_eq!(ended.and_then(|status| status.code()), Some(1), "{name}: {log}");
        let lines: Vec<&str> = log.lines().filter(|line| line.starts_with("ended: ")).collect();
        assert!(lines.len() == 1 && lines[0].contains(told), "{name}: no {told:?} in\n{log}");
        assert!(!log.contains("panicked"), "{name}: {log}");
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn hello() -> ToParent {
    ToParent::Hello { protocol: PROTOCOL, version: env!("CARGO_PKG_VERSION").to_owned() }
}

pub(crate) fn fetch(id: u64, key: &str) -> Vec<u8> {
    let (whole, part) = key.split_once('#').map_or((key, None), |(whole, part)| (whole, Some(part)));
    let whole = KeyPath::parse(whole).unwrap();
    let key = part.map_or(whole.clone(), |part| whole.part(part));
    wire::encode(&ToParent::Fetch(FetchRequest { id, request: RequestId(id), key, revalidate: false, arguments: None }))
        .unwrap()
}
