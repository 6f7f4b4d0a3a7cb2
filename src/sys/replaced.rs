//! Whether a path still leads to the file that was opened by it (inotify(7)): told also to a process that may not look
//! there any more, as long as it could when the watch began.

use std::collections::{HashSet, VecDeque};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use serde::{Deserialize, Serialize};

/// As many links as the kernel follows (path_resolution(7)).
const MOST_LINKS: usize = 40;

/// Watches all that decides where a path leads.
pub struct Watch {
    inotify: Inotify,
    path: PathBuf,
    /// Device and inode of the file.
    file: (u64, u64),
    /// Of the file, and of links on the way to it.
    names: HashSet<OsString>,
    replaced: AtomicBool,
}

/// What of a watch is not its descriptor, to go on elsewhere.
#[derive(Debug, Serialize, Deserialize)]
pub struct Watched {
    file: (u64, u64),
    names: HashSet<OsString>,
    replaced: bool,
}

impl Watch {
    /// Takes it apart, to be handed to another process.
    pub fn into_parts(self) -> (OwnedFd, Watched) {
        let watched = Watched { file: self.file, names: self.names, replaced: self.replaced.into_inner() };
        (self.inotify.into(), watched)
    }

    /// Of a file that was opened by this path; `inotify` came with what it watches.
    pub fn from_parts(path: PathBuf, inotify: OwnedFd, watched: Watched) -> Self {
        // SAFETY: an owned descriptor gives up its number. Were it of another kind, reading events from it would fail.
        let inotify = unsafe { Inotify::from_raw_fd(inotify.into_raw_fd()) };
        let Watched { file, names, replaced } = watched;
        Self { inotify, path, file, names, replaced: AtomicBool::new(replaced) }
    }

    /// `file` was opened by this absolute path.
    ///
    /// # Errors
    /// There are no more watches for this user, or something on the way cannot be looked at.
    pub fn begin(path: &Path, file: &File) -> io::Result<Self> {
        let found = file.metadata()?;
        let mut watch = Self {
            inotify: Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?,
            path: path.to_owned(),
            file: (found.dev(), found.ino()),
            names: HashSet::new(),
            replaced: AtomicBool::new(false),
        };
        watch.follow()?;
        if !watch.leads_there()? {
            watch.replaced = AtomicBool::new(true);
        }
        Ok(watch)
    }

    /// Watches every directory on the way for being moved, and those that hold the file or a link for changes of its name.
    fn follow(&mut self) -> io::Result<()> {
        let mut todo: VecDeque<OsString> = components(&self.path);
        let mut at = PathBuf::from("/");
        let mut links = 0;
        while let Some(name) = todo.pop_front() {
            if name == ".." {
                at.pop();
                continue;
            }
            let next = at.join(&name);
            let found = fs::symlink_metadata(&next)?;
            let is_link = found.is_symlink();
            if is_link || todo.is_empty() {
                let moved = AddWatchFlags::IN_MOVED_FROM | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_DELETE;
                self.add(&at, moved)?;
                self.names.insert(name);
            }
            if is_link {
                links += 1;
                if links > MOST_LINKS {
                    return Err(Errno::ELOOP.into());
                }
                let target = fs::read_link(&next)?;
                if target.is_absolute() {
                    at = PathBuf::from("/");
                }
                components(&target).into_iter().rev().for_each(|component| todo.push_front(component));
            } else if found.is_dir() {
                // Not of the file itself: another link to it may move, and the path still lead there.
                self.add(&next, AddWatchFlags::IN_MOVE_SELF | AddWatchFlags::IN_DELETE_SELF)?;
                at = next;
            }
        }
        Ok(())
    }

    fn add(&self, path: &Path, what: AddWatchFlags) -> io::Result<()> {
        // To what is watched there already.
        let more = AddWatchFlags::from_bits_retain(libc::IN_MASK_ADD);
        let flags = what | more | AddWatchFlags::IN_DONT_FOLLOW;
        self.inotify.add_watch(path, flags).map(drop).map_err(io::Error::from)
    }

    fn leads_there(&self) -> io::Result<bool> {
        let found = fs::metadata(&self.path)?;
        Ok((found.dev(), found.ino()) == self.file)
    }

    /// Whether the path has led elsewhere since the watch began. Reads what has happened, without waiting.
    pub fn is_replaced(&self) -> bool {
        // The error is that there is nothing more to read.
        while let Ok(events) = self.inotify.read_events() {
            for event in events {
                if event.mask.contains(AddWatchFlags::IN_IGNORED) {
                    continue;
                }
                // More happened than the kernel remembers: if this process may not look, it cannot be known.
                let lost = event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) && !self.leads_there().unwrap_or(false);
                let moved = match &event.name {
                    Some(name) => self.names.contains(name),
                    None => !event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW),
                };
                if lost || moved {
                    self.replaced.store(true, Ordering::Relaxed);
                }
            }
        }
        self.replaced.load(Ordering::Relaxed)
    }
}

fn components(path: &Path) -> VecDeque<OsString> {
    let named = |component: &Component<'_>| matches!(component, Component::Normal(_) | Component::ParentDir);
    path.components().filter(named).map(|component| component.as_os_str().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// `d/e/file`, reached by `link`, which leads to `d`.
    fn scene() -> (tempfile::TempDir, Watch) {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        fs::create_dir_all(at("d/e")).unwrap();
        fs::write(at("d/e/file"), "old").unwrap();
        symlink("d", at("link")).unwrap();
        let path = at("link/e/file");
        let watch = Watch::begin(&path, &File::open(&path).unwrap()).unwrap();
        assert!(!watch.is_replaced());
        (place, watch)
    }

    #[test]
    fn whatever_makes_the_path_lead_elsewhere_is_noticed() {
        type Act = fn(&Path);
        let acts: [(&str, Act); 7] = [
            ("renamed over", |at| {
                fs::write(at.join("d/e/new"), "new").unwrap();
                fs::rename(at.join("d/e/new"), at.join("d/e/file")).unwrap();
            }),
            ("renamed away", |at| fs::rename(at.join("d/e/file"), at.join("d/e/file~")).unwrap()),
            ("linked, then renamed over", |at| {
                fs::hard_link(at.join("d/e/file"), at.join("d/e/file~")).unwrap();
                fs::write(at.join("new"), "new").unwrap();
                fs::rename(at.join("new"), at.join("d/e/file")).unwrap();
            }),
            ("linked, then removed", |at| {
                fs::hard_link(at.join("d/e/file"), at.join("kept")).unwrap();
                fs::remove_file(at.join("d/e/file")).unwrap();
            }),
            ("its directory moved", |at| fs::rename(at.join("d/e"), at.join("d/f")).unwrap()),
            ("a directory above moved", |at| fs::rename(at.join("d"), at.join("elsewhere")).unwrap()),
            ("the link changed", |at| {
                symlink("elsewhere", at.join("new")).unwrap();
                fs::rename(at.join("new"), at.join("link")).unwrap();
            }),
        ];
        for (name, act) in acts {
            let (place, watch) = scene();
            act(place.path());
            assert!(watch.is_replaced(), "{name}");
            assert!(watch.is_replaced(), "{name}: and stays so");
        }
    }

    #[test]
    fn what_changes_beside_it_or_in_it_is_nothing() {
        let (place, watch) = scene();
        let at = |name: &str| place.path().join(name);
        fs::write(at("d/e/file"), "more").unwrap();
        fs::set_permissions(at("d/e/file"), fs::metadata(at("link")).unwrap().permissions()).unwrap();
        fs::hard_link(at("d/e/file"), at("d/e/other")).unwrap();
        fs::rename(at("d/e/other"), at("d/e/another")).unwrap();
        fs::remove_file(at("d/e/another")).unwrap();
        fs::create_dir(at("d/new")).unwrap();
        fs::remove_dir(at("d/new")).unwrap();
        assert!(!watch.is_replaced());
    }
}
