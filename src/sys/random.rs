//! Random bytes of the kernel (getrandom(2)).
//!
//! Not those of the cryptography library: its generator gathers entropy of its own for some 30 ms at first use.

/// Fills the buffer. Fails only where the kernel has no such call.
pub fn fill(buffer: &mut [u8]) -> std::io::Result<()> {
    getrandom::fill(buffer).map_err(std::io::Error::other)
}
