//! How an origin is reached: whose certificates are trusted, through which proxy, and what is said when it is not.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use support::process::Process;
use support::serving::{at, configuration, fails, good, serving, stale};
use support::{Broker, GRANTED, wait_until};

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
fn a_connection_that_was_kept_and_is_gone_is_no_outage() {
    let (upstream, broker) = serving(&|upstream| {
        let key = at(upstream, "/close-kept?post", "");
        vec![("get", at(upstream, "/close-kept", ""), ""), ("post", key + ", method = \"POST\"", "")]
    });
    let mut fetches = 0;
    wait_until("one is found gone", || {
        let answer = broker.curl(GRANTED, "/get", &[]);
        assert!(answer.contains("fwd-status=200"), "{answer}");
        fetches += 1;
        upstream.requests().len() > fetches
    });
    // Nobody knows what has become of the first: a POST is not sent twice.
    wait_until("a POST finds one gone", || broker.curl(GRANTED, "/post", &[]).contains("detail=reset\r\n"));
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

/// Sends this to all who come, as quickly as they take it, until they go.
fn flood(listener: TcpListener, begin: &'static str, again: &'static str, gone: &'static AtomicBool) {
    let much = again.repeat(2000);
    for mut stream in listener.incoming().map_while(Result::ok) {
        let asked = stream.read(&mut [0; 4096]).is_ok() && stream.write_all(begin.as_bytes()).is_ok();
        while asked && stream.write_all(much.as_bytes()).is_ok() {}
        gone.store(true, Ordering::SeqCst);
    }
}

/// Heads that are no answer (RFC 9110 section 15.2), and the smallest parts that a body can have.
#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn an_upstream_that_never_comes_to_an_end_holds_up_nobody() {
    const CHUNKED: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    let endless = [
        ("", "HTTP/1.1 100 Continue\r\n\r\n"),
        ("", "HTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\n\r\n"),
        (CHUNKED, "1\r\n \r\n"),
    ];
    for (begin, again) in endless {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let gone: &AtomicBool = Box::leak(Box::default());
        std::thread::spawn(move || flood(listener, begin, again, gone));
        let timeouts = "timeout = \"2s\"\nfetch-timeout = \"4s\"";
        let (_upstream, broker) = serving(&|upstream| {
            vec![
                ("endless", format!("url = \"http://127.0.0.1:{port}/\""), timeouts),
                ("other", at(upstream, "/good", ""), ""),
            ]
        });
        good(&broker, "/other");
        std::thread::scope(|scope| {
            let asked = Instant::now();
            let endless = scope.spawn(|| broker.curl(GRANTED, "/endless", &[]));
            while !gone.load(Ordering::SeqCst) {
                let since = Instant::now();
                good(&broker, "/other");
                let waited = since.elapsed();
                assert!(waited < Duration::from_secs(1), "{again:?}: {waited:?}");
                assert!(asked.elapsed() < Duration::from_secs(15), "{again:?}: it is never given up");
            }
            let answer = endless.join().unwrap();
            let said = if begin.is_empty() { "detail=failover-timeout\r\n" } else { "detail=document-too-large\r\n" };
            assert!(answer.contains(said), "{again:?}: {answer}");
        });
    }
}
