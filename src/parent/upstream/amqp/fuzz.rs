//! What a message broker sends, from its first byte on. Input: frames.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, split};

use super::handshake::{Login, Reader, begin};
use super::replies::Replies;
use super::wire::{CHANNEL, Frame};
use crate::fuzz::{self, Start};

const LIMIT: usize = 64;
const CALL: &str = "a-call";

/// Says what is given, and takes everything.
struct Said<'i>(&'i [u8]);

impl AsyncRead for Said<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let (now, later) = self.0.split_at(self.0.len().min(buf.remaining()));
        buf.put_slice(now);
        self.0 = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Said<'_> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// An honest beginning.
fn greeting() -> Vec<u8> {
    let on_channel = |class, method| Frame::method(CHANNEL, class, method);
    let start = Frame::method(0, 10, 10).octet(0).octet(9).table(|none| none);
    [
        start.long_string(&[b"PLAIN"]).long_string(&[b"en_US"]),
        Frame::method(0, 10, 30).short(2047).long(131_072).short(60),
        Frame::method(0, 10, 41).short_string(""),
        on_channel(20, 11).long_string(&[]),
        on_channel(85, 11),
        on_channel(40, 11),
        on_channel(50, 11).short_string("q").long(0).long(0),
        on_channel(50, 21),
        on_channel(60, 21).short_string("keyhatch"),
    ]
    .into_iter()
    .flat_map(|frame| frame.finish().to_vec())
    .collect()
}

/// A reply to the call, of so many bytes.
fn reply(length: usize) -> Vec<u8> {
    let deliver = Frame::method(CHANNEL, 60, 60).short_string("keyhatch").long_long(1).octet(0);
    let header = Frame::content(length as u64, 0x8400).short_string("application/json").short_string(CALL);
    let mut bytes = deliver.short_string("nameko-rpc").short_string("r").finish().to_vec();
    bytes.extend_from_slice(&header.finish());
    let (before, after) = super::wire::around_body(length);
    bytes.extend([&before[..], &vec![b'x'; length], &after].concat());
    bytes
}

#[test]
fn amqp() {
    let close = Frame::method(CHANNEL, 20, 40).short(404).short_string("no").short(0).short(0).finish().to_vec();
    let returned = Frame::method(CHANNEL, 60, 50).short(312).short_string("NO_ROUTE").finish().to_vec();
    let refused = Frame::method(0, 10, 50).short(403).short_string("no").short(0).short(0).finish().to_vec();
    let seeds = vec![
        [greeting(), reply(10)].concat(),
        [greeting(), reply(LIMIT + 1), reply(3)].concat(),
        [greeting(), returned, reply(2)[reply(2).len() - 9..].to_vec(), close].concat(),
        [greeting()[..60].to_vec(), refused].concat(),
        [greeting(), super::wire::HEARTBEAT.to_vec(), reply(0)].concat(),
    ];
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    fuzz::run("amqp", Start { seeds, words: &["a-call", "PLAIN", "\u{0}\u{a}\u{0}\u{32}"] }, |input| {
        runtime.block_on(async {
            let (read, mut write) = split(Said(input));
            let mut reader = Reader::new(read);
            let login = Login { vhost: "/", user: "u", password: b"p", exchange: "nameko-rpc", reply_to: "r" };
            match begin(&mut reader, &mut write, &login).await {
                Ok(agreed) => assert!(agreed.longest_part > 4000 && !agreed.heartbeat.is_zero()),
                Err(failure) => return vec![format!("{failure:?}")],
            }
            let mut replies = Replies::new(LIMIT);
            let mut said = replies.wait(CALL.to_owned(), 1);
            let mut saw = vec!["open".to_owned()];
            loop {
                let Ok((kind, channel, payload)) = reader.next().await else { break };
                let next = replies.take(kind, channel, payload);
                saw.push(format!("{kind:?} {next:?}"));
                if next.is_err() {
                    break;
                }
            }
            match said.try_recv() {
                Ok(Ok(message)) => assert!(message.body.len() <= LIMIT),
                Ok(Err(failure)) => saw.push(format!("{failure:?}")),
                Err(_) => {}
            }
            saw
        })
    });
}
