//! What a worker can do with attestations of units: learn its peers' own, for as long as they live, and fill nothing.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use keyhatch::ipc::wire::{Reply, ToParent, ToWorker};

use super::encoded;
use super::worker::{CONNECTIONS, Worker};

#[test]
fn thousands_of_attestations_leave_as_many_facts_as_connections() {
    let worker = Worker::greeted();
    let attest = |id: u64, socket: &UnixStream| {
        assert!(worker.send(&encoded(&ToParent::Attest { id }), &[socket.as_fd()]), "{}", worker.log());
        let mut taken_back = 0;
        loop {
            match worker.hear_any() {
                Some(ToWorker::Unattested { .. }) => taken_back += 1,
                Some(ToWorker::Attested { id: answered, attestation: Some(told) }) if answered == id => {
                    return (told.fact.unwrap(), taken_back);
                }
                _ => panic!("{}", worker.log()),
            }
        }
    };
    // One connection is one fact, however often it is asked for.
    let (peer, accepted) = worker.peer();
    let facts: Vec<_> = (0..3_000).map(|id| attest(id, &accepted)).collect();
    assert!(facts.iter().all(|fact| *fact == (0, 0)));
    drop((peer, accepted));
    // Connections that end without a word make room for others.
    let before = worker.descriptors();
    let mut taken_back = 0;
    for id in 0..3_000 {
        let (_peer, accepted) = worker.peer();
        taken_back += attest(id, &accepted).1;
    }
    assert_eq!(taken_back, 3_001 - CONNECTIONS);
    assert!(worker.descriptors() <= before + usize::try_from(CONNECTIONS).unwrap());
    // What is parted with makes room without a word.
    let (_peer, accepted) = worker.peer();
    worker.say(&ToParent::Parted { fact: 3_000 });
    assert_eq!(attest(1, &accepted), (3_001, 0));
    worker.say(&ToParent::Parted { fact: 3_001 });
    worker.say(&ToParent::Parted { fact: 3_001 });
    assert!(!worker.log().contains("ended"), "an end may cross the word that takes it back");
    worker.say(&ToParent::Parted { fact: 3_002 });
    worker.expect_end("a fact that never was", "the end of what was never attested");
}

/// A control group of this name, made by hand: what systemd would make for a unit.
struct Group(std::path::PathBuf);

impl Group {
    fn new(name: &str) -> Self {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let cgroup2 = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2")).unwrap();
        let group = std::path::Path::new(cgroup2.split(' ').nth(1).unwrap()).join(name);
        std::fs::create_dir_all(&group).unwrap();
        Self(group)
    }

    /// `curl` in it, up to the path of the socket.
    fn curl(&self) -> std::process::Command {
        let mut shell = std::process::Command::new("sh");
        let script = "echo 0 > \"$0\" && exec curl --silent --unix-socket \"$@\"";
        shell.args(["-c", script]).arg(self.0.join("cgroup.procs"));
        shell
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // And the slices that were made for it: those that others use cannot be removed.
        let _ = self.0.ancestors().try_for_each(std::fs::remove_dir);
    }
}

#[test]
#[ignore = "needs root: makes control groups"]
fn a_unit_is_the_parents_word_and_ends_with_its_process() {
    let worker = Worker::greeted();
    let attest = |id: u64, socket: &UnixStream| {
        assert!(worker.send(&encoded(&ToParent::Attest { id }), &[socket.as_fd()]));
        match worker.hear() {
            Some(ToWorker::Attested { attestation: Some(told), .. }) => told,
            _ => panic!("{}", worker.log()),
        }
    };
    let denied = |id: u64, socket: &UnixStream| {
        assert!(worker.ask(id, "/unit", &[socket.as_fd()]));
        matches!(worker.hear(), Some(ToWorker::Reply { id: answered, reply: Reply::Denied }) if answered == id)
    };
    let name = format!("keyhatch-{}.service", std::process::id());
    let group = Group::new(&name);
    let (mut peer, accepted) = worker.peer_of(group.curl());
    let told = attest(1, &accepted);
    assert_eq!(told.unit.as_ref().map(|unit| unit.name()), Some(name.as_str()));
    // A grant: the fetch begins, and its upstream never answers.
    assert!(worker.ask(2, "/unit", &[accepted.as_fd()]));
    let (_own_peer, own) = worker.peer();
    assert!(denied(3, &own), "no unit of its own");
    peer.kill().unwrap();
    peer.wait().unwrap();
    // The socket lives on, here.
    assert!(matches!(worker.hear_any(), Some(ToWorker::Unattested { fact }) if Some(fact) == told.fact));
    assert!(denied(4, &accepted));
    // What was asked for while the process lived, and had to wait for longer.
    assert!(matches!(worker.hear(), Some(ToWorker::Reply { id: 2, reply: Reply::Denied })));
    assert_eq!(attest(5, &accepted).unit, None);
    // Of a user manager.
    let session = Group::new(&format!("keyhatch{}.slice/user.slice/{name}", std::process::id()));
    let (mut peer, accepted) = worker.peer_of(session.curl());
    assert_eq!(attest(6, &accepted).unit, None);
    peer.kill().unwrap();
    peer.wait().unwrap();
}
