//! A program for which one system call fails: `failing CALL ERRNO PROGRAM ARGUMENT…`. A filter of the kernel stays over
//! exec, and is there beside the program's own: what fails most severely counts, so it can only take away.
#![allow(clippy::unwrap_used, reason = "part of the tests, which may panic")]

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::errno::Errno;
use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

/// The number, and what is asked of one argument: its index, a mask, the value.
type Call = (i64, Option<(u8, u64, u64)>);

fn call(name: &str) -> Call {
    const CREATE: u64 = libc::O_CREAT as u64;
    match name {
        "fsync" => (libc::SYS_fsync, None),
        "syncfs" => (libc::SYS_syncfs, None),
        "renameat" => (libc::SYS_renameat, None),
        "unlinkat" => (libc::SYS_unlinkat, None),
        "getdents64" => (libc::SYS_getdents64, None),
        "memfd_create" => (libc::SYS_memfd_create, None),
        "openat-create" => (libc::SYS_openat, Some((2, CREATE, CREATE))),
        _ => panic!("unknown call {name}"),
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (number, condition) = call(&arguments[0]);
    let errno: Errno = Errno::from_raw(arguments[1].parse().unwrap());
    let condition = condition.map(|(argument, mask, value)| {
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(mask), value).unwrap()
    });
    let rules = condition.map(|condition| SeccompRule::new(vec![condition]).unwrap()).into_iter().collect();
    let fails = SeccompAction::Errno((errno as i32).cast_unsigned());
    let machine = TargetArch::try_from(std::env::consts::ARCH).unwrap();
    let filter = SeccompFilter::new(BTreeMap::from([(number, rules)]), SeccompAction::Allow, fails, machine).unwrap();
    let program: BpfProgram = filter.try_into().unwrap();
    seccompiler::apply_filter(&program).unwrap();
    panic!("{}", Command::new(&arguments[2]).args(&arguments[3..]).exec());
}
