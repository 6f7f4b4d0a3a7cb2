//! Arguments of calls, from a worker that was taken over.

use std::os::fd::AsFd;

use keyhatch::ipc::wire::{self, FetchRequest, MAX_INLINE, Reply, RequestId, SentArguments, ToParent, ToWorker};
use keyhatch::secret::{KeyPath, WireBytes};

use crate::encoded;
use crate::worker::{CONNECTIONS, Worker};

#[test]
fn arguments_are_bytes_that_the_parent_reads_itself() {
    let part = |id, text: &str| encoded(&ToParent::Arguments { id, part: WireBytes(text.as_bytes().to_vec()) });
    let ask = |id, key: KeyPath, arguments| {
        encoded(&ToParent::Fetch(FetchRequest { id, request: RequestId(id), key, revalidate: false, arguments }))
    };
    let open = || KeyPath::parse("/open").unwrap();
    let inline = |text: &str| Some(SentArguments::Inline(WireBytes(text.as_bytes().to_vec())));
    let unfit = "arguments and their parts do not fit";
    let long = "x".repeat(MAX_INLINE);
    let cases: [(&str, Vec<Vec<u8>>, &str); 9] = [
        ("a digest of its own", vec![ask(0, open().of_call(&[7; 32]), None)], "a digest of the worker's own making"),
        ("no JSON", vec![ask(0, open(), inline("{"))], "arguments that are none"),
        ("a name twice", vec![ask(0, open(), inline("{\"args\":[],\"args\":[]}"))], "arguments that are none"),
        (
            "parts that are none",
            vec![part(0, "{"), ask(0, open(), Some(SentArguments::Before))],
            "arguments that are none",
        ),
        ("no parts", vec![ask(0, open(), Some(SentArguments::Before))], unfit),
        ("parts of a request without arguments", vec![part(0, "{}"), ask(0, open(), None)], unfit),
        ("an empty part", vec![part(0, "")], "arguments that are too long"),
        ("a part that is too long", vec![part(0, &"x".repeat(MAX_INLINE + 1))], "arguments that are too long"),
        ("more than a value", vec![part(0, &long); 33], "arguments that are too long"),
    ];
    for (name, frames, told) in cases {
        let worker = Worker::greeted();
        let (_peer, accepted) = worker.peer();
        for frame in &frames {
            let fds = [accepted.as_fd()];
            // The parent may have gone already.
            worker.send(frame, if matches!(wire::decode(frame), Ok(ToParent::Fetch(_))) { &fds } else { &[] });
        }
        worker.expect_end(name, told);
    }
    let worker = Worker::greeted();
    for id in 0..=CONNECTIONS {
        worker.send(&part(id, "{}"), &[]);
    }
    worker.expect_end("a flood", "arguments of more requests than connections");
    // A key that takes none: denied like any other path that is none.
    let worker = Worker::greeted();
    let (_peer, accepted) = worker.peer();
    worker.send(&ask(3, open(), inline("{}")), &[accepted.as_fd()]);
    assert!(matches!(worker.hear(), Some(ToWorker::Reply { id: 3, reply: Reply::Denied })), "{}", worker.log());
}
