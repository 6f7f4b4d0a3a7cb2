//! Enters a sandbox by the functions that the roles enter it by, then tries one thing.
//!
//! `probe ROLE STEP [ARGUMENT…]` prints `done`, or the error, or dies of what it tried. `probe refuse CALL PROGRAM…`
//! executes a program for which the kernel has no such call, or no such option of sockets.
#![allow(clippy::unwrap_used, reason = "what is missing here is a fault of the test")]

mod steps;

use std::io::Write;
use std::os::fd::IntoRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use keyhatch::boot;
use keyhatch::config::{Config, SandboxMode, SourceText, System, parse};
use keyhatch::sys::landlock::{narrow, shut};
use keyhatch::sys::spawn::CHANNEL_FD;
use keyhatch::sys::{file, namespaces, process};
use nix::libc;
use seccompiler::{SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    // A step that closes what happens to have the channel's number would end by that, and not by what it tries.
    while std::fs::File::open("/dev/null").unwrap().into_raw_fd() < CHANNEL_FD {}
    let said = match arguments[..] {
        ["refuse", call, program, ..] => refuse(call, program, &arguments[3..]),
        [role, step, ..] => {
            let step = steps::prepare(step, &arguments[2..]);
            match enter(role) {
                true => steps::tell(step()),
                false => "absent".to_owned(),
            }
        }
        _ => panic!("probe ROLE STEP [ARGUMENT…]"),
    };
    std::io::stdout().write_all(said.as_bytes()).unwrap();
}

/// Whether there is such a sandbox here.
fn enter(role: &str) -> bool {
    let (role, directory) = role.split_once('=').unwrap_or((role, ""));
    match role {
        "none" => {}
        "worker" => drop(boot::confine_worker(Some((61_002, 61_002)), SandboxMode::Strict).unwrap()),
        "parent" => {
            let config = configuration(Path::new(directory));
            let mut store = file::find_directory(&config.cache.directory).unwrap();
            boot::confine_parent(Some((61_001, 61_001)), &config, &mut store).unwrap();
            // It stays open: the rules are about the directory, not about this hold on it.
            std::mem::forget(store);
        }
        "shut" => drop(shut().unwrap()),
        "narrow" => {
            let config = configuration(Path::new(directory));
            let store = file::open_directory(&config.cache.directory).unwrap();
            narrow(&boot::reach(&config, std::os::fd::AsFd::as_fd(&store))).unwrap();
        }
        "left" => namespaces::leave().unwrap(),
        "no-new-code" => return process::no_new_code(),
        other => panic!("no role {other}"),
    }
    true
}

fn configuration(directory: &Path) -> Config {
    let path: PathBuf = directory.join("keyhatch.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    parse(vec![SourceText { path, text }], &System).unwrap()
}

fn refuse(call: &str, program: &str, arguments: &[&str]) -> String {
    let mut rules = Vec::new();
    let number = match call {
        "SO_PEERPIDFD" => {
            let option = u64::try_from(libc::SO_PEERPIDFD).unwrap();
            let is = SeccompCondition::new(2, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, option).unwrap();
            rules.push(SeccompRule::new(vec![is]).unwrap());
            libc::SYS_getsockopt
        }
        "landlock_create_ruleset" => libc::SYS_landlock_create_ruleset,
        "unshare" => libc::SYS_unshare,
        "pivot_root" => libc::SYS_pivot_root,
        "seccomp" => libc::SYS_seccomp,
        other => panic!("no call {other}"),
    };
    let errno = if call == "SO_PEERPIDFD" { libc::ENOPROTOOPT } else { libc::ENOSYS };
    let filter = seccompiler::SeccompFilter::new(
        [(number, rules)].into(),
        seccompiler::SeccompAction::Allow,
        seccompiler::SeccompAction::Errno(errno.cast_unsigned()),
        std::env::consts::ARCH.try_into().unwrap(),
    );
    let program_of_filter: seccompiler::BpfProgram = filter.unwrap().try_into().unwrap();
    seccompiler::apply_filter(&program_of_filter).unwrap();
    Command::new(program).args(arguments).exec().to_string()
}
