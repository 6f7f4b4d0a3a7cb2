//! What a source can be told, seen from the upstream's side and from a peer's.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::net::TcpListener;

use support::process::Process;
use support::serving::{BEARER, GOOD, at, configuration, fails, good, header, serving, stale};
use support::{Broker, GRANTED, TOKEN, wait_until};

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn the_token_goes_with_every_redirect_within_the_origin_and_with_none_beyond() {
    let (upstream, broker) = serving(&|upstream| {
        vec![
            ("five", at(upstream, "/redirect/4", BEARER), ""),
            ("six", at(upstream, "/redirect/5", BEARER), ""),
            ("away", at(upstream, "/redirect/elsewhere", BEARER), ""),
        ]
    });
    good(&broker, "/five");
    fails(&broker, "/six", 502, "redirect-loop");
    fails(&broker, "/away", 502, "redirect-elsewhere");
    let shown = format!("Bearer {TOKEN}");
    let requests = upstream.requests();
    assert_eq!(requests.len(), 6 + 6 + 1);
    for request in requests {
        assert_eq!(request["listener"], "plain", "{request}");
        assert_eq!(header(&request, "authorization"), Some(shown.as_str()), "{request}");
    }
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn every_way_to_show_a_token() {
    let (upstream, broker) = serving(&|upstream| {
        let basic = "auth = { type = \"basic\", user = \"service\", token = \"t\" }, allow-plaintext = true";
        let named = "auth = { type = \"header\", name = \"X-Api-Key\", prefix = \"Key \", token = \"t\" }, \
                     allow-plaintext = true";
        let absent = "auth = { type = \"bearer\", token = \"absent\" }, allow-plaintext = true";
        vec![
            ("bearer", at(upstream, "/bearer", BEARER), ""),
            ("basic", at(upstream, "/basic", basic), ""),
            ("header", at(upstream, "/header", named), ""),
            ("none", at(upstream, "/bearer", ""), ""),
            ("absent", at(upstream, "/bearer?absent", absent), ""),
        ]
    });
    for key in ["/bearer", "/basic", "/header"] {
        good(&broker, key);
    }
    fails(&broker, "/none", 502, "status");
    let before = upstream.requests().len();
    fails(&broker, "/absent", 503, "token-missing");
    assert_eq!(upstream.requests().len(), before, "nothing is asked without the token");
    assert!(!broker.log().contains(TOKEN));
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn post_sends_its_body_and_headers_their_values() {
    let (upstream, broker) = serving(&|upstream| {
        let url = format!("url = \"http://127.0.0.1:{}/echo\"", upstream.port("plain"));
        let more =
            "method = \"POST\", body = '{\"q\": 1}', headers = { Content-Type = \"application/json\", X-Of = \"us\" }";
        vec![("echo", format!("{url}, {more}"), "")]
    });
    let answer = broker.curl(GRANTED, "/echo", &[]);
    assert!(
        answer.ends_with("{\"body\":\"{\\\"q\\\": 1}\",\"content-type\":\"application/json\",\"method\":\"POST\"}"),
        "{answer}"
    );
    let requests = upstream.requests();
    assert_eq!((header(&requests[0], "x-of"), header(&requests[0], "accept-encoding")), (Some("us"), Some("identity")));
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn what_has_not_changed_is_not_sent_again_and_is_new() {
    let (upstream, mut broker) = serving(&|upstream| {
        vec![
            ("etag", at(upstream, "/etag", ""), ""),
            ("etag-other", at(upstream, "/etag", "").replace("\"value\"", "\"other\""), ""),
            ("date", at(upstream, "/last-modified", ""), ""),
            ("post", at(upstream, "/etag", "method = \"POST\""), ""),
        ]
    });
    for (key, path, condition) in
        [("/etag", "/etag", "if-none-match"), ("/date", "/last-modified", "if-modified-since")]
    {
        good(&broker, key);
        let again = broker.curl(GRANTED, key, &[]);
        assert!(again.contains("fwd=stale; fwd-status=304; ttl=-"), "{again}");
        assert!(again.contains("\r\nage: 0\r\n") && again.ends_with(GOOD), "{again}");
        let requests = upstream.requests_for(path);
        assert_eq!(header(&requests[0], condition), None);
        assert!(header(requests.last().unwrap(), condition).is_some(), "{requests:?}");
    }
    // The other key of the document has its value from the same answers.
    assert!(broker.curl(GRANTED, "/etag-other", &[]).contains("fwd-status=304"));

    upstream.set_value("another");
    let changed = broker.curl(GRANTED, "/etag", &[]);
    assert!(changed.contains("fwd-status=200; stored") && changed.ends_with("{\"value\":\"another\"}"), "{changed}");
    assert!(broker.curl(GRANTED, "/etag", &[]).contains("fwd-status=304"));

    // A failure in between changes nothing of it.
    upstream.behave("/etag", "/status/500");
    stale(&broker, "/etag", "status");
    upstream.behave("/etag", "/etag");
    wait_until("it is asked again", || broker.curl(GRANTED, "/etag", &[]).contains("fwd-status=304"));

    assert!(broker.curl(GRANTED, "/post", &[]).contains("fwd-status=200"));
    assert!(broker.curl(GRANTED, "/post", &[]).contains("fwd-status=200"), "only GET is conditional");

    broker.end("TERM");
    broker.start();
    let restarted = broker.curl(GRANTED, "/etag", &[]);
    assert!(
        restarted.contains("fwd-status=200; stored") && restarted.ends_with("{\"value\":\"another\"}"),
        "{restarted}"
    );
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn a_document_is_asked_whole_while_one_of_its_keys_has_no_value_of_it() {
    let (upstream, broker) = serving(&|upstream| {
        vec![
            ("there", at(upstream, "/etag", ""), ""),
            ("missing", at(upstream, "/etag", "").replace("\"value\"", "\"no-such-field\""), ""),
        ]
    });
    good(&broker, "/there");
    let missing = broker.curl(GRANTED, "/missing", &[]);
    assert!(missing.starts_with("HTTP/1.1 502 ") && missing.contains("(field-missing)"), "{missing}");
    wait_until("it is asked again", || {
        good(&broker, "/there");
        upstream.requests().len() >= 3
    });
    for request in upstream.requests() {
        assert_eq!(header(&request, "if-none-match"), None, "{request}");
    }
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn a_key_that_has_lost_its_field_is_not_made_young_by_the_rest_of_the_document() {
    let (upstream, broker) = serving(&|upstream| {
        vec![
            ("stays", at(upstream, "/etag", ""), ""),
            ("goes", at(upstream, "/etag", "").replace("\"value\"", "\"other\""), ""),
        ]
    });
    good(&broker, "/stays");
    assert!(broker.curl(GRANTED, "/goes", &[]).contains("fwd-status=304"));
    upstream.behave("/etag", "/etag-part");
    stale(&broker, "/goes", "field-missing");
    let before = upstream.requests().len();
    wait_until("both have asked again", || {
        good(&broker, "/stays");
        assert!(!broker.curl(GRANTED, "/goes", &[]).contains("fwd-status=304"));
        upstream.requests().len() > before + 3
    });
    assert!(broker.curl(GRANTED, "/-/keys", &[]).contains("\"key\":\"/goes\",\"state\":\"failing\""));
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn a_compressed_answer_is_not_taken_for_a_text() {
    let (_upstream, broker) = serving(&|upstream| {
        let text = |coding: &str| {
            at(upstream, &format!("/encoded?as={coding}"), "").replace("field = \"value\"", "format = \"text\"")
        };
        vec![("gzip", text("gzip"), ""), ("identity", text("identity"), "")]
    });
    fails(&broker, "/gzip", 503, "invalid-body");
    assert!(broker.curl(GRANTED, "/identity", &[]).ends_with("\"good-value\""));
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn only_the_authorities_of_the_ca_file_are_trusted() {
    let (upstream, broker) = serving(&|upstream| {
        let ca = "ca-file = \"DIR/ca.pem\"";
        let source = |listener: &str, more: &str, token: &str| {
            let url = format!("url = \"https://127.0.0.1:{}/good?close=1\"", upstream.port(listener));
            format!("{url}, field = \"value\", auth = {{ type = \"bearer\", token = \"{token}\" }}, {more}")
        };
        vec![
            ("expired", source("tls", ca, "t"), ""),
            ("of-another-host", source("tls", ca, "u"), ""),
            ("of-another-authority", source("tls", ca, "v"), ""),
            ("new-expired", source("tls", ca, "w"), ""),
            ("new-of-another-host", source("tls", ca, "x"), ""),
            ("new-of-another-authority", source("tls", ca, "y"), ""),
            ("by-name", source("tls", ca, "z").replace("127.0.0.1", "localhost"), ""),
            ("system", source("tls", "headers = {}", "z"), ""),
            ("no-tls", source("plain", ca, "z"), ""),
        ]
    });
    let certificates = ["expired", "of-another-host", "of-another-authority"];
    good(&broker, "/by-name");
    certificates.iter().for_each(|certificate| good(&broker, &format!("/{certificate}")));
    let asked = upstream.requests().len();
    fails(&broker, "/system", 503, "tls");
    fails(&broker, "/no-tls", 503, "tls");
    for certificate in certificates {
        upstream.set_certificate(certificate);
        stale(&broker, &format!("/{certificate}"), "tls");
        fails(&broker, &format!("/new-{certificate}"), 503, "tls");
    }
    assert_eq!(upstream.requests().len(), asked, "who cannot prove its name is shown no token");
}

#[test]
#[ignore = "needs root: the configuration is root's"]
fn a_ca_file_that_is_no_use_stops_the_start_and_is_named() {
    let source = "url = \"https://127.0.0.1:1/\", ca-file = \"DIR/authorities.pem\"".to_owned();
    let broker = Broker::prepared(|_| configuration(&[("a", source, "")]));
    let refused = |expected: &str| {
        let (code, told) = broker.refused();
        assert_eq!(code, Some(78), "{told}");
        assert!(told.contains("authorities.pem") && told.contains("key `/a`") && told.contains(expected), "{told}");
    };
    refused("No such file");
    broker.write("authorities.pem", "not a certificate\n", 0o644);
    refused("there is no certificate in it");
    broker.write("authorities.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", 0o644);
    refused("none of its certificates can be read");
    broker.write("authorities.pem", "", 0o666);
    refused("chmod go-w");
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn what_happens_before_there_is_a_connection() {
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (mut upstream, broker) = serving(&|upstream| {
        vec![
            ("held", at(upstream, "/good", ""), ""),
            ("refused", format!("url = \"http://127.0.0.1:{unused}/\""), ""),
            (
                "unknown",
                "url = \"http://nonexistent.invalid/\"".to_owned(),
                "timeout = \"60s\"\nfetch-timeout = \"60s\"",
            ),
        ]
    });
    good(&broker, "/held");
    upstream.stop();
    stale(&broker, "/held", "connect-refused");
    fails(&broker, "/refused", 503, "connect-refused");
    let unknown = broker.curl(GRANTED, "/unknown", &["--max-time", "60"]);
    assert!(unknown.starts_with("HTTP/1.1 503 ") && unknown.contains("detail=dns\r\n"), "{unknown}");
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn through_a_proxy_names_are_the_proxys_affair() {
    let keys = |upstream: &Process, proxy: bool| {
        let proxy =
            if proxy { format!(", proxy = \"http://127.0.0.1:{}\"", upstream.port("proxy")) } else { String::new() };
        let wrong = format!(", proxy = \"http://127.0.0.1:{}\"", upstream.port("plain"));
        let tls = |host: &str| {
            format!(
                "url = \"https://{host}:{}/good\", field = \"value\", ca-file = \"DIR/ca.pem\"",
                upstream.port("tls")
            )
        };
        let name = "known-to-the-proxy.invalid";
        let wait = "timeout = \"60s\"\nfetch-timeout = \"60s\"";
        vec![
            ("http", format!("url = \"http://{name}/good\", field = \"value\"{proxy}"), wait),
            ("https", tls("localhost") + &proxy, ""),
            ("https-name", tls(name) + &proxy, wait),
            ("no-tunnel", tls("127.0.0.1") + &wrong, ""),
        ]
    };
    let (upstream, mut broker) = serving(&|upstream| keys(upstream, true));
    good(&broker, "/http");
    good(&broker, "/https");
    // The tunnel stands; the certificate is not of this name.
    fails(&broker, "/https-name", 503, "tls");
    fails(&broker, "/no-tunnel", 503, "connect-failed");
    let seen: Vec<(String, String)> = upstream
        .requests()
        .iter()
        .filter(|request| request["listener"] == "proxy")
        .map(|request| (request["method"].as_str().unwrap().to_owned(), request["target"].as_str().unwrap().to_owned()))
        .collect();
    let port = upstream.port("tls");
    let expected = [
        ("GET", "http://known-to-the-proxy.invalid:80/good".to_owned()),
        ("CONNECT", format!("localhost:{port}")),
        ("CONNECT", format!("known-to-the-proxy.invalid:{port}")),
    ];
    assert_eq!(seen, expected.map(|(method, target)| (method.to_owned(), target)));
    assert_eq!(upstream.requests_for("/good").last().unwrap()["listener"], "tls", "within the tunnel it is the origin");

    // The definition of a source does not hold its proxy: without one, the value that was had stays.
    broker.end("TERM");
    broker.configure(&configuration(&keys(&upstream, false)));
    broker.start();
    let held = broker.curl(GRANTED, "/http", &["--max-time", "60"]);
    assert!(held.starts_with("HTTP/1.1 200 ") && held.contains("detail=dns\r\n"), "{held}");
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn a_spent_quota_lets_the_origin_and_its_token_rest() {
    let (upstream, broker) = serving(&|upstream| {
        vec![
            ("spent", at(upstream, "/good?remaining=0&reset=600", BEARER), ""),
            ("same-token", at(upstream, "/good?same", BEARER), ""),
            ("other-token", at(upstream, "/good?other", &BEARER.replace("\"t\"", "\"u\"")), ""),
            ("limited", at(upstream, "/status/429?retry-after=600", ""), ""),
            ("same-origin", at(upstream, "/good?origin", ""), ""),
        ]
    });
    good(&broker, "/same-token");
    good(&broker, "/spent");
    let asked = upstream.requests().len();
    stale(&broker, "/spent", "backing-off");
    stale(&broker, "/same-token", "backing-off");
    assert_eq!(upstream.requests().len(), asked, "nothing is asked of an upstream that has had enough");
    good(&broker, "/other-token");

    good(&broker, "/same-origin");
    fails(&broker, "/limited", 503, "rate-limited");
    stale(&broker, "/same-origin", "backing-off");
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn one_document_can_be_refused_while_its_token_is_not() {
    let (_upstream, broker) = serving(&|upstream| {
        vec![("good", at(upstream, "/good", BEARER), ""), ("refused", at(upstream, "/status/403", BEARER), "")]
    });
    good(&broker, "/good");
    let answer = broker.curl(GRANTED, "/refused", &[]);
    assert!(answer.starts_with("HTTP/1.1 502 ") && answer.contains("\"code\":\"refused\""), "{answer}");
    assert!(broker.log().contains("failing key=/refused outcome=\"refused\""), "{}", broker.log());
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn a_file_is_read_again_for_each_fetch() {
    let file = |name: &str, more: &str| format!("path = \"DIR/{name}\"{more}");
    let mut broker = Broker::prepared(|_| {
        configuration(&[
            ("text", file("text", ""), ""),
            ("json", file("json", ", format = \"json\", pointer = \"/a/0\""), ""),
            ("env", file("env", ", format = \"env\", field = \"B\""), ""),
            ("toml", file("toml", ", format = \"toml\", field = \"c\""), ""),
            ("large", file("large", ""), ""),
            ("absent", file("not-there", ""), ""),
        ])
    });
    broker.write("text", "first\n", 0o400);
    broker.write("json", "{\"a\": [1.50]}", 0o400);
    broker.write("env", "A=1\nB='x y'\n", 0o400);
    broker.write("toml", "c = 'd'\n", 0o600);
    broker.write("large", &"x".repeat(4097), 0o400);
    broker.start();
    let text = |key: &str| broker.curl(GRANTED, key, &["--header", "Accept: text/plain"]);
    assert!(text("/text").ends_with("\r\n\r\nfirst"), "{}", text("/text"));
    assert!(text("/json").ends_with("\r\n\r\n1.50"));
    assert!(text("/env").ends_with("\r\n\r\nx y"));
    assert!(text("/toml").ends_with("\r\n\r\nd"));
    fails(&broker, "/large", 502, "document-too-large");
    fails(&broker, "/absent", 503, "source-unreadable");
    assert!(broker.log().contains("not-there") && broker.log().contains("source not found"), "{}", broker.log());

    std::fs::write(broker.path("text"), "second\n\n").unwrap();
    let second = text("/text");
    assert!(second.ends_with("\r\n\r\nsecond\n"), "one line end goes: {second}");
    assert!(second.contains("cache-status: keyhatch; fwd=stale; stored; ttl=-"), "a file has no status: {second}");

    std::fs::write(broker.path("text"), "").unwrap();
    stale(&broker, "/text", "empty-body");
    broker.write("new", "third\n", 0o400);
    std::fs::rename(broker.path("new"), broker.path("text")).unwrap();
    wait_until("the replacement is seen", || text("/text").contains("detail=source-replaced"));
    assert!(text("/text").ends_with("second\n"));
    assert!(broker.log().contains("keyhatch reload"), "{}", broker.log());
}

#[test]
#[ignore = "needs root: the files are root's"]
fn a_file_that_others_can_read_stops_the_start_and_is_named() {
    let broker = Broker::prepared(|_| configuration(&[("a", "path = \"DIR/open\"".to_owned(), "")]));
    let refused = |expected: &str| {
        let (code, told) = broker.refused();
        assert_eq!(code, Some(78), "{told}");
        assert!(told.contains("/open") && told.contains("key `/a`") && told.contains(expected), "{told}");
    };
    broker.write("open", "x", 0o440);
    refused("chmod 0400");
    broker.write("open", "x", 0o400);
    std::os::unix::fs::chown(broker.path("open"), Some(GRANTED), None).unwrap();
    refused("chown root");
    std::fs::remove_file(broker.path("open")).unwrap();
    std::os::unix::fs::symlink(broker.path("token"), broker.path("open")).unwrap();
    refused("is a symbolic link");
}
