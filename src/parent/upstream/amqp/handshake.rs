//! How a connection to a broker begins: login, tuning, one channel, the exchange and the queue for replies.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use zeroize::Zeroizing;

use super::Transport;
use super::wire::{CHANNEL, FRAME_MAX, Frame, GREETING, HEAD, Head, Kind, Malformed, Method, PAYLOAD_MAX, ends};
use crate::outcome::{Class, Failure, Reason};

/// The least that a broker may propose (section 4.2.3 of the specification).
const FRAME_MIN: u32 = 4096;
/// How often something is heard of the other side, at least.
const HEARTBEAT: u16 = 30;

/// Who wants what there. The password is borrowed for the call.
pub(in crate::parent::upstream) struct Login<'l> {
    pub(in crate::parent::upstream) vhost: &'l str,
    pub(in crate::parent::upstream) user: &'l str,
    pub(in crate::parent::upstream) password: &'l [u8],
    pub(in crate::parent::upstream) exchange: &'l str,
    /// What replies are routed by; also a part of the queue's name.
    pub(in crate::parent::upstream) reply_to: &'l str,
}

/// What was agreed.
pub(super) struct Agreed {
    /// Of a message's body, in one frame.
    pub(super) longest_part: usize,
    pub(super) heartbeat: Duration,
}

/// Reads one frame after another, into one buffer.
pub(super) struct Reader<T> {
    stream: ReadHalf<T>,
    frame: Zeroizing<Vec<u8>>,
}

impl From<Malformed> for Failure {
    fn from(_: Malformed) -> Self {
        Self::unavailable(Reason::InvalidFrame)
    }
}

/// What happened to a connection that cannot be read or written.
pub(super) fn lost(error: &std::io::Error) -> Failure {
    Failure::unavailable(match error.kind() {
        std::io::ErrorKind::InvalidData => Reason::Tls,
        _ => Reason::Reset,
    })
}

impl<T: Transport> Reader<T> {
    pub(super) fn new(stream: ReadHalf<T>) -> Self {
        Self { stream, frame: Zeroizing::default() }
    }

    /// The next frame: its kind, its channel, what is in it. Not to be dropped in the middle.
    pub(super) async fn next(&mut self) -> Result<(Kind, u16, &[u8]), Failure> {
        let mut head = [0; HEAD];
        self.stream.read_exact(&mut head).await.map_err(|error| lost(&error))?;
        let Head { kind, channel, length } = Head::read(head)?;
        let needed = length + 1;
        if self.frame.len() < needed {
            // Once and for all, up to the longest frame: a buffer that grows leaves copies behind.
            let room = if needed <= 4096 { 4096 } else { PAYLOAD_MAX + 1 };
            self.frame = Zeroizing::new(vec![0; room]);
        }
        let (payload, end) = self.frame[..needed].split_at_mut(length);
        self.stream.read_exact(payload).await.map_err(|error| lost(&error))?;
        self.stream.read_exact(end).await.map_err(|error| lost(&error))?;
        if ends(end[0]) { Ok((kind, channel, &self.frame[..length])) } else { Err(Malformed.into()) }
    }

    /// The next method; there is nothing else yet.
    async fn method(&mut self) -> Result<Method, Failure> {
        loop {
            match self.next().await? {
                (Kind::Heartbeat, ..) => {}
                (Kind::Method, channel, payload) => match Method::read(channel, payload)? {
                    Method::Blocked => {}
                    method => return Ok(method),
                },
                _ => return Err(Malformed.into()),
            }
        }
    }
}

/// What it means that a broker ends what was only beginning.
fn refused(code: u16) -> Failure {
    match code {
        // Not permitted, not found, locked, something else than was declared, not allowed.
        402..=406 | 530 => Failure::misconfigured(Reason::BrokerRefused),
        _ => Failure::unavailable(Reason::BrokerClosed),
    }
}

async fn say<T: Transport>(to: &mut WriteHalf<T>, frame: Frame) -> Result<(), Failure> {
    let written = async {
        to.write_all(&frame.finish()).await?;
        to.flush().await
    };
    written.await.map_err(|error| lost(&error))
}

/// Says something, and takes `wanted` for an answer.
async fn ask<T: Transport>(
    reader: &mut Reader<T>,
    writer: &mut WriteHalf<T>,
    frame: Frame,
    wanted: Method,
) -> Result<(), Failure> {
    say(writer, frame).await?;
    match reader.method().await? {
        method if method == wanted => Ok(()),
        Method::Close { code } | Method::ChannelClose { code } => Err(refused(code)),
        _ => Err(Malformed.into()),
    }
}

/// From the first byte to the moment at which calls can be made.
pub(super) async fn begin<T: Transport>(
    reader: &mut Reader<T>,
    writer: &mut WriteHalf<T>,
    login: &Login<'_>,
) -> Result<Agreed, Failure> {
    writer.write_all(GREETING).await.map_err(|error| lost(&error))?;
    writer.flush().await.map_err(|error| lost(&error))?;
    match reader.method().await? {
        Method::Start { plain: true } => {}
        Method::Start { plain: false } => return Err(Failure::misconfigured(Reason::BrokerRefused)),
        Method::Close { .. } => return Err(Failure::unavailable(Reason::BrokerClosed)),
        _ => return Err(Malformed.into()),
    }
    say(writer, start_ok(login)).await?;
    let (frame_max, heartbeat) = match reader.method().await? {
        Method::Tune { frame_max, heartbeat } => (frame_max, heartbeat),
        Method::Close { code: 403 } => return Err(Failure::new(Class::TokenRefused, Reason::LoginRefused)),
        Method::Close { code } => return Err(refused(code)),
        _ => return Err(Malformed.into()),
    };
    // Zero is no limit.
    let longest = u32::try_from(FRAME_MAX).unwrap_or(u32::MAX);
    let frame_max = if frame_max == 0 { longest } else { frame_max.min(longest) };
    if frame_max < FRAME_MIN {
        return Err(Malformed.into());
    }
    let heartbeat = if heartbeat == 0 { HEARTBEAT } else { heartbeat.min(HEARTBEAT) };
    say(writer, Frame::method(0, 10, 31).short(CHANNEL).long(frame_max).short(heartbeat)).await?;
    let open = Frame::method(0, 10, 40).short_string(login.vhost).short_string("").octet(0);
    ask(reader, writer, open, Method::OpenOk).await?;

    let on_channel = |class, method| Frame::method(CHANNEL, class, method);
    ask(reader, writer, on_channel(20, 10).short_string(""), Method::ChannelOpenOk).await?;
    ask(reader, writer, on_channel(85, 10).octet(0), Method::ConfirmSelectOk).await?;
    // As Nameko declares it: durable, a topic exchange.
    let exchange = on_channel(40, 10).short(0).short_string(login.exchange).short_string("topic").octet(0b10);
    ask(reader, writer, exchange.table(|none| none), Method::ExchangeDeclareOk).await?;
    // Exclusive and deleted with the connection: no other user of the broker can read replies from it.
    let queue = format!("rpc.reply-keyhatch-{}", login.reply_to);
    let declare = on_channel(50, 10).short(0).short_string(&queue).octet(0b1100).table(|none| none);
    ask(reader, writer, declare, Method::QueueDeclareOk).await?;
    let bind = on_channel(50, 20).short(0).short_string(&queue).short_string(login.exchange);
    let bind = bind.short_string(login.reply_to).octet(0).table(|none| none);
    ask(reader, writer, bind, Method::QueueBindOk).await?;
    // No acknowledgements: nobody else could do anything with a reply of ours.
    let consume = on_channel(60, 20).short(0).short_string(&queue).short_string("keyhatch").octet(0b110);
    ask(reader, writer, consume.table(|none| none), Method::ConsumeOk).await?;
    let longest_part = usize::try_from(frame_max).unwrap_or(FRAME_MAX) - HEAD - 1;
    Ok(Agreed { longest_part, heartbeat: Duration::from_secs(heartbeat.into()) })
}

fn start_ok(login: &Login<'_>) -> Frame {
    let truth = |table: Frame, name: &str| table.short_string(name).octet(b't').octet(1);
    let capabilities = ["authentication_failure_close", "basic.nack", "connection.blocked", "consumer_cancel_notify"];
    let frame = Frame::method(0, 10, 11).table(|table| {
        let table = table.short_string("product").octet(b'S').long_string(&[b"keyhatch"]);
        let version = env!("CARGO_PKG_VERSION").as_bytes();
        let table = table.short_string("version").octet(b'S').long_string(&[version]);
        table.short_string("capabilities").octet(b'F').table(|table| capabilities.into_iter().fold(table, truth))
    });
    // SASL PLAIN (RFC 4616).
    let response: [&[u8]; 4] = [b"\0", login.user.as_bytes(), b"\0", login.password];
    frame.short_string("PLAIN").long_string(&response).short_string("en_US")
}
