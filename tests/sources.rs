//! What a source can be told of HTTP, seen from the upstream's side and from a peer's.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use support::serving::{BEARER, GOOD, at, fails, good, header, logs, serving, stale};
use support::{GRANTED, TOKEN, wait_until};

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
        vec![
            ("echo", format!("{url}, {more}"), ""),
            ("repeated", format!("{url}, {more}").replace("/echo", "/redirect/repeated"), ""),
            ("not-repeated", format!("{url}, {more}").replace("/echo", "/redirect/0"), ""),
        ]
    });
    let answer = broker.curl(GRANTED, "/echo", &[]);
    assert!(
        answer.ends_with("{\"body\":\"{\\\"q\\\": 1}\",\"content-type\":\"application/json\",\"method\":\"POST\"}"),
        "{answer}"
    );
    let requests = upstream.requests();
    assert_eq!((header(&requests[0], "x-of"), header(&requests[0], "accept-encoding")), (Some("us"), Some("identity")));

    let repeated = broker.curl(GRANTED, "/repeated", &[]);
    assert!(repeated.contains("{\\\"q\\\": 1}") && repeated.ends_with("\"method\":\"POST\"}"), "{repeated}");
    assert!(broker.curl(GRANTED, "/not-repeated", &[]).starts_with("HTTP/1.1 200 "));
    let last = &upstream.requests_for("/good")[0];
    assert_eq!((last["method"].as_str(), header(last, "content-type")), (Some("GET"), None));
    assert_eq!(header(last, "x-of"), Some("us"));
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
        assert!(again.contains("fwd=stale; fwd-status=304; ttl="), "{again}");
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
    stale(&broker, "/etag", "stale-if-error");
    upstream.behave("/etag", "/etag");
    wait_until("it is asked again", || broker.curl(GRANTED, "/etag", &[]).contains("fwd-status=304"));

    // A redirect leads to another document, whatever its tag is.
    upstream.behave("/etag", "/redirect/0");
    upstream.behave("/good", "/etag");
    let redirected = broker.curl(GRANTED, "/etag", &[]);
    assert!(redirected.contains("fwd-status=200; stored"), "{redirected}");
    assert!(header(&upstream.requests_for("/good")[0], "if-none-match").is_none());
    upstream.behave("/etag", "/etag");

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
    stale(&broker, "/spent", "breaker-open");
    stale(&broker, "/same-token", "breaker-open");
    assert_eq!(upstream.requests().len(), asked, "nothing is asked of an upstream that has had enough");
    good(&broker, "/other-token");

    good(&broker, "/same-origin");
    fails(&broker, "/limited", 503, "rate-limited");
    stale(&broker, "/same-origin", "breaker-open");
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
    logs(&broker, "failing key=/refused outcome=\"refused\"");
}
