//! What neither the runner nor a program that it runs may call. A filter is inherited for good, and an honest program may call
//! nearly anything: so this is what no program needs that fetches a secret, and what looks into or reshapes the system.

use super::{Call, any, only, with};

pub const REFUSED: &[Call] = &[
    // Other processes.
    any(libc::SYS_ptrace, "looks into another process"),
    any(libc::SYS_process_vm_readv, "reads the memory of another process"),
    any(libc::SYS_process_vm_writev, "writes the memory of another process"),
    any(libc::SYS_pidfd_getfd, "takes a descriptor of another process"),
    any(libc::SYS_kcmp, "compares what two processes have"),
    any(libc::SYS_perf_event_open, "watches other processes"),
    // Interfaces of the kernel with a history.
    any(libc::SYS_bpf, "programs in the kernel"),
    any(libc::SYS_userfaultfd, "stops the kernel in the middle of a copy"),
    any(libc::SYS_io_uring_setup, "calls that no filter sees"),
    any(libc::SYS_io_uring_enter, "the same"),
    any(libc::SYS_io_uring_register, "the same"),
    any(libc::SYS_add_key, "keys in the kernel outlive a run"),
    any(libc::SYS_request_key, "the same"),
    any(libc::SYS_keyctl, "the same"),
    // Namespaces, in which anybody is root.
    any(libc::SYS_unshare, "a namespace of one's own"),
    any(libc::SYS_setns, "a namespace of others"),
    only(libc::SYS_clone, &[&[with(0, libc::CLONE_NEWUSER)]], "a namespace of one's own"),
    any(libc::SYS_mount, "file systems"),
    any(libc::SYS_umount2, "file systems"),
    any(libc::SYS_pivot_root, "file systems"),
    any(libc::SYS_open_tree, "file systems"),
    any(libc::SYS_move_mount, "file systems"),
    any(libc::SYS_fsopen, "file systems"),
    any(libc::SYS_mount_setattr, "file systems"),
];
