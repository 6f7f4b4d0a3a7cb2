//! Peers that behave badly, many in one process: `swarm SOCKET MODE COUNT [PATH]`. It tells every tenth of a second how
//! often it has done so, until it is ended.
//!
//! `stare`: half a header, then a byte a second; or a request for PATH whose answer is never read. Who is turned away comes back.
//! `garbage`: bytes that are no request, again and again. `rush`: the same, without waiting for an answer. `deny`: requests for keys that nobody has, as many at once as fit.
//! `measure`: COUNT requests for PATH, one after the other, on one connection; prints how many microseconds they took.
//! `knock`: the same, each on a connection of its own. `stay`: as `measure`, but the connection is there before: it says `ready` when
//! it was answered once, and goes on when it is sent a line.
//!
//! `SOCKET check OWN OTHER` is a good peer: it asks for ever for `/own/OWN`, and at times for what is OTHER's, tells each
//! value that it gets, and what is wrong. `check-stale`: no age may be below the one before.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "part of the tests, which may panic")]

use std::cell::Cell;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::{LocalSet, spawn_local, yield_now};

struct Swarm {
    socket: PathBuf,
    path: String,
    done: Cell<u64>,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments[1].starts_with("check") {
        return check(Path::new(&arguments[0]), &arguments[2], &arguments[3], arguments[1] == "check-stale");
    }
    let (socket, mode, count) = (PathBuf::from(&arguments[0]), arguments[1].clone(), arguments[2].parse().unwrap());
    let path = arguments.get(3).cloned().unwrap_or_default();
    if mode == "measure" || mode == "knock" || mode == "stay" {
        return measure(&socket, &mode, count, &path);
    }
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async move {
        let swarm = Rc::new(Swarm { socket, path, done: Cell::new(0) });
        for number in 0..count {
            let (swarm, mode) = (swarm.clone(), mode.clone());
            spawn_local(async move {
                loop {
                    let stream = swarm.connect().await;
                    // Whatever the broker does with it, there is another one.
                    let _ = match mode.as_str() {
                        "stare" => swarm.stare(stream, number % 2 == 0).await,
                        "garbage" => swarm.garbage(stream).await,
                        "rush" => swarm.rush(stream).await,
                        "deny" => swarm.deny(stream, number).await,
                        _ => panic!("unknown mode {mode}"),
                    };
                    swarm.done.set(swarm.done.get() + 1);
                    yield_now().await;
                }
            });
        }
        let mut tells = tokio::time::interval(Duration::from_millis(100));
        loop {
            tells.tick().await;
            println!("{}", swarm.done.get());
        }
    });
}

impl Swarm {
    async fn connect(&self) -> UnixStream {
        loop {
            // A queue that is full is no reason to give up.
            match UnixStream::connect(&self.socket).await {
                Ok(stream) => return stream,
                Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
    }

    async fn stare(&self, mut stream: UnixStream, half: bool) -> std::io::Result<()> {
        if !half {
            stream.write_all(format!("GET {} HTTP/1.1\r\nHost: x\r\n\r\n", self.path).as_bytes()).await?;
            let mut start = [0; 12];
            stream.read_exact(&mut start).await?;
            if start.ends_with(b"503") {
                return Ok(());
            }
            // The rest is never read.
            return std::future::pending().await;
        }
        stream.write_all(format!("GET {} HTTP/1.1\r\nX-Slow: ", self.path).as_bytes()).await?;
        loop {
            let heard = tokio::time::timeout(Duration::from_secs(1), stream.read_u8()).await;
            if heard.is_ok() {
                return Ok(());
            }
            stream.write_all(b"x").await?;
        }
    }

    async fn garbage(&self, mut stream: UnixStream) -> std::io::Result<()> {
        let mut number = self.done.get();
        let noise: Vec<u8> = (0..4096)
            .map(|_| {
                number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                number.to_be_bytes()[0]
            })
            .collect();
        stream.write_all(&noise).await?;
        stream.read_to_end(&mut Vec::new()).await?;
        Ok(())
    }

    async fn rush(&self, mut stream: UnixStream) -> std::io::Result<()> {
        stream.write_all(b"\0").await
    }

    async fn deny(&self, stream: UnixStream, number: u64) -> std::io::Result<()> {
        let (mut from, mut to) = stream.into_split();
        let ended = spawn_local(async move {
            let mut heard = vec![0; 1 << 16];
            while from.read(&mut heard).await.is_ok_and(|length| length > 0) {}
        });
        for round in 0_u64.. {
            let ask = |n: u64| format!("GET /no/{number}/{round}/{n} HTTP/1.1\r\nHost: x\r\n\r\n");
            let asked: String = (0..100).map(ask).collect();
            if to.write_all(asked.as_bytes()).await.is_err() {
                break;
            }
            self.done.set(self.done.get() + 100);
        }
        ended.abort();
        Ok(())
    }
}

fn measure(socket: &Path, mode: &str, count: u64, path: &str) {
    let connect = || std::os::unix::net::UnixStream::connect(socket).unwrap();
    let mut kept = connect();
    let mut ask = || {
        let began = Instant::now();
        if mode == "knock" {
            kept = connect();
        }
        write!(kept, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut answer = [0; 4096];
        let length = kept.read(&mut answer).unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", answer[..length].escape_ascii());
        began.elapsed()
    };
    if mode == "stay" {
        ask();
        println!("ready");
        std::io::stdin().read_line(&mut String::new()).unwrap();
    }
    let mut took: Vec<Duration> = (0..count).map(|_| ask()).collect();
    took.sort_unstable();
    let at = |hundredths: usize| took[(took.len() - 1) * hundredths / 100].as_micros();
    println!("{{\"p50\":{},\"p99\":{},\"max\":{}}}", at(50), at(99), at(100));
}

/// Longer than every deadline of the broker together.
const NEVER: Duration = Duration::from_secs(20);

fn check(socket: &Path, own: &str, other: &str, stale: bool) {
    let mut oldest = 0;
    loop {
        let Ok(mut stream) = std::os::unix::net::UnixStream::connect(socket) else {
            std::thread::park_timeout(Duration::from_millis(5));
            continue;
        };
        stream.set_read_timeout(Some(NEVER)).unwrap();
        for round in 0..20 {
            let key = if round % 10 == 9 { other } else { own };
            if write!(stream, "GET /own/{key} HTTP/1.1\r\nHost: x\r\n\r\n").is_err() {
                break;
            }
            // Larger than any answer here, which comes whole or not at all.
            let mut answer = [0; 8192];
            let length = match stream.read(&mut answer) {
                Ok(0) => break,
                Ok(length) => length,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    println!("wrong: no answer within {NEVER:?}");
                    break;
                }
                Err(_) => break,
            };
            let answer = String::from_utf8_lossy(&answer[..length]);
            let status = answer.get(9..12).unwrap_or_default();
            match answer.split_once("\r\n\r\n{\"value\":\"").and_then(|(_, value)| value.strip_suffix("\"}")) {
                Some(value) if status == "200" && key == own && value.starts_with(own) => {
                    let age =
                        answer.lines().find_map(|line| line.strip_prefix("age: ")?.trim().parse().ok()).unwrap_or(0);
                    if stale && age < oldest {
                        println!("wrong: {age} s old after {oldest} s");
                    }
                    oldest = age;
                    println!("{value}");
                }
                // A broker that has just ended or begun says so; another's key is denied.
                None if matches!(status, "502" | "503") || (status == "403" && key == other) => {}
                _ => println!("wrong: {key}: {answer:?}"),
            }
        }
    }
}
