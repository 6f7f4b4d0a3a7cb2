//! The channel, cut or spoiled at the parent's end while something is under way: both roles end at once, nobody takes a part
//! of a value for the whole, and the next start has the last known good.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};

use keyhatch::ipc::wire::{self, BootInstant, Detail, Lease, Reply, Tag, ToParent, ToWorker};
use keyhatch::secret::KeyPath;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::Shutdown;
use nix::unistd::Pid;

use super::support::channel::{End, adopt_orphans, orphan_ended};
use super::support::send;
use super::*;

/// What is not read at once does not fit into the buffers of a connection.
const LARGE: usize = 900_000;

/// Each is, for the worker, what the other two are for the parent.
const CUTS: [Shutdown; 3] = [Shutdown::Read, Shutdown::Write, Shutdown::Both];

struct Scene {
    broker: Broker,
    numbered: Numbered,
    /// The upstream of `/slow`, which answers when it is told to.
    slow: TcpListener,
}

/// What is looked at when both have ended.
type After = Box<dyn FnOnce(&Scene)>;

/// The role that stands still until the channel is cut, and what comes after.
struct Begun {
    stopped: Option<u32>,
    after: After,
}

type Begin = fn(&Scene) -> Begun;

const STATES: [(&str, Begin); 6] = [
    ("nothing is under way", at_rest),
    ("the parent fetches", fetching),
    ("the worker has not read a reply", replied),
    ("the worker writes a large answer", writing),
    ("the worker has not taken over a reload", reloading),
    ("a peer waits for a change", waiting),
];

impl Scene {
    fn new() -> Self {
        adopt_orphans();
        let (numbered, slow) = (Numbered::start(), TcpListener::bind(("127.0.0.1", 0)).unwrap());
        slow.set_nonblocking(true).unwrap();
        let http = |port: u16, path: &str| format!("type = \"http\", url = \"http://127.0.0.1:{port}{path}\"");
        let keys = [
            ("/slow", http(slow.local_addr().unwrap().port(), "/"), "timeout = \"30s\""),
            ("/large", "type = \"file\", path = \"DIR/large\", format = \"text\"".to_owned(), "max-age = \"1h\""),
            ("/change", http(numbered.port, "/change"), "max-age = \"1h\""),
        ];
        let key = |(key, source, settings)| format!("[keys.\"{key}\"]\nsource = {{ {source} }}\n{settings}\n");
        let keys: String = keys.into_iter().map(key).collect();
        let root = "[clients.root]\nuser = 0\nkeys = [\"/slow\", \"/large\", \"/change\"]\n";
        let broker = Broker::prepared(|_| numbered.configuration() + &keys + root);
        broker.write("large", &"v".repeat(LARGE), 0o600);
        Self { broker, numbered, slow }
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.broker.path("keyhatch.sock")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    fn ask(&self, key: &str, more: &str) -> UnixStream {
        let mut stream = self.connect();
        write!(stream, "GET {key} HTTP/1.1\r\nHost: x\r\n{more}\r\n").unwrap();
        stream
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keyhatch"));
        command.args(arguments).arg("--admin-socket").arg(self.broker.path("admin.sock"));
        command
    }

    /// The fetch of `/slow`, which waits for its answer.
    fn fetch(&self) -> TcpStream {
        let mut asked = None;
        wait_until("the upstream is asked", || {
            asked = self.slow.accept().ok();
            asked.is_some()
        });
        let stream = asked.unwrap().0;
        stream.set_nonblocking(false).unwrap();
        stream
    }

    /// Both end by themselves and with a failure, after this: how long that took.
    fn both_end(&mut self, context: &str, stopped: Option<u32>, act: impl FnOnce(&Broker)) -> Duration {
        let worker = self.broker.worker();
        let since = Instant::now();
        act(&self.broker);
        stopped.into_iter().for_each(|pid| send("CONT", pid));
        let code = self.broker.end("CONT");
        let mut of_worker = None;
        wait_until(&format!("the worker ends: {context}"), || {
            of_worker = orphan_ended(worker);
            of_worker.is_some()
        });
        let took = since.elapsed();
        let log = self.broker.log();
        assert_eq!((code, of_worker), (Some(1), Some(Ok(1))), "{context}\n{log}");
        assert!(!log.contains("panicked"), "{context}\n{log}");
        took
    }

    /// Whether the next start has what was sealed, without an upstream. Afterwards there is one again.
    fn has_the_last_known_good(&mut self, asking: &Asking, number: u64) {
        self.numbered.is_down.store(true, Ordering::SeqCst);
        self.broker.start();
        let answer = self.broker.curl(GRANTED, "/own/granted", &[]);
        let held = answer.starts_with("HTTP/1.1 200 ") && !answer.contains("fwd-status=200");
        assert!(held && answer.ends_with(&format!("{{\"value\":\"granted|{number}\"}}")), "{number}: {answer}");
        asking.are_served(&self.broker, Some(number));
        self.numbered.is_down.store(false, Ordering::SeqCst);
        let refreshed = self.command(&["refresh", "/own/granted", "/own/stranger"]).output().unwrap();
        assert!(refreshed.status.success(), "{refreshed:?}\n{}", self.broker.log());
    }
}

/// Everything up to the close, which is a reset where something was left unread.
fn rest(mut stream: UnixStream) -> String {
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "it does not end");
    }
    String::from_utf8(answer).unwrap()
}

/// How long the body is said to be, and is.
fn lengths(answer: &str) -> (usize, usize) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("half a head: {answer}"));
    let length =
        head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or_else(|| panic!("{head}"));
    (length.parse().unwrap(), body.len())
}

/// Closed without an answer, or told that there is none.
fn got_no_value(stream: UnixStream) {
    let answer = rest(stream);
    if !answer.is_empty() {
        let (said, came) = lengths(&answer);
        assert!(!answer.starts_with("HTTP/1.1 2") && said == came, "{answer}");
    }
}

fn at_rest(scene: &Scene) -> Begun {
    let mut kept = scene.ask("/-/whoami", "");
    assert!(kept.read(&mut [0; 4096]).unwrap() > 0);
    Begun { stopped: None, after: Box::new(|_| assert_eq!(rest(kept), "")) }
}

fn fetching(scene: &Scene) -> Begun {
    let (asking, upstream) = (scene.ask("/slow", ""), scene.fetch());
    let after = |_: &Scene| {
        drop(upstream);
        got_no_value(asking);
    };
    Begun { stopped: None, after: Box::new(after) }
}

fn replied(scene: &Scene) -> Begun {
    let (asking, mut upstream) = (scene.ask("/slow", ""), scene.fetch());
    let worker = scene.broker.worker();
    send("STOP", worker);
    let told = scene.broker.log().matches("key=/slow").count();
    write!(upstream, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\n\"slow\"").unwrap();
    wait_until("it is fetched", || scene.broker.log().matches("key=/slow").count() > told);
    wait_until("it is in the channel", || End::of(worker).unwrap().has_waiting());
    // The worker may still have the time to give what it was given.
    let after = |_: &Scene| {
        let answer = rest(asking);
        assert!(answer.is_empty() || answer.ends_with("\r\n\r\n\"slow\""), "{answer}");
    };
    Begun { stopped: Some(worker), after: Box::new(after) }
}

fn writing(scene: &Scene) -> Begun {
    let mut asking = scene.ask("/large", "");
    let mut start = [0; 4096];
    asking.read_exact(&mut start).unwrap();
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--limit-rate", "4k", "--unix-socket"]).arg(scene.broker.path("keyhatch.sock"));
    let mut curl = curl.arg("http://k/large").stdout(Stdio::piped()).spawn().unwrap();
    curl.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    let after = move |_: &Scene| {
        let answer = String::from_utf8(start.to_vec()).unwrap() + &rest(asking);
        let (said, came) = lengths(&answer);
        assert!(answer.starts_with("HTTP/1.1 200 ") && said > LARGE && came < said, "{came} of {said}");
        // CURLE_PARTIAL_FILE, or CURLE_RECV_ERROR where it was reset.
        let code = ended(curl).0;
        assert!(code == Some(18) || code == Some(56), "{code:?}");
    };
    Begun { stopped: None, after: Box::new(after) }
}

fn reloading(scene: &Scene) -> Begun {
    let worker = scene.broker.worker();
    send("STOP", worker);
    let done = scene.broker.log().matches("reloaded").count();
    let mut reload = scene.command(&["reload"]);
    reload.arg("--config").arg(scene.broker.path("keyhatch.toml")).stdout(Stdio::piped()).stderr(Stdio::piped());
    let reload = reload.spawn().unwrap();
    wait_until("the parent has taken it over", || scene.broker.log().matches("reloaded").count() > done);
    let after = |scene: &Scene| {
        // What was said before the cut, the worker may still have heard and confirmed.
        let (code, told) = ended(reload);
        let well = code == Some(0) && told.contains("configuration 2 holds");
        let lost = code == Some(69) && told.contains("the broker ended before it said what became of this");
        assert!(well || lost, "{code:?}: {told}\n{}", scene.broker.log());
    };
    Begun { stopped: Some(worker), after: Box::new(after) }
}

fn waiting(scene: &Scene) -> Begun {
    let answer = rest(scene.ask("/change", "Connection: close\r\n"));
    let tag = answer.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap_or_else(|| panic!("{answer}")).trim();
    let asking = scene.ask("/change", &format!("If-None-Match: {tag}\r\nPrefer: wait=60\r\n"));
    // Answered after that was read.
    assert!(rest(scene.ask("/-/whoami", "Connection: close\r\n")).starts_with("HTTP/1.1 200 "));
    Begun { stopped: None, after: Box::new(|_| got_no_value(asking)) }
}

/// The exit code of a command, and all that it said.
fn ended(child: Child) -> (Option<i32>, String) {
    let done = child.wait_with_output().unwrap();
    let told = [done.stdout, done.stderr].concat();
    (done.status.code(), String::from_utf8_lossy(&told).into_owned())
}

/// Goes through these, with two peers that ask all the time: each thing that is done to the channel, in each state.
fn go_through<T: Copy>(states: &[(&str, Begin)], things: &[(&str, T)], act: impl Fn(&Broker, T)) -> Vec<Duration> {
    let mut scene = Scene::new();
    scene.broker.start();
    let asking = Asking::start(&scene.broker, "check");
    let mut took = Vec::new();
    for (state, begin) in states {
        for (name, thing) in things {
            let number = scene.numbered.number.fetch_add(1, Ordering::SeqCst) + 1;
            asking.are_served(&scene.broker, Some(number));
            let Begun { stopped, after } = begin(&scene);
            let context = format!("{state}: {name}");
            took.push(scene.both_end(&context, stopped, |broker| act(broker, *thing)));
            after(&scene);
            scene.has_the_last_known_good(&asking, number);
        }
    }
    took
}

/// That this is what one such end takes, though now and then the machine has others to serve.
fn are_quick(mut took: Vec<Duration>) {
    took.sort_unstable();
    assert!(took[took.len() / 2] < Duration::from_secs(1), "{took:?}");
}

#[test]
#[ignore = "needs root: takes a descriptor of another process, drops to two uids and asks as others"]
fn the_channel_cut_at_the_parents_end_ends_both_in_every_state() {
    let cuts = CUTS.map(|how| (["it hears nothing", "it says nothing", "neither"][how as usize], how));
    are_quick(go_through(&STATES, &cuts, |broker, how| End::of(broker.parent()).unwrap().cut(how)));
}

/// Said in the name of one role to the other.
#[derive(Clone, Copy)]
enum Said<'f> {
    ToWorker(&'f [u8]),
    ToParent(&'f [u8]),
}

#[test]
#[ignore = "needs root: takes a descriptor of another process, drops to two uids and asks as others"]
fn half_a_frame_or_a_wrong_one_ends_both() {
    let recall = wire::encode(&ToWorker::Recall { serial: 1 << 40, keys: wire::Recall::All }).unwrap();
    let key = KeyPath::parse("/large").unwrap();
    let lease = Lease {
        born: BootInstant(0),
        fresh_until: BootInstant(i64::MAX),
        usable_until: BootInstant(i64::MAX),
        stale_detail: Detail::BreakerOpen,
    };
    let renew = wire::encode(&ToWorker::Renew { key, etag: Tag([0; 16]), lease }).unwrap();
    let reply = wire::encode(&ToWorker::Reply { id: u64::MAX, reply: Reply::Denied }).unwrap();
    let pong = wire::encode(&ToParent::Pong { serial: 1 << 40 }).unwrap();
    let (long, noise) = (vec![0; wire::MAX_FRAME + 1], vec![0xff; 300]);
    let trailing = [&recall[..], &[0]].concat();
    let things = [
        ("half a frame for the worker", Said::ToWorker(&recall[..recall.len() / 2])),
        ("half a frame for the parent", Said::ToParent(&pong[..pong.len() / 2])),
        ("a byte too many for the worker", Said::ToWorker(&trailing)),
        ("no byte for the worker", Said::ToWorker(&[])),
        ("no byte for the parent", Said::ToParent(&[])),
        ("noise for the worker", Said::ToWorker(&noise)),
        ("noise for the parent", Said::ToParent(&noise)),
        ("too much for the worker", Said::ToWorker(&long)),
        ("what no parent says", Said::ToWorker(&renew)),
        ("an answer to what was never asked", Said::ToWorker(&reply)),
        ("an answer that was never wanted", Said::ToParent(&pong)),
    ];
    are_quick(go_through(&[STATES[1], STATES[3]], &things, |broker, said| match said {
        Said::ToWorker(frame) => End::of(broker.parent()).unwrap().put(frame),
        Said::ToParent(frame) => End::of(broker.worker()).unwrap().put(frame),
    }));
}

/// Before it serves: one role stands still, and the other one has come as far as it can.
#[test]
#[ignore = "needs root: takes a descriptor of another process, drops to two uids and asks as others"]
fn the_channel_cut_during_the_start_ends_both_and_the_next_start_serves() {
    let mut scene = Scene::new();
    scene.broker.start();
    let asking = Asking::start(&scene.broker, "check");
    asking.are_served(&scene.broker, Some(0));
    scene.broker.end("TERM");
    let mut took = Vec::new();
    for parent_stands_still in [true, false] {
        for how in CUTS {
            let context = format!("the parent stands still ({parent_stands_still}): {how:?}");
            let stopped = scene.half_started(parent_stands_still);
            took.push(scene.both_end(&context, Some(stopped), |broker| End::of(broker.parent()).unwrap().cut(how)));
            scene.has_the_last_known_good(&asking, 0);
            scene.broker.end("TERM");
        }
    }
    are_quick(took);
}

impl Scene {
    /// A start that has not come to serve, of which this role stands still: its pid. The other one has said what it can.
    fn half_started(&mut self, parent_stands_still: bool) -> u32 {
        let mut stopped = 0;
        wait_until("a start is caught", || {
            let layers = |broker: &Broker| broker.log().matches("layer ").count();
            let before = layers(&self.broker);
            self.broker.launch(Command::new(env!("CARGO_BIN_EXE_keyhatch")), &[]);
            let (parent, give_up) = (self.broker.parent(), Instant::now() + Duration::from_secs(10));
            // Without the pauses of `wait_until`.
            let worker = loop {
                assert!(Instant::now() < give_up, "{}", self.broker.log());
                // There is another child for a moment, which is never executed.
                let is_worker = |pid: &u32| {
                    let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                    arguments.starts_with(b"keyhatch\0worker\0")
                };
                let worker = support::children(parent).into_iter().find(is_worker);
                if let Some(worker) = worker.filter(|_| End::of(parent).is_some()) {
                    break worker;
                }
            };
            stopped = if parent_stands_still { parent } else { worker };
            kill(Pid::from_raw(stopped.cast_signed()), Signal::SIGSTOP).unwrap();
            wait_until("it stands still", || state(stopped) == "T");
            let greeted = || End::of(parent).is_some_and(|end| end.has_waiting());
            while parent_stands_still && !greeted() && Instant::now() < give_up {
                std::thread::park_timeout(Duration::from_millis(5));
            }
            let caught = layers(&self.broker) == before && (!parent_stands_still || greeted());
            if !caught {
                self.broker.end("KILL");
                send("CONT", worker);
                wait_until("it is gone", || orphan_ended(worker).is_some());
            }
            caught
        });
        stopped
    }
}

/// One letter (proc_pid_stat(5)).
fn state(pid: u32) -> String {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1[..1].to_owned()
}
