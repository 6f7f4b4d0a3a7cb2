//! Random bytes of the kernel (getrandom(2)).
//!
//! Not those of the cryptography library: its generator gathers entropy of its own for some 30 ms at first use. Nor of anything that
//! falls back on a file: the worker may open none.

use std::io;

/// Fills the buffer. Fails only where the kernel has no such call.
pub fn fill(buffer: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    while filled < buffer.len() {
        let rest = &mut buffer[filled..];
        // SAFETY: pointer and length are those of `rest`, which outlives the call; the kernel writes within them.
        let got = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        match usize::try_from(got) {
            Ok(got) => filled += got,
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    }
    Ok(())
}
