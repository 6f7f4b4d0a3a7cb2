//! The system calls that a role can still make (seccomp(2)): a list for each role, with a reason for each call.
//!
//! What is not on the list ends the process; of the runner, whose programs may call nearly anything, it is a list of what is
//! refused. Filters look at numbers, never at what a pointer points to.

mod parent;
mod runner;
mod worker;

pub use parent::{ANSWERED as PARENT_ANSWERED, CALLS as PARENT};
pub use runner::REFUSED as RUNNER_REFUSED;
pub use worker::CALLS as WORKER;

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

/// `argument & mask == value`, or the opposite, of the lower half of an argument: of all that are looked at, the kernel takes no more.
#[derive(Clone, Copy)]
pub struct Check {
    argument: u8,
    mask: u32,
    value: u32,
    differs: bool,
}

/// A call that is allowed if all checks of one alternative hold; without alternatives, always.
pub struct Call {
    number: libc::c_long,
    alternatives: &'static [&'static [Check]],
    /// For whoever reads the list.
    _why: &'static str,
}

const fn any(number: libc::c_long, why: &'static str) -> Call {
    Call { number, alternatives: &[], _why: why }
}

const fn only(number: libc::c_long, alternatives: &'static [&'static [Check]], why: &'static str) -> Call {
    Call { number, alternatives, _why: why }
}

/// The argument is this value.
const fn is(argument: u8, value: libc::c_int) -> Check {
    Check { argument, mask: u32::MAX, value: value.cast_unsigned(), differs: false }
}

/// The argument is any other.
const fn is_not(argument: u8, value: libc::c_int) -> Check {
    Check { differs: true, ..is(argument, value) }
}

/// A socket of this kind, whatever flags come with that (socket(2)).
const fn of_kind(argument: u8, kind: libc::c_int) -> Check {
    Check { mask: 0xf, ..is(argument, kind) }
}

/// None of these bits is set in the argument.
const fn without(argument: u8, bits: libc::c_int) -> Check {
    Check { argument, mask: bits.cast_unsigned(), value: 0, differs: false }
}

/// All of these bits are set in the argument.
const fn with(argument: u8, bits: libc::c_int) -> Check {
    Check { argument, mask: bits.cast_unsigned(), value: bits.cast_unsigned(), differs: false }
}

/// Refuses all calls but these, for good and for all threads: any other ends the process.
pub fn allow_only(calls: &[Call]) -> Result<(), seccompiler::Error> {
    install(calls, SeccompAction::KillProcess, SeccompAction::Allow)
}

/// These calls are answered "no such call": whoever makes them knows another way.
pub fn answer_absent(calls: &[Call]) -> Result<(), seccompiler::Error> {
    install(calls, SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS.cast_unsigned()))
}

/// These calls are not permitted, as an error that whoever makes them may live with.
pub fn refuse(calls: &[Call]) -> Result<(), seccompiler::Error> {
    #[cfg(target_arch = "x86_64")]
    refuse_x32()?;
    install(calls, SeccompAction::Allow, SeccompAction::Errno(libc::EPERM.cast_unsigned()))
}

/// Where the kernel has it, each call has a second number there, which a list of what is refused does not name (seccomp(2)).
#[cfg(target_arch = "x86_64")]
fn refuse_x32() -> Result<(), seccompiler::Error> {
    // BPF_LD | BPF_W | BPF_ABS, BPF_JMP | BPF_JGE | BPF_K, BPF_RET | BPF_K
    const LOAD: u16 = 0x20;
    const JUMP_IF_AT_LEAST: u16 = 0x35;
    const RETURN: u16 = 0x06;
    const X32: u32 = 0x4000_0000;
    let step = |code, jt, jf, k| seccompiler::sock_filter { code, jt, jf, k };
    let program = [
        // The number of the call is the first word of what a filter sees.
        step(LOAD, 0, 0, 0),
        step(JUMP_IF_AT_LEAST, 0, 1, X32),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned()),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    seccompiler::apply_filter_all_threads(&program)
}

fn install(calls: &[Call], others: SeccompAction, these: SeccompAction) -> Result<(), seccompiler::Error> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for call in calls {
        let alternatives = call.alternatives.iter().map(|checks| rule(checks)).collect::<Result<Vec<_>, _>>()?;
        rules.entry(call.number).or_default().extend(alternatives);
    }
    let machine = TargetArch::try_from(std::env::consts::ARCH)?;
    let program: BpfProgram = SeccompFilter::new(rules, others, these, machine)?.try_into()?;
    seccompiler::apply_filter_all_threads(&program)
}

fn rule(checks: &[Check]) -> Result<SeccompRule, seccompiler::BackendError> {
    let condition = |check: &Check| {
        let masked = SeccompCmpOp::MaskedEq(u64::from(check.mask));
        let compares = if check.differs { SeccompCmpOp::Ne } else { masked };
        SeccompCondition::new(check.argument, SeccompCmpArgLen::Dword, compares, u64::from(check.value))
    };
    SeccompRule::new(checks.iter().map(condition).collect::<Result<Vec<_>, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What neither role may ever do, whoever extends its list.
    #[test]
    fn some_calls_are_on_no_list() {
        let never = [
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_process_vm_writev,
            libc::SYS_io_uring_setup,
            libc::SYS_io_uring_enter,
            libc::SYS_io_uring_register,
            libc::SYS_mount,
            libc::SYS_pivot_root,
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_bpf,
            libc::SYS_keyctl,
            libc::SYS_add_key,
            libc::SYS_userfaultfd,
            libc::SYS_perf_event_open,
            libc::SYS_pidfd_getfd,
            libc::SYS_setresuid,
            libc::SYS_kill,
        ];
        for call in WORKER.iter().chain(PARENT) {
            assert!(!never.contains(&call.number), "{}", call.number);
        }
        let of_worker = [libc::SYS_socket, libc::SYS_connect, libc::SYS_openat, libc::SYS_clone, libc::SYS_clone3];
        assert!(WORKER.iter().all(|call| !of_worker.contains(&call.number)));
    }

    /// The rules of one call are alternatives: a second line would widen the first one unseen.
    #[test]
    fn a_call_stands_once_in_a_list() {
        for list in [WORKER, PARENT, RUNNER_REFUSED] {
            let numbers: std::collections::BTreeSet<_> = list.iter().map(|call| call.number).collect();
            assert_eq!(numbers.len(), list.len());
        }
    }
}
