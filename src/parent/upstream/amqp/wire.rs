//! AMQP 0-9-1 as bytes: the frames that a call needs, and no others. Bytes in, bytes out; no I/O.
//!
//! What comes from a broker is not believed: each length is checked against what is there, tables are passed over by
//! their length alone, and nothing is allocated by what a frame says of itself.

use zeroize::Zeroizing;

/// What a client says first.
pub(super) const GREETING: &[u8; 8] = b"AMQP\0\0\x09\x01";
/// The longest frame that is read or written, with its frame around it: what RabbitMQ proposes.
pub(super) const FRAME_MAX: usize = 128 << 10;
/// Type, channel and length; and the octet at the end.
pub(super) const HEAD: usize = 7;
const END: u8 = 0xCE;
/// The payload of the longest frame.
pub(super) const PAYLOAD_MAX: usize = FRAME_MAX - HEAD - 1;
/// The one channel that is used.
pub(super) const CHANNEL: u16 = 1;

/// These bytes may not come here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Method,
    Header,
    Body,
    Heartbeat,
}

/// The head of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) kind: Kind,
    pub(super) channel: u16,
    /// Bytes to come, without the octet at the end; at most [`PAYLOAD_MAX`].
    pub(super) length: usize,
}

impl Head {
    pub(super) fn read(bytes: [u8; HEAD]) -> Result<Self, Malformed> {
        let [kind, c0, c1, l0, l1, l2, l3] = bytes;
        let length = usize::try_from(u32::from_be_bytes([l0, l1, l2, l3])).map_err(|_| Malformed)?;
        let channel = u16::from_be_bytes([c0, c1]);
        let kind = match kind {
            1 => Kind::Method,
            2 => Kind::Header,
            3 => Kind::Body,
            8 => Kind::Heartbeat,
            _ => return Err(Malformed),
        };
        let fits = if kind == Kind::Heartbeat { length == 0 && channel == 0 } else { length <= PAYLOAD_MAX };
        if fits && channel <= CHANNEL { Ok(Self { kind, channel, length }) } else { Err(Malformed) }
    }
}

/// Whether a frame ends as it should.
pub(super) fn ends(octet: u8) -> bool {
    octet == END
}

/// What a broker may say to a client that does what this one does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    /// The broker speaks this protocol, and whether it takes a password as it is.
    Start {
        plain: bool,
    },
    Tune {
        frame_max: u32,
        heartbeat: u16,
    },
    OpenOk,
    /// Of the connection.
    Close {
        code: u16,
    },
    CloseOk,
    /// The broker is short of something, and takes no messages for now; or takes them again.
    Blocked,
    ChannelOpenOk,
    Flow {
        active: bool,
    },
    ChannelClose {
        code: u16,
    },
    ExchangeDeclareOk,
    QueueDeclareOk,
    QueueBindOk,
    ConsumeOk,
    ConfirmSelectOk,
    /// Nobody is to consume from the reply queue any more.
    Cancel,
    /// A message follows that found no queue.
    Return,
    /// A message follows.
    Deliver,
    Ack,
    /// The broker could not take these messages: the one with this number, and perhaps all before it.
    Nack {
        tag: u64,
        multiple: bool,
    },
}

impl Method {
    /// Of the connection itself, which has the channel 0; all others are of [`CHANNEL`].
    fn is_of_connection(self) -> bool {
        matches!(
            self,
            Self::Start { .. } | Self::Tune { .. } | Self::OpenOk | Self::Close { .. } | Self::CloseOk | Self::Blocked
        )
    }

    pub(super) fn read(channel: u16, payload: &[u8]) -> Result<Self, Malformed> {
        let mut bytes = Bytes(payload);
        let method = match (bytes.short()?, bytes.short()?) {
            (10, 10) => {
                bytes.take(2)?;
                bytes.long_string()?;
                let mechanisms = bytes.long_string()?;
                bytes.long_string()?;
                Self::Start { plain: mechanisms.split(|byte| *byte == b' ').any(|one| one == b"PLAIN") }
            }
            (10, 30) => {
                bytes.short()?;
                Self::Tune { frame_max: bytes.long()?, heartbeat: bytes.short()? }
            }
            (10, 41) => Self::OpenOk,
            (10, 50) => Self::Close { code: bytes.short()? },
            (10, 51) => Self::CloseOk,
            (10, 60 | 61) => Self::Blocked,
            (20, 11) => Self::ChannelOpenOk,
            (20, 20) => Self::Flow { active: bytes.octet()? & 1 == 1 },
            (20, 40) => Self::ChannelClose { code: bytes.short()? },
            (40, 11) => Self::ExchangeDeclareOk,
            (50, 11) => Self::QueueDeclareOk,
            (50, 21) => Self::QueueBindOk,
            (60, 21) => Self::ConsumeOk,
            (60, 30) => Self::Cancel,
            (60, 50) => Self::Return,
            (60, 60) => Self::Deliver,
            (60, 80) => Self::Ack,
            (60, 120) => Self::Nack { tag: bytes.long_long()?, multiple: bytes.octet()? & 1 == 1 },
            (85, 11) => Self::ConfirmSelectOk,
            _ => return Err(Malformed),
        };
        if method.is_of_connection() == (channel == 0) { Ok(method) } else { Err(Malformed) }
    }
}

/// What the header of a message says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Content<'p> {
    /// Of its body, in bytes; not checked against anything.
    pub(super) size: u64,
    pub(super) content_type: Option<&'p [u8]>,
    pub(super) correlation: Option<&'p [u8]>,
}

impl<'p> Content<'p> {
    pub(super) fn read(payload: &'p [u8]) -> Result<Self, Malformed> {
        let mut bytes = Bytes(payload);
        let (class, _weight) = (bytes.short()?, bytes.short()?);
        let size = bytes.long_long()?;
        let flags = bytes.short()?;
        // No properties beyond the first fourteen.
        if class != 60 || flags & 1 == 1 {
            return Err(Malformed);
        }
        let has = |bit: u32| flags & (1 << bit) != 0;
        let content_type = if has(15) { Some(bytes.short_string()?) } else { None };
        if has(14) {
            bytes.short_string()?;
        }
        if has(13) {
            bytes.long_string()?;
        }
        for bit in [12, 11] {
            if has(bit) {
                bytes.octet()?;
            }
        }
        // What comes after it is of no use.
        let correlation = if has(10) { Some(bytes.short_string()?) } else { None };
        Ok(Self { size, content_type, correlation })
    }
}

/// What is left to read.
struct Bytes<'p>(&'p [u8]);

impl<'p> Bytes<'p> {
    fn take(&mut self, length: usize) -> Result<&'p [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.take(N)?.try_into().map_err(|_| Malformed)
    }

    fn octet(&mut self) -> Result<u8, Malformed> {
        self.array().map(u8::from_be_bytes)
    }

    fn short(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }

    fn long(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    fn long_long(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_be_bytes)
    }

    fn short_string(&mut self) -> Result<&'p [u8], Malformed> {
        let length = usize::from(self.octet()?);
        self.take(length)
    }

    /// Or a table, whatever is in it.
    fn long_string(&mut self) -> Result<&'p [u8], Malformed> {
        let length = usize::try_from(self.long()?).map_err(|_| Malformed)?;
        self.take(length)
    }
}

/// One frame that is written, wiped when dropped: one of them has the password.
pub(super) struct Frame(Zeroizing<Vec<u8>>);

impl Frame {
    /// A method of this class and number; what it says is added by the others.
    pub(super) fn method(channel: u16, class: u16, method: u16) -> Self {
        // Longer than any of them but with the longest password: the buffer does not move.
        let mut bytes = Zeroizing::new(Vec::with_capacity(2048));
        bytes.push(1);
        bytes.extend_from_slice(&channel.to_be_bytes());
        bytes.extend_from_slice(&[0; 4]);
        Self(bytes).short(class).short(method)
    }

    /// The header of a message of so many bytes, with these flags; properties are added by the others.
    pub(super) fn content(size: u64, flags: u16) -> Self {
        let mut bytes = Zeroizing::new(Vec::with_capacity(1024));
        bytes.push(2);
        bytes.extend_from_slice(&CHANNEL.to_be_bytes());
        bytes.extend_from_slice(&[0; 4]);
        Self(bytes).short(60).short(0).long_long(size).short(flags)
    }

    pub(super) fn octet(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    pub(super) fn short(mut self, value: u16) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(super) fn long(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(super) fn long_long(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// At most 255 bytes of it: the configuration holds no longer one.
    pub(super) fn short_string(mut self, text: &str) -> Self {
        let bytes = text.as_bytes().get(..255).unwrap_or(text.as_bytes());
        self.0.push(u8::try_from(bytes.len()).unwrap_or(u8::MAX));
        self.0.extend_from_slice(bytes);
        self
    }

    /// Several parts as one string.
    pub(super) fn long_string(mut self, parts: &[&[u8]]) -> Self {
        let length = parts.iter().map(|part| part.len()).sum::<usize>();
        // The frame is one allocation from here on: what is added now may be a password.
        let mut bytes = Zeroizing::new(Vec::with_capacity(self.0.len() + length + 1024));
        bytes.extend_from_slice(&self.0);
        self.0 = bytes;
        self = self.long(u32::try_from(length).unwrap_or(u32::MAX));
        parts.iter().for_each(|part| self.0.extend_from_slice(part));
        self
    }

    /// A table of what `fill` adds: for each field a name, the letter of its type, and its value.
    pub(super) fn table(mut self, fill: impl FnOnce(Self) -> Self) -> Self {
        let at = self.0.len();
        self = fill(self.long(0));
        let length = u32::try_from(self.0.len() - at - 4).unwrap_or(u32::MAX);
        self.0[at..at + 4].copy_from_slice(&length.to_be_bytes());
        self
    }

    /// The whole frame.
    pub(super) fn finish(mut self) -> Zeroizing<Vec<u8>> {
        let length = u32::try_from(self.0.len() - HEAD).unwrap_or(u32::MAX);
        self.0[3..HEAD].copy_from_slice(&length.to_be_bytes());
        self.0.push(END);
        self.0
    }
}

/// What stands before and after a part of a message's body.
pub(super) fn around_body(length: usize) -> ([u8; HEAD], [u8; 1]) {
    let [c0, c1] = CHANNEL.to_be_bytes();
    let [l0, l1, l2, l3] = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    ([3, c0, c1, l0, l1, l2, l3], [END])
}

pub(super) const HEARTBEAT: [u8; HEAD + 1] = [8, 0, 0, 0, 0, 0, 0, END];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_that_lies_about_its_length_is_refused() {
        let head = |kind, channel: u16, length: u32| {
            let ([c0, c1], [l0, l1, l2, l3]) = (channel.to_be_bytes(), length.to_be_bytes());
            Head::read([kind, c0, c1, l0, l1, l2, l3])
        };
        assert!(head(1, 0, 100).is_ok() && head(3, 1, 131_064).is_ok());
        for (kind, channel, length) in [
            (1, 0, 131_065),
            (1, 0, u32::MAX),
            (3, 1, 1 << 31),
            (8, 0, 1),
            (8, 1, 0),
            (1, 2, 10),
            (0, 0, 0),
            (b'A', 0, 0),
        ] {
            assert_eq!(head(kind, channel, length), Err(Malformed), "{kind} {channel} {length}");
        }
    }

    #[test]
    fn strings_and_tables_end_within_their_frame() {
        let start = |properties: u32, mechanisms: &[u8]| {
            let mut bytes = vec![0, 10, 0, 10, 0, 9];
            bytes.extend(properties.to_be_bytes());
            bytes.extend([0; 8]);
            bytes.extend(u32::try_from(mechanisms.len()).unwrap().to_be_bytes());
            bytes.extend(mechanisms);
            bytes.extend([0, 0, 0, 5]);
            bytes.extend(b"en_US");
            Method::read(0, &bytes)
        };
        assert_eq!(start(8, b"AMQPLAIN PLAIN"), Ok(Method::Start { plain: true }));
        assert_eq!(start(8, b"AMQPLAIN XPLAIN"), Ok(Method::Start { plain: false }));
        for lie in [9, 1000, u32::MAX] {
            assert_eq!(start(lie, b"PLAIN"), Err(Malformed), "{lie}");
        }
    }

    #[test]
    fn what_is_of_the_channel_comes_on_the_channel() {
        let deliver = [0, 60, 0, 60, 0];
        assert_eq!(Method::read(CHANNEL, &deliver), Ok(Method::Deliver));
        assert_eq!(Method::read(0, &deliver), Err(Malformed));
        assert_eq!(Method::read(CHANNEL, &[0, 10, 0, 51]), Err(Malformed));
        assert_eq!(Method::read(CHANNEL, &[0, 60, 0, 70]), Err(Malformed), "nothing that was not asked for");
    }

    #[test]
    fn properties_are_read_up_to_the_correlation() {
        let frame = Frame::content(9, 0xFE00).short_string("application/json").short_string("utf-8");
        let frame = frame.table(|table| table.short_string("a").octet(b'S').long_string(&[b"b"]));
        let bytes = frame.octet(2).octet(0).short_string("id").short_string("to").finish();
        let payload = &bytes[HEAD..bytes.len() - 1];
        let content = Content::read(payload).unwrap();
        assert_eq!((content.size, content.correlation), (9, Some(&b"id"[..])));
        assert_eq!(content.content_type, Some(&b"application/json"[..]));
        for cut in 0..payload.len() - 3 {
            assert_eq!(Content::read(&payload[..cut]), Err(Malformed), "{cut}");
        }
    }
}
