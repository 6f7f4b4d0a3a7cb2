//! A broker whose keys are commands, and what there is of a run.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use super::support::{Broker, GRANTED, wait_until};

/// As whom the programs of the next broker run. No machine has an entry for it, and no other test: a program that kills all
/// of its user's would kill theirs.
fn new_user() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    1_000_000 + std::process::id() * 100 + NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A broker whose keys are commands.
pub(crate) struct Scene {
    pub(crate) broker: Broker,
    /// As whom they run.
    pub(crate) user: u32,
}

/// Name, script, source beside the program, settings of the key.
pub(crate) type Key<'k> = (&'k str, &'k str, &'k str, &'k str);

/// A broker with these keys, each a script of the shell.
pub(crate) fn serving(keys: &[Key<'_>]) -> Scene {
    let mut scene = prepared(keys);
    scene.broker.start();
    scene
}

pub(crate) fn prepared(keys: &[Key<'_>]) -> Scene {
    let user = new_user();
    let scene = Scene { broker: Broker::prepared(|_| configuration(user, keys)), user };
    for (name, script, ..) in keys {
        scene.write(&format!("run-{name}"), script);
    }
    scene
}

pub(crate) fn configuration(user: u32, keys: &[Key<'_>]) -> String {
    let key = |(name, _, source, settings): &Key<'_>| {
        let source = if source.is_empty() { String::new() } else { format!(", {source}") };
        let more = if source.contains("user =") { String::new() } else { format!(", user = {user}") };
        format!(
            "[keys.\"/{name}\"]\nsource = {{ type = \"command\", run = [\"DIR/run-{name}\", \"one\", \"two words\"]{more}{source} }}\n{settings}\n"
        )
    };
    let keys: String = keys.iter().map(key).collect();
    let absent = if keys.contains("absent") { "absent = { file = \"DIR/absent\" }\n" } else { "" };
    let long = if keys.contains("long-token") { "long-token = { file = \"DIR/long-token\" }\n" } else { "" };
    format!(
        "[limits]\nvalue-size = \"256KiB\"\ndocument-size = \"256KiB\"\n[tokens]\nt = {{ file = \"DIR/token\" }}\n\
         {absent}{long}{keys}\n[clients.all]\nuser = {GRANTED}\nkeys = [\"/**\"]\n"
    )
}

impl Scene {
    pub(crate) fn write(&self, name: &str, script: &str) {
        let shell = if script.starts_with("#!") { "" } else { "#!/bin/sh\n" };
        self.broker.write(name, &format!("{shell}{script}\n"), 0o755);
    }

    /// A directory in which the programs can write.
    pub(crate) fn scratch(&self) -> PathBuf {
        let scratch = self.broker.path("scratch");
        fs::create_dir(&scratch).unwrap();
        chown(&scratch, Some(self.user), Some(self.user)).unwrap();
        scratch
    }

    /// What a peer gets that asks for text: status, head and body.
    pub(crate) fn ask(&self, key: &str) -> (u16, String, String) {
        let answer = self.broker.curl(GRANTED, key, &["--header", "Accept: text/plain"]);
        let split = answer.split_once("\r\n\r\n");
        let (head, body) = split.unwrap_or_else(|| panic!("{key}: {answer}\n{}", self.broker.log()));
        (head.split(' ').nth(1).unwrap().parse().unwrap(), head.to_owned(), body.to_owned())
    }

    pub(crate) fn good(&self, key: &str) -> String {
        let (status, head, body) = self.ask(key);
        assert_eq!(status, 200, "{key}: {head}\n{body}\n{}", self.broker.log());
        body
    }

    /// That a peer with nothing to fall back on is told this.
    pub(crate) fn fails(&self, key: &str, status: u16, detail: &str) {
        let (found, head, body) = self.ask(key);
        let says = found == status && head.contains(&format!("detail={detail}"));
        assert!(says, "{key}, {status} {detail} expected: {head}\n{body}\n{}", self.broker.log());
    }

    /// Of the user of the programs.
    pub(crate) fn processes(&self) -> Vec<u32> {
        processes_of(self.user)
    }

    pub(crate) fn nothing_is_left(&self, what: &str) {
        wait_until(&format!("nothing is left of {what}"), || self.processes().is_empty());
    }

    /// The second child of the parent.
    pub(crate) fn runner(&self) -> u32 {
        let path = format!("/proc/{0}/task/{0}/children", self.broker.parent());
        fs::read_to_string(path).unwrap().split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    pub(crate) fn keyhatch(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keyhatch"));
        let done = command.args(arguments).arg("--config").arg(self.broker.path("keyhatch.toml")).output().unwrap();
        let said = [done.stdout, done.stderr].concat();
        (done.status.code(), String::from_utf8(said).unwrap())
    }
}

/// The processes of a uid.
fn processes_of(uid: u32) -> Vec<u32> {
    let numbers = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    let is = |pid: &u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.lines().any(|line| line.starts_with("Uid:") && line.split_whitespace().nth(1) == Some(&uid.to_string()))
    };
    numbers.filter(is).collect()
}

pub(crate) fn is_there(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}/exe")).exists()
        && !fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default().contains(") Z ")
}
