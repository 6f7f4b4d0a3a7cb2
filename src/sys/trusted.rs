//! Opening a file that may hold a secret: component by component, so that what was checked is what is opened (openat(2)).

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};

/// As many links as the kernel follows (path_resolution(7)).
const MOST_LINKS: usize = 40;

/// Why a file was not opened.
#[derive(Debug)]
pub enum OpenError {
    Io(io::Error),
    Directory,
    /// It is there, and is something else.
    NotAFile(&'static str),
    /// A program that nobody may execute.
    NotExecutable(PathBuf),
    /// A link on the way, and a directory on the way in which somebody else could have put it.
    Link {
        link: PathBuf,
        directory: PathBuf,
        why: Distrust,
    },
    /// A directory in which somebody else could put another thing in the place of ours.
    Distrusted {
        directory: PathBuf,
        why: Distrust,
    },
}

/// Why a directory is not trusted to hold links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distrust {
    Owner(u32),
    Writable(u32),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "{error}"),
            Self::Directory => write!(f, "it is a directory; name the file in it"),
            Self::NotAFile(what) => write!(f, "it is {what}, not a file"),
            Self::NotExecutable(path) => {
                write!(f, "it is not executable. Mend it with: chmod a+x {}", path.display())
            }
            Self::Distrusted { directory, why } => {
                let directory = directory.display();
                match why {
                    Distrust::Owner(uid) => write!(
                        f,
                        "{directory} belongs to uid {uid}, who could change what is in it. Mend it with: chown root {directory}"
                    ),
                    Distrust::Writable(mode) => write!(
                        f,
                        "{directory} can be written by others (mode {mode:04o}). Mend it with: chmod go-w {directory}"
                    ),
                }
            }
            Self::Link { link, directory, why } => {
                let directory = directory.display();
                write!(f, "{} is a symbolic link, and {directory} ", link.display())?;
                match why {
                    Distrust::Owner(uid) => write!(f, "belongs to uid {uid}, who could change where it leads. ")?,
                    Distrust::Writable(mode) => write!(f, "can be written by others (mode {mode:04o}). ")?,
                }
                write!(f, "Name the file itself, or mend it with: ")?;
                match why {
                    Distrust::Owner(_) => write!(f, "chown root {directory}"),
                    Distrust::Writable(_) => write!(f, "chmod go-w {directory}"),
                }
            }
        }
    }
}

impl std::error::Error for OpenError {}

impl From<Errno> for OpenError {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.into())
    }
}

/// Opens for reading. Links are followed when every directory on the way belongs to root, or to the user that this runs
/// as, and nobody else can write there. Owner and mode of the file are the caller's to check, on the open file.
pub fn open_secret(path: &Path) -> Result<File, OpenError> {
    let own = nix::unistd::geteuid().as_raw();
    walk(path, &|stat| distrust(stat, &[own]))
}

/// A hold on a directory in which nobody but root, and the user that this runs as, can replace what is ours, all the way
/// from the root. Links on the way are followed. Where others can write, the sticky bit keeps them from what is not theirs.
pub fn find_directory(path: &Path) -> Result<OwnedFd, OpenError> {
    let Reached { place, last, .. } = reach_safely(path)?;
    match last {
        Some(_) => Err(Errno::ENOTDIR.into()),
        None => Ok(place.directory),
    }
}

/// Whether a program can be run that nobody but root, and the user that this runs as, can change or replace, all the way from
/// the root.
pub fn check_program(path: &Path) -> Result<(), OpenError> {
    let Reached { last, .. } = reach_safely(path)?;
    let (_, stat) = last.ok_or(OpenError::Directory)?;
    if kind(&stat) != SFlag::S_IFREG {
        return Err(OpenError::NotAFile("something else"));
    }
    if let Some(why) = distrust(&stat, &trusted_owners()?) {
        return Err(OpenError::Distrusted { directory: path.to_owned(), why });
    }
    if stat.st_mode & 0o111 == 0 { Err(OpenError::NotExecutable(path.to_owned())) } else { Ok(()) }
}

/// Beside root.
fn trusted_owners() -> Result<[u32; 2], Errno> {
    let own = nix::unistd::geteuid().as_raw();
    // In a user namespace that does not know root, its directories have the overflow uid; nobody there can become root.
    let of_root = if own == 0 { 0 } else { fstat(&Place::root()?.directory)?.st_uid };
    Ok([own, of_root])
}

/// By directories and links that only those change who are trusted.
fn reach_safely(path: &Path) -> Result<Reached, OpenError> {
    let owners = trusted_owners()?;
    let distrust = |stat: &FileStat| {
        let sticky = stat.st_mode & libc::S_ISVTX != 0;
        distrust(stat, &owners).filter(|why| !(sticky && matches!(why, Distrust::Writable(_))))
    };
    let reached = reach(path, &distrust)?;
    let foreign = reached.foreign_link.clone().map(|(link, uid)| (link, Distrust::Owner(uid)));
    match reached.doubtful.clone().or(foreign) {
        Some((directory, why)) => Err(OpenError::Distrusted { directory, why }),
        None => Ok(reached),
    }
}

/// Root is trusted, and so are these.
fn distrust(stat: &FileStat, trusted: &[u32]) -> Option<Distrust> {
    let mode = stat.st_mode & 0o7777;
    if stat.st_uid != 0 && !trusted.contains(&stat.st_uid) {
        return Some(Distrust::Owner(stat.st_uid));
    }
    (mode & 0o022 != 0).then_some(Distrust::Writable(mode))
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

fn components(path: &Path) -> impl DoubleEndedIterator<Item = OsString> {
    let named = |component: &Component<'_>| matches!(component, Component::Normal(_) | Component::ParentDir);
    path.components().filter(named).map(|component| component.as_os_str().to_owned())
}

/// Where the walk is.
struct Place {
    directory: OwnedFd,
    shown: PathBuf,
}

impl Place {
    fn root() -> Result<Self, Errno> {
        let directory = openat(AT_FDCWD, "/", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
        Ok(Self { directory, shown: PathBuf::from("/") })
    }
}

/// Where a path leads.
struct Reached {
    /// The directory that it leads to, or to something in.
    place: Place,
    /// What it leads to there, if that is no directory.
    last: Option<(OsString, FileStat)>,
    /// The first link on the way, and the first whose owner is another one.
    link: Option<PathBuf>,
    foreign_link: Option<(PathBuf, u32)>,
    /// The first directory on the way that is not trusted.
    doubtful: Option<(PathBuf, Distrust)>,
}

fn reach(path: &Path, distrust: &dyn Fn(&FileStat) -> Option<Distrust>) -> Result<Reached, OpenError> {
    if !path.is_absolute() {
        return Err(OpenError::Io(io::Error::other("the path is not absolute")));
    }
    let own = nix::unistd::geteuid().as_raw();
    let mut place = Place::root()?;
    let mut todo: VecDeque<OsString> = components(path).collect();
    let mut doubtful = distrust(&fstat(&place.directory)?).map(|why| (place.shown.clone(), why));
    let (mut link, mut foreign_link) = (None, None);
    let mut links = 0;
    while let Some(name) = todo.pop_front() {
        let found = openat(
            &place.directory,
            name.as_os_str(),
            OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC,
            Mode::empty(),
        )?;
        let stat = fstat(&found)?;
        match kind(&stat) {
            SFlag::S_IFLNK => {
                links += 1;
                if links > MOST_LINKS {
                    return Err(Errno::ELOOP.into());
                }
                let target = PathBuf::from(readlinkat(&found, "")?);
                let shown = place.shown.join(&name);
                if stat.st_uid != 0 && stat.st_uid != own {
                    foreign_link.get_or_insert((shown.clone(), stat.st_uid));
                }
                link.get_or_insert(shown);
                if target.is_absolute() {
                    place = Place::root()?;
                }
                components(&target).rev().for_each(|component| todo.push_front(component));
            }
            SFlag::S_IFDIR => {
                let shown = if name == ".." {
                    place.shown.parent().unwrap_or(&place.shown).to_owned()
                } else {
                    place.shown.join(&name)
                };
                doubtful = doubtful.or_else(|| distrust(&stat).map(|why| (shown.clone(), why)));
                place = Place { directory: found, shown };
            }
            // The next step would fail in the same way.
            _ if !todo.is_empty() => return Err(Errno::ENOTDIR.into()),
            _ => return Ok(Reached { place, last: Some((name, stat)), link, foreign_link, doubtful }),
        }
    }
    Ok(Reached { place, last: None, link, foreign_link, doubtful })
}

fn walk(path: &Path, distrust: &dyn Fn(&FileStat) -> Option<Distrust>) -> Result<File, OpenError> {
    let Reached { place, last, link, doubtful, .. } = reach(path, distrust)?;
    let (name, stat) = last.ok_or(OpenError::Directory)?;
    match kind(&stat) {
        SFlag::S_IFREG => {}
        SFlag::S_IFIFO => return Err(OpenError::NotAFile("a pipe")),
        SFlag::S_IFSOCK => return Err(OpenError::NotAFile("a socket")),
        _ => return Err(OpenError::NotAFile("a device")),
    }
    if let (Some(link), Some((directory, why))) = (link, doubtful) {
        return Err(OpenError::Link { link, directory, why });
    }
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    Ok(openat(&place.directory, name.as_os_str(), flags, Mode::empty())?.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Read;
    use std::os::unix::fs::symlink;

    fn read(path: &Path, distrust: &dyn Fn(&FileStat) -> Option<Distrust>) -> Result<String, String> {
        let mut text = String::new();
        walk(path, distrust).map_err(|error| error.to_string())?.read_to_string(&mut text).unwrap();
        Ok(text)
    }

    /// `a/secret`, and `b` and `c` beside it.
    fn tree() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for name in ["a", "b", "c"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        fs::write(directory.path().join("a/secret"), "s3cret").unwrap();
        directory
    }

    #[test]
    fn links_lead_where_they_would_lead_anybody() {
        let tree = tree();
        let at = |name: &str| tree.path().join(name);
        symlink("../a/secret", at("b/relative")).unwrap();
        symlink(at("a/secret"), at("b/absolute")).unwrap();
        symlink("../b/relative", at("c/chain")).unwrap();
        symlink("a", at("directory")).unwrap();
        symlink("../b/./..//directory/../a/secret", at("c/around")).unwrap();
        for name in ["a/secret", "b/relative", "b/absolute", "c/chain", "directory/secret", "c/around", "b/../a/secret"]
        {
            assert_eq!(read(&at(name), &|_| None), Ok("s3cret".into()), "{name}");
            assert_eq!(fs::read_to_string(at(name)).unwrap(), "s3cret", "{name}");
        }
    }

    #[test]
    fn what_leads_nowhere_is_an_error() {
        let tree = tree();
        let at = |name: &str| tree.path().join(name);
        symlink("loop", at("loop")).unwrap();
        symlink("absent", at("dangling")).unwrap();
        nix::unistd::mkfifo(&at("pipe"), Mode::from_bits_truncate(0o600)).unwrap();
        for (name, told) in [
            ("loop", "Too many levels of symbolic links"),
            ("dangling", "No such file"),
            ("absent/secret", "No such file"),
            ("a/secret/more", "Not a directory"),
            ("a", "it is a directory"),
            ("pipe", "it is a pipe"),
        ] {
            let error = read(&at(name), &|_| None).unwrap_err();
            assert!(error.contains(told), "{name}: {error}");
        }
        assert!(read(Path::new("relative"), &|_| None).is_err());
        assert!(read(Path::new("/"), &|_| None).unwrap_err().contains("a directory"));
    }

    #[test]
    fn one_doubtful_directory_anywhere_forbids_links_and_nothing_else() {
        let tree = tree();
        let at = |name: &str| tree.path().join(name);
        symlink("../a/secret", at("b/link")).unwrap();
        for doubted in ["", "a", "b"] {
            let inode = nix::sys::stat::stat(&at(doubted)).unwrap().st_ino;
            let distrust = |stat: &FileStat| (stat.st_ino == inode).then_some(Distrust::Owner(1000));
            let error = read(&at("b/link"), &distrust).unwrap_err();
            assert!(error.contains("b/link is a symbolic link") && error.contains("chown root"), "{doubted}: {error}");
            assert_eq!(read(&at("a/secret"), &distrust), Ok("s3cret".into()));
        }
    }

    #[test]
    fn a_directory_is_trusted_when_only_root_and_we_can_write_there() {
        let file = tempfile::tempfile().unwrap();
        let mut stat = fstat(&file).unwrap();
        for (uid, mode, found) in [
            (0, 0o755, None),
            (7, 0o700, None),
            (8, 0o700, Some(Distrust::Owner(8))),
            (0, 0o775, Some(Distrust::Writable(0o775))),
            (0, 0o1777, Some(Distrust::Writable(0o1777))),
        ] {
            (stat.st_uid, stat.st_mode) = (uid, mode);
            assert_eq!(distrust(&stat, &[7]), found, "{uid} {mode:o}");
        }
    }
}
