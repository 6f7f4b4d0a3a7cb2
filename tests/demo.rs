//! The demonstration is the real broker: its words are what the processes answered.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::{BufRead, BufReader};
use std::process::Stdio;

#[test]
fn the_demo_shows_the_main_job_and_leaves_nothing_behind() {
    let done = std::process::Command::new(env!("CARGO_BIN_EXE_keyhatch")).args(["demo", "--once"]).output().unwrap();
    let shown = String::from_utf8(done.stdout).unwrap();
    let told = String::from_utf8(done.stderr).unwrap();
    assert!(done.status.success(), "{shown}\n{told}");
    for part in [
        "fwd=uri-miss; fwd-status=200; stored",
        "\"clients\":[\"you\"]",
        "HTTP/1.1 403 Forbidden",
        "detail=connect-refused",
        "The upstream is back:",
    ] {
        assert!(shown.contains(part), "{part} is not in:\n{shown}");
    }
    let directory = shown.split("serves on ").nth(1).unwrap().split("/keyhatch.sock").next().unwrap();
    assert!(!std::path::Path::new(directory).exists(), "{directory} was left behind");
}

#[test]
fn what_the_demo_invites_to_type_works() {
    // It passes a Ctrl-C on to all of them, as a terminal does, and ends a demo that waits for what this one does not do.
    let mut demo = std::process::Command::new("timeout");
    let demo = demo.args(["--signal=INT", "60", env!("CARGO_BIN_EXE_keyhatch"), "demo"]).stdout(Stdio::piped());
    let mut demo = demo.spawn().unwrap();
    let shown = BufReader::new(demo.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut typed = Vec::new();
    for line in shown.skip_while(|line| !line.contains("In another terminal:")).skip(2).take(4) {
        let (what, command) = line.split_once(": ").unwrap();
        let done = std::process::Command::new("sh").args(["-c", command]).output().unwrap();
        let answer = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
        typed.push((what.trim().to_owned(), done.status.code(), answer));
    }
    assert!(std::process::Command::new("kill").args(["-INT", &demo.id().to_string()]).status().unwrap().success());
    assert!(demo.wait().unwrap().success());
    let expected = [
        ("A value", 0, "postgres://"),
        ("The same by HTTP", 0, "HTTP/1.1 200 OK"),
        ("One that is denied", 77, "403 "),
        ("How the keys are", 0, "/shop/stripe-key"),
    ];
    assert_eq!(typed.len(), expected.len(), "{typed:?}");
    for ((what, code, answer), expected) in typed.iter().zip(expected) {
        assert_eq!((what.as_str(), *code), (expected.0, Some(expected.1)), "{answer}");
        assert!(answer.contains(expected.2), "{what}: {answer}");
    }
}
