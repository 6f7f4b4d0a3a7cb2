//! What peers send.

use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Duration;

use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use regex::Regex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::LocalSet;

use super::credentials::Credentials;
use super::link::Link;
use super::request::{Accepts, Target, accepts, has_tag, revalidates, target, waits};
use super::service::Shared;
use super::standing::Facts;
use crate::acl::{Acl, Client, Pattern, Who};
use crate::config::{Limits, Location};
use crate::fuzz::{self, Start};
use crate::ipc::channel::{ParentEnd, WorkerEnd};
use crate::ipc::wire::*;
use crate::secret::{KeyPath, WireBytes};
use crate::sys::spawn;
use crate::template::{Constraint, Shape, Template};

const WORDS: &[&str] = &[
    "/a",
    "/a/b",
    "/x/1",
    "/-/health",
    "/-/keys",
    "%61",
    "%2f",
    "..",
    "?",
    "http://a",
    "accept: ",
    "text/plain",
    "application/json",
    "*/*",
    ";q=0.5",
    ";q=",
    "if-none-match: ",
    "\"tag\"",
    "W/",
    "*",
    ", ",
    "cache-control: no-cache\r\n",
    "\r\n",
    "GET ",
    "HEAD ",
    " HTTP/1.1\r\n",
    "content-length: 5\r\n",
    "transfer-encoding: chunked\r\n",
    "expect: 100-continue\r\n",
    "connection: close\r\n",
    "prefer: wait=",
    "upgrade: h2c\r\n",
    "\r\n\r\nGET /a HTTP/1.1\r\nhost: a\r\n\r\n",
];

/// Input: a target, then lines of header fields.
#[test]
fn request() {
    fuzz::run("request", Start { words: WORDS, ..Start::default() }, |input| {
        let text = String::from_utf8_lossy(input);
        let mut lines = text.lines();
        let first = lines.next().unwrap_or_default();
        let found = first.parse().map(|uri| (target(&uri), uri)).ok();
        if let Some((Some(found), uri)) = &found {
            let path = decoded(uri.path());
            assert!(uri.scheme().is_none() && uri.authority().is_none());
            assert!(!uri.path().to_ascii_lowercase().contains("%2f"));
            match found {
                Target::Key(key) => {
                    assert_eq!((key.as_str().as_bytes(), KeyPath::parse(key.as_str()).is_ok()), (&*path, true))
                }
                _ => assert!([&b"/-/health"[..], b"/-/whoami", b"/-/keys"].contains(&&*path)),
            }
        }
        if KeyPath::parse(first).is_ok() {
            assert!(matches!(&found, Some((Some(Target::Key(key)), _)) if key.as_str() == first), "{first} is refused");
        }
        let mut headers = HeaderMap::new();
        let fields = lines.filter_map(|line| line.split_once(':'));
        let fields: Vec<(HeaderName, HeaderValue)> =
            fields.filter_map(|(name, value)| Some((name.parse().ok()?, value.trim().parse().ok()?))).collect();
        let mut reversed = HeaderMap::new();
        for (one, other) in fields.iter().zip(fields.iter().rev()) {
            headers.append(&one.0, one.1.clone());
            reversed.append(&other.0, other.1.clone());
        }

        let accepted = accepts(&headers);
        assert_eq!(accepted, accepts(&reversed), "the order of ranges says nothing");
        assert!(headers.contains_key("accept") || accepted == Accepts::Json);
        let all = |name: &str| {
            headers.get_all(name).iter().map(|value| value.as_bytes().to_ascii_lowercase()).collect::<Vec<_>>()
        };
        let holds = |name, what: &[u8]| all(name).iter().any(|line| line.windows(what.len()).any(|part| part == what));
        assert!(!revalidates(&headers) || holds("cache-control", b"no-cache"));
        assert!(!has_tag(&headers, b"\"tag\"") || holds("if-none-match", b"\"tag\"") || holds("if-none-match", b"*"));
        assert!(has_tag(&headers, b"\"tag\"") || !all("if-none-match").iter().any(|line| line == b"\"tag\""));
        let wait = waits(&headers);
        assert!(wait.is_none_or(|wait| (1..=300).contains(&wait.as_secs()) && headers.contains_key("if-none-match")));
        [(
            found.map(|(found, _)| found.map(|found| matches!(found, Target::Key(_)))),
            format!("{accepted:?}"),
            wait.is_some(),
            revalidates(&headers),
            has_tag(&headers, b"\"tag\""),
        )]
    });
}

/// Once, by the book; what is not two hex digits stays.
fn decoded(path: &str) -> Vec<u8> {
    let mut rest = path.as_bytes();
    let mut out = Vec::new();
    while let [first, after @ ..] = rest {
        let hex = after.get(..2).filter(|_| *first == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = &after[2..];
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    out
}

/// The parent of this target gives whatever it is asked for: who keeps a key from a peer is the worker alone.
async fn give(parent: ParentEnd) {
    while let Ok(Some((message, _))) = parent.recv().await {
        let now = BootInstant(crate::sys::clock::boot_nanos());
        let answer = match message {
            ToParent::Fetch(asked) => {
                // One that is kept, beside those that are not.
                let until = if asked.key.as_str() == "/a" { BootInstant(i64::MAX) } else { now };
                let lease =
                    Lease { born: now, fresh_until: until, usable_until: until, stale_detail: Detail::Revalidating };
                let json = format!("\"value of {}\"", asked.key);
                let verdict = Verdict {
                    forward: Forward::UriMiss,
                    fwd_status: Some(200),
                    stored: true,
                    collapsed: false,
                    detail: None,
                };
                let (etag, body) = (Tag([7; 16]), Body::Inline(WireBytes(json.into_bytes())));
                let reply = Reply::Value(ValueReply { verdict, lease, etag, etag_text: Some(Tag([8; 16])), body });
                ToWorker::Reply { id: asked.id, reply }
            }
            ToParent::Survey { id, .. } => ToWorker::SurveyRefused { id, retry_after: None },
            _ => continue,
        };
        let _ = parent.send(&answer, None).await;
    }
}

fn configuration() -> WorkerConfig {
    let key = |path: &str| KeyPath::parse(path).unwrap();
    let patience = Duration::from_secs(60);
    let client = |name: &str, who, pattern| Client {
        name: name.into(),
        who,
        keys: vec![Pattern::parse(pattern).unwrap()],
        credentials: Default::default(),
        at: Location { file: "keyhatch.toml".into(), line: 1 },
    };
    let any = Constraint::matching("[a-z0-9]+").unwrap();
    let template = Template::new(Shape::parse("/x/{n}").unwrap(), vec![any]).unwrap();
    WorkerConfig {
        generation: 1,
        limits: Limits { header_size: 8192, ..Limits::default() },
        keys: ["/a", "/a/b", "/secret"].map(|path| WorkerKey { path: key(path), patience }).into(),
        templates: vec![WorkerTemplate { template, patience, takes_arguments: false }],
        acl: Acl {
            clients: vec![
                client("all", Who::Anyone, "/a/**"),
                client("paths", Who::Anyone, "/x/*"),
                client("nobody", Who::Nobody, "/**"),
            ],
        },
        degraded: false,
        log_requests: false,
    }
}

/// Input: whatever a peer sends on its connection.
#[test]
fn connection() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = LocalSet::new();
    let shared = local.block_on(&runtime, async {
        let (ours, theirs) = spawn::channel_pair().unwrap();
        tokio::task::spawn_local(give(ParentEnd::new(theirs).unwrap()));
        let (facts, _) = Facts::new();
        let ours = Rc::new(WorkerEnd::new(ours).unwrap());
        let link = Rc::new(Link::new(ours.clone(), 64, facts));
        let shared = Rc::new(Shared::new(configuration(), link, Credentials::new(ours, 64)));
        shared.log.silence();
        tokio::task::spawn_local(super::go_round(shared.clone()));
        let refused = shared.clone();
        tokio::task::spawn_local(async move {
            loop {
                refused.pace.give_turn().await;
            }
        });
        let listening = shared.clone();
        tokio::task::spawn_local(async move { listening.link.listen(&listening).await.map(drop) });
        shared
    });
    let status = Regex::new(r"HTTP/1\.[01] ([0-9]{3}) ").unwrap();
    fuzz::run("connection", Start { words: WORDS, ..Start::default() }, |input| {
        // A request that waits for a change does so for as long as it says.
        let text = input.to_ascii_lowercase();
        let sent: Vec<u8> = match text.windows(6).position(|part| part == b"prefer") {
            Some(at) => input[..at].to_vec(),
            None => input.to_vec(),
        };
        let answered = local.block_on(&runtime, async {
            let (mut peer, ours) = UnixStream::pair().unwrap();
            let connection = super::accept::look_at(ours.as_fd(), &shared).unwrap().unwrap();
            let conversing = tokio::task::spawn_local(super::converse(ours, connection, shared.clone()));
            let (mut reading, mut writing) = peer.split();
            let mut answered = Vec::new();
            let talk = async {
                let send = async {
                    // Refused before all of it was sent, perhaps.
                    let _ = writing.write_all(&sent).await;
                    let _ = writing.shutdown().await;
                };
                // Closed with bytes unread, perhaps.
                let (_, _read) = tokio::join!(send, reading.read_to_end(&mut answered));
            };
            tokio::time::timeout(Duration::from_secs(60), talk).await.expect("a conversation that does not end");
            conversing.await.expect("a connection that ends well");
            answered
        });
        let said = String::from_utf8_lossy(&answered);
        for denied in ["value of /secret", "value of /-", "value of /b"] {
            assert!(!said.contains(denied), "{said}");
        }
        assert!(said.is_empty() || said.starts_with("HTTP/1."), "{said}");
        let mut statuses: Vec<&str> = status.captures_iter(&said).map(|found| found.extract::<1>().1[0]).collect();
        let known = ["100", "200", "304", "400", "403", "404", "405", "406", "408", "413", "414", "431", "503"];
        assert!(statuses.iter().all(|status| known.contains(status)), "{said}");
        // Nobody is left behind.
        assert_eq!(shared.connections.count(), 0);
        let answers = statuses.len().min(5);
        statuses.sort_unstable();
        statuses.dedup();
        [format!("{answers} {statuses:?} {}", said.contains("value of"))]
    });
}
