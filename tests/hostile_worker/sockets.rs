//! What the parent does with a peer's socket: looks at it, and closes it before anything else.

use std::io::Read;
use std::os::fd::AsFd;
use std::time::Duration;

use keyhatch::ipc::wire::{RequestId, ToParent};

use super::encoded;
use super::worker::{Worker, fetch};

/// Whoever has hung up is gone, for its peer, although what was asked for it is still under way.
#[test]
fn the_parent_keeps_no_socket_of_a_peer() {
    let worker = Worker::greeted();
    let frames = [
        ("a fetch whose upstream never answers", fetch(1, "/open")),
        ("a denial", fetch(2, "/closed")),
        ("a survey", encoded(&ToParent::Survey { id: 3, request: RequestId(3) })),
        ("an attestation", encoded(&ToParent::Attest { id: 4 })),
    ];
    for (name, frame) in frames {
        let (mut peer, accepted) = worker.peer();
        peer.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        assert!(worker.send(&frame, &[accepted.as_fd()]), "{}", worker.log());
        drop(accepted);
        assert_eq!(peer.read(&mut [0]).ok(), Some(0), "{name}: {}", worker.log());
    }
}
