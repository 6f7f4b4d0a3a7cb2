//! Connections that are said to be systemd's.

use std::os::fd::AsRawFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv};

use super::*;

pub(super) fn credential(id: u64) -> Vec<u8> {
    encoded(&ToParent::Credential { id, request: RequestId(id) })
}

/// A worker that is honest hands over what is root's and has an address like systemd's, and nothing else.
#[test]
fn a_credential_is_of_systemd_or_the_end() {
    let worker = Worker::greeted();
    worker.send(&credential(0), &[worker.listener.as_fd()]);
    worker.expect_end("the listener", "the fd beside a credential is no connection of ours");
    let worker = Worker::greeted();
    let (_peer, accepted) = worker.peer();
    worker.send(&credential(0), &[accepted.as_fd()]);
    worker.expect_end("a peer of HTTP", "a credential that systemd has not asked for");
}

#[test]
#[ignore = "needs root: connects as systemd does, and as another user"]
fn an_address_like_systemds_is_believed_of_root_alone() {
    let name = format!("{:x}/unit/a.service/b", std::process::id());
    let worker = Worker::greeted();
    let mut other = support::as_uid(support::GRANTED, "perl");
    let connects = "use Socket; socket(S, AF_UNIX, SOCK_STREAM, 0); \
        bind(S, pack('S a*', AF_UNIX, qq(\\0$ARGV[0]))) && connect(S, pack_sockaddr_un($ARGV[1])) or die $!; \
        sysread(S, $_, 1)";
    other.args(["-e", connects, &name]);
    let (mut peer, accepted) = worker.peer_of(other);
    worker.send(&credential(0), &[accepted.as_fd()]);
    worker.expect_end("another user", "a credential that systemd has not asked for");
    peer.kill().unwrap();
    // Root's, but of no unit: refused, and no surprise. What is not read is held, and so much is too many.
    let worker = Worker::greeted();
    let peers: Vec<_> = (0..=CONNECTIONS).map(|n| (n, worker.peer_named(n, "a.service/b"))).collect();
    for (n, (_, accepted)) in &peers {
        worker.send(&credential(*n), &[accepted.as_fd()]);
    }
    worker.expect_end("a flood", "more requests in flight than connections");
}

/// Both roles have the same open connection: what one sets holds for the other.
#[test]
#[ignore = "needs root: connects as systemd does"]
fn a_connection_that_is_made_to_block_holds_up_nobody() {
    let worker = Worker::greeted();
    let (peer, accepted) = worker.peer_named(1, "blocking.service/b");
    worker.send(&credential(0), &[accepted.as_fd()]);
    // Refused by more bytes than there is room for.
    let full = || poll(&mut [PollFd::new(accepted.as_fd(), PollFlags::POLLOUT)], PollTimeout::ZERO).unwrap() == 0;
    wait_until("there is room for no more", full);
    accepted.set_nonblocking(false).unwrap();
    // Nearly all: else nobody is told that there is room.
    recv(peer.as_raw_fd(), &mut vec![0; 200_000], MsgFlags::MSG_WAITALL).unwrap();
    wait_until("the parent has gone on", full);
    worker.ask_honestly(1, "/closed");
    assert!(matches!(worker.hear(), Some(ToWorker::Reply { id: 1, reply: Reply::Denied })));
}
