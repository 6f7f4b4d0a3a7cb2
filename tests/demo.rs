//! The demonstration is the real broker: its words are what the processes answered.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

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
