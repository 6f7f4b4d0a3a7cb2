//! What systemd does for `LoadCredential=`, by a process in a control group that the test makes.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// Connects from each of the addresses, sends nothing, and reads when it is told to. What is read is told by its length, and
/// as a text if it is short.
const ASK: &str = r#"
use Socket;
my ($path, $group, $uid, @names) = @ARGV;
if ($group) { open(my $g, ">", $group) or die "$group: $!"; syswrite($g, "0") or die $!; close $g }
if ($uid) { $( = $) = "$uid $uid"; $< = $> = $uid; }
$| = 1;
my @all;
for my $name (@names) {
    socket(my $s, PF_UNIX, SOCK_STREAM, 0) or die $!;
    bind($s, pack_sockaddr_un("\0$name")) or die "$name: $!" if $name ne "-";
    my $connected = connect($s, pack_sockaddr_un($path));
    shutdown($s, 1);
    push @all, $connected ? $s : undef;
}
print "connected\n";
if (<STDIN> eq "peek\n") { recv($all[0], my $byte, 1, MSG_PEEK); print "readable\n"; <STDIN> }
for my $s (@all) {
    if (!$s) { print "error 0 \n"; next }
    my ($text, $read) = ("", 1);
    $read = sysread($s, $text, 65536, length $text) while $read;
    my $how = defined $read ? "end" : "error";
    my $shown = length $text < 200 ? $text : "";
    $shown =~ s/\s+/ /g;
    print "$how ", length $text, " $shown\n";
}
"#;

/// A control group of this name, made by hand: what systemd would make for a unit.
pub(crate) struct Group(PathBuf);

impl Group {
    pub(crate) fn new(name: &str) -> Self {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let cgroup2 = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2")).unwrap();
        let group = Path::new(cgroup2.split(' ').nth(1).unwrap()).join(name);
        std::fs::create_dir_all(&group).unwrap();
        Self(group)
    }

    /// What a process writes 0 into to be in it.
    pub(crate) fn procs(&self) -> String {
        self.0.join("cgroup.procs").display().to_string()
    }

    /// Connections from these addresses, by root in this group.
    pub(crate) fn ask(&self, socket: &Path, names: &[String]) -> Asking {
        Asking::new(socket, &self.procs(), 0, names)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // A process that is being reaped may still be in it for a moment.
        for _ in 0..100 {
            if std::fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::park_timeout(std::time::Duration::from_millis(10));
        }
    }
}

/// A process with connections that nobody reads yet.
pub(crate) struct Asking {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    count: usize,
}

/// What came of one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Read {
    /// It ended as a stream does; else with an error, which fails a unit.
    pub(crate) ended: bool,
    pub(crate) length: usize,
    pub(crate) text: String,
}

impl Read {
    /// Whether systemd would start the unit without its value.
    pub(crate) fn fails_the_unit(&self) -> bool {
        !self.ended || self.length > 1 << 20
    }
}

impl Asking {
    /// `group` is empty where the process stays where the test is.
    pub(crate) fn new(socket: &Path, group: &str, uid: u32, names: &[String]) -> Self {
        let mut asking = Self::begun(socket, group, uid, names);
        let mut line = String::new();
        asking.stdout.read_line(&mut line).unwrap();
        assert_eq!(line, "connected\n");
        asking
    }

    /// Waits until something can be read of the first one.
    pub(crate) fn peek(&mut self) {
        self.stdin.as_mut().unwrap().write_all(b"peek\n").unwrap();
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        assert_eq!(line, "readable\n");
    }

    /// The same, while it may still be connecting.
    pub(crate) fn begun(socket: &Path, group: &str, uid: u32, names: &[String]) -> Self {
        let mut perl = Command::new("perl");
        perl.args(["-e", ASK]).arg(socket).arg(group).arg(if uid == 0 { String::new() } else { uid.to_string() });
        let mut child = perl.args(names).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, stdin, stdout, count: names.len() }
    }

    /// Reads all to their ends.
    pub(crate) fn read(mut self) -> Vec<Read> {
        drop(self.stdin.take().map(|mut stdin| stdin.write_all(b"\n")));
        let lines = (&mut self.stdout).lines().map(Result::unwrap).filter(|line| line != "connected");
        let read = |line: String| {
            let parts: Vec<&str> = line.splitn(3, ' ').collect();
            Read { ended: parts[0] == "end", length: parts[1].parse().unwrap(), text: parts[2].to_owned() }
        };
        let read: Vec<Read> = lines.map(read).collect();
        assert_eq!(read.len(), self.count);
        read
    }

    /// Reads the one that there is.
    pub(crate) fn read_one(self) -> Read {
        let mut all = self.read();
        assert_eq!(all.len(), 1);
        all.remove(0)
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
