//! What the parent still calls: what the worker does, and sockets to upstreams and the resolver, files below the cache
//! directory (Landlock says where), threads. Nothing that starts a program or looks into another process.

use libc::{
    AF_INET, AF_INET6, AF_NETLINK, AF_UNIX, IPPROTO_TCP, IPPROTO_UDP, MSG_FASTOPEN, MSG_OOB, PROT_EXEC, PROT_WRITE,
};

use super::{Call, any, is, only, with, without};

/// What a new thread is made of; a process lacks it.
const THREAD: libc::c_int = libc::CLONE_THREAD | libc::CLONE_VM | libc::CLONE_SIGHAND;
const NAMESPACES: libc::c_int = libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP;

pub const CALLS: &[Call] = &[
    // The event loop.
    any(libc::SYS_epoll_create1, "tokio makes its event loop"),
    any(libc::SYS_epoll_ctl, "tokio watches descriptors"),
    #[cfg(target_arch = "x86_64")]
    any(libc::SYS_epoll_wait, "tokio waits"),
    any(libc::SYS_epoll_pwait, "tokio waits, where epoll_wait is a function of the C library only"),
    any(libc::SYS_eventfd2, "tokio wakes its event loop"),
    only(libc::SYS_socketpair, &[&[is(0, AF_UNIX)]], "tokio's signal driver"),
    #[cfg(target_arch = "x86_64")]
    any(libc::SYS_poll, "the resolver waits"),
    any(libc::SYS_ppoll, "the resolver waits, where poll is a function of the C library only"),
    // Sockets: to upstreams, to the resolver, to services of this machine that resolve names.
    only(
        libc::SYS_socket,
        &[
            // Protocol 0 is the one of the type. Multipath TCP, for one, would not be held by rules about TCP ports.
            &[is(0, AF_INET), is(2, 0)],
            &[is(0, AF_INET), is(2, IPPROTO_TCP)],
            &[is(0, AF_INET), is(2, IPPROTO_UDP)],
            &[is(0, AF_INET6), is(2, 0)],
            &[is(0, AF_INET6), is(2, IPPROTO_TCP)],
            &[is(0, AF_INET6), is(2, IPPROTO_UDP)],
            &[is(0, AF_UNIX)],
            &[is(0, AF_NETLINK), is(2, libc::NETLINK_ROUTE)],
        ],
        "upstreams; names; which addresses this machine has",
    ),
    any(libc::SYS_connect, "upstreams and resolvers; Landlock limits the TCP ports"),
    any(libc::SYS_bind, "the resolver, on netlink"),
    any(libc::SYS_accept4, "the operator's connections"),
    any(libc::SYS_read, "connections, files"),
    only(libc::SYS_recvfrom, &[&[without(3, MSG_OOB)]], "connections, names; out-of-band data never"),
    only(libc::SYS_recvmsg, &[&[without(2, MSG_OOB)]], "frames of the channel, with descriptors; netlink"),
    any(libc::SYS_write, "requests, answers, files, the log"),
    any(libc::SYS_writev, "requests and answers of several parts"),
    // Fast open connects without connect: no rule about ports is asked.
    only(libc::SYS_sendto, &[&[without(3, MSG_OOB | MSG_FASTOPEN)]], "connections, names"),
    only(libc::SYS_sendmsg, &[&[without(2, MSG_OOB | MSG_FASTOPEN)]], "frames of the channel, with a payload"),
    only(libc::SYS_sendmmsg, &[&[without(3, MSG_OOB | MSG_FASTOPEN)]], "the resolver asks for both address families"),
    any(libc::SYS_getsockopt, "who a peer is; errors of a socket"),
    any(libc::SYS_setsockopt, "TCP_NODELAY; the resolver's own"),
    any(libc::SYS_getsockname, "the listener that a peer came by"),
    any(libc::SYS_getpeername, "whether a peer is connected"),
    any(libc::SYS_pidfd_open, "whose process a peer is, where the kernel has no SO_PEERPIDFD"),
    any(libc::SYS_shutdown, "the end of a connection"),
    any(libc::SYS_close, "the end of anything"),
    // Descriptors.
    only(
        libc::SYS_fcntl,
        &[
            &[is(1, libc::F_DUPFD_CLOEXEC)],
            &[is(1, libc::F_GETFD)],
            &[is(1, libc::F_SETFD)],
            &[is(1, libc::F_GETFL)],
            &[is(1, libc::F_SETFL)],
            &[is(1, libc::F_ADD_SEALS)],
            &[is(1, libc::F_GET_SEALS)],
        ],
        "descriptor flags, a duplicate, the seals of a payload",
    ),
    only(
        libc::SYS_ioctl,
        &[&[is(1, FIONBIO)], &[is(1, FIONREAD)]],
        "std makes a socket non-blocking; the resolver asks for the length of an answer",
    ),
    any(libc::SYS_memfd_create, "payloads for the worker"),
    // Files: which ones, Landlock says.
    any(libc::SYS_openat, "the cache, TLS roots, files of the resolver"),
    #[cfg(target_arch = "x86_64")]
    any(libc::SYS_open, "the C library, in places"),
    any(libc::SYS_fstat, "lengths and owners"),
    any(libc::SYS_newfstatat, "lengths and owners"),
    any(libc::SYS_statx, "lengths and owners"),
    #[cfg(target_arch = "x86_64")]
    any(libc::SYS_stat, "whether a file of the resolver has changed"),
    #[cfg(target_arch = "x86_64")]
    any(libc::SYS_access, "the dynamic loader, for a module of the resolver"),
    any(libc::SYS_faccessat, "the same"),
    #[cfg(target_arch = "x86_64")]
    any(libc::SYS_readlink, "links to TLS roots"),
    any(libc::SYS_readlinkat, "links to TLS roots"),
    any(libc::SYS_getdents64, "what is sealed; TLS roots"),
    any(libc::SYS_lseek, "files"),
    any(libc::SYS_pread64, "sources of type file; modules of the resolver"),
    any(libc::SYS_fsync, "what is sealed stays"),
    any(libc::SYS_syncfs, "many sealed files stay"),
    any(libc::SYS_renameat, "a sealed file takes its name"),
    any(libc::SYS_renameat2, "a sealed file takes its name"),
    any(libc::SYS_unlinkat, "a sealed file goes"),
    any(libc::SYS_flock, "the cache directory is for one parent"),
    // Memory: never written and executed at once. Modules of the resolver are mapped from files.
    any(libc::SYS_brk, "malloc"),
    only(
        libc::SYS_mmap,
        &[&[without(2, PROT_EXEC)], &[without(2, PROT_WRITE), without(3, libc::MAP_ANONYMOUS)]],
        "malloc, stacks of threads, modules of the resolver",
    ),
    any(libc::SYS_munmap, "malloc"),
    any(libc::SYS_mremap, "realloc"),
    any(libc::SYS_memfd_secret, "pages for tokens"),
    any(libc::SYS_ftruncate, "the length of those"),
    any(libc::SYS_mlock, "the same pages, where the kernel has no secret ones"),
    any(libc::SYS_madvise, "malloc gives memory back; the stack of a thread that ends"),
    only(libc::SYS_mprotect, &[&[without(2, PROT_EXEC)]], "malloc, guard pages, modules of the resolver"),
    // Threads: the log, the disk, names. Never a process.
    only(libc::SYS_clone, &[&[with(0, THREAD), without(0, NAMESPACES)]], "threads"),
    any(libc::SYS_clone3, "answered as absent, see below"),
    any(libc::SYS_set_robust_list, "a new thread"),
    any(libc::SYS_rseq, "a new thread"),
    any(libc::SYS_sched_getaffinity, "std, for the stack of a new thread"),
    any(libc::SYS_sched_yield, "a queue that is full for a moment"),
    only(libc::SYS_prctl, &[&[is(0, libc::PR_SET_NAME)]], "the name of a thread"),
    any(libc::SYS_exit, "the end of a thread"),
    // Time, locks, randomness.
    any(libc::SYS_clock_gettime, "where the vDSO has no clock"),
    any(libc::SYS_clock_nanosleep, "a thread that waits for its turn"),
    any(libc::SYS_futex, "locks; a thread that ends wakes who waits for it, by a futex that is not private"),
    any(libc::SYS_getrandom, "keys, nonces, seeds"),
    // Signals and the end.
    any(libc::SYS_rt_sigaction, "SIGTERM, SIGINT and SIGHUP"),
    any(libc::SYS_rt_sigreturn, "the end of a signal handler"),
    any(libc::SYS_rt_sigprocmask, "a new thread; an abort"),
    any(libc::SYS_sigaltstack, "the signal stack of a thread"),
    any(libc::SYS_restart_syscall, "the kernel goes on after a stop"),
    any(libc::SYS_gettid, "the name of a thread in a panic"),
    any(libc::SYS_getpid, "the resolver"),
    any(libc::SYS_getuid, "the C library, for a module of the resolver"),
    any(libc::SYS_geteuid, "the C library, for a module of the resolver"),
    any(libc::SYS_uname, "the resolver, for the domain of this machine"),
    any(libc::SYS_sysinfo, "qsort of the C library, which sorts addresses"),
    any(libc::SYS_exit_group, "the end"),
];

/// What is answered as absent. The flags of clone3 are behind a pointer, which no filter can see; the C library then takes
/// clone.
pub const ANSWERED: &[Call] = &[any(libc::SYS_clone3, "threads")];

const FIONBIO: libc::c_int = 0x5421;
const FIONREAD: libc::c_int = 0x541B;
