//! The program itself, by clocks that a test can move: its file `clocks`, beside the executable, holds by how many
//! nanoseconds `CLOCK_REALTIME` and `CLOCK_BOOTTIME` are ahead of this machine's. The program has no such hook: it is
//! linked to this `clock_gettime` instead of the C library's.
#![allow(unsafe_code, clippy::unwrap_used, reason = "a part of the tests: stands in for a function of the C library")]

use std::fs::File;
use std::num::NonZeroUsize;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering};

use nix::libc::{self, c_int, clockid_t, timespec};
use nix::sys::mman::{MapFlags, ProtFlags, mmap};

static AHEAD: OnceLock<&[AtomicI64; 2]> = OnceLock::new();

fn main() -> std::process::ExitCode {
    let path = std::env::current_exe().unwrap().with_file_name("clocks");
    let file = File::open(path).unwrap();
    let length = NonZeroUsize::new(16).unwrap();
    // SAFETY: a new mapping, which nobody unmaps. Its 16 bytes are there, page-aligned, and only read, as atomics.
    let ahead = unsafe {
        mmap(None, length, ProtFlags::PROT_READ, MapFlags::MAP_SHARED, &file, 0)
            .unwrap()
            .cast::<[AtomicI64; 2]>()
            .as_ref()
    };
    AHEAD.set(ahead).unwrap();
    keyhatch::cli::run()
}

/// As clock_gettime(2), but ahead.
///
/// # Safety
/// `time` must be valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(id: clockid_t, time: *mut timespec) -> c_int {
    // SAFETY: the caller's pointer, for the kernel to write to.
    let done = c_int::try_from(unsafe { libc::syscall(libc::SYS_clock_gettime, id, time) }).unwrap_or(-1);
    let which = match id {
        libc::CLOCK_REALTIME => 0,
        libc::CLOCK_BOOTTIME => 1,
        _ => return done,
    };
    let (Some(ahead), 0) = (AHEAD.get(), done) else { return done };
    // SAFETY: valid by the caller's promise, and the kernel has just written it.
    let time = unsafe { &mut *time };
    let nanos = time.tv_sec * 1_000_000_000 + time.tv_nsec + ahead[which].load(Ordering::Relaxed);
    (time.tv_sec, time.tv_nsec) = (nanos.div_euclid(1_000_000_000), nanos.rem_euclid(1_000_000_000));
    0
}
