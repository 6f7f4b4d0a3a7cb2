//! Signatures of AWS, against a server that computes each one itself, and the places that credentials come from.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use support::process::Process;
use support::serving::{Key, at, configuration, fails, good, logs};
use support::{Broker, GRANTED, TOKEN};

const ID: &str = "AKIDPLANTEDEXAMPLE";

fn serving(keys: &dyn Fn(&Process) -> Vec<Key>) -> (Process, Broker) {
    let mut upstream = None;
    let mut broker = Broker::prepared(|directory| {
        let started = Process::start(directory);
        let text = configuration(&keys(&started));
        upstream = Some(started);
        // Where nobody uses a file of several lines, it is no token.
        let files = [("u", "credentials"), ("v", "profiles"), ("w", "session")];
        let used = files.iter().filter(|(name, _)| text.contains(&format!("\"{name}\"")));
        let of = |name: &str, file: &str| format!("{name} = {{ file = \"DIR/{file}\" }}");
        used.fold(text.clone(), |text, (name, file)| text.replace(&of(name, "token"), &of(name, file)))
    });
    let lines = format!("# by hand\nAWS_ACCESS_KEY_ID={ID}\nexport AWS_SECRET_ACCESS_KEY=\"{TOKEN}\"\n");
    broker.write("credentials", &lines, 0o400);
    let profiles = format!(
        "[default]\naws_access_key_id = AKIDOFSOMEBODYELSE\naws_secret_access_key = x\n\n[profile broker]\n\
         aws_access_key_id = {ID}\naws_secret_access_key = {TOKEN}\naws_session_token = planted-session-0\n"
    );
    broker.write("profiles", &profiles, 0o400);
    broker.write("session", "planted-session-0\n", 0o400);
    broker.start();
    (upstream.unwrap(), broker)
}

fn auth(credentials: &str) -> String {
    format!(
        "auth = {{ type = \"aws-sigv4\", service = \"secretsmanager\", region = \"eu-west-1\", credentials = {{ {credentials} }} }}, \
         allow-plaintext = true"
    )
}

fn fixed(more: &str) -> String {
    auth(&format!("type = \"static\", access-key-id = \"{ID}\", secret-access-key = \"t\"{more}"))
}

fn imds(port: u16) -> String {
    auth(&format!("type = \"imds\", url = \"http://127.0.0.1:{port}\""))
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn requests_are_signed() {
    let post = "method = \"POST\", body = '{\"SecretId\": \"a\"}', headers = { Content-Type = \"application/x-amz-json-1.1\", \
                X-Amz-Target = \"secretsmanager.GetSecretValue\", X-Amz-Meta = \"two  spaces\", User-Agent = \"x\" }, auth";
    let known = format!("/aws?id={ID}");
    let (upstream, broker) = serving(&|upstream| {
        let at = |path: &str, more: &str| at(upstream, path, more);
        let session = format!("{known}&session=planted-session-0");
        vec![
            ("get", at(&known, &fixed("")), ""),
            ("post", at(&format!("{known}&p"), &fixed("").replace("auth", post)), ""),
            ("query", at(&format!("{known}&b=%20x&a=~&B=1&empty="), &fixed("")), ""),
            ("session", at(&session, &fixed(", session-token = \"w\"")), ""),
            ("file", at(&format!("{known}&f"), &auth("type = \"file\", token = \"u\"")), ""),
            ("profile", at(&format!("{session}&f"), &auth("type = \"file\", token = \"v\", profile = \"broker\"")), ""),
            ("region", at(&format!("{known}&r"), &fixed("").replace("eu-west-1", "eu-west-2")), ""),
        ]
    });
    for key in ["/get", "/post", "/query", "/session", "/file", "/profile"] {
        good(&broker, key);
    }
    fails(&broker, "/region", 502, "status");
    assert!(!format!("{:?}", upstream.requests()).contains(TOKEN), "the secret is never sent");
    assert!(!broker.log().contains("Signature=") && !broker.log().contains("planted-"), "{}", broker.log());
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn ten_minutes_between_the_clocks_cost_one_request() {
    let (upstream, broker) = serving(&|upstream| {
        vec![
            ("a", at(upstream, &format!("/aws?id={ID}"), &fixed("")), ""),
            ("b", at(upstream, &format!("/aws?id={ID}&b"), &fixed("")), ""),
        ]
    });
    for (ahead, key, requests) in [(600, "/a", 2), (600, "/a", 1), (600, "/b", 1), (-600, "/b", 2)] {
        upstream.set_session_ahead(ahead);
        let before = upstream.requests().len();
        good(&broker, key);
        assert_eq!(upstream.requests().len() - before, requests, "{ahead} {key}");
    }
    assert_eq!(broker.log().matches("clock is ahead by this").count(), 2, "{}", broker.log());
    let before = upstream.requests().len();
    upstream.set_session_ahead(-3 * 86_400);
    let answer = broker.curl(GRANTED, "/a", &[]);
    assert!(answer.contains("detail=clock-skew"), "no refusal of the value: {answer}");
    assert_eq!(upstream.requests().len() - before, 1);
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn credentials_of_an_instance_are_fetched_once_and_again_when_they_expire() {
    let (upstream, broker) = serving(&|upstream| {
        let credentials = imds(upstream.port("plain"));
        vec![
            ("a", at(upstream, "/aws?id=given", &credentials), ""),
            ("b", at(upstream, "/aws?id=given&b", &credentials), ""),
        ]
    });
    let role = "/latest/meta-data/iam/security-credentials/the-role";
    good(&broker, "/a");
    good(&broker, "/b");
    assert_eq!(upstream.requests_for(role).len(), 1, "{}", broker.log());
    let token = &upstream.requests_for("/latest/api/token")[0];
    assert_eq!(token["method"], "PUT");
    assert!(
        upstream.requests_for("/aws").iter().all(|one| one["headers"]["x-amz-security-token"] == "planted-session-1")
    );
    upstream.revoke();
    good(&broker, "/a");
    good(&broker, "/b");
    assert_eq!(upstream.requests_for(role).len(), 2);
    assert!(!broker.log().contains("planted-"), "{}", broker.log());
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn credentials_of_a_container() {
    let (_upstream, broker) = serving(&|upstream| {
        let url = format!("http://127.0.0.1:{}/session/container", upstream.port("plain"));
        let container = |token: &str| auth(&format!("type = \"container\", url = \"{url}\"{token}"));
        vec![
            ("a", at(upstream, "/aws?id=given", &container(", token = \"t\"")), ""),
            ("b", at(upstream, "/aws?id=given&b", &container("")), ""),
        ]
    });
    good(&broker, "/a");
    fails(&broker, "/b", 502, "login-refused");
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn metadata_that_hangs_are_unavailable_soon_and_hold_nobody_up() {
    // Takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let (_upstream, broker) = serving(&|upstream| {
        vec![
            ("hangs", at(upstream, "/aws?id=given", &imds(port)), ""),
            ("other", at(upstream, &format!("/aws?id={ID}"), &fixed("")), ""),
        ]
    });
    let began = Instant::now();
    std::thread::scope(|scope| {
        let hanging = scope.spawn(|| {
            fails(&broker, "/hangs", 503, "login-failed");
            began.elapsed()
        });
        good(&broker, "/other");
        assert!(!hanging.is_finished(), "nobody waits for it");
        assert!(hanging.join().unwrap() < Duration::from_secs(5));
    });
    logs(&broker, "no session");
    assert!(broker.log().contains("outcome=\"unavailable\" reason=timeout"), "{}", broker.log());
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn what_answers_anything_in_the_place_of_metadata_is_unavailable() {
    // As a portal does that wants a login of a person first.
    let portal = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = portal.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in portal.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let page = "<html>\r\nX-Other: planted\r\n</html>\n";
            let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{page}", page.len());
        }
    });
    let (_upstream, broker) =
        serving(&|upstream| vec![("a", at(upstream, "/aws?id=given", &imds(port)), "negative-max-age = \"0s\"")]);
    fails(&broker, "/a", 503, "login-failed");
    logs(&broker, "the metadata's token is not one that could be sent");
}

/// Requests of every kind, each signed once more by the SDK that AWS writes itself.
#[test]
#[ignore = "needs root: drops to two uids and asks as others; needs botocore, which tests/run installs"]
fn botocore_signs_the_same() {
    const TARGETS: [&str; 10] = [
        "/",
        "/a/b",
        "/a%20b/c%2Fd/e:f",
        "//a///b/",
        "/a~b-c_d.e/(f)!*'",
        "/?b=2&a=1&a=0&B=3",
        "/?x=%20y&empty=&bare&z=~-_.",
        "/?q=a%2Fb%3D%26&%C3%A4=%E2%82%AC",
        "/parameters/by-path?Path=%2Fprod%2Fdb&Recursive=true",
        "/model/a%3Ab",
    ];
    let post = "method = \"POST\", body = '{\"SecretId\": \"a ü\"}', headers = { Content-Type = \"application/x-amz-json-1.1\", \
                X-Amz-Target = \"secretsmanager.GetSecretValue\", X-Amz-Meta = \"two  spaces and  more\", User-Agent = \"x\" }, auth";
    let names: Vec<&'static str> = (0..2 * TARGETS.len()).map(|n| &*format!("k{n}").leak()).collect();
    let (upstream, broker) = serving(&|upstream| {
        let key = |(number, name): (usize, &&'static str)| {
            let (target, posted) = (TARGETS[number % TARGETS.len()], number >= TARGETS.len());
            let auth = fixed(", session-token = \"w\"");
            let auth = if posted { auth.replace("auth", post) } else { auth };
            (*name, at(upstream, target, &auth), "")
        };
        names.iter().enumerate().map(key).collect()
    });
    for name in &names {
        broker.curl(GRANTED, &format!("/{name}"), &[]);
    }
    let requests = upstream.requests();
    assert!(requests.len() >= names.len(), "{requests:?}");
    let mut told = String::new();
    for request in &requests {
        let mut request = request.clone();
        let body = if request["method"] == "POST" { "{\"SecretId\": \"a ü\"}" } else { "" };
        request["body"] = body.into();
        for (name, value) in [
            ("id", ID),
            ("secret", TOKEN),
            ("session", "planted-session-0"),
            ("service", "secretsmanager"),
            ("region", "eu-west-1"),
        ] {
            request[name] = value.into();
        }
        told.push_str(&format!("{request}\n"));
    }
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let tools = std::path::Path::new(env!("CARGO_BIN_EXE_keyhatch")).ancestors().nth(2).unwrap().join("tools");
    let mut python = std::process::Command::new(tools.join("botocore/bin/python"));
    python.arg(root.join("tests/aws/sign_again.py"));
    python.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut python = python.spawn().expect("botocore is installed by tests/run");
    std::io::Write::write_all(&mut python.stdin.take().unwrap(), told.as_bytes()).unwrap();
    let done = python.wait_with_output().unwrap();
    let signed = String::from_utf8(done.stdout).unwrap();
    assert_eq!(signed.lines().count(), requests.len());
    for (request, signed) in requests.iter().zip(signed.lines()) {
        assert_eq!(request["headers"]["authorization"], signed, "{request}");
    }
}
