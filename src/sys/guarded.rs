//! Pages for the few secrets that stay for the life of a process: between guard pages, never swapped, never in a core, read only once
//! filled, wiped before they go.
//!
//! Never grows, and lends its bytes only as a borrow.

use std::ffi::c_void;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{FromRawFd, OwnedFd};
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mlock, mmap, mmap_anonymous, mprotect, munmap};
use zeroize::Zeroize;

/// How well the kernel keeps such pages, the best that it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Out of the kernel's own map of memory, too (memfd_secret(2)); always locked.
    Secret,
    /// Locked, and left out of cores (mlock(2), `MADV_DONTDUMP`).
    Locked,
    /// Left out of cores; the limit of locked memory is too low, or the call is not allowed here.
    Swappable,
}

impl Kind {
    /// What new pages would be.
    pub fn available() -> io::Result<Self> {
        Guarded::copy_of(&[0]).map(|guarded| guarded.kind)
    }

    /// For a person.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Secret => "secret pages that not even the kernel reads; guarded",
            Self::Locked => "locked and guarded pages; memfd_secret is not to be had here",
            Self::Swappable => "guarded pages that may be swapped: RLIMIT_MEMLOCK is too low",
        }
    }
}

/// Bytes in pages of their own. Neither printed nor copied by mistake:
///
/// ```compile_fail,E0277
/// println!("{:?}", keyhatch::sys::guarded::Guarded::copy_of(b"x").unwrap());
/// ```
/// ```compile_fail,E0599
/// keyhatch::sys::guarded::Guarded::copy_of(b"x").unwrap().clone();
/// ```
pub struct Guarded {
    /// The first of the readable pages; one guard page lies before it, one behind the last.
    pages: NonNull<u8>,
    /// Of the readable pages together.
    mapped: NonZeroUsize,
    len: usize,
    kind: Kind,
}

// SAFETY: the pages belong to this value alone, and after `with` nothing writes to them until drop, which has it exclusively.
unsafe impl Send for Guarded {}
// SAFETY: as above; a shared reference only reads.
unsafe impl Sync for Guarded {}

impl Guarded {
    /// Room for `len` bytes, zeroed, which `fill` writes; read only from then on.
    ///
    /// # Errors
    /// No memory, or what `fill` says: then the pages are wiped and gone. That pages cannot be locked is no error: see [`Kind`].
    pub fn try_with(len: usize, fill: impl FnOnce(&mut [u8]) -> io::Result<()>) -> io::Result<Self> {
        let mut guarded = Self::map(len)?;
        fill(guarded.bytes_mut())?;
        guarded.protect(ProtFlags::PROT_READ)?;
        Ok(guarded)
    }

    /// A copy of these bytes, which the caller wipes where they were.
    pub fn copy_of(bytes: &[u8]) -> io::Result<Self> {
        Self::try_with(bytes.len(), |room| {
            room.copy_from_slice(bytes);
            Ok(())
        })
    }

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `len` bytes from `pages` on are mapped readable for as long as `self` lives, and initialised: the kernel's pages are zeroed.
        unsafe { std::slice::from_raw_parts(self.pages.as_ptr(), self.len) }
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    fn map(len: usize) -> io::Result<Self> {
        let page = page_size();
        let too_long = || io::Error::from(io::ErrorKind::OutOfMemory);
        let mapped =
            len.max(1).checked_next_multiple_of(page.get()).and_then(NonZeroUsize::new).ok_or_else(too_long)?;
        let all = mapped.checked_add(2 * page.get()).ok_or_else(too_long)?;
        let guarded = |region: NonNull<c_void>, kind| {
            // SAFETY: one page into a region of at least three.
            let pages = unsafe { region.cast::<u8>().add(page.get()) };
            // From here on drop gives the whole region back.
            Self { pages, mapped, len, kind }
        };
        if let Ok(region) = secret(all) {
            let guarded = guarded(region, Kind::Secret);
            guarded.protect(ProtFlags::PROT_READ | ProtFlags::PROT_WRITE)?;
            return Ok(guarded);
        }
        // SAFETY: a new mapping at an address that the kernel chooses; nothing else knows it.
        let region = unsafe { mmap_anonymous(None, all, ProtFlags::PROT_NONE, MapFlags::MAP_PRIVATE) }?;
        let mut guarded = guarded(region, Kind::Swappable);
        guarded.protect(ProtFlags::PROT_READ | ProtFlags::PROT_WRITE)?;
        // SAFETY: both name exactly the pages of this value, and change neither their content nor their protection.
        let (left_out, locked) = unsafe {
            (
                madvise(guarded.pages.cast(), mapped.get(), MmapAdvise::MADV_DONTDUMP),
                mlock(guarded.pages.cast(), mapped.get()),
            )
        };
        left_out?;
        if locked.is_ok() {
            guarded.kind = Kind::Locked;
        }
        Ok(guarded)
    }

    fn protect(&self, protection: ProtFlags) -> Result<(), Errno> {
        // SAFETY: exactly the pages of this value. Only `map`, `try_with` and `drop` call this, while no slice of them is borrowed.
        unsafe { mprotect(self.pages.cast(), self.mapped.get(), protection) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `bytes`; only called while the pages are mapped writable, and `&mut self` is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.pages.as_ptr(), self.len) }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if self.protect(ProtFlags::PROT_READ | ProtFlags::PROT_WRITE).is_ok() {
            self.bytes_mut().zeroize();
        }
        let page = page_size().get();
        // SAFETY: the region that `map` made, guards and all; nothing uses it after drop.
        let _ = unsafe { munmap(self.pages.sub(page).cast(), self.mapped.get() + 2 * page) };
    }
}

/// Secret pages that nobody can touch yet, the guards among them: one mapping, so that no call replaces a part of another one,
/// which would leave a hole for whoever maps next if it failed half-way. The guards count as locked, and take no memory.
fn secret(size: NonZeroUsize) -> Result<NonNull<c_void>, Errno> {
    // SAFETY: memfd_secret takes flags and no pointer.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) })?;
    let fd = i32::try_from(fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: the call has just given it to us, and nobody else has it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    nix::unistd::ftruncate(&fd, i64::try_from(size.get()).map_err(|_| Errno::EFBIG)?)?;
    // SAFETY: a new mapping at an address that the kernel chooses; nothing else knows it.
    unsafe { mmap(None, size, ProtFlags::PROT_NONE, MapFlags::MAP_SHARED, &fd, 0) }
}

fn page_size() -> NonZeroUsize {
    // SAFETY: sysconf takes a number and no pointer.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).ok().and_then(NonZeroUsize::new).unwrap_or(const { NonZeroUsize::new(4096).unwrap() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The line of `smaps` that begins the mapping of this address, and its `VmFlags`.
    fn mapping(address: usize) -> (String, String) {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut found = None;
        for line in maps.lines() {
            let range = line.split(' ').next().unwrap().split_once('-');
            let bound = |hex| usize::from_str_radix(hex, 16).ok();
            if let Some((Some(start), Some(end))) = range.map(|(start, end)| (bound(start), bound(end))) {
                found = (start..end).contains(&address).then(|| line.to_owned());
            } else if let (Some(head), Some(flags)) = (&found, line.strip_prefix("VmFlags:")) {
                return (head.clone(), flags.to_owned());
            }
        }
        panic!("{address:x} is not mapped");
    }

    #[test]
    fn the_bytes_stay_as_they_were_written_and_the_pages_become_read_only() {
        let guarded = Guarded::copy_of(b"token").unwrap();
        assert_eq!(guarded.bytes(), b"token");
        let (head, _) = mapping(guarded.bytes().as_ptr() as usize);
        assert!(head.contains(" r--"), "{head}");
    }

    #[test]
    fn the_pages_are_locked_and_left_out_of_cores() {
        let guarded = Guarded::copy_of(b"t").unwrap();
        let (head, flags) = mapping(guarded.bytes().as_ptr() as usize);
        match guarded.kind() {
            Kind::Secret => assert!(head.contains("secretmem"), "{head}"),
            Kind::Locked => assert!(flags.contains(" lo"), "{flags}"),
            Kind::Swappable => panic!("these tests need room in RLIMIT_MEMLOCK"),
        }
        assert!(flags.contains(" dd"), "{flags}");
    }

    #[test]
    fn a_guard_page_lies_on_each_side() {
        for len in [1, page_size().get(), page_size().get() + 1] {
            let guarded = Guarded::copy_of(&vec![7; len]).unwrap();
            let first = guarded.bytes().as_ptr() as usize;
            for address in [first - 1, first + guarded.mapped.get()] {
                let (head, _) = mapping(address);
                assert!(head.contains(" ---"), "{head}");
            }
        }
    }

    #[test]
    fn what_cannot_be_filled_is_an_error() {
        let failed = Guarded::try_with(9, |_| Err(io::Error::other("no"))).err().unwrap();
        assert_eq!(failed.to_string(), "no");
    }

    /// What pages are where so many bytes may be locked: in a process of its own, without capabilities.
    const LOCKED_AT_MOST: &str = "KEYHATCH_TEST_LOCKED_AT_MOST";

    #[test]
    fn with_little_room_to_lock_the_pages_are_as_good_as_they_can_be() {
        if let Ok(most) = std::env::var(LOCKED_AT_MOST) {
            let most = most.parse().unwrap();
            nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_MEMLOCK, most, most).unwrap();
            if nix::unistd::geteuid().is_root() {
                nix::unistd::setuid(nix::unistd::Uid::from_raw(65533)).unwrap();
            }
            let several: Vec<Guarded> = (0..3).map(|n| Guarded::copy_of(&[n; 100]).unwrap()).collect();
            for (n, guarded) in several.iter().enumerate() {
                assert!(guarded.bytes() == [u8::try_from(n).unwrap(); 100]);
            }
            let kinds: Vec<Kind> = several.iter().map(Guarded::kind).collect();
            drop(several);
            println!("kinds {kinds:?} and again {:?}", Kind::available().unwrap());
            return;
        }
        let page = page_size().get();
        let secret = secret(page_size()).is_ok();
        let under = |most: usize| {
            let mut child = std::process::Command::new(std::env::current_exe().unwrap());
            child.args([
                "--exact",
                "--nocapture",
                "sys::guarded::tests::with_little_room_to_lock_the_pages_are_as_good_as_they_can_be",
            ]);
            let done = child.env(LOCKED_AT_MOST, most.to_string()).output().unwrap();
            let said = String::from_utf8_lossy(&done.stdout).into_owned();
            assert!(done.status.success(), "{said}{}", String::from_utf8_lossy(&done.stderr));
            said.lines().find_map(|line| line.split_once("kinds ")).unwrap().1.to_owned()
        };
        assert_eq!(under(0), "[Swappable, Swappable, Swappable] and again Swappable");
        assert_eq!(under(page), "[Locked, Swappable, Swappable] and again Locked");
        if secret {
            assert_eq!(under(4 * page), "[Secret, Locked, Swappable] and again Secret");
        }
    }
}
