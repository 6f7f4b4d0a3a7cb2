//! The environment of this process, cut down in place (environ(7)).

use std::ffi::{CStr, c_char};

unsafe extern "C" {
    /// The C library's own: a null-terminated array of `NAME=value` strings.
    static mut environ: *mut *mut c_char;
}

/// Forgets every variable whose name is not kept, and wipes its bytes, which `/proc/PID/environ` shows too.
///
/// # Errors
/// How many threads there are, if there are several: then nothing is done, because one of them may be reading.
pub fn keep_only(kept: impl Fn(&[u8]) -> bool) -> std::io::Result<()> {
    if super::process::thread_count()? != 1 {
        return Err(std::io::Error::other("threads were started before the environment was cut down"));
    }
    // SAFETY: this is the only thread, as just checked, so nobody reads the array or its strings meanwhile, and std hands
    // out copies only. The array ends with a null, each string with a NUL; both are writable memory of this process
    // (execve(2) puts them on the stack). Only pointers from the array are written back to it, further to the front.
    unsafe {
        let mut from = environ;
        if from.is_null() {
            return Ok(());
        }
        let mut to = environ;
        while !(*from).is_null() {
            let entry = *from;
            let length = CStr::from_ptr(entry).to_bytes().len();
            let name = CStr::from_ptr(entry).to_bytes().split(|byte| *byte == b'=').next().unwrap_or_default();
            if kept(name) {
                *to = entry;
                to = to.add(1);
            } else {
                std::ptr::write_bytes(entry, 0, length);
            }
            from = from.add(1);
        }
        *to = std::ptr::null_mut();
    }
    Ok(())
}
