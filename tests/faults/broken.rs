//! The program itself, for which one call fails on what is in the cache directory, and there alone: `KEYHATCH_FAULT=CALL:ERRNO`.
//! `failing.rs` does the same for calls that nothing else makes; these are made all the time. The program has no such hook:
//! it is linked to these functions instead of the C library's.
#![allow(unsafe_code, clippy::unwrap_used, reason = "a part of the tests: stands in for functions of the C library")]

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::os::unix::fs::MetadataExt;
use std::sync::OnceLock;

use nix::libc::{self, size_t, ssize_t};

/// The user that the tests' brokers drop to, whose files are those in the cache directory.
const PARENT: u32 = 61_001;

/// The call, its errno, and the file system that the tests' directories are in.
static FAULT: OnceLock<(String, c_int, u64)> = OnceLock::new();

fn main() -> std::process::ExitCode {
    // The worker has no environment, and no file.
    if let Ok(fault) = std::env::var("KEYHATCH_FAULT") {
        let (call, errno) = fault.split_once(':').unwrap();
        let device = std::fs::metadata(std::env::temp_dir()).unwrap().dev();
        FAULT.set((call.to_owned(), errno.parse().unwrap(), device)).unwrap();
    }
    keyhatch::cli::run()
}

/// Whether this call is to fail on this descriptor; then `errno` is set.
fn fails(call: &str, descriptor: c_int, kind: libc::mode_t) -> bool {
    let Some((_, errno, device)) = FAULT.get().filter(|(failing, ..)| failing == call) else { return false };
    let mut found = std::mem::MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: room for the answer, which any bytes are.
    let found = unsafe {
        if libc::syscall(libc::SYS_fstat, descriptor, found.as_mut_ptr()) != 0 {
            return false;
        }
        found.assume_init()
    };
    // An eventfd may be a regular file of this user, too, but of a file system of its own.
    if found.st_uid != PARENT || found.st_dev != *device || found.st_mode & libc::S_IFMT != kind {
        return false;
    }
    // SAFETY: this thread's own.
    unsafe { *libc::__errno_location() = *errno };
    true
}

fn result(done: libc::c_long) -> ssize_t {
    ssize_t::try_from(done).unwrap_or(-1)
}

/// # Safety
/// As read(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn read(from: c_int, buffer: *mut c_void, count: size_t) -> ssize_t {
    if fails("read", from, libc::S_IFREG) {
        return -1;
    }
    // SAFETY: the caller's promise.
    result(unsafe { libc::syscall(libc::SYS_read, from, buffer, count) })
}

/// # Safety
/// As write(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn write(to: c_int, buffer: *const c_void, count: size_t) -> ssize_t {
    if fails("write", to, libc::S_IFREG) {
        return -1;
    }
    // SAFETY: the caller's promise.
    result(unsafe { libc::syscall(libc::SYS_write, to, buffer, count) })
}

/// What is sealed is opened by a name in its directory.
///
/// # Safety
/// As openat(2). Without `O_CREAT`, what is taken for a mode is not looked at.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn openat(at: c_int, path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    if flags & (libc::O_CREAT | libc::O_DIRECTORY) == 0 && fails("openat", at, libc::S_IFDIR) {
        return -1;
    }
    // SAFETY: the caller's promise.
    c_int::try_from(unsafe { libc::syscall(libc::SYS_openat, at, path, flags, mode) }).unwrap_or(-1)
}

/// # Safety
/// As statx(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn statx(at: c_int, path: *const c_char, flags: c_int, mask: c_uint, to: *mut c_void) -> c_int {
    if fails("statx", at, libc::S_IFREG) {
        return -1;
    }
    // SAFETY: the caller's promise.
    c_int::try_from(unsafe { libc::syscall(libc::SYS_statx, at, path, flags, mask, to) }).unwrap_or(-1)
}

/// # Safety
/// As flock(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flock(of: c_int, how: c_int) -> c_int {
    if fails("flock", of, libc::S_IFDIR) {
        return -1;
    }
    // SAFETY: the caller's promise.
    c_int::try_from(unsafe { libc::syscall(libc::SYS_flock, of, how) }).unwrap_or(-1)
}
