//! Who may use whom inside the crate: what the compiler does not check within one crate, checked by reading `src`.
//!
//! The wall between the two roles is also a wall in the source: the worker's code cannot name a token.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "layering/source.rs"]
mod source;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use source::{code, has_word, paths};

/// What a module may use of others, as path prefixes. A part of a module is named where the whole would be too much.
const USES: &[(&str, &[&str])] = &[
    ("main", &["cli"]),
    ("sys", &[]),
    ("secret", &[]),
    ("exit", &[]),
    ("outcome", &[]),
    ("shown", &[]),
    ("staleness", &[]),
    ("template", &["secret"]),
    ("arguments", &[]),
    // One call of the system: how a connection ends.
    ("credential", &["acl::Unit", "sys::peer"]),
    ("acl", &["secret", "config::Location"]),
    (
        "config",
        &["sys", "secret", "shown", "acl", "arguments", "staleness", "template", "credential", "outcome::Class"],
    ),
    ("ipc", &["secret", "acl", "outcome", "template", "config::Limits"]),
    ("telemetry", &["ipc::record"]),
    // The start returns what the parent takes, and makes the first seal key: nothing else of the parent.
    (
        "boot",
        &[
            "sys",
            "config",
            "ipc::wire::Layer",
            "ipc::run::LONGEST_LIST",
            "parent::RunnerInputs",
            "parent::ParentInputs",
            "parent::CacheInputs",
            "parent::SourceInputs",
            "parent::Authorities",
            "parent::UnitSource",
            "parent::ServiceManager",
            "acl::Who",
            // What systemd has kept, to be refused if there is no start.
            "credential::KEPT",
            "credential::Kept",
            "parent::cache::new_seal_key_text",
            "parent::reload::Origin",
            "parent::SourceFile",
        ],
    ),
    (
        "parent",
        &[
            "sys",
            "secret",
            "shown",
            "acl",
            "arguments",
            "config",
            "credential",
            "ipc",
            "outcome",
            "staleness",
            "telemetry",
        ],
    ),
    // The list that it is given is of the configuration's type; nothing else is.
    ("runner", &["sys", "config::Command", "config::TokenPlace", "ipc"]),
    // Neither the parent nor the configuration: what the worker needs of it crosses as `ipc::wire::WorkerConfig`.
    ("worker", &["sys", "secret", "acl", "arguments", "config::Limits", "credential", "ipc", "outcome", "template"]),
    // Also for other programs: what it says is public, and it knows nothing of the broker's inside.
    ("client", &["secret::KeyPath", "secret::KeyPathError", "shown"]),
    // The configuration is asked whether it would take what was made, and nothing else is.
    ("import", &["acl::Pattern", "config", "secret::KeyPath", "shown", "sys::file::create_secret"]),
    ("demo", &["sys"]),
    // Tests alone: the targets themselves stand beside what they try.
    ("fuzz", &["sys::random"]),
    (
        "cli",
        &[
            "acl::Client",
            "acl::Pattern",
            "acl::Peer",
            "acl::Unit",
            "boot",
            "client",
            "config",
            "demo",
            "exit",
            "import",
            "parent",
            "runner",
            "secret::KeyPath",
            "shown",
            "sys::creds",
            // A reload hands open files over, to nobody but a broker of root's or of the caller's.
            "sys::memfd",
            "sys::pass",
            "sys::peer",
            "sys::supervise",
            "sys::terminal",
            "sys::users",
            "telemetry",
            "worker",
        ],
    ),
];

/// What is only for a few: the paths, and the files or folders that may use them, each with its reason.
const ONLY: &[(&[&str], &[&str])] = &[
    (&["caps", "libc", "landlock", "seccompiler"], &["sys/"]),
    // The root phase asks it where TLS roots are, so that the parent may read them there.
    (&["openssl_probe"], &["boot/reach.rs"]),
    // config/open.rs opens and checks its own files; the others have uids and gids as types.
    (
        &["nix"],
        &["sys/", "config/open.rs", "config/resolve.rs", "config/server.rs", "config/clients.rs", "config/model.rs"],
    ),
    // HTTP is served to applications by the worker and to the operator by the parent.
    (&["hyper::server"], &["worker/mod.rs", "parent/admin/mod.rs"]),
    // Asked are upstreams, by the parent, and the broker's own sockets, by commands.
    (&["hyper_util::client", "hyper_rustls", "rustls"], &["parent/upstream/", "client/http.rs"]),
    (&["hyperlocal"], &["client/http.rs"]),
    // An event loop begins after the drop: nothing of the start may know one.
    (
        &["tokio", "tokio_seqpacket"],
        &[
            "ipc/channel.rs",
            "credential/refusal.rs",
            "credential/watched.rs",
            "parent/",
            "worker/",
            "client/",
            "cli/exec/watch.rs",
        ],
    ),
];

/// Words that are only for a few.
const WORDS: &[(&str, &[&str])] = &[
    ("unsafe", &["sys/"]),
    ("allow(unsafe_code)", &["sys/mod.rs"]),
    // Where the bytes of a secret come out of their type: tokens in the first, values in the second.
    ("guarded::Guarded", &["parent/token.rs"]),
    ("expose_secret", &["secret.rs"]),
    ("tokio::main", &[]),
];

/// The most lines of a file.
const LONGEST: usize = 400;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The targets of fuzzing, which are tests as a whole file.
const TARGETS: &str = "/fuzz.rs";

/// All Rust files of a folder, as paths below it, with their text.
fn files(folder: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(folder).unwrap().display().to_string();
                found.push((name, std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

fn begins(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn within(file: &str, places: &[&str]) -> bool {
    places.iter().any(|place| file == *place || (place.ends_with('/') && file.starts_with(place)))
}

/// What a file below `src` does that it may not.
fn violations(file: &str, text: &str) -> Vec<String> {
    let code = if file.ends_with(TARGETS) { String::new() } else { code(text) };
    let top = file.split(['/', '.']).next().unwrap();
    let mut found = Vec::new();
    let mut wrong = |what: String| found.push(format!("src/{file}: {what}"));

    if code.contains("mod fuzz;") && !code.contains("#[cfg(test)]\nmod fuzz;") {
        wrong("fuzz.rs is a test, and not declared as one".into());
    }

    let head = [format!("{top}.rs"), format!("{top}/mod.rs")].contains(&file.to_owned());
    if head && !["lib", "sys"].contains(&top) && !code.contains("#![forbid(unsafe_code)]") {
        wrong("no #![forbid(unsafe_code)]".into());
    }
    if top != "lib" {
        let Some((_, may)) = USES.iter().find(|(name, _)| *name == top) else {
            return vec![format!("src/{file}: a module without a line in USES")];
        };
        for path in paths(&code, "crate").into_iter().chain(paths(&code, "keyhatch")) {
            if !begins(&path, top) && !may.iter().any(|prefix| begins(&path, prefix)) {
                wrong(format!("may not use crate::{path}"));
            }
        }
        // Up to the root of the crate there is a way that does not begin with `crate`.
        let depth = file.trim_end_matches("/mod.rs").split('/').count();
        if code.contains(&"super::".repeat(depth)) {
            wrong("leaves its module by super::".into());
        }
    }
    for (roots, places) in ONLY {
        for only in roots.iter().filter(|_| !within(file, places)) {
            let (name, rest) = only.split_once("::").unwrap_or((only, ""));
            if paths(&code, name).iter().any(|path| rest.is_empty() || begins(path, rest)) {
                wrong(format!("{only} is for {} alone", places.join(", ")));
            }
        }
    }
    for (word, places) in WORDS {
        if has_word(&code, word) && !within(file, places) {
            wrong(format!("`{word}` is for {places:?} alone"));
        }
    }
    found
}

#[test]
fn no_module_uses_what_it_may_not() {
    let files = files(&root().join("src"));
    assert!(files.len() > 50, "the sources are found");
    let found: Vec<String> = files.iter().flat_map(|(file, text)| violations(file, text)).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// A permission that nobody needs any more would let the next one in unseen.
#[test]
fn no_permission_is_left_over() {
    let files = files(&root().join("src"));
    let codes: Vec<(&str, String)> = files.iter().map(|(file, text)| (file.as_str(), code(text))).collect();
    for (top, may) in USES {
        let own = |file: &str| file.split(['/', '.']).next() == Some(top);
        let used: BTreeSet<String> = codes
            .iter()
            .filter(|(file, _)| own(file))
            .flat_map(|(_, code)| [paths(code, "crate"), paths(code, "keyhatch")].concat())
            .collect();
        // A module of nothing but policy may grow into the use of another one; a named part may not stay for nothing.
        for part in may.iter().filter(|part| part.contains("::")) {
            assert!(used.iter().any(|path| begins(path, part)), "{top} uses {part} no more");
        }
    }
    for (roots, places) in ONLY {
        for place in *places {
            let uses = |code: &str| roots.iter().any(|only| !paths(code, only.split("::").next().unwrap()).is_empty());
            assert!(codes.iter().any(|(file, code)| within(file, &[place]) && uses(code)), "{roots:?} in {place}");
        }
    }
    for (word, places) in WORDS {
        for place in *places {
            assert!(
                codes.iter().any(|(file, code)| within(file, &[place]) && has_word(code, word)),
                "{word} in {place}"
            );
        }
    }
}

#[test]
fn files_are_short() {
    let mut long: Vec<(String, usize)> = Vec::new();
    for folder in ["src", "tests"] {
        let lines = |(file, text): (String, String)| (format!("{folder}/{file}"), text.lines().count());
        long.extend(files(&root().join(folder)).into_iter().map(lines).filter(|(_, lines)| *lines > LONGEST));
    }
    assert!(long.is_empty(), "files of more than {LONGEST} lines: {long:?}");
}

/// The rules bite: each of these is refused, each of those is not.
#[test]
fn the_rules_see_what_they_should() {
    const FORBID: &str = "#![forbid(unsafe_code)]\n";
    let refused = [
        ("worker/http.rs", "use crate::parent::Vault;"),
        ("worker/http.rs", "use crate::{acl::Peer, config::{self, Config}};"),
        ("worker/http.rs", "fn f() { let _ = crate::parent::run; }"),
        ("worker/http.rs", "use super::super::parent;"),
        ("worker/http.rs", "use crate::*;"),
        ("boot/mod.rs", "#![forbid(unsafe_code)]\nuse crate::parent::Vault;"),
        ("parent/serve.rs", "use crate::worker::run;"),
        ("parent/serve.rs", "fn f() { unsafe {} }"),
        ("parent/serve.rs", "#[allow(unsafe_code)] mod m {}"),
        ("parent/serve.rs", "fn f() { secret.expose_secret(); }"),
        ("boot/inputs.rs", "use crate::sys::guarded::Guarded;"),
        ("parent/serve.rs", "#[tokio::main] async fn main() {}"),
        ("parent/serve.rs", "use hyper::server::conn::http1;"),
        ("parent/serve.rs", "fn f() { ::libc::getpid(); }"),
        ("boot/inputs.rs", "use nix::unistd::getpid;"),
        ("boot/inputs.rs", "use {nix::unistd::getpid};"),
        ("boot/inputs.rs", "async fn f() { tokio::task::yield_now().await }"),
        ("acl/mod.rs", "use crate::secret::KeyPath;"),
        ("worker/mod.rs", "#![forbid(unsafe_code)]\nmod fuzz;"),
        ("worker/request.rs", "use crate::fuzz::run;"),
        ("novel.rs", "#![forbid(unsafe_code)]"),
    ];
    for (file, text) in refused {
        assert!(!violations(file, text).is_empty(), "{file}: {text}");
    }
    let legal = [
        ("worker/http.rs", "use crate::ipc::wire::{Body, Reply as Said}; use crate::worker::Link;"),
        ("worker/http.rs", "// crate::parent\n/* unsafe */ const A: &str = \"crate::parent\"; const B: char = '\"';"),
        ("worker/http.rs", "fn f<'a>(a: &'a str) -> &'a str { r#\"crate::parent \"unsafe\"\"#; a }"),
        ("worker/http.rs", "use super::service;\n#[cfg(test)]\nmod tests {\n    use crate::parent;\n}\n"),
        ("worker/fuzz.rs", "use crate::fuzz; use crate::sys::spawn;"),
        ("worker/mod.rs", "#![forbid(unsafe_code)]\n#[cfg(test)]\nmod fuzz;"),
        ("sys/process.rs", "fn f() { unsafe { libc::getpid() }; }"),
        ("boot/inputs.rs", "use crate::parent::ParentInputs; use x::nix::y;"),
        ("secret.rs", FORBID),
    ];
    for (file, text) in legal {
        assert_eq!(violations(file, text), Vec::<String>::new(), "{file}: {text}");
    }
}
