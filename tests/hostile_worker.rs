//! The real parent against a worker that was taken over: whatever it says, it learns nothing, and the parent ends at the
//! first surprise. What an honest worker may meet is no surprise.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "hostile_worker/arguments.rs"]
mod arguments;
#[path = "hostile_worker/credentials.rs"]
mod credentials;
#[path = "hostile_worker/facts.rs"]
mod facts;
#[path = "hostile_worker/sockets.rs"]
mod sockets;
mod support;
#[path = "hostile_worker/worker.rs"]
mod worker;

use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use keyhatch::ipc::wire::{self, Counted, Layer, MAX_FRAME, PROTOCOL, Reply, RequestId, Served, ToParent, ToWorker};
use keyhatch::secret::KeyPath;
use keyhatch::sys::spawn::channel_pair;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use support::wait_until;
use worker::{CONNECTIONS, Worker, fetch, hello};

fn encoded(message: &ToParent) -> Vec<u8> {
    wire::encode(message).unwrap()
}

fn layers(count: usize, length: usize) -> Vec<u8> {
    encoded(&ToParent::Ready {
        layers: vec![Layer { name: "x".repeat(length), level: String::new(), holds: true }; count],
    })
}

#[test]
fn the_first_frame_is_the_greeting_and_nothing_else() {
    let version = || env!("CARGO_PKG_VERSION").to_owned();
    let greeting = "no greeting of this version";
    let cases: [(&str, Vec<u8>, &str); 11] = [
        ("too long by one byte", vec![0; MAX_FRAME + 1], "a frame of 65537 bytes"),
        ("too long by far", vec![0; MAX_FRAME * 2], "a frame that was cut"),
        ("unknown tag", vec![200], "a frame that does not decode"),
        ("cut in the middle", encoded(&hello())[..3].to_vec(), "a frame that does not decode"),
        ("trailing byte", [encoded(&hello()), vec![0]].concat(), "1 bytes after the end of a frame"),
        ("version that is not UTF-8", vec![0, 2, 2, 0xff, 0xff], "a frame that does not decode"),
        ("other version", encoded(&ToParent::Hello { protocol: PROTOCOL, version: "0.0.0".into() }), greeting),
        ("other protocol", encoded(&ToParent::Hello { protocol: PROTOCOL + 1, version: version() }), greeting),
        ("ready before the greeting", encoded(&ToParent::Ready { layers: Vec::new() }), greeting),
        ("fetch before the greeting", fetch(0, "/open"), greeting),
        ("drained before the greeting", encoded(&ToParent::Drained), greeting),
    ];
    for (name, frame, told) in cases {
        let worker = Worker::start();
        worker.send(&frame, &[]);
        worker.expect_end(name, told);
    }
    let worker = Worker::start();
    worker.send(&encoded(&hello()), &[worker.channel.as_fd()]);
    worker.expect_end("a greeting with an fd", greeting);
}

#[test]
fn after_the_configuration_comes_readiness_and_nothing_else() {
    // Tag and the number of layers, as a varint: 2^62 and more than the frame can hold.
    let endless = [vec![1], vec![0x80; 8], vec![0x40]].concat();
    let cases: [(&str, Vec<u8>, &str); 6] = [
        ("a second greeting", encoded(&hello()), "not ready after its configuration"),
        ("drained", encoded(&ToParent::Drained), "not ready after its configuration"),
        ("fetch", fetch(0, "/open"), "not ready after its configuration"),
        ("more layers than bytes", endless, "a frame that does not decode"),
        ("many layers", layers(1000, 1), "more layers than there can be"),
        ("a long layer", layers(1, 10_000), "more layers than there can be"),
    ];
    for (name, frame, told) in cases {
        let worker = Worker::start();
        worker.say(&hello());
        assert!(matches!(worker.hear(), Some(ToWorker::Configure { .. })));
        worker.send(&frame, &[]);
        worker.expect_end(name, told);
    }
}

#[test]
fn what_is_out_of_order_ends_the_parent() {
    let cases: [(&str, Vec<u8>); 9] = [
        ("a credential without an fd", credentials::credential(0)),
        ("an attestation without an fd", encoded(&ToParent::Attest { id: 0 })),
        ("a second greeting", encoded(&hello())),
        ("ready twice", encoded(&ToParent::Ready { layers: Vec::new() })),
        ("an answer to what was not asked", encoded(&ToParent::Pong { serial: 1 })),
        ("a recall that was never sent", encoded(&ToParent::Recalled { serial: 1 })),
        ("no recall at all", encoded(&ToParent::Recalled { serial: 0 })),
        ("a fetch without an fd", fetch(0, "/open")),
        ("a survey without an fd", encoded(&ToParent::Survey { id: 0, request: RequestId(0) })),
    ];
    for (name, frame) in cases {
        let worker = Worker::greeted();
        worker.send(&frame, &[]);
        worker.expect_end(name, "a message out of order");
    }
    let worker = Worker::greeted();
    worker.say(&ToParent::Drained);
    worker.expect_end("drained though nobody asked", "the worker is gone");
    let worker = Worker::greeted();
    let (_peer, accepted) = worker.peer();
    worker.send(&encoded(&ToParent::Recalled { serial: 1 }), &[accepted.as_fd()]);
    worker.expect_end("an fd where there is none", "a message out of order");
    let worker = Worker::greeted();
    let (_peer, accepted) = worker.peer();
    worker.ask(0, "/open#db", &[accepted.as_fd()]);
    worker.expect_end("what only the parent has a name for", "a part of a key is asked for");
    for count in [2, 3, 50] {
        let worker = Worker::greeted();
        let (_peer, accepted) = worker.peer();
        worker.ask(0, "/open", &vec![accepted.as_fd(); count]);
        worker.expect_end("several fds", "a frame that was cut");
    }
}

/// Its listener and its end of the channel show the ids of whoever made them, which was root.
#[test]
fn only_a_connection_of_ours_is_a_peer() {
    let elsewhere = tempfile::tempdir().unwrap();
    let other = UnixListener::bind(elsewhere.path().join("keyhatch.sock")).unwrap();
    let tcp = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let unix = |flags| socket(AddressFamily::Unix, flags, SockFlag::SOCK_CLOEXEC, None).unwrap();
    let own = |fd: &dyn AsFd| fd.as_fd().try_clone_to_owned().unwrap();
    type Fd<'a> = Box<dyn Fn(&Worker) -> OwnedFd + 'a>;
    let cases: [(&str, Fd<'_>); 13] = [
        ("the listener", Box::new(|worker| own(&worker.listener))),
        ("the channel", Box::new(|worker| own(&worker.channel))),
        ("one of a pair", Box::new(|_| UnixStream::pair().unwrap().0.into())),
        ("one of a SEQPACKET pair", Box::new(|_| channel_pair().unwrap().0)),
        ("a pipe", Box::new(|_| std::io::pipe().unwrap().0.into())),
        ("a memfd", Box::new(|_| memfd_create(c"planted", MFdFlags::MFD_CLOEXEC).unwrap())),
        ("a file", Box::new(|_| std::fs::File::open("/dev/null").unwrap().into())),
        ("a stream that is not connected", Box::new(|_| unix(SockType::Stream))),
        ("a datagram socket", Box::new(|_| unix(SockType::Datagram))),
        ("a TCP connection", Box::new(|_| TcpStream::connect(tcp.local_addr().unwrap()).unwrap().into())),
        ("a TCP listener", Box::new(|_| own(&tcp))),
        (
            "a connection to another listener",
            Box::new(|_| {
                let _peer = UnixStream::connect(elsewhere.path().join("keyhatch.sock")).unwrap();
                other.accept().unwrap().0.into()
            }),
        ),
        ("the peer's end", Box::new(|worker| UnixStream::connect(worker.socket()).unwrap().into())),
    ];
    for (index, (name, make)) in cases.into_iter().enumerate() {
        let frames = [
            fetch(0, "/open"),
            encoded(&ToParent::Survey { id: 0, request: RequestId(0) }),
            encoded(&ToParent::Attest { id: 0 }),
        ];
        // All ask the same judge: the third for what is closest to a peer.
        for frame in &frames[..if index < 4 { 3 } else { 2 }] {
            let worker = Worker::greeted();
            let fd = make(&worker);
            worker.send(frame, &[fd.as_fd()]);
            worker.expect_end(name, "the fd beside a request is no connection of ours");
        }
    }
}

#[test]
fn the_requests_in_flight_are_bounded() {
    let worker = Worker::greeted();
    for id in 0..=CONNECTIONS {
        worker.ask_honestly(id, "/open");
    }
    worker.expect_end("a flood", "more requests in flight than connections");

    let worker = Worker::greeted();
    worker.ask_honestly(7, "/open");
    worker.ask_honestly(7, "/open");
    worker.expect_end("one number twice", "two requests in flight with one number");

    // Answers that nobody takes are in flight, too.
    let worker = Worker::greeted();
    let (_peer, accepted) = worker.peer();
    let sent = (0..100_000).take_while(|id| worker.ask(*id, "/closed", &[accepted.as_fd()])).count();
    assert!(sent < 10_000, "{sent} frames were taken");
    worker.expect_end("a deaf worker", "more requests in flight than connections");
}

/// What is counted is names of the configuration; what else it says is nothing.
#[test]
fn lies_about_counts_change_nothing() {
    let worker = Worker::greeted();
    for n in 0..2000 {
        let requests = (0..100).map(|m| (Some(format!("client-{n}-{m}")), Served::Hit, u32::MAX)).collect();
        let serves = vec![(KeyPath::parse(&format!("/nothing/{n}")).unwrap(), u32::MAX)];
        worker.say(&ToParent::Counted(Counted { connections: u32::MAX, requests, serves }));
    }
    assert!(worker.ask_honestly(0, "/closed"));
    assert!(matches!(worker.hear(), Some(ToWorker::Reply { id: 0, reply: Reply::Denied })), "{}", worker.log());
}

#[test]
fn an_honest_denial_is_an_ordinary_reply() {
    let worker = Worker::greeted();
    for (id, key) in (0..).zip(["/closed", "/closed", "/no/such/key", "/closed", "/closed", "/closed"]) {
        assert!(worker.ask_honestly(id, key));
        assert!(
            matches!(worker.hear(), Some(ToWorker::Reply { id: answered, reply: Reply::Denied }) if answered == id)
        );
    }
    let (peer, accepted) = worker.peer();
    drop(peer);
    assert!(worker.ask(99, "/closed", &[accepted.as_fd()]));
    let denied = matches!(worker.hear(), Some(ToWorker::Reply { id: 99, reply: Reply::Denied }));
    assert!(denied, "a peer that hung up is no surprise");
    assert!(worker.send(&encoded(&ToParent::Survey { id: 100, request: RequestId(1) }), &[accepted.as_fd()]));
    assert!(matches!(worker.hear(), Some(ToWorker::SurveyReply { id: 100, .. })));
    assert!(!worker.log().contains("ended"), "{}", worker.log());
}

#[test]
fn running_out_of_descriptors_is_no_ones_malice() {
    let mut worker = Worker::greeted();
    let (_peer, accepted) = worker.peer();
    worker.starve();
    assert!(worker.ask(1, "/open", &[accepted.as_fd()]));
    assert!(matches!(worker.hear(), Some(ToWorker::Reply { id: 1, reply: Reply::Busy })), "{}", worker.log());
    assert!(worker.send(&encoded(&ToParent::Survey { id: 2, request: RequestId(1) }), &[accepted.as_fd()]));
    let refused = matches!(worker.hear(), Some(ToWorker::SurveyRefused { id: 2, retry_after: None }));
    assert!(refused, "{}", worker.log());
    // Lines are written when there is time for them.
    wait_until("the log says why", || worker.log().matches("out of file descriptors").count() == 2);
}

#[test]
fn the_end_of_the_worker_is_the_end_of_the_parent() {
    let mut worker = Worker::greeted();
    let (end, _) = channel_pair().unwrap();
    drop(std::mem::replace(&mut worker.channel, end));
    worker.expect_end("an end of file", "the worker is gone");
}

/// The parent has things to end after a surprise, and here it waits for last lines that do not come.
#[test]
fn after_a_surprise_nothing_more_is_said() {
    let lived_on = |_: u32| {
        let mut worker = Worker::greeted();
        assert!(worker.send(&[200], &[]));
        assert!(worker.hear().is_none(), "it says something");
        // Without that, the channel ends with the process.
        std::thread::park_timeout(Duration::from_millis(100));
        let lives = worker.lives();
        worker.expect_end("a surprise", "a frame that does not decode");
        lives
    };
    // On a busy machine it may have ended before anybody looks.
    assert!((0..10).any(lived_on), "the channel was open for as long as the parent lived");
}

/// Whatever was said last, and whatever is on its way.
#[test]
fn the_channel_may_be_cut_in_every_state() {
    type Say = fn(&Worker);
    type Saying<'a> = Box<dyn Fn(&Worker) + 'a>;
    let before: [(&str, Say); 3] = [
        ("before the greeting", |_| {}),
        ("after the greeting", |worker| worker.say(&hello())),
        ("after the configuration", |worker| {
            worker.say(&hello());
            assert!(matches!(worker.hear(), Some(ToWorker::Configure { .. })));
        }),
    ];
    let survey = |id| encoded(&ToParent::Survey { id, request: RequestId(id) });
    let one = |worker: &Worker, frame: &[u8]| {
        let (_peer, accepted) = worker.peer();
        assert!(worker.send(frame, &[accepted.as_fd()]));
    };
    let serving: [(&str, Saying<'_>); 6] = [
        ("at rest", Box::new(|_| {})),
        ("a fetch under way", Box::new(|worker| one(worker, &fetch(0, "/open")))),
        ("a denial that nobody reads", Box::new(|worker| one(worker, &fetch(0, "/closed")))),
        ("a survey that nobody reads", Box::new(|worker| one(worker, &survey(0)))),
        ("an attestation that nobody reads", Box::new(|worker| one(worker, &encoded(&ToParent::Attest { id: 0 })))),
        (
            "all at once",
            Box::new(|worker| {
                one(worker, &fetch(0, "/open"));
                one(worker, &survey(1));
                one(worker, &encoded(&ToParent::Attest { id: 2 }));
                worker.say(&ToParent::Counted(Counted::default()));
            }),
        ),
    ];
    let begun = before.into_iter().map(|(name, say)| {
        let worker = Worker::start();
        say(&worker);
        (name, worker)
    });
    let greeted = serving.into_iter().map(|(name, say)| {
        let worker = Worker::greeted();
        say(&worker);
        (name, worker)
    });
    for (name, mut worker) in begun.chain(greeted) {
        let (end, _) = channel_pair().unwrap();
        drop(std::mem::replace(&mut worker.channel, end));
        worker.expect_end(name, "");
    }
}

#[test]
#[ignore = "needs root: connects as another user"]
fn a_peer_lends_its_own_rights_and_no_others() {
    let worker = Worker::greeted();
    let mut curl = support::as_uid(support::GRANTED, "curl");
    curl.args(["--silent", "--unix-socket"]);
    let (mut peer, theirs) = worker.peer_of(curl);
    let (_own_peer, own) = worker.peer();
    let denied = |id: u64, key: &str, socket: &UnixStream| {
        assert!(worker.ask(id, key, &[socket.as_fd()]));
        matches!(worker.hear(), Some(ToWorker::Reply { id: answered, reply: Reply::Denied }) if answered == id)
    };
    assert!(denied(1, "/mine", &own), "root is nobody special");
    assert!(denied(2, "/closed", &theirs));
    assert!(denied(3, "/unit", &theirs));
    // A grant: the fetch begins, and its upstream never answers.
    assert!(worker.ask(4, "/mine", &[theirs.as_fd()]));
    assert!(denied(5, "/mine", &own));
    peer.kill().unwrap();
    peer.wait().unwrap();
}

#[test]
fn a_flood_of_denials_is_told_in_bounded_lines() {
    let worker = Worker::greeted();
    let (_peer, accepted) = worker.peer();
    let count = 10_000;
    for id in 0..count {
        assert!(worker.ask(id, &format!("/no/{id}"), &[accepted.as_fd()]));
        assert!(matches!(worker.hear(), Some(ToWorker::Reply { reply: Reply::Denied, .. })));
    }
    // 1024 in ten seconds, and the same one is told once.
    let told = worker.log().matches("denied").count();
    assert!((1..5_000).contains(&told), "{told} lines");
}

#[test]
fn a_flood_of_surveys_costs_the_budget_of_its_peer() {
    let worker = Worker::greeted();
    let (_peer, accepted) = worker.peer();
    let began = std::time::Instant::now();
    let mut answered = 0;
    for id in 0..2_000 {
        assert!(worker.send(&encoded(&ToParent::Survey { id, request: RequestId(id) }), &[accepted.as_fd()]));
        match worker.hear() {
            Some(ToWorker::SurveyReply { .. }) => answered += 1,
            Some(ToWorker::SurveyRefused { retry_after: Some(_), .. }) => {}
            _ => panic!("{}", worker.log()),
        }
    }
    // 50 in a second, and 100 at once.
    let most = 100 + 50 * (began.elapsed().as_secs() + 1);
    assert!((1..=most).contains(&answered), "{answered} surveys");
    assert!(worker.log().lines().count() < 100, "{}", worker.log());
}
