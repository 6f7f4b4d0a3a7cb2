//! What crosses the channel, in both directions. Input: a digit for the type, then its bytes.

use std::time::Duration;

use serde::{Serialize, de::DeserializeOwned};

use super::record::{Event, MAX_RECORD, Record};
use super::run::{End, FromRunner, LONGEST, ToRunner};
use super::wire::*;
use crate::acl::{Acl, Client, Pattern, Peer, Unit, UnitPattern, Users, Who};
use crate::config::{Limits, Location};
use crate::fuzz::{self, Start};
use crate::outcome::{Class, Reason};
use crate::secret::{KeyPath, WireBytes};
use crate::template::{Constraint, Shape, Template};

fn key(path: &str) -> KeyPath {
    KeyPath::parse(path).unwrap()
}

/// A message of a kind of its own each time.
fn seeds() -> Vec<Vec<u8>> {
    let second = Duration::from_secs(1);
    let verdict =
        |detail| Verdict { forward: Forward::Stale, fwd_status: Some(503), stored: true, collapsed: false, detail };
    let lease = Lease {
        born: BootInstant(-5),
        fresh_until: BootInstant(1 << 40),
        usable_until: BootInstant(i64::MAX),
        stale_detail: Detail::Failed(Reason::Status(503)),
    };
    let layer = Layer { name: "seccomp".into(), level: "68 calls".into(), holds: true };
    let (id, request) = (7, RequestId(9));
    let to_parent = [
        ToParent::Hello { protocol: PROTOCOL, version: "0.1.0".into() },
        ToParent::Ready { layers: vec![layer.clone(), layer] },
        ToParent::Fetch(FetchRequest { id, request, key: key("/a/b"), revalidate: true, arguments: None }),
        ToParent::Fetch(FetchRequest {
            id,
            request,
            key: key("/a/b"),
            revalidate: false,
            arguments: Some(SentArguments::Inline(WireBytes(b"{\"args\":[],\"kwargs\":{}}".to_vec()))),
        }),
        ToParent::Arguments { id, part: WireBytes(b"{\"args\":[".to_vec()) },
        ToParent::Fetch(FetchRequest {
            id,
            request,
            key: key("/a/b"),
            revalidate: false,
            arguments: Some(SentArguments::Before),
        }),
        ToParent::Survey { id, request },
        ToParent::Used { uses: vec![(key("/x/1"), 3), (key("/x/2"), u32::MAX)] },
        ToParent::Attest { id },
        ToParent::Credential { id, request },
        ToParent::Parted { fact: 3 },
        ToParent::Counted(Counted {
            connections: 2,
            requests: vec![(Some("one".into()), Served::Hit, 5), (None, Served::Denied, 1)],
            serves: vec![(key("/a"), 5)],
        }),
        ToParent::Recalled { serial: 300 },
        ToParent::Drained,
    ];
    let value = |body| {
        let (etag, etag_text) = (Tag([7; 16]), Some(Tag([8; 16])));
        Reply::Value(ValueReply { verdict: verdict(None), lease, etag, etag_text, body })
    };
    let failure = FailureReply {
        class: Class::Unavailable,
        reason: Reason::Dns,
        verdict: verdict(Some(Detail::BreakerOpen)),
        retry_after: second,
    };
    let to_worker = [
        ToWorker::Configure { generation: 1, len: 70_000 },
        ToWorker::Reply { id, reply: value(Body::Inline(WireBytes(b"{\"a\":1}".to_vec()))) },
        ToWorker::Reply { id, reply: value(Body::Memfd { len: 1 << 20 }) },
        ToWorker::Reply { id, reply: Reply::Failure(failure) },
        ToWorker::Reply { id, reply: Reply::Denied },
        ToWorker::Reply {
            id,
            reply: Reply::Raised { exception: WireBytes(b"{\"exc_type\":\"E\"}".to_vec()), verdict: verdict(None) },
        },
        ToWorker::Reply { id, reply: Reply::OverBudget { retry_after: second } },
        ToWorker::SurveyReply { id, len: 12 },
        ToWorker::SurveyRefused { id, retry_after: Some(second) },
        ToWorker::Attested {
            id,
            attestation: Some(Attestation { fact: Some(3), unit: Unit::new("web.service", true) }),
        },
        ToWorker::Attested { id, attestation: None },
        ToWorker::Unattested { fact: 3 },
        ToWorker::CredentialEnded { id, ended: true },
        ToWorker::Renew { key: key("/a"), etag: Tag([0; 16]), lease },
        ToWorker::Recall { serial: 1, keys: Recall::All },
        ToWorker::Recall { serial: 2, keys: Recall::Keys(vec![key("/a"), key("/b/c")]) },
        ToWorker::Drain { within: second },
    ];
    let constraints = vec![Constraint::one_of(vec!["a".into(), "b".into()]), Constraint::matching("[a-z]+").unwrap()];
    let template = Template::new(Shape::parse("/x/{a}-{b}").unwrap(), constraints).unwrap();
    let client = |name: &str, who, pattern| Client {
        name: name.into(),
        who,
        keys: vec![Pattern::parse(pattern).unwrap()],
        credentials: Default::default(),
        at: Location { file: "keyhatch.toml".into(), line: 3 },
    };
    let users = Users { uids: vec![1000], dynamic: true };
    let units = vec![UnitPattern::parse("web@*.service").unwrap()];
    let config = WorkerConfig {
        generation: 1,
        limits: Limits::default(),
        keys: vec![WorkerKey { path: key("/a"), patience: second }],
        templates: vec![WorkerTemplate { template, patience: second, takes_arguments: true }],
        acl: Acl {
            clients: vec![
                client("one", Who::Ids { users: Some(users), groups: None, units: Some(units) }, "/a/*b*/**"),
                client("all", Who::Anyone, "/x/*"),
            ],
        },
        degraded: false,
        log_requests: true,
    };
    let state = |state, age| KeyState { key: key("/a/b"), state, age };
    let survey =
        Survey { keys: vec![state(State::Fresh, Some(second)), state(State::NeverFetched, None)], drill: true };
    let record = Record { uid: Some(7), key: Some("/a".into()), status: Some(403), ..Record::of(Event::Denied) };
    let mut seeds: Vec<Vec<u8>> = to_parent.iter().map(|message| seed(b'0', message)).collect();
    seeds.extend(to_worker.iter().map(|message| seed(b'1', message)));
    seeds.extend([seed(b'2', &config), seed(b'3', &survey), [b"4", &*record.line().unwrap()].concat()]);
    seeds.extend(
        [ToRunner::Run { id, program: u32::MAX }, ToRunner::Stop { id: u64::MAX }].iter().map(|m| seed(b'5', m)),
    );
    let from_runner = [
        FromRunner::Ready { protocol: 1, version: "0.1.0".into(), layers: Vec::new() },
        FromRunner::Output { id },
        FromRunner::Token { id },
        FromRunner::Ended { id, end: End::NotStarted(-1), said: 1 << 40 },
    ];
    seeds.extend(from_runner.iter().map(|message| seed(b'6', message)));
    seeds
}

fn seed(kind: u8, message: &impl Serialize) -> Vec<u8> {
    [&[kind], &*postcard::to_stdvec(message).unwrap()].concat()
}

/// What is encoded from a decoded message decodes to the same. It need not be the same bytes: a number may have been
/// longer than it needs to be, nanoseconds more than a second, the words of a constraint in another order.
fn round<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let message: T = decode_payload(bytes).ok()?;
    let again = postcard::to_stdvec(&message).unwrap();
    let twice: T = decode_payload(&again).unwrap_or_else(|error| panic!("{error}: {}", again.escape_ascii()));
    assert_eq!(postcard::to_stdvec(&twice).unwrap(), again, "{}", bytes.escape_ascii());
    let trailing = decode_payload::<T>(&[bytes, b"\0"].concat());
    assert!(matches!(trailing, Err(WireError::Trailing { bytes: 1 })), "trailing bytes are accepted");
    assert_eq!(decode::<T>(bytes).is_ok(), bytes.len() <= MAX_FRAME);
    Some(message)
}

/// A configuration does no harm whatever is in it.
fn use_it(config: &WorkerConfig) {
    let paths = ["/a", "/a/b", "/x/a-b", "/x/a-b-c", "/x/--"].map(key);
    let peer = Peer { uid: 1000, gid: 1000, groups: vec![1000], unit: Unit::new("web@1.service", true), pid: 1 };
    for path in &paths {
        let _ = config.acl.judge(&peer, path);
        let _ = crate::template::find(config.templates.iter().map(|one| &one.template), path);
    }
}

/// What this program encodes comes back as the same bytes.
#[test]
fn what_is_sent_is_what_is_read() {
    fn same<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> bool {
        postcard::to_stdvec(&decode_payload::<T>(bytes).unwrap()).unwrap() == bytes
    }
    for seed in seeds() {
        let (kind, bytes) = seed.split_first().unwrap();
        assert!(match kind {
            b'0' => same::<ToParent>(bytes),
            b'1' => same::<ToWorker>(bytes),
            b'2' => same::<WorkerConfig>(bytes),
            b'3' => same::<Survey>(bytes),
            b'5' => same::<ToRunner>(bytes) && bytes.len() <= LONGEST,
            b'6' => same::<FromRunner>(bytes),
            _ => Record::parse(bytes).unwrap().line().unwrap() == bytes,
        });
    }
}

#[test]
fn channel() {
    let words = &["/a", "/a/b", "\x01", "\x7f", "\u{80}", "[a-z]+", "{\"event\":\"answer\"}"];
    fuzz::run("channel", Start { seeds: seeds(), words }, |input| {
        let (kind, bytes) = input.split_first()?;
        let course = |course: usize| Some((*kind, course));
        match kind {
            b'0' => course(1 + variant(round::<ToParent>(bytes).map(|_| bytes))),
            b'1' => course(1 + variant(round::<ToWorker>(bytes).map(|_| bytes))),
            b'2' => {
                let config: WorkerConfig = round(bytes)?;
                use_it(&config);
                course(config.keys.len() + 8 * config.templates.len() + 64 * config.acl.clients.len())
            }
            b'3' => course(round::<Survey>(bytes)?.keys.len()),
            b'5' => course(1 + variant(round::<ToRunner>(bytes).map(|_| bytes))),
            b'6' => course(1 + variant(round::<FromRunner>(bytes).map(|_| bytes))),
            _ => {
                let record = Record::parse(bytes)?;
                let texts = [&record.key, &record.decision, &record.verdict];
                assert!(!texts.into_iter().flatten().any(|text| text.contains(char::is_control)));
                if let Some(line) = record.line() {
                    assert!(line.len() <= MAX_RECORD && line.ends_with(b"\n"));
                    assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
                    assert_eq!(Record::parse(&line), Some(record.clone()));
                }
                course(record.event as usize)
            }
        }
    });
}

/// The number of the variant, and of the one inside of it.
fn variant(bytes: Option<&[u8]>) -> usize {
    bytes.map_or(0, |bytes| 256 * usize::from(bytes[0]) + usize::from(*bytes.get(2).unwrap_or(&0) % 8) + 1)
}
