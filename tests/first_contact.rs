//! Somebody's first minutes: what README.md says to do on a host, word for word, on a Debian that has little else.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "units/lab.rs"]
#[allow(dead_code, reason = "it has no unit of its own")]
mod lab;
#[path = "docs/markdown.rs"]
#[allow(dead_code, reason = "it looks for no links")]
mod markdown;

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lab::{Lab, TRIXIE, text};

/// A step of the README.
enum Step {
    Command(String),
    /// A file of this name.
    File(String, String),
}

/// The indented lines and the blocks of a part of a page, in their order.
fn steps(part: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut block: Option<String> = None;
    for line in part.lines() {
        match (&mut block, line) {
            (None, "```toml") => block = Some(String::new()),
            (Some(text), "```") => {
                let name = text.lines().next().unwrap().strip_prefix("# /").unwrap();
                steps.push(Step::File(format!("/{name}"), text.clone()));
                block = None;
            }
            (Some(text), line) => *text += &format!("{line}\n"),
            (None, line) => steps.extend(line.strip_prefix("    ").map(|command| Step::Command(command.to_owned()))),
        }
    }
    steps
}

/// Runs a line as it is typed, with what is typed next, and gives what it prints.
fn typed(lab: &Lab, line: &str, input: &str) -> String {
    let mut shell = lab.command();
    shell.args(["run", "sh", "-c", line]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut shell = shell.spawn().unwrap();
    // A command that reads nothing may have ended.
    let _ = shell.stdin.take().unwrap().write_all(input.as_bytes());
    let done = shell.wait_with_output().unwrap();
    assert!(
        done.status.success(),
        "{line}\n{}\n{}",
        text(&done),
        text(&lab.run(&["journalctl", "--no-pager", "-n", "40"]))
    );
    text(&done)
}

#[test]
#[ignore = "needs root: boots a systemd in namespaces and installs a package there"]
fn the_readme_leads_to_a_value_in_minutes() {
    let readme = markdown::read("README.md");
    let host = readme.split("\n## On a host\n").nth(1).unwrap().split("\nWithout a package").next().unwrap();
    let (build, install) = host.split_once("\nThen, on each host").unwrap();
    let build: Vec<&str> = build.lines().filter_map(|line| line.strip_prefix("    ")).collect();
    assert_eq!(build, ["apt-get install -y gcc lowdown dpkg-dev", "packaging/build deb"]);

    let lab = Lab::up(TRIXIE, &[]);
    let packages = lab.directory.path().join("target/packages");
    std::fs::create_dir_all(&packages).unwrap();
    // Of the program that is under test.
    let mut build = Command::new(markdown::root().join("packaging/build"));
    let built = build.args(["deb", "dev", "0.1.0-1"]).arg(&packages).output().unwrap();
    assert!(built.status.success(), "{}", text(&built));
    let upstream = "/opt/keyhatch/examples/upstream --ca /run/ca.pem --token the-token --port 8001";
    typed(&lab, &format!("systemd-run -q --collect --unit=upstream {upstream}"), "");
    assert_eq!(lab.run(&["sh", "-c", "command -v keyhatch"]).status.code(), Some(127), "it is not there yet");

    let begun = Instant::now();
    let mut values = Vec::new();
    for step in steps(install) {
        match step {
            Step::Command(line) => {
                let input = if line.contains("tokens/") { "the-token\n" } else { "postgres://of-a-file\n" };
                let printed = typed(&lab, &format!("cd {}; {line}", lab::INSIDE), input);
                if line.contains("keyhatch get") {
                    values.push(printed);
                }
            }
            Step::File(name, text) => {
                // The one thing that is not as it stands there: Heroku is not to be reached.
                let there = "base-url = \"http://127.0.0.1:8001\", allow-plaintext = true, app = ";
                typed(&lab, &format!("cat > {name}"), &text.replace("app = ", there));
            }
        }
    }
    assert_eq!(values.len(), 2, "{values:?}");
    assert_eq!(values[0], "postgres://of-a-file");
    assert!(!values[1].is_empty() && values[1] != values[0], "{values:?}");
    assert!(begun.elapsed() < Duration::from_secs(300), "{:?}", begun.elapsed());

    what_serve_prints_is_a_configuration(&lab);
}

/// With the user and the file that it asks for, which are there by now.
fn what_serve_prints_is_a_configuration(lab: &Lab) {
    typed(
        lab,
        "systemctl stop keyhatch.service keyhatch.socket keyhatch-admin.socket && rm -r /etc/keyhatch/conf.d",
        "",
    );
    typed(lab, "rm /etc/keyhatch/keyhatch.toml", "");
    let refused = lab.run(&["keyhatch", "serve"]);
    let told = text(&refused);
    assert!(refused.status.code() == Some(78) && told.contains("/etc/keyhatch/keyhatch.toml: No such file"), "{told}");
    let blocks = told.split("\n\n").filter(|block| block.starts_with("    [")).collect::<Vec<_>>().join("\n");
    typed(lab, "cat > /etc/keyhatch/keyhatch.toml", &blocks);
    assert!(typed(lab, "keyhatch check", "").contains("good: 1 key"));
    typed(lab, "systemctl start keyhatch", "");
    assert_eq!(typed(lab, "runuser -u billing -- keyhatch get /billing/database-url", ""), "postgres://of-a-file");
}
