//! A message broker that says whatever a test wants, byte by byte: enough of RabbitMQ for one client, and then anything.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::support::TOKEN;

/// What a call looks like there.
#[derive(Clone, Default)]
pub(crate) struct Called {
    pub(crate) exchange: String,
    pub(crate) routing_key: String,
    pub(crate) correlation: String,
    pub(crate) reply_to: String,
    pub(crate) body: Vec<u8>,
    /// How many there were before it.
    pub(crate) number: usize,
}

type Reaction = Box<dyn Fn(&Called) -> Vec<u8> + Send>;
/// What is said in the place of the usual answer to a method; `None` is that answer. The greeting is the method (0, 0).
type Beginning = Box<dyn Fn((u16, u16)) -> Option<Vec<u8>> + Send + Sync>;

struct Inner {
    react: Mutex<Reaction>,
    begin: Beginning,
    calls: AtomicUsize,
    connections: AtomicUsize,
}

pub(crate) struct StandIn {
    pub(crate) port: u16,
    inner: Arc<Inner>,
}

impl StandIn {
    /// Answers calls with what they came with.
    pub(crate) fn start() -> Self {
        Self::beginning(|_| None)
    }

    pub(crate) fn beginning(begin: impl Fn((u16, u16)) -> Option<Vec<u8>> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let inner = Arc::new(Inner {
            react: Mutex::new(Box::new(echo)),
            begin: Box::new(begin),
            calls: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
        });
        let shared = inner.clone();
        // It ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let shared = shared.clone();
                shared.connections.fetch_add(1, Ordering::SeqCst);
                // A client that goes away is no failure of the broker.
                std::thread::spawn(move || serve(stream.unwrap(), &shared).unwrap_or_default());
            }
        });
        Self { port, inner }
    }

    /// What is said to calls from now on.
    pub(crate) fn react(&self, react: impl Fn(&Called) -> Vec<u8> + Send + 'static) {
        *self.inner.react.lock().unwrap() = Box::new(react);
    }

    pub(crate) fn calls(&self) -> usize {
        self.inner.calls.load(Ordering::SeqCst)
    }

    pub(crate) fn forget_calls(&self) {
        self.inner.calls.store(0, Ordering::SeqCst);
    }

    pub(crate) fn connections(&self) -> usize {
        self.inner.connections.load(Ordering::SeqCst)
    }
}

/// As a service that gives back what it was called with, and how many calls there were before.
pub(crate) fn echo(called: &Called) -> Vec<u8> {
    let given: Value = serde_json::from_slice(&called.body).unwrap();
    returns(called, &json!({ "number": called.number, "given": given }))
}

pub(crate) fn returns(called: &Called, result: &Value) -> Vec<u8> {
    reply(called, json!({ "result": result, "error": null }).to_string().as_bytes())
}

/// A whole reply.
pub(crate) fn reply(called: &Called, body: &[u8]) -> Vec<u8> {
    reply_to(&called.correlation, body)
}

pub(crate) fn reply_to(correlation: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = [deliver(), header(correlation, body.len() as u64, &[])].concat();
    for part in body.chunks(100_000) {
        bytes.extend(frame(3, 1, part));
    }
    bytes
}

pub(crate) fn deliver() -> Vec<u8> {
    method(1, 60, 60, &[&short("keyhatch"), &[0; 8], &[0], &short("nameko-rpc"), &short("r")])
}

/// Of a reply to this call, with this table as its headers.
pub(crate) fn header(correlation: &str, size: u64, table: &[u8]) -> Vec<u8> {
    let length = u32::try_from(table.len()).unwrap().to_be_bytes();
    let properties = [short("application/json"), [&length[..], table].concat(), short(correlation)].concat();
    frame(2, 1, &[&[0, 60, 0, 0], &size.to_be_bytes()[..], &[0b1010_0100, 0], &properties].concat())
}

pub(crate) fn method(channel: u16, class: u16, number: u16, arguments: &[&[u8]]) -> Vec<u8> {
    frame(1, channel, &[&class.to_be_bytes()[..], &number.to_be_bytes(), &arguments.concat()].concat())
}

pub(crate) fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    lying(kind, channel, u32::try_from(payload.len()).unwrap(), payload)
}

/// With a length that is none.
pub(crate) fn lying(kind: u8, channel: u16, length: u32, payload: &[u8]) -> Vec<u8> {
    [&[kind], &channel.to_be_bytes()[..], &length.to_be_bytes(), payload, &[0xCE]].concat()
}

pub(crate) fn short(text: &str) -> Vec<u8> {
    [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat()
}

pub(crate) fn long(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}

/// The end of the connection (0) or the channel (1), with this code.
pub(crate) fn close(channel: u16, code: u16) -> Vec<u8> {
    let class = if channel == 0 { (10, 50) } else { (20, 40) };
    method(channel, class.0, class.1, &[&code.to_be_bytes(), &short("no"), &[0; 4]])
}

pub(crate) fn start(mechanisms: &str, table: &[u8]) -> Vec<u8> {
    method(0, 10, 10, &[&[0, 9], &long(table), &long(mechanisms.as_bytes()), &long(b"en_US")])
}

struct Bytes<'p>(&'p [u8]);

impl<'p> Bytes<'p> {
    fn take(&mut self, length: usize) -> &'p [u8] {
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        taken
    }

    fn number(&mut self, length: usize) -> usize {
        self.take(length).iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte))
    }

    fn short(&mut self) -> String {
        let length = self.number(1);
        String::from_utf8(self.take(length).to_vec()).unwrap()
    }

    fn long(&mut self) -> &'p [u8] {
        let length = self.number(4);
        self.take(length)
    }
}

fn serve(mut stream: TcpStream, inner: &Inner) -> std::io::Result<()> {
    let mut greeting = [0; 8];
    stream.read_exact(&mut greeting)?;
    assert_eq!(&greeting, b"AMQP\0\0\x09\x01");
    let say = |stream: &mut TcpStream, of: (u16, u16), usual: Vec<u8>| {
        let bytes = (inner.begin)(of).unwrap_or(usual);
        stream.write_all(&bytes)
    };
    say(&mut stream, (0, 0), start("AMQPLAIN PLAIN", &[]))?;
    let (mut called, mut left) = (Called::default(), 0);
    loop {
        let mut head = [0; 7];
        stream.read_exact(&mut head)?;
        let channel = u16::from_be_bytes([head[1], head[2]]);
        let mut payload = vec![0; u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize + 1];
        stream.read_exact(&mut payload)?;
        assert_eq!(payload.pop(), Some(0xCE), "the end of a frame");
        let mut bytes = Bytes(&payload);
        match head[0] {
            8 => continue,
            3 => {
                called.body.extend_from_slice(&payload);
                left -= payload.len();
                if left == 0 {
                    let reaction = inner.react.lock().unwrap()(&called);
                    stream.write_all(&reaction)?;
                }
                continue;
            }
            2 => {
                bytes.take(4);
                left = bytes.number(8);
                assert_eq!(bytes.number(2), 0b1111_1110_0000_0000, "the properties that Nameko sends");
                assert_eq!((bytes.short(), bytes.short()), ("application/json".into(), "utf-8".into()));
                bytes.long();
                assert_eq!(bytes.take(2), [2, 0], "persistent, of the lowest priority");
                (called.correlation, called.reply_to) = (bytes.short(), bytes.short());
                called.number = inner.calls.fetch_add(1, Ordering::SeqCst);
                continue;
            }
            _ => {}
        }
        let of = (u16::try_from(bytes.number(2)).unwrap(), u16::try_from(bytes.number(2)).unwrap());
        let usual = match of {
            (10, 11) => {
                bytes.long();
                assert_eq!(bytes.short(), "PLAIN");
                let known = bytes.long() == format!("\0keyhatch\0{TOKEN}").as_bytes();
                let tune = [&2047_u16.to_be_bytes()[..], &131_072_u32.to_be_bytes(), &2_u16.to_be_bytes()].concat();
                if known { method(0, 10, 30, &[&tune]) } else { close(0, 403) }
            }
            (10, 31) => continue,
            (10, 40) => method(0, 10, 41, &[&short("")]),
            (10, 50) => method(0, 10, 51, &[]),
            (20, 10) => method(1, 20, 11, &[&long(&[])]),
            (50, 10) => method(1, 50, 11, &[&short("q"), &[0; 8]]),
            (60, 20) => method(1, 60, 21, &[&short("keyhatch")]),
            (60, 40) => {
                bytes.take(2);
                (called.exchange, called.routing_key) = (bytes.short(), bytes.short());
                assert_eq!((bytes.number(1), channel), (1, 1), "mandatory");
                called.body.clear();
                continue;
            }
            (class, number) => method(channel, class, number + 1, &[]),
        };
        say(&mut stream, of, usual)?;
    }
}
