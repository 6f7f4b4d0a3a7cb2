//! The runner, looked at from outside: what it is, what the programs are that it runs, what those can do to anybody else, and
//! how all of them end. Then against a parent that was taken over.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "runner/parent.rs"]
mod parent;
#[path = "command/scene.rs"]
mod scene;
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use keyhatch::ipc::run::{AT_ONCE, End, FromRunner, LONGEST, ToRunner};
use keyhatch::ipc::wire;
use parent::Parent;
use scene::{Scene, is_there, prepared, serving};
use support::{GRANTED, PARENT, TOKEN, WORKER, as_uid, memory_holds, send, wait_until};

const VALUE: &str = "planted-value-of-a-program-3c";

fn field(pid: u32, name: &str) -> Vec<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
    line.split_whitespace().map(str::to_owned).collect()
}

fn children(pid: u32) -> Vec<u32> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    list.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

/// What each descriptor is, without the numbers of pipes and sockets.
fn descriptors(pid: u32) -> Vec<(u32, String)> {
    let mut found: Vec<(u32, String)> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|entry| {
            let path = entry.unwrap().path();
            let target = fs::read_link(&path).ok()?.display().to_string();
            let kind = target.split(":[").next().unwrap().to_owned();
            let kind = if kind == "anon_inode" { target } else { kind };
            Some((path.file_name().unwrap().to_str().unwrap().parse().unwrap(), kind))
        })
        .collect();
    found.sort();
    found
}

/// A broker in which a program has read its token, written its value, and goes on.
fn running() -> Scene {
    let script = format!("cat <&3 > /dev/null; echo {VALUE}; : > \"$(dirname \"$0\")/scratch/here\"; sleep 600");
    let mut scene = prepared(&[("slow", &script, "token = \"t\"", "timeout = \"3s\"\nfetch-timeout = \"20s\"")]);
    let here = scene.scratch().join("here");
    scene.broker.start();
    std::thread::scope(|scope| {
        scope.spawn(|| scene.broker.curl(GRANTED, "/slow", &["--max-time", "1"]));
        wait_until("it runs", || here.exists());
    });
    scene
}

#[test]
#[ignore = "needs root: runs programs as another user"]
fn a_program_is_its_own_user_and_has_nothing_but_what_it_is_given() {
    let script = "\
        for name in Uid Gid Groups CapInh CapPrm CapEff CapBnd CapAmb NoNewPrivs Seccomp SigIgn SigBlk; do \
        grep \"^$name:\" /proc/self/status; done; \
        echo \"Umask: $(umask)\"; echo \"Cwd: $(pwd)\"; echo \"Core: $(ulimit -c)\"; printf 'Descriptors: '; ls -m /proc/$$/fd; \
        echo \"Environment: $(tr '\\0' ' ' < /proc/$$/environ)\"; echo \"Nice: $(cut -d' ' -f5 /proc/$$/stat | sed s/^$$\\$/own-group/)\"";
    let scene = serving(&[
        ("plain", script, "", ""),
        (
            "given",
            script,
            "token = \"t\", directory = \"/usr\", environment = { HOME = \"/var/lib/op\", A = \"b c\" }",
            "",
        ),
        ("path", script, "environment = { PATH = \"/bin\" }", ""),
    ]);
    let of = |key: &str| -> BTreeMap<String, String> {
        let told = scene.good(key);
        let pair = |line: &str| line.split_once(':').map(|(name, value)| (name.to_owned(), value.trim().to_owned()));
        told.lines().filter_map(pair).collect()
    };
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let plain = of("/plain");
    for ids in ["Uid", "Gid"] {
        assert_eq!(plain[ids], [scene.user.to_string().as_str(); 4].join("\t"));
    }
    assert_eq!(plain["Groups"], "");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "SigBlk"] {
        assert_eq!(plain[set], "0000000000000000", "{set}");
    }
    // Two of the C library's own are nobody's to set, and stay as whoever runs this has them.
    assert_eq!(u64::from_str_radix(&plain["SigIgn"], 16).unwrap() & 0x7fff_ffff, 0);
    assert_eq!((plain["NoNewPrivs"].as_str(), plain["Seccomp"].as_str()), ("1", "2"));
    assert_eq!((plain["Umask"].as_str(), plain["Cwd"].as_str(), plain["Core"].as_str()), ("0077", "/", "0"));
    // The shell has its script open.
    assert_eq!(plain["Descriptors"], "0, 1, 10, 2");
    assert_eq!(plain["Environment"], path);
    assert_eq!(plain["Nice"], "own-group");
    let given = of("/given");
    assert_eq!(given["Descriptors"], "0, 1, 10, 2, 3");
    assert_eq!(given["Cwd"], "/usr");
    assert_eq!(given["Environment"], format!("A=b c HOME=/var/lib/op KEYHATCH_TOKEN_FD=3 {path}"));
    assert_eq!(of("/path")["Environment"], "PATH=/bin");
}

#[test]
#[ignore = "needs root: looks into the processes of others"]
fn the_runner_can_become_other_users_and_do_nothing_else_of_roots() {
    let scene = running();
    let runner = scene.runner();
    for pid in [runner, children(runner)[0]] {
        assert_eq!(field(pid, "Uid"), vec!["0"; 4]);
        assert_eq!(field(pid, "Groups"), Vec::<String>::new());
        // CAP_SETGID and CAP_SETUID.
        for (set, holds) in [("CapPrm", "c0"), ("CapEff", "c0"), ("CapInh", "00"), ("CapBnd", "00"), ("CapAmb", "00")] {
            assert_eq!(field(pid, set), [format!("00000000000000{holds}")], "{set}");
        }
        assert_eq!((field(pid, "NoNewPrivs"), field(pid, "Seccomp")), (vec!["1".to_owned()], vec!["2".to_owned()]));
        assert_eq!(field(pid, "Threads"), ["1"]);
        assert!(fs::read(format!("/proc/{pid}/environ")).unwrap().is_empty());
        for bytes in [TOKEN, VALUE] {
            assert!(!memory_holds(pid, bytes.as_bytes()), "{bytes} in {pid}");
        }
        assert!(memory_holds(pid, b"run-slow"), "the scan finds what is there");
    }
    let kinds: Vec<(u32, String)> = descriptors(runner);
    let kinds: Vec<&str> = kinds.iter().map(|(_, kind)| kind.as_str()).collect();
    // Standard input and output, the broker's log, the channel, the line to the supervisor.
    let log = scene.broker.path("log").display().to_string();
    assert_eq!(kinds, ["/dev/null", "/dev/null", &log, "socket", "socket"]);
    // The supervisor: its line, where standard error comes in, what it is thrown into, why the program could not be executed, its
    // children and their ends. Neither the channel nor the lines of others.
    let kinds = descriptors(children(runner)[0]);
    let mut kinds: Vec<&str> = kinds.iter().map(|(_, kind)| kind.as_str()).collect();
    let begin: Vec<&str> = kinds.drain(..3).collect();
    assert_eq!(begin, ["/dev/null", "/dev/null", log.as_str()]);
    kinds.sort_unstable();
    kinds.retain(|kind| !kind.starts_with("/proc/"));
    assert_eq!(kinds, ["/dev/null", "anon_inode:[signalfd]", "pipe", "pipe", "socket"]);
    assert!(!memory_holds(scene.broker.worker(), TOKEN.as_bytes()));
    // In the parent it went from its own pages into the pipe.
    let parent = scene.broker.parent();
    let secret = fs::read_to_string(format!("/proc/{parent}/maps")).unwrap().contains("/secretmem");
    assert!(!secret || !memory_holds(parent, TOKEN.as_bytes()));
    for layer in ["capabilities: CAP_SETUID and CAP_SETGID, none for programs", "no-dump: no core", "no-new-privs: set"]
    {
        let line = |line: &str| line.contains(layer) && line.contains("role=\"runner\" holds=true");
        assert!(scene.broker.log().lines().any(line), "{layer}\n{}", scene.broker.log());
    }
    let mut status = std::process::Command::new(env!("CARGO_BIN_EXE_keyhatch"));
    let status = status.arg("status").arg("--admin-socket").arg(scene.broker.path("admin.sock")).output().unwrap();
    let status = String::from_utf8(status.stdout).unwrap();
    let told: Vec<&str> = status.lines().filter(|line| line.starts_with("runner ")).collect();
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/privsep.md")).unwrap();
    let shown: Vec<&str> = page.lines().filter(|line| line.starts_with("runner ")).collect();
    assert!(told.len() == 6 && (told == shown || !cfg!(target_arch = "x86_64")), "{told:#?}");
    for uid in [scene.user, PARENT, WORKER] {
        for pid in [runner, children(runner)[0]] {
            let mut look = as_uid(uid, "sh");
            look.args(["-c", "exec 3<\"$1\"", "sh"])
                .arg(format!("/proc/{pid}/mem"))
                .stderr(std::process::Stdio::null());
            assert!(!look.status().unwrap().success(), "{uid} reads {pid}");
            let mut kill = as_uid(uid, "kill");
            assert!(!kill.args(["-0", &pid.to_string()]).output().unwrap().status.success(), "{uid} may signal {pid}");
        }
    }
}

#[test]
#[ignore = "needs root: runs programs as another user"]
fn a_program_reaches_none_of_ours_and_gains_nothing() {
    let reach = "\
        parent() { sed -n 's/^PPid:[^0-9]*//p' \"/proc/$1/status\"; }\n\
        supervisor=$PPID; runner=$(parent $supervisor); broker=$(parent $runner)\n\
        echo \"known $(cat /proc/$supervisor/comm /proc/$runner/comm | tr '\\n' ' ')\"\n\
        for pid in $$ $supervisor $runner $broker; do\n\
        for file in mem environ maps; do (head -c 1 /proc/$pid/$file > /dev/null || exec 4< /proc/$pid/$file) 2> /dev/null && echo \"reads $file of $pid\"; done\n\
        ls /proc/$pid/fd/ > /dev/null 2>&1 && echo \"sees descriptors of $pid\"\n\
        kill -0 $pid 2> /dev/null && echo \"signals $pid\"\n\
        done; echo own $$";
    let gain = "cd \"$(dirname \"$0\")\"; ./setuid -u; cat token seal.key keyhatch.toml 2> /dev/null; \
        ls cache 2> /dev/null; (: > mine) 2> /dev/null || echo read-only";
    let refused = "#!/usr/bin/perl\n\
        for my $call (101, 310, 321, 272, 425, map { 0x40000000 + $_ } 101, 272, 521) { my $r = syscall($call, 0, 0, 0, 0, 0); print \"$call \", ($r < 0 ? $! + 0 : 'done'), \"\\n\" }";
    let others = "kill -0 $(cat \"$(dirname \"$0\")/other\") 2> /dev/null && echo mine || echo not mine";
    let keys =
        [("reach", reach, "", ""), ("gain", gain, "", ""), ("refused", refused, "", ""), ("others", others, "", "")];
    let mut scene = prepared(&keys);
    fs::copy("/usr/bin/id", scene.broker.path("setuid")).unwrap();
    fs::set_permissions(scene.broker.path("setuid"), fs::Permissions::from_mode(0o4755)).unwrap();
    let control = as_uid(scene.user, scene.broker.path("setuid").to_str().unwrap()).arg("-u").output().unwrap();
    assert_eq!(control.stdout, b"0\n", "a setuid program works here, where nothing keeps it from that");
    scene.broker.start();
    let told = scene.good("/reach");
    let own = told.lines().last().unwrap().strip_prefix("own ").unwrap().to_owned();
    let reached: Vec<&str> = told.lines().filter(|line| line.contains(" of ") || line.starts_with("signals")).collect();
    let of_own = ["mem", "environ", "maps"].map(|file| format!("reads {file} of {own}"));
    let of_own: Vec<String> =
        of_own.into_iter().chain([format!("sees descriptors of {own}"), format!("signals {own}")]).collect();
    assert_eq!(reached, of_own, "{told}");
    assert_eq!(scene.good("/gain"), format!("{}\nread-only", scene.user));
    // Another process of the same user, which is none of the runner's.
    let mut other = as_uid(scene.user, "sleep").arg("600").spawn().unwrap();
    scene.broker.write("other", &other.id().to_string(), 0o644);
    let mine = scene.good("/others");
    other.kill().unwrap();
    other.wait().unwrap();
    let scoped = scene.broker.log().contains("layer landlock: programs signal each other");
    assert_eq!(mine, if scoped { "not mine" } else { "mine" });
    if cfg!(target_arch = "x86_64") {
        // ptrace, process_vm_readv, bpf, unshare, io_uring_setup; the first of them by their second numbers: EPERM.
        let second = [101, 272, 521].map(|call| format!("\n{} 1", 0x4000_0000 + call)).concat();
        assert_eq!(scene.good("/refused"), format!("101 1\n310 1\n321 1\n272 1\n425 1{second}"));
    }
}

#[test]
#[ignore = "needs root: runs programs as another user"]
fn the_end_of_any_of_them_is_the_end_of_all() {
    let ended = |scene: &Scene, pids: &[u32], what: &str| {
        let began = Instant::now();
        wait_until(what, || !pids.iter().any(|pid| is_there(*pid)));
        scene.nothing_is_left(what);
        assert!(began.elapsed() < Duration::from_secs(5), "{what}: by the end of file, and by no timeout");
    };
    let mut scene = running();
    let (runner, worker) = (scene.runner(), scene.broker.worker());
    scene.broker.end("KILL");
    ended(&scene, &[runner, worker], "the parent's death");

    let mut scene = running();
    let worker = scene.broker.worker();
    send("KILL", scene.runner());
    assert_eq!(scene.broker.end("CONT"), Some(1), "{}", scene.broker.log());
    assert!(scene.broker.log().contains("the runner is gone"), "{}", scene.broker.log());
    ended(&scene, &[worker], "the runner's death");

    let mut scene = running();
    let runner = scene.runner();
    send("KILL", scene.broker.worker());
    assert_eq!(scene.broker.end("CONT"), Some(1));
    ended(&scene, &[runner], "the worker's death");

    // Root alone can kill a supervisor. Nobody knows then what runs, and the broker does not go on.
    let mut scene = running();
    let runner = scene.runner();
    let supervisor = children(runner)[0];
    let program = children(supervisor)[0];
    send("KILL", supervisor);
    assert_eq!(scene.broker.end("CONT"), Some(1), "{}", scene.broker.log());
    assert!(scene.broker.log().contains("the supervisor of a command is gone"), "{}", scene.broker.log());
    send("KILL", program);
    scene.processes().into_iter().for_each(|pid| send("KILL", pid));

    let mut scene = running();
    let runner = scene.runner();
    assert_eq!(scene.broker.end("TERM"), Some(0), "{}", scene.broker.log());
    ended(&scene, &[runner], "an orderly end");
}

#[test]
#[ignore = "needs root: starts it as somebody else"]
fn without_root_programs_are_the_callers_and_the_warning_says_so() {
    let mut scene = prepared(&[("who", "id -u; sleep 600 & true", "", ""), ("given", "cat <&3", "token = \"t\"", "")]);
    let mut chown = std::process::Command::new("chown");
    assert!(chown.args(["-R", &GRANTED.to_string()]).arg(scene.broker.directory.path()).status().unwrap().success());
    scene.broker.start_by(as_uid(GRANTED, env!("CARGO_BIN_EXE_keyhatch")), &[]);
    assert_eq!(scene.good("/who"), GRANTED.to_string());
    assert_eq!(scene.good("/given"), TOKEN);
    assert!(scene.broker.log().contains("; programs run as the same user, too"), "{}", scene.broker.log());
    let line = |line: &str| line.contains("layer user: uid 61010") && line.contains("role=\"runner\" holds=false");
    assert!(scene.broker.log().lines().any(line), "{}", scene.broker.log());
    assert!(Path::new(&format!("/proc/{}/exe", scene.runner())).exists());
}

#[test]
fn without_a_command_there_is_no_runner() {
    let mut broker = support::Broker::prepared(|_| "[keys]\n".to_owned());
    broker.start_by(std::process::Command::new(env!("CARGO_BIN_EXE_keyhatch")), &[]);
    assert_eq!(children(broker.parent()).len(), 1);
    assert!(!broker.log().contains("runner"), "{}", broker.log());
}

fn encoded(frame: &ToRunner) -> Vec<u8> {
    wire::encode(frame).unwrap()
}

#[test]
fn the_first_surprise_ends_the_runner() {
    let run = |id| encoded(&ToRunner::Run { id, program: 0 });
    let cases: [(&str, Vec<u8>, &str); 7] = [
        ("garbage", vec![0xff; 8], "a frame that does not decode"),
        ("an unknown tag", vec![2, 0], "a frame that does not decode"),
        ("cut in the middle", run(1 << 40)[..4].to_vec(), "a frame that does not decode"),
        ("a trailing byte", [run(0), vec![0]].concat(), "1 bytes after the end of a frame"),
        ("too long by one byte", vec![0; LONGEST + 1], "a frame that is too long"),
        ("too long by far", vec![0; 60_000], "a frame that is too long"),
        ("another program", encoded(&ToRunner::Run { id: 0, program: 2 }), "no program has this number"),
    ];
    for (name, frame, told) in cases {
        let parent = Parent::start(None, &["true", "sleep 600"]);
        parent.send(&frame, &[]);
        parent.expect_end(name, told);
    }
    let parent = Parent::start(None, &["true"]);
    parent.send(&encoded(&ToRunner::Stop { id: 7 }), &[parent.channel.as_fd()]);
    parent.expect_end("a descriptor", "a descriptor where there is none");
    for count in [2, 64, 200] {
        let parent = Parent::start(None, &["true"]);
        parent.send(&encoded(&ToRunner::Stop { id: 7 }), &vec![parent.channel.as_fd(); count]);
        parent.expect_end("descriptors", "");
    }
    let parent = Parent::start(None, &["sleep 600"]);
    parent.send(&run(5), &[]);
    parent.send(&run(5), &[]);
    parent.expect_end("one number twice", "a run too many, or one of this number already");
    let parent = Parent::start(None, &["sleep 600"]);
    (0..=AT_ONCE as u64).for_each(|id| parent.send(&run(id), &[]));
    parent.expect_end("more than may be", "a run too many, or one of this number already");
}

#[test]
fn a_parent_that_is_gone_is_no_surprise() {
    let mut parent = Parent::start(None, &["sleep 600"]);
    parent.send(&encoded(&ToRunner::Run { id: 0, program: 0 }), &[]);
    assert!(matches!(parent.hear(), FromRunner::Output { id: 0 }));
    assert_eq!(parent.end(), (Some(0), String::new()));
}

#[test]
fn an_end_that_comes_with_others_is_not_missed() {
    let mut parent = Parent::start(None, &["exec 2>&-; exec >&-; exit 7", "sleep 600"]);
    for id in 0..200 {
        parent.send(&encoded(&ToRunner::Run { id, program: 0 }), &[]);
        assert!(matches!(parent.hear(), FromRunner::Output { .. }));
        // One that has ended, and one that never was.
        parent.send(&encoded(&ToRunner::Stop { id: id.wrapping_sub(1) }), &[]);
        match parent.hear() {
            FromRunner::Ended { id: ended, end, said: 0 } => assert_eq!((ended, end), (id, End::Exited(7))),
            _ => panic!("another frame"),
        }
    }
    parent.send(&encoded(&ToRunner::Run { id: 1000, program: 1 }), &[]);
    assert!(matches!(parent.hear(), FromRunner::Output { id: 1000 }));
    parent.send(&encoded(&ToRunner::Stop { id: 1000 }), &[]);
    assert!(matches!(parent.hear(), FromRunner::Ended { id: 1000, end: End::Killed(9), .. }));
    assert_eq!(parent.end(), (Some(0), String::new()));
}
