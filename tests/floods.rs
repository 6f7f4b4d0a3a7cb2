//! Programs of `command` sources that multiply as fast as they can. Alone in this file: they leave little of the processor to
//! tests beside them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "command/scene.rs"]
mod scene;
mod support;

use scene::serving;

const SHORT: &str = "timeout = \"1s\"\nfetch-timeout = \"1s\"";

#[test]
#[ignore = "needs root: runs programs as another user"]
fn nothing_is_left_of_a_flood_of_processes() {
    let plain = "#!/usr/bin/perl\nprint \"value\\n\"; fork while 1;";
    let sessions = "#!/usr/bin/perl\nuse POSIX;\nprint \"value\\n\"; while (1) { fork; setsid; }";
    let scene =
        serving(&[("plain", plain, "", SHORT), ("sessions", sessions, "", SHORT), ("after", "echo value", "", "")]);
    for key in ["/plain", "/sessions"] {
        // It may be the worker that gives up, when nobody has much of the processor.
        assert_eq!(scene.ask(key).0, 503, "{key}");
        scene.nothing_is_left(key);
    }
    assert_eq!(scene.good("/after"), "value");
}
