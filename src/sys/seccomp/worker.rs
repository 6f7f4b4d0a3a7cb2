//! What the worker still calls: an event loop, its connections, the channel, memory. Nothing that takes a path, makes a
//! socket of another kind, starts something, or gives a descriptor to a peer or takes one: by the channel alone they come and go.

use libc::{MSG_FASTOPEN, MSG_OOB, PROT_EXEC};

use super::{Call, any, is, is_not, of_kind, only, with, without};
use crate::sys::spawn::CHANNEL_FD;

pub const CALLS: &[Call] = &[
    // The event loop.
    any(libc::SYS_epoll_create1, "tokio makes its event loop"),
    any(libc::SYS_epoll_ctl, "tokio watches descriptors"),
    #[cfg(target_arch = "x86_64")]
    any(libc::SYS_epoll_wait, "tokio waits"),
    any(libc::SYS_epoll_pwait, "tokio waits, where epoll_wait is a function of the C library only"),
    any(libc::SYS_eventfd2, "tokio wakes its event loop"),
    only(
        libc::SYS_socketpair,
        &[&[is(0, libc::AF_UNIX), of_kind(1, libc::SOCK_STREAM)]],
        "tokio's signal driver has one, used or not",
    ),
    // Connections and the channel.
    any(libc::SYS_accept4, "connections of applications"),
    any(libc::SYS_read, "tokio reads connections"),
    only(libc::SYS_recvfrom, &[&[without(3, MSG_OOB)]], "tokio reads connections; out-of-band data never"),
    only(libc::SYS_recvmsg, &[&[is(0, CHANNEL_FD), without(2, MSG_OOB)]], "frames of the channel, with descriptors"),
    any(libc::SYS_write, "answers; the log; waking the event loop"),
    any(libc::SYS_writev, "answers of several parts"),
    // Without an address: one end of a pair of datagram sockets would send to any other, such as the journal's.
    only(libc::SYS_sendto, &[&[without(3, MSG_OOB | MSG_FASTOPEN), is(5, 0)]], "tokio writes connections"),
    only(
        libc::SYS_sendmsg,
        &[&[is(0, CHANNEL_FD), without(2, MSG_OOB | MSG_FASTOPEN)]],
        "frames of the channel, with the peer's socket",
    ),
    any(libc::SYS_getsockopt, "who the peer is; errors of a socket"),
    any(libc::SYS_getsockname, "tokio, of an accepted connection"),
    any(libc::SYS_getpeername, "tokio, of an accepted connection"),
    // Not of what can be read: the listener may be the service manager's, and nobody would get through to the next start.
    only(libc::SYS_shutdown, &[&[is(1, libc::SHUT_WR)]], "the end of an answer"),
    // Its number stays the channel's: a connection in its place could be given descriptors.
    only(
        libc::SYS_close,
        &[&[is_not(0, CHANNEL_FD)]],
        "the end of anything but the channel, which ends with the process",
    ),
    // Descriptors. The duplicate is the peer's socket, for the parent; debug builds ask whether one is open.
    only(
        libc::SYS_fcntl,
        &[
            &[is(1, libc::F_DUPFD_CLOEXEC)],
            &[is(1, libc::F_GETFD)],
            &[is(1, libc::F_SETFD)],
            &[is(1, libc::F_GETFL)],
            &[is(1, libc::F_SETFL)],
            &[is(1, libc::F_GET_SEALS)],
        ],
        "descriptor flags, a duplicate, the seals of a payload",
    ),
    only(libc::SYS_ioctl, &[&[is(1, FIONBIO)]], "std makes a socket non-blocking"),
    // Payloads, which come as a memfd.
    any(libc::SYS_lseek, "how long a payload is"),
    any(libc::SYS_pread64, "reading a payload"),
    // Memory: never executable.
    any(libc::SYS_brk, "malloc"),
    only(libc::SYS_mmap, &[&[without(2, PROT_EXEC)]], "malloc"),
    any(libc::SYS_munmap, "malloc"),
    any(libc::SYS_mremap, "realloc"),
    any(libc::SYS_madvise, "malloc gives memory back"),
    only(libc::SYS_mprotect, &[&[without(2, PROT_EXEC)]], "malloc"),
    // Time, locks, randomness.
    any(libc::SYS_clock_gettime, "where the vDSO has no clock"),
    only(libc::SYS_futex, &[&[with(1, libc::FUTEX_PRIVATE_FLAG)]], "locks of std, of this process alone"),
    any(libc::SYS_getrandom, "seeds of hash tables"),
    // Signals and the end.
    any(libc::SYS_rt_sigreturn, "the end of a signal handler"),
    any(libc::SYS_rt_sigprocmask, "an abort blocks signals first"),
    any(libc::SYS_sigaltstack, "std removes its signal stack at the end"),
    any(libc::SYS_restart_syscall, "the kernel goes on after a stop"),
    any(libc::SYS_gettid, "a panic names its thread"),
    any(libc::SYS_exit_group, "the end"),
];

/// `FIONBIO` has the type of an unsigned long, and the kernel looks at 32 bits of it.
const FIONBIO: libc::c_int = 0x5421;
