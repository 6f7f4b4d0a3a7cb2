//! `CLOCK_BOOTTIME`: goes on during suspend, and both roles read the same.

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// Nanoseconds since the boot.
pub fn boot_nanos() -> i64 {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |t| t.tv_sec().saturating_mul(1_000_000_000) + t.tv_nsec())
}

/// Which boot of the machine this is (random(4)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootId(pub [u8; 16]);

/// `None` where the kernel does not say.
pub fn boot_id() -> Option<BootId> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let digits: String = text.trim().chars().filter(|c| *c != '-').collect();
    Some(BootId(u128::from_str_radix(&digits, 16).ok()?.to_be_bytes()))
}
