//! The examples of docs/clients.md, run as they stand there. Only the path of the socket is another one.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::markdown::{Document, documents, read};
use super::support::{GRANTED, STRANGER, Upstream, VALUE, as_uid};

const SOCKET: &str = "/run/keyhatch/keyhatch.sock";

/// How an example becomes a process. `FILE` is the file with its text.
struct Example {
    heading: &'static str,
    fence: &'static str,
    file: &'static str,
    /// By root, beside the file, before it is run.
    build: &'static [&'static str],
    run: &'static [&'static str],
    /// How it ends for one who is not granted the key.
    denied: i32,
    /// The shortest and the longest wait for a broker that says nothing, in seconds.
    patience: (u64, u64),
}

const ALL: [Example; 9] = [
    example("curl", "sh", "curl.sh", &["sh", "FILE"], 22),
    // The program's own wait is 30 s.
    Example { patience: (25, 40), ..example("Shell", "sh", "get.sh", &["sh", "FILE"], 77) },
    example("Python", "python", "secret.py", &["python3", "FILE"], 1),
    example("Node", "js", "secret.mjs", &["node", "FILE"], 1),
    Example { build: &["go", "build", "-o", "FILE.out", "FILE"], ..example("Go", "go", "secret.go", &["FILE.out"], 1) },
    example("Ruby", "ruby", "secret.rb", &["ruby", "FILE"], 1),
    example("PHP", "php", "secret.php", &["php", "FILE"], 255),
    Example {
        build: &["javac", "-d", "FILE.classes", "FILE"],
        ..example("Java", "java", "Secret.java", &["java", "-cp", "FILE.classes", "Secret"], 1)
    },
    // Built by cargo, of the same text.
    example("Rust", "rust", "value.rs", &["EXAMPLES/value"], 1),
];

const fn example(
    heading: &'static str,
    fence: &'static str,
    file: &'static str,
    run: &'static [&'static str],
    denied: i32,
) -> Example {
    Example { heading, fence, file, build: &[], run, denied, patience: (9, 20) }
}

/// What stands below a heading, up to the next one of its kind.
fn section(text: &str, heading: &str) -> String {
    let level = heading.split(' ').next().unwrap();
    let begin = text.find(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no section {heading}"));
    let rest = &text[begin + heading.len() + 2..];
    rest[..rest.find(&format!("\n{level} ")).unwrap_or(rest.len())].to_owned()
}

/// A place with the examples in it, for one path of a socket each.
struct Bench {
    directory: tempfile::TempDir,
}

impl Bench {
    fn path(&self, socket: &Path, file: &str) -> PathBuf {
        self.directory.path().join(socket.file_stem().unwrap()).join(file)
    }

    fn words(&self, example: &Example, words: &[&str], socket: &Path) -> Vec<String> {
        let file = self.path(socket, example.file).display().to_string();
        let examples = Path::new(env!("CARGO_BIN_EXE_keyhatch")).with_file_name("examples").display().to_string();
        words.iter().map(|word| word.replace("FILE", &file).replace("EXAMPLES", &examples)).collect()
    }

    /// Writes and builds an example that asks at this socket.
    fn prepare(&self, example: &Example, text: &str, socket: &Path) {
        let file = self.path(socket, example.file);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, text.replace(SOCKET, socket.to_str().unwrap())).unwrap();
        if let [program, arguments @ ..] = &self.words(example, example.build, socket)[..] {
            let mut build = Command::new(program);
            build.args(arguments).current_dir(self.directory.path()).env("GO111MODULE", "off").env("GOFLAGS", "");
            build.env("GOCACHE", Path::new(env!("CARGO_TARGET_TMPDIR")).join("go"));
            let built = build.output().unwrap_or_else(|error| panic!("{program} (see tests/run): {error}"));
            assert!(built.status.success(), "{}: {built:?}", example.heading);
        }
    }

    /// Neither a proxy nor a home directory is of any use to it, and neither is in its way. An interpreter in root's own directories
    /// is none for others, so the system's come first.
    fn run(&self, example: &Example, uid: u32, socket: &Path) -> Output {
        let own = Path::new(env!("CARGO_BIN_EXE_keyhatch")).parent().unwrap().display();
        let words = self.words(example, example.run, socket);
        let mut run = as_uid(uid, &words[0]);
        run.args(&words[1..]).current_dir("/").stdin(Stdio::null()).env_clear();
        run.env("PATH", format!("{own}:/usr/bin:/bin:{}", std::env::var("PATH").unwrap()))
            .env("KEYHATCH_SOCKET", socket);
        run.env("http_proxy", "http://127.0.0.1:9").output().unwrap()
    }
}

/// Listens for everybody, and never accepts; or answers with the first half of a value and hangs up.
fn false_broker(directory: &Path, breaks_off: bool) -> (PathBuf, Option<UnixListener>) {
    let path = directory.join(if breaks_off { "half.sock" } else { "silent.sock" });
    let listener = UnixListener::bind(&path).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
    if !breaks_off {
        return (path, Some(listener));
    }
    // It ends with the process of the test.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let read = stream.read(&mut [0; 4096]).unwrap();
            assert!(read > 0);
            write!(stream, "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n", VALUE.len())
                .unwrap();
            stream.write_all(&VALUE.as_bytes()[..VALUE.len() / 2]).unwrap();
        }
    });
    (path, None)
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn each_example_prints_the_value_and_fails_well() {
    let upstream = Upstream::start(0);
    let broker = super::support::Broker::new(upstream.port, "");
    let page = documents().into_iter().find(|document| document.name() == "docs/clients.md").unwrap();
    let programs = section(&page.text, "## From programs");
    let headings: Vec<&str> = programs.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    assert_eq!(headings, ALL.map(|example| example.heading));

    let bench = Bench { directory: tempfile::tempdir().unwrap() };
    std::fs::set_permissions(bench.directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let real = broker.path("keyhatch.sock");
    let absent = bench.directory.path().join("absent.sock");
    let (half, _) = false_broker(bench.directory.path(), true);
    let (silent, _listener) = false_broker(bench.directory.path(), false);

    let try_one = |example: &Example| {
        let name = example.heading;
        let text = section(&programs, &format!("### {name}"));
        let blocks = Document { path: name.into(), text }.blocks(example.fence);
        let [text] = &blocks[..] else { panic!("{name}: {blocks:?}") };
        if example.fence == "rust" {
            let built = read("examples/value.rs");
            let program = Path::new(env!("CARGO_BIN_EXE_keyhatch")).with_file_name("examples/value");
            assert!(program.exists(), "{} is missing: cargo build --example value", program.display());
            assert!(
                built.starts_with("//! ") && built.ends_with(&format!("\n\n{text}")),
                "examples/value.rs is another one"
            );
        }
        for socket in [&real, &absent, &half, &silent] {
            bench.prepare(example, text, socket);
        }
        let granted = bench.run(example, GRANTED, &real);
        let printed = String::from_utf8_lossy(&granted.stdout);
        assert!(granted.status.success() && printed.trim_end_matches('\n') == VALUE, "{name}: {granted:?}");
        assert!(granted.stderr.is_empty(), "{name}: {granted:?}");

        let denied = bench.run(example, STRANGER, &real);
        assert_eq!((denied.status.code(), denied.stdout.len()), (Some(example.denied), 0), "{name}: {denied:?}");
        let told = String::from_utf8_lossy(&denied.stderr);
        let detail = name == "curl" || told.contains("not granted to you");
        assert!(told.contains("403") && detail, "{name}: {told}");

        for socket in [&absent, &half] {
            let failed = bench.run(example, GRANTED, socket);
            assert!(failed.status.code().is_some_and(|code| code > 0), "{name}: {failed:?}");
            // curl prints what it gets as it comes.
            assert!(failed.stdout.is_empty() || name == "curl", "{name}: {failed:?}");
            assert!(!failed.stderr.is_empty(), "{name}: {failed:?}");
        }
        let begun = Instant::now();
        let failed = bench.run(example, GRANTED, &silent);
        let (shortest, longest) = example.patience;
        let waited = begun.elapsed();
        assert!(!failed.status.success() && failed.stdout.is_empty(), "{name}: {failed:?}");
        assert!((Duration::from_secs(shortest)..Duration::from_secs(longest)).contains(&waited), "{name}: {waited:?}");
    };
    std::thread::scope(|scope| {
        let running: Vec<_> = ALL.iter().map(|example| scope.spawn(|| try_one(example))).collect();
        let ended: Vec<_> = running.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        assert!(ended.iter().all(Result::is_ok), "some fail: see above");
    });
}

/// Those of the README are the shortest that work.
#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn the_examples_of_the_readme_print_the_value() {
    let upstream = Upstream::start(0);
    let broker = super::support::Broker::new(upstream.port, "");
    let readme = documents().into_iter().find(|document| document.name() == "README.md").unwrap();
    let reading = Document { path: readme.path, text: section(&readme.text, "## Reading a value") };
    let bench = Bench { directory: tempfile::tempdir().unwrap() };
    std::fs::set_permissions(bench.directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let socket = broker.path("keyhatch.sock");
    for (fence, file, run) in [
        ("sh", "a.sh", &["sh", "-e", "FILE"][..]),
        ("python", "a.py", &["python3", "FILE"]),
        ("js", "a.js", &["node", "FILE"]),
    ] {
        let blocks = reading.blocks(fence);
        let [text] = &blocks[..] else { panic!("{fence}: {blocks:?}") };
        let example = example("README.md", "", file, run, 1);
        bench.prepare(&example, text, &socket);
        let done = bench.run(&example, GRANTED, &socket);
        let values = if fence == "sh" { text.lines().count() } else { 1 };
        let printed = String::from_utf8_lossy(&done.stdout);
        assert!(done.status.success() && printed.matches(VALUE).count() == values, "{fence}: {done:?}");
    }
}
