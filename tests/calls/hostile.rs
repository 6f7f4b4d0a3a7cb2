//! A broker that lies: one call each, its own origin each, and whatever comes is one reason and no more.

use super::standin::{self, StandIn, deliver, frame, header, long, lying, method, reply, reply_to, short};
use super::{body, broker_of, source, status, value};
use crate::support::{Broker, GRANTED, wait_until};

type React = Box<dyn Fn(&standin::Called) -> Vec<u8> + Send>;

struct Case {
    name: &'static str,
    standin: StandIn,
    status: u16,
    /// In the header `Cache-Status`; nothing when the value comes.
    detail: &'static str,
}

/// Ten thousand tables, each inside the one before.
fn deep() -> Vec<u8> {
    (0..10_000).fold(Vec::new(), |inner, _| [&short("a")[..], b"F", &long(&inner)].concat())
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut called = |name, status, detail, react: React| {
        let standin = StandIn::start();
        standin.react(react);
        cases.push(Case { name, standin, status, detail });
    };
    let invalid = "invalid-frame";
    called("a length beyond all", 503, invalid, Box::new(|_| lying(1, 1, u32::MAX, &[0; 4])));
    called("a length beyond a frame", 503, invalid, Box::new(|_| lying(3, 1, 1 << 20, &[0; 4])));
    called("a length that is too short", 503, invalid, Box::new(|_| lying(1, 1, 2, &[0, 60, 0, 60])));
    called("another channel", 503, invalid, Box::new(|called| frame(3, 7, &called.body)));
    called("a body without a header", 503, invalid, Box::new(|_| frame(3, 1, b"x")));
    called("a header without a method", 503, invalid, Box::new(|called| header(&called.correlation, 1, &[])));
    called(
        "a method in the place of a body",
        503,
        invalid,
        Box::new(|called| [deliver(), header(&called.correlation, 9, &[]), deliver()].concat()),
    );
    called(
        "more body than there was to be",
        503,
        invalid,
        Box::new(|called| [deliver(), header(&called.correlation, 1, &[]), frame(3, 1, b"two")].concat()),
    );
    called("a delivery on the connection's own channel", 503, invalid, Box::new(|_| method(0, 60, 60, &[&[0; 20]])));
    called("a method that nobody asked for", 503, invalid, Box::new(|_| method(1, 60, 71, &[&[0; 20]])));
    called("no frame at all", 503, invalid, Box::new(|_| b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()));
    called(
        "properties that end early",
        503,
        invalid,
        Box::new(|called| {
            let whole = header(&called.correlation, 9, &[]);
            [deliver(), frame(2, 1, &whole[7..whole.len() - 9])].concat()
        }),
    );
    called(
        "a reply of eighteen exabytes",
        502,
        "document-too-large",
        Box::new(|called| [deliver(), header(&called.correlation, u64::MAX, &[]), frame(3, 1, b"x")].concat()),
    );
    called("a reply that is not JSON", 503, "invalid-body", Box::new(|called| reply(called, b"<html>")));
    called("a reply without a result", 503, "invalid-body", Box::new(|called| reply(called, b"{\"error\":null}")));
    called("a reply of nothing", 503, "invalid-body", Box::new(|called| reply(called, b"")));
    called("another correlation id", 503, "failover-timeout", Box::new(|_| reply_to("not-yours", b"{}")));
    called("silence", 503, "failover-timeout", Box::new(|_| Vec::new()));
    called("half a frame", 503, "failover-timeout", Box::new(|called| deliver()[..called.routing_key.len()].to_vec()));
    called(
        "nobody to take the call",
        503,
        "no-consumer",
        Box::new(|called| {
            [
                method(1, 60, 50, &[&[1, 56], &short("NO_ROUTE"), &short("e"), &short("r")]),
                header(&called.correlation, 0, &[]),
            ]
            .concat()
        }),
    );
    called(
        "a broker that refuses the message",
        503,
        "broker-closed",
        Box::new(|_| method(1, 60, 120, &[&1_u64.to_be_bytes(), &[0]])),
    );
    called("the end of the channel", 503, "broker-closed", Box::new(|_| standin::close(1, 404)));
    called("the end of the connection", 503, "broker-closed", Box::new(|_| standin::close(0, 320)));
    called(
        "the end of the reply queue",
        503,
        "broker-closed",
        Box::new(|_| method(1, 60, 30, &[&short("keyhatch"), &[1]])),
    );
    called(
        "deep tables in a reply",
        200,
        "",
        Box::new(|called| {
            let body = b"{\"result\":{\"number\":7},\"error\":null}";
            [deliver(), header(&called.correlation, body.len() as u64, &deep()), frame(3, 1, body)].concat()
        }),
    );
    called(
        "heartbeats and strangers in between",
        200,
        "",
        Box::new(|called| {
            let beat = frame(8, 0, &[]);
            let body = b"{\"result\":{\"number\":7},\"error\":null}";
            let cut: Vec<u8> = body.chunks(5).flat_map(|part| [frame(3, 1, part), beat.clone()].concat()).collect();
            [
                reply_to("a", b"{}"),
                reply_to("b", b""),
                beat.clone(),
                deliver(),
                beat.clone(),
                header(&called.correlation, body.len() as u64, &[]),
                beat,
                cut,
            ]
            .concat()
        }),
    );
    let mut begun = |name, status, detail, at: (u16, u16), bytes: Vec<u8>| {
        let standin = StandIn::beginning(move |of| (of == at).then(|| bytes.clone()));
        cases.push(Case { name, standin, status, detail });
    };
    begun("another version", 503, invalid, (0, 0), b"AMQP\0\0\x08\x00".to_vec());
    begun("a greeting with a lie in it", 503, invalid, (0, 0), method(0, 10, 10, &[&[0, 9], &[0xff; 4], b"abc"]));
    begun("deep tables in the greeting", 200, "", (0, 0), standin::start("PLAIN", &deep()));
    begun("no greeting", 503, "failover-timeout", (0, 0), Vec::new());
    begun("no way to log in", 502, "broker-refused", (0, 0), standin::start("EXTERNAL GSSAPI", &[]));
    begun("another user", 502, "login-refused", (10, 11), standin::close(0, 403));
    begun("frames that are too short", 503, invalid, (10, 11), method(0, 10, 30, &[&[0; 2], &[0, 0, 0, 99], &[0; 2]]));
    begun("no such virtual host", 502, "broker-refused", (10, 40), standin::close(0, 530));
    begun("an exchange of another kind", 502, "broker-refused", (40, 10), standin::close(1, 406));
    begun("a server that is short of memory", 503, "broker-closed", (50, 10), standin::close(0, 506));
    cases
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn whatever_a_broker_says_is_one_reason_for_one_key() {
    let cases = cases();
    let keys = cases.iter().enumerate().map(|(n, case)| {
        format!(
            "[keys.\"/rpc/{n}\"]\n{}timeout = \"1s\"\nfetch-timeout = \"1500ms\"\n",
            source(case.standin.port, "quote")
        )
    });
    let honest = StandIn::start();
    let good = format!("[keys.\"/rpc/good\"]\n{}", source(honest.port, "quote"));
    let broker = broker_of(&(keys.collect::<String>() + &good));
    let parent = broker.parent();
    for (n, case) in cases.iter().enumerate() {
        let answer = broker.curl(GRANTED, &format!("/rpc/{n}"), &[]);
        assert_eq!(status(&answer), case.status, "{}: {answer}\n{}", case.name, broker.log());
        if case.status == 200 {
            assert!(body(&answer)["number"].is_number(), "{}: {answer}", case.name);
        } else {
            assert!(answer.contains(&format!("detail={}\r\n", case.detail)), "{}: {answer}", case.name);
        }
    }
    assert!(value(&broker, &broker.curl(GRANTED, "/rpc/good", &[]))["number"].is_number());
    wait_until("the calls have ended", || broker.log().matches("reason=no-reply").count() >= 3);
    assert_eq!(broker.parent(), parent);
    assert!(!broker.log().contains("panicked"), "{}", broker.log());
    assert!(peak(&broker) < 100_000, "{} KiB of memory", peak(&broker));
}

/// The most memory that the parent has had, in KiB.
fn peak(broker: &Broker) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", broker.parent())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}
