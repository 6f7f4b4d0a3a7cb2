//! What must not start does not: exit code 78, a message that says what to mend, and nothing left listening.
//! What is wrong with one part only starts, and says so.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "bad_start/activation.rs"]
mod activation;
#[path = "bad_start/scene.rs"]
mod scene;
#[path = "bad_start/sockets.rs"]
mod sockets;
mod support;

use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::path::Path;
use std::process::Command;

use scene::{Scene, chmod};
use support::{PARENT, as_uid};

/// `@` is the directory of the test.
const GOOD: &str = r#"
[server]
socket = "@/keyhatch.sock"
admin-socket = "@/admin.sock"
parent-user = 61001
worker-user = 61002
[cache]
directory = "@/cache"
seal-key = { file = "@/seal.key" }
[tokens]
heroku = { file = "@/token" }
[keys."/billing/url"]
source = { type = "heroku", app = "a", config-var = "V", token = "heroku", base-url = "http://127.0.0.1:9", allow-plaintext = true }
[clients.billing]
user = 61010
keys = ["/billing/*"]
"#;

fn serve() -> Command {
    Command::new(env!("CARGO_BIN_EXE_keyhatch"))
}

type Arrange = fn(&Path);

fn as_it_is(_: &Path) {}

/// Each with what is changed in `GOOD`, what is done to the directory, and what the message must say.
type Case = (&'static str, (&'static str, &'static str), Arrange, &'static [&'static str]);

const REFUSED: &[Case] = &[
    (
        "no configuration",
        ("", ""),
        |d| fs::remove_file(d.join("keyhatch.toml")).unwrap(),
        &["No such file", "--config"],
    ),
    ("broken syntax", ("[server]", "[server"), as_it_is, &["keyhatch.toml:2"]),
    ("unknown setting", ("socket =", "sokket ="), as_it_is, &["sokket", "did you mean `socket`"]),
    ("bare duration", ("[clients", "max-age = 5\n[clients"), as_it_is, &["max-age = 5", "\"5s\""]),
    ("no leading slash", ("\"/billing/url\"", "\"billing/url\""), as_it_is, &["a key begins with `/`"]),
    (
        "two keys with one path",
        ("[clients", "[keys.\"/billing/url\"]\n[clients"),
        as_it_is,
        &["already in its table", "defined above"],
    ),
    (
        "long socket path",
        (
            "@/keyhatch.sock",
            "@/a-name-of-more-than-one-hundred-and-seven-bytes-does-not-fit-into-the-address-of-a-unix-socket-at-all.sock",
        ),
        as_it_is,
        &["107"],
    ),
    ("missing parent-user", ("61001", "\"no-such-user-here\""), as_it_is, &["useradd --system", "no-such-user-here"]),
    ("missing worker-user", ("61002", "\"no-such-user-here\""), as_it_is, &["useradd --system", "no-such-user-here"]),
    ("a uid in quotes", ("61001", "\"47101\""), as_it_is, &["a uid is written without quotes: parent-user = 47101\n"]),
    ("one user for both", ("61002", "61001"), as_it_is, &["the same user"]),
    ("root as a service user", ("61002", "0"), as_it_is, &["is root"]),
    ("writable configuration", ("", ""), |d| chmod(&d.join("keyhatch.toml"), 0o620), &["chmod go-w"]),
    ("writable directory", ("", ""), |d| chmod(d, 0o777), &["chmod go-w"]),
    (
        "configuration of another user",
        ("", ""),
        |d| chown(d.join("keyhatch.toml"), Some(61_010), None).unwrap(),
        &["chown root"],
    ),
    (
        "writable conf.d",
        ("", ""),
        |d| {
            fs::create_dir(d.join("conf.d")).unwrap();
            chmod(&d.join("conf.d"), 0o775);
        },
        &["conf.d", "chmod go-w"],
    ),
    (
        "writable drop-in",
        ("", ""),
        |d| {
            fs::create_dir(d.join("conf.d")).unwrap();
            fs::write(d.join("conf.d/a.toml"), "").unwrap();
            chmod(&d.join("conf.d/a.toml"), 0o666);
        },
        &["a.toml", "chmod go-w"],
    ),
    (
        "token is a directory",
        ("", ""),
        |d| {
            fs::remove_file(d.join("token")).unwrap();
            fs::create_dir(d.join("token")).unwrap();
        },
        &["token `heroku`", "it is a directory"],
    ),
    (
        "token is a pipe",
        ("", ""),
        |d| {
            fs::remove_file(d.join("token")).unwrap();
            assert!(Command::new("mkfifo").arg(d.join("token")).status().unwrap().success());
        },
        &["token `heroku`", "it is a pipe"],
    ),
    ("empty token", ("", ""), |d| fs::write(d.join("token"), "").unwrap(), &["token `heroku`", "empty"]),
    ("token that others can read", ("", ""), |d| chmod(&d.join("token"), 0o440), &["token `heroku`", "chmod 0400"]),
    (
        "key file that is none",
        (
            "source = { type = \"heroku\", app = \"a\", config-var = \"V\", token = \"heroku\", base-url = \"http://127.0.0.1:9\", allow-plaintext = true }",
            "source = { type = \"http\", url = \"https://a.example/\", auth = { type = \"google-service-account\", key = \"heroku\", scope = \"a\" } }",
        ),
        as_it_is,
        &["token `heroku`", "/token)", "it is not JSON; it must be the key of a service account"],
    ),
    (
        "token of another user",
        ("", ""),
        |d| chown(d.join("token"), Some(61_010), None).unwrap(),
        &["token `heroku`", "chown root"],
    ),
    (
        "token by a link that another user could change",
        ("@/token", "@/theirs/token"),
        |d| {
            fs::create_dir(d.join("theirs")).unwrap();
            symlink("../token", d.join("theirs/token")).unwrap();
            chown(d.join("theirs"), Some(61_010), None).unwrap();
        },
        &["theirs/token is a symbolic link", "belongs to uid 61010", "chown root"],
    ),
    (
        "token by a link into a directory for all",
        ("@/token", "@/link"),
        |d| {
            fs::create_dir(d.join("all")).unwrap();
            fs::rename(d.join("token"), d.join("all/token")).unwrap();
            symlink("all/token", d.join("link")).unwrap();
            chmod(&d.join("all"), 0o1777);
        },
        &["link is a symbolic link", "can be written by others", "chmod go-w"],
    ),
    (
        "cache of another user",
        ("", ""),
        |d| {
            fs::create_dir(d.join("cache")).unwrap();
            chown(d.join("cache"), Some(61_010), None).unwrap();
        },
        &["cache", "owned by uid 61010", "chown"],
    ),
    (
        "cache open to others",
        ("", ""),
        |d| {
            fs::create_dir(d.join("cache")).unwrap();
            chown(d.join("cache"), Some(PARENT), None).unwrap();
            chmod(&d.join("cache"), 0o755);
        },
        &["cache", "chmod 0700"],
    ),
    ("cache is a file", ("", ""), |d| fs::write(d.join("cache"), "").unwrap(), &["cache", "Not a directory"]),
];

#[test]
#[ignore = "needs root: the files of others, and a start that drops"]
fn what_is_wrong_for_all_stops_the_start() {
    for (name, (from, to), arrange, told) in REFUSED {
        assert!(GOOD.contains(from), "{name}");
        let mut scene = Scene::new(&GOOD.replacen(from, to, 1));
        arrange(scene.path());
        let log = scene.refused(serve(), 78);
        for part in *told {
            assert!(log.contains(part), "{name}: no {part:?} in:\n{log}");
        }
        sockets::nothing_is_left(&scene);
        assert!(!log.contains("planted-token"), "{name}: {log}");
    }
}

const SERVED: &[Case] = &[
    ("good", ("", ""), as_it_is, &["serving"]),
    ("missing token", ("", ""), |d| fs::remove_file(d.join("token")).unwrap(), &["token=heroku", "No such file"]),
    (
        "credential without a directory of credentials",
        ("{ file = \"@/token\" }", "{ credential = \"heroku\" }"),
        as_it_is,
        &["token=heroku", "$CREDENTIALS_DIRECTORY is not set"],
    ),
    ("token of no use", ("token = \"heroku\"", "token = \"absent\""), as_it_is, &["absent"]),
    ("missing user", ("user = 61010", "user = \"no-such-user-here\""), as_it_is, &["client `billing` matches nobody"]),
    ("missing group", ("user = 61010", "group = \"no-such-group-here\""), as_it_is, &["matches nobody"]),
    ("pattern without a key", ("/billing/*", "/shop/*"), as_it_is, &["the pattern `/shop/*` matches no key"]),
    ("token without a line end", ("", ""), |d| fs::write(d.join("token"), "planted").unwrap(), &["serving"]),
    (
        "token by a link of root's",
        ("@/token", "@/dir/token"),
        |d| {
            fs::create_dir(d.join("real")).unwrap();
            fs::rename(d.join("token"), d.join("real/token")).unwrap();
            symlink("real", d.join("dir")).unwrap();
        },
        &["serving"],
    ),
];

#[test]
#[ignore = "needs root: the files of others, and a start that drops"]
fn what_is_wrong_for_some_is_said_and_served_around() {
    for (name, (from, to), arrange, told) in SERVED {
        assert!(GOOD.contains(from), "{name}");
        let mut scene = Scene::new(&GOOD.replacen(from, to, 1));
        arrange(scene.path());
        let log = scene.serves(serve());
        for part in *told {
            assert!(log.contains(part), "{name}: no {part:?} in:\n{log}");
        }
    }
}

#[test]
#[ignore = "needs root: drops to two uids"]
fn a_configuration_without_keys_serves_what_is_its_own() {
    let mut scene = Scene::new(GOOD.split("[tokens]").next().unwrap());
    assert!(scene.serves(serve()).contains("no keys: there is nothing to serve"));
    let health = health(&scene);
    assert!(health.starts_with("HTTP/1.1 200 OK") && health.contains("\"status\":\"ok\""), "{health}");
}

#[test]
#[ignore = "needs root: drops to two uids"]
fn health_tells_that_a_token_is_missing() {
    let mut scene = Scene::new(GOOD);
    fs::remove_file(scene.path().join("token")).unwrap();
    scene.serves(serve());
    assert!(health(&scene).contains("\"status\":\"degraded\""), "{}", health(&scene));
}

fn health(scene: &Scene) -> String {
    let mut curl = as_uid(61_010, "curl");
    curl.args(["--silent", "--include", "--unix-socket"]).arg(scene.path().join("keyhatch.sock"));
    String::from_utf8(curl.arg("http://keyhatch/-/health").output().unwrap().stdout).unwrap()
}

#[test]
#[ignore = "needs root: a start as somebody else"]
fn a_configuration_that_the_caller_cannot_read_is_named() {
    let mut scene = Scene::new(GOOD);
    let log = scene.refused(as_uid(61_010, env!("CARGO_BIN_EXE_keyhatch")), 78);
    assert!(log.contains("keyhatch.toml") && log.contains("Permission denied"), "{log}");
}

#[test]
#[ignore = "needs root: drops to two uids"]
fn a_credential_is_found_in_its_directory() {
    let mut scene = Scene::new(&GOOD.replace("{ file = \"@/token\" }", "{ credential = \"token\" }"));
    let mut with = serve();
    with.env("CREDENTIALS_DIRECTORY", scene.path());
    let log = scene.serves(with);
    assert!(!log.contains("token not found"), "{log}");
}

#[test]
#[ignore = "needs root: the directories of others"]
fn a_socket_is_only_where_nobody_else_can_put_another() {
    type Case = (&'static str, fn(&Path), &'static str);
    let cases: [Case; 5] = [
        ("of another user", |at| chown(at.join("there"), Some(61_010), None).unwrap(), "belongs to uid 61010"),
        ("open to all", |at| chmod(&at.join("there"), 0o777), "can be written by others (mode 0777)"),
        ("below one that is open", |at| chmod(at, 0o777), "can be written by others (mode 0777)"),
        (
            "a link of another user",
            |at| {
                fs::remove_dir(at.join("there")).unwrap();
                fs::create_dir(at.join("target")).unwrap();
                chmod(at, 0o1777);
                symlink("target", at.join("there")).unwrap();
                std::os::unix::fs::lchown(at.join("there"), Some(61_010), None).unwrap();
            },
            "belongs to uid 61010",
        ),
        (
            "a link in the place of the socket",
            |at| {
                fs::write(at.join("precious"), "precious").unwrap();
                symlink(at.join("precious"), at.join("there/keyhatch.sock")).unwrap();
            },
            "is no socket; it is left alone",
        ),
    ];
    for (name, arrange, told) in cases {
        let mut scene = Scene::new(&GOOD.replace("@/keyhatch.sock", "@/outer/there/keyhatch.sock"));
        let outer = scene.path().join("outer");
        fs::create_dir_all(outer.join("there")).unwrap();
        arrange(&outer);
        let before = fs::symlink_metadata(outer.join("there")).map(|found| found.permissions()).unwrap();
        let log = scene.refused(serve(), 78);
        assert!(log.contains(told), "{name}: {log}");
        assert_eq!(fs::symlink_metadata(outer.join("there")).unwrap().permissions(), before, "{name}");
        assert!(!outer.join("precious").exists() || fs::read(outer.join("precious")).unwrap() == b"precious");
    }
    // The sticky bit keeps others from what is not theirs.
    let mut scene = Scene::new(&GOOD.replace("@/keyhatch.sock", "@/outer/there/keyhatch.sock"));
    let outer = scene.path().join("outer");
    fs::create_dir_all(outer.join("there")).unwrap();
    chmod(&outer.join("there"), 0o1777);
    scene.serves(serve());
    // Directories that are missing are made so that peers can pass.
    let mut scene = Scene::new(&GOOD.replace("@/keyhatch.sock", "@/one/two/keyhatch.sock"));
    scene.serves(serve());
    for made in ["one", "one/two"] {
        let mode =
            std::os::unix::fs::PermissionsExt::mode(&fs::metadata(scene.path().join(made)).unwrap().permissions());
        assert_eq!(mode & 0o7777, 0o755, "{made}");
    }
}

/// `serve` behind a program that runs the rest of its arguments.
fn serve_by(wrapper: &[&str]) -> Command {
    let mut command = Command::new(wrapper[0]);
    command.args(&wrapper[1..]).arg(env!("CARGO_BIN_EXE_keyhatch"));
    command
}

#[test]
#[ignore = "needs root: takes capabilities from a root"]
fn a_root_that_cannot_drop_does_not_serve() {
    for missing in ["-setuid", "-setgid", "-setuid,-setgid"] {
        let mut scene = Scene::new(GOOD);
        let log = scene.refused(serve_by(&["setpriv", "--bounding-set", missing]), 78);
        assert!(log.contains("there is no way to drop") && log.contains("CapabilityBoundingSet="), "{log}");
        assert!(!scene.path().join("keyhatch.sock").exists());
    }
    let mut scene = Scene::new(GOOD);
    let log = scene.serves(serve_by(&["setpriv", "--bounding-set", "-setpcap"]));
    assert!(log.contains("what does not hold: capabilities (none; the bounding set stays"), "{log}");
    assert_eq!(log.matches("what does not hold").count(), 1, "{log}");
}

#[test]
#[ignore = "needs root: drops to two uids"]
fn there_is_room_for_as_many_connections_as_are_allowed() {
    let mut scene = Scene::new(GOOD);
    let log = scene.refused(serve_by(&["prlimit", "--nofile=100:2000"]), 78);
    assert!(log.contains("limits.connections = 1024 needs 2433 open files, and this process may have 2000"), "{log}");
    assert!(log.contains("LimitNOFILE=2433"), "{log}");
    assert!(!scene.path().join("keyhatch.sock").exists());

    for connections in [500, 800] {
        let needed = 2 * connections + 385;
        let mut scene = Scene::new(&format!("{GOOD}[limits]\nconnections = {connections}\n"));
        let log = scene.refused(serve_by(&["prlimit", &format!("--nofile=100:{}", needed - 1)]), 78);
        assert!(log.contains(&format!("needs {needed} open files")), "{log}");
        scene.serves(serve_by(&["prlimit", &format!("--nofile=100:{needed}")]));
    }
}
