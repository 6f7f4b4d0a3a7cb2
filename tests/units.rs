//! Clients with `unit`, against a real systemd: which processes are in a unit, and for how long.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "units/lab.rs"]
mod lab;
#[path = "units/older.rs"]
mod older;
mod support;

use lab::{INSIDE, Lab, text};
use support::{PARENT, WORKER, as_uid, wait_until};

/// Not among the dynamic users.
const USER: u32 = 61_110;

const KEYS: [&str; 4] = ["one", "two", "three", "plain"];

fn configuration() -> String {
    let mut text = format!(
        "[server]\nsocket = \"DIR/keyhatch.sock\"\nadmin-socket = \"DIR/admin.sock\"\n\
         parent-user = {PARENT}\nworker-user = {WORKER}\n\
         [cache]\ndirectory = \"DIR/cache\"\nseal-key = {{ file = \"DIR/seal.key\" }}\n\
         [clients.one]\nuser = {USER}\nunit = \"one.service\"\nkeys = [\"/one\", \"/three\"]\n\
         [clients.two]\nuser = \"dynamic\"\nunit = [\"two@*.service\", \"zwei.service\"]\nkeys = \"/two\"\n\
         [clients.plain]\nuser = {USER}\nkeys = \"/plain\"\n\
         [clients.alone]\nunit = \"*\"\nkeys = \"/**\"\n"
    );
    for key in KEYS {
        text += &format!(
            "[keys.\"/{key}\"]\nsource = {{ type = \"file\", path = \"DIR/value-{key}\", format = \"text\" }}\n"
        );
        // The worker answers by itself.
        text += if key == "three" { "max-age = \"1h\"\n" } else { "" };
    }
    text
}

/// Connects, asks, hands its connection to a child and ends. The child asks until it is refused.
const HAND_ON: &str = r#"
use Socket;
socket(my $s, PF_UNIX, SOCK_STREAM, 0) or die $!;
connect($s, pack_sockaddr_un("DIR/keyhatch.sock")) or die $!;
sub ask {
    syswrite $s, "HEAD $_[0] HTTP/1.1\r\nHost: k\r\n\r\n";
    my $head = "";
    while ($head !~ /\r\n\r\n/) { sysread($s, $head, 4096, length $head) or last }
    return (split " ", $head)[1];
}
$| = 1;
my $key = shift;
print "first ", ask($key), "\n";
pipe(my $ended, my $lives) or die $!;
exit 0 if fork;
close $lives;
sysread $ended, my $nothing, 1;
my ($last, $until) = (200, time + 20);
$last = ask($key) while $last == 200 && time < $until;
print "then $last and ", ask("/plain"), "\n";
"#;

impl Lab {
    /// Starts the broker, and waits until it serves.
    fn serve(&self) {
        let log = format!("StandardError=file:{INSIDE}/log");
        let serve = ["KEYHATCH", "serve", "--config", "DIR/keyhatch.toml"];
        let started = self.run(&[&["systemd-run", "-q", "--unit=keyhatch", "-p", &log][..], &serve[..]].concat());
        assert!(started.status.success(), "{}", text(&started));
        wait_until("the broker serves", || self.log().contains("serving"));
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

#[test]
#[ignore = "needs root: boots a systemd in namespaces"]
fn a_unit_is_what_systemd_made_of_a_process_and_lasts_as_long_as_it() {
    a_unit_is_what_systemd_made(lab::HOST);
}

#[test]
#[ignore = "needs root: boots the systemd of another Debian in namespaces"]
fn a_unit_is_the_same_on_debian_13() {
    a_unit_is_what_systemd_made(lab::TRIXIE);
}

fn a_unit_is_what_systemd_made(root: &str) {
    let hand_on = HAND_ON.replace("DIR", "/srv/keyhatch");
    let configuration = configuration();
    let values = KEYS.map(|key| (format!("value-{key}"), format!("the value of {key}")));
    let mut files = vec![("keyhatch.toml", configuration.as_str())];
    files.extend(values.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    let lab = Lab::up(root, &files);
    let added = lab.run(&["useradd", "-m", "-u", &USER.to_string(), "keyhatch-app"]);
    assert!(added.status.success(), "{}", text(&added));
    lab.serve();

    let user = format!("User={USER}");
    fn get(key: &str) -> [&str; 5] {
        ["KEYHATCH", "get", key, "--socket", "DIR/keyhatch.sock"]
    }
    let given = |said: &str, key: &str| said == format!("the value of {key}");
    let whoami = ["curl", "--silent", "--unix-socket", "DIR/keyhatch.sock", "http://k/-/whoami"];

    // Each unit reads its own.
    let said = lab.in_unit("one", &[&user], &get("/one"));
    assert!(given(&said, "one"), "{said}\n{}", lab.log());
    for (unit, settings, key) in
        [("two@a", "DynamicUser=yes", "two"), ("zwei", "DynamicUser=yes", "two"), ("other", &user, "plain")]
    {
        let said = lab.in_unit(unit, &[settings], &get(&format!("/{key}")));
        assert!(given(&said, key), "{unit}: {said}");
    }
    // One condition alone is not enough; a client with `unit` alone is for nobody here.
    for (unit, settings, key) in [
        ("one", "DynamicUser=yes", "/one"),
        ("one", "User=0", "/one"),
        ("other", &user, "/one"),
        ("one", &user, "/two"),
        ("two@a", &user, "/two"),
        ("three", "DynamicUser=yes", "/two"),
        ("xone", &user, "/one"),
    ] {
        let said = lab.in_unit(unit, &[settings], &get(key));
        assert!(said.contains("not granted"), "{unit} with {settings} has {key}: {said}");
    }
    let said = lab.in_unit("one", &[&user], &whoami);
    assert!(said.contains("\"unit\":\"one.service\"") && said.contains("\"clients\":[\"one\",\"plain\"]"), "{said}");

    the_unit_is_the_outermost(&lab, &user, &whoami);
    a_user_manager_makes_no_units(&lab, &get("/one"), &whoami);
    explain_tells_what_decides(&lab, &user);

    // From outside of the guest: a process that its kernel namespace has no number for.
    let mut curl = as_uid(USER, "curl");
    let socket = lab.directory.path().join("keyhatch.sock");
    let curl = curl.args(["--silent", "--unix-socket"]).arg(socket).arg("http://k/-/whoami");
    let said = text(&curl.output().unwrap());
    assert!(said.contains("\"pid\":0,") && said.contains("\"unit\":null"), "{said}");

    // The first process has ended: its connection is in no unit, in the parent and in the worker.
    for key in ["/one", "/three"] {
        let said = lab.in_unit("one", &[&user, "KillMode=process"], &["perl", "-e", &hand_on, key]);
        assert_eq!(said, "first 200\nthen 403 and 200\n", "{key}");
    }
    assert!(lab.log().contains("TLS roots, units of peers, TCP to"), "{}", lab.log());
    assert!(!lab.log().contains("panicked"), "{}", lab.log());
}

/// A service that may make groups of its own gains nothing by their names.
fn the_unit_is_the_outermost(lab: &Lab, user: &str, whoami: &[&str]) {
    let script = format!(
        "own=/sys/fs/cgroup$(sed -n s/^0:://p /proc/self/cgroup)/one.service && mkdir $own && echo 0 > $own/cgroup.procs && \
         sed -n s/^0:://p /proc/self/cgroup && exec setpriv --reuid={USER} --clear-groups {}",
        whoami.join(" ")
    );
    let said = lab.in_unit("sly", &["Delegate=yes"], &["sh", "-c", &script]);
    assert!(said.contains("/sly.service/one.service\n"), "{said}");
    assert!(said.contains("\"unit\":\"sly.service\"") && said.contains("\"clients\":[\"plain\"]"), "{said}");
    // In a slice, though: that is where systemd puts it.
    let said = lab.in_unit("one", &[user, "Slice=a-b.slice"], whoami);
    assert!(said.contains("\"unit\":\"one.service\""), "{said}");
}

fn a_user_manager_makes_no_units(lab: &Lab, get: &[&str], whoami: &[&str]) {
    let started = lab.run(&["systemctl", "start", &format!("user@{USER}.service")]);
    assert!(started.status.success(), "{}", text(&started));
    let in_manager =
        ["systemd-run", "--user", "-M", "keyhatch-app@", "-q", "--wait", "--pipe", "--collect", "--unit=one.service"];
    let cgroup = text(&lab.run(&[&in_manager[..], &["grep", "^0::", "/proc/self/cgroup"]].concat()));
    assert!(cgroup.starts_with("0::/user.slice/") && cgroup.trim_end().ends_with("/one.service"), "{cgroup}");
    let said = text(&lab.run(&[&in_manager[..], whoami].concat()));
    assert!(said.contains("\"unit\":null") && said.contains(&format!("\"uid\":{USER}")), "{said}");
    let said = text(&lab.run(&[&in_manager[..], get].concat()));
    assert!(said.contains("not granted"), "{said}");
}

fn explain_tells_what_decides(lab: &Lab, user: &str) {
    let started = lab.run(&["systemd-run", "-q", "--unit=one", "-p", user, "sleep", "infinity"]);
    assert!(started.status.success(), "{}", text(&started));
    let pid = text(&lab.run(&["systemctl", "show", "--value", "-p", "MainPID", "one"]));
    let explain = ["KEYHATCH", "explain", "--config", "DIR/keyhatch.toml"];
    let said = text(&lab.run(&[&explain[..], &["--pid", pid.trim(), "/one"]].concat()));
    assert!(said.contains("unit one.service:\n/one is granted by client `one`"), "{said}");
    assert!(text(&lab.run(&["systemctl", "stop", "one"])).is_empty());
}
