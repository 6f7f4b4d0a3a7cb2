//! The four strategies of `docs/staleness.md`: a broker does what is drawn there.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use support::Broker;

/// Between two requests. A wait for back-off is up to a fifth shorter than 1, 2 and 4 s: it is over after one, two and
/// four of these, and not one sooner.
const BEAT: Duration = Duration::from_millis(1050);
/// A busy machine may miss a beat.
const TRIES: usize = 5;

const UP: u8 = 0;
const FAILING: u8 = 1;
const SLOW: u8 = 2;
const ANOTHER: u8 = 3;

/// The settings of a strategy and the rows of its drawing.
struct Strategy {
    settings: String,
    drawn: Vec<(String, Vec<String>)>,
    fails_by: u8,
}

fn strategies() -> Vec<Strategy> {
    let text = include_str!("../docs/staleness.md");
    let text = text.split("\n## Four strategies\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let strategy = |part: &str| {
        let block = |begin: &str| part.split(begin).nth(1).unwrap().split("```").next().unwrap().to_owned();
        let settings = block("```toml\n[defaults]\n");
        let drawing = block("```\nupstream");
        let row = |line: &str| {
            let (name, cells) = line.split_once(' ').unwrap();
            (name.to_owned(), cells.replace('│', " ").split_whitespace().map(str::to_owned).collect())
        };
        let fails_by = if drawing.lines().next().unwrap().contains("takes 1.5 s") { SLOW } else { FAILING };
        Strategy { settings, drawn: drawing.lines().skip(2).map(row).collect(), fails_by }
    };
    text.split("\n### ").skip(1).map(strategy).collect()
}

/// Behaves as it is told, and counts.
struct Source {
    port: u16,
    how: Arc<AtomicU8>,
    calls: Arc<AtomicUsize>,
}

impl Source {
    fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (how, calls) = (Arc::<AtomicU8>::default(), Arc::<AtomicUsize>::default());
        let (told, counted) = (how.clone(), calls.clone());
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let (told, counted) = (told.clone(), counted.clone());
                std::thread::spawn(move || {
                    let lines = BufReader::new(stream.try_clone().unwrap()).lines();
                    lines.map_while(Result::ok).take_while(|line| !line.is_empty()).for_each(drop);
                    counted.fetch_add(1, Ordering::SeqCst);
                    let how = told.load(Ordering::SeqCst);
                    if how == SLOW {
                        std::thread::sleep(Duration::from_millis(1500));
                    }
                    let status = if how == FAILING { "503 Down" } else { "200 OK" };
                    let body = if how == ANOTHER { "\"2\"" } else { "\"1\"" };
                    let head = "Content-Type: application/json\r\nConnection: close\r\nContent-Length: 3";
                    let _ = write!(stream, "HTTP/1.1 {status}\r\n{head}\r\n\r\n{body}");
                });
            }
        });
        Self { port, how, calls }
    }
}

/// What came of one request, by the name of its row.
fn ask(socket: &Path, key: usize, source: &Source) -> [(&'static str, String); 4] {
    let (before, since) = (source.calls.load(Ordering::SeqCst), Instant::now());
    let mut stream = UnixStream::connect(socket).unwrap();
    write!(stream, "GET /{key} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let tenths = since.elapsed().as_millis() / 100;
    // A call behind the answer would still be counted.
    let asked = source.calls.load(Ordering::SeqCst) > before;
    let age = answer.lines().find_map(|line| line.strip_prefix("age: ")).unwrap_or("none").trim();
    let value = answer.rsplit("\r\n\r\n").next().unwrap().trim_matches('"');
    [
        ("asked", if asked { "a" } else { "." }.to_owned()),
        ("waited", if tenths == 0 { "-".to_owned() } else { format!(".{tenths}") }),
        ("answer", value.to_owned()),
        ("age", age.to_owned()),
    ]
}

/// What is not as it is drawn.
fn differences(strategies: &[Strategy]) -> String {
    let sources: Vec<Source> = strategies.iter().map(|_| Source::start()).collect();
    let mut broker = Broker::prepared(|_| {
        let key = |(number, (strategy, source)): (usize, (&Strategy, &Source))| {
            let url = format!("http://127.0.0.1:{}/", source.port);
            format!("[keys.\"/{number}\"]\nsource = {{ type = \"http\", url = \"{url}\" }}\n{}", strategy.settings)
        };
        let keys: String = strategies.iter().zip(&sources).enumerate().map(key).collect();
        format!("{keys}[clients.root]\nuser = 0\nkeys = [\"/**\"]\n")
    });
    broker.start();
    let socket = broker.path("keyhatch.sock");
    let start = Instant::now() + BEAT;
    let wait_for = |until: Instant| {
        while until > Instant::now() {
            std::thread::park_timeout(until.saturating_duration_since(Instant::now()));
        }
    };
    let run = |number: usize| {
        let (strategy, source) = (&strategies[number], &sources[number]);
        let mut done: Vec<[(&str, String); 4]> = Vec::new();
        for beat in 0..strategy.drawn[0].1.len() {
            let at = start + BEAT * u32::try_from(beat).unwrap();
            wait_for(at - BEAT / 20);
            source.how.store(
                if beat < 3 {
                    UP
                } else if beat < 8 {
                    strategy.fails_by
                } else {
                    ANOTHER
                },
                Ordering::SeqCst,
            );
            wait_for(at);
            done.push(ask(&socket, number, source));
        }
        let mut told = String::new();
        for (name, drawn) in &strategy.drawn {
            let cell = |one: &[(&str, String); 4]| one.iter().find(|(row, _)| row == name).unwrap().1.clone();
            let row: Vec<String> = done.iter().map(cell).collect();
            if row != *drawn {
                writeln!(told, "{name:8} {}\n   drawn {}", row.join(" "), drawn.join(" ")).unwrap();
            }
        }
        told
    };
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..strategies.len()).map(|number| scope.spawn(move || run(number))).collect();
        running.into_iter().map(|one| one.join().unwrap()).collect()
    })
}

#[test]
#[ignore = "needs root: drops to two uids"]
fn a_broker_does_what_is_drawn() {
    let strategies = strategies();
    assert_eq!(strategies.len(), 4);
    assert!(strategies.iter().all(|strategy| strategy.drawn.len() >= 3 && strategy.drawn[0].1.len() > 10));
    let mut found = String::new();
    for _ in 0..TRIES {
        found = differences(&strategies);
        if found.is_empty() {
            return;
        }
    }
    panic!("\n{found}");
}
