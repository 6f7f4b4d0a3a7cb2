//! `CLOCK_BOOTTIME`: goes on during suspend, and both roles read the same.

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds since the boot.
pub fn boot_nanos() -> i64 {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |t| t.tv_sec().saturating_mul(1_000_000_000) + t.tv_nsec())
}
