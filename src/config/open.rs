//! Reading configuration files: opened first, then the open file is checked, then read up to a bound.
//!
//! Whoever can write the configuration decides who gets which secret, so a file that somebody else could
//! have written is not even parsed.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};
use nix::unistd::Uid;

use super::diagnostic::{Diagnostic, SourceText};

/// The longest configuration file, in bytes.
const MAX_FILE: u64 = 1 << 20;
/// The most files of `conf.d`.
const MAX_DROP_INS: usize = 1024;

/// Who may have written the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Started as root: every file and its directory is root's, and nobody else can write there.
    Root,
    /// Started by this user: every file and its directory is theirs or root's, and not writable by all.
    Caller(Uid),
}

/// Reads the main file and the drop-ins beside it, in name order. What could be read comes back beside the
/// errors about what could not.
pub(super) fn read_all(main: &Path, trust: Trust) -> (Vec<SourceText>, Vec<Diagnostic>) {
    let mut errors = Vec::new();
    let mut files = Vec::new();
    match read_file(main, trust) {
        Ok(file) => files.push(file),
        // Without the main file nothing is said about drop-ins: their directory is found by it.
        Err(error) => return (files, vec![*error]),
    }
    let directory = parent(main).join("conf.d");
    match drop_ins(&directory, trust) {
        Ok(names) if names.len() > MAX_DROP_INS => {
            errors.push(Diagnostic::of_path(directory, format!("more than {MAX_DROP_INS} drop-in files")));
        }
        Ok(names) => {
            for name in names {
                match read_file(&directory.join(name), trust) {
                    Ok(file) => files.push(file),
                    Err(error) => errors.push(*error),
                }
            }
        }
        Err(error) => errors.push(*error),
    }
    (files, errors)
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// The names of the drop-ins, sorted by their bytes; none when there is no such directory.
fn drop_ins(directory: &Path, trust: Trust) -> Result<Vec<OsString>, Box<Diagnostic>> {
    let fd = match open_directory(directory, trust) {
        Ok(fd) => fd,
        Err(Failure::Errno(Errno::ENOENT)) => return Ok(Vec::new()),
        Err(failure) => return Err(failure.diagnostic(directory).into()),
    };
    let listing = |errno: Errno| Failure::Errno(errno).diagnostic(directory);
    let mut names = Vec::new();
    for entry in Dir::from_fd(fd).map_err(listing)? {
        use std::os::unix::ffi::OsStrExt;
        let name = OsStr::from_bytes(entry.map_err(listing)?.file_name().to_bytes()).to_owned();
        // Hidden files are what editors leave behind.
        if name.as_bytes().ends_with(b".toml") && !name.as_bytes().starts_with(b".") {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

pub(super) fn read_file(path: &Path, trust: Trust) -> Result<SourceText, Box<Diagnostic>> {
    let file = match open_file(path, trust) {
        // A symlink is followed to where it leads in the end, and that directory has to be safe as well.
        Err(Failure::Errno(Errno::ELOOP)) => {
            let target = std::fs::canonicalize(path).map_err(|error| {
                let denied = error.kind() == std::io::ErrorKind::PermissionDenied;
                Diagnostic::of_path(path, format!("cannot follow the symlink: {error}")).out_of_reach(denied)
            })?;
            open_file(&target, trust).map_err(|failure| failure.diagnostic(&target))?
        }
        other => other.map_err(|failure| failure.diagnostic(path))?,
    };
    let mut bytes = Vec::new();
    File::from(file)
        .take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Diagnostic::of_path(path, format!("cannot read the configuration: {error}")))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(Diagnostic::of_path(path, format!("the file is larger than {MAX_FILE} bytes")).into());
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.iter().filter(|byte| **byte == b'\n').count() + 1;
        Diagnostic::of_path(path, format!("line {line} is not UTF-8"))
            .help("TOML is UTF-8; save the file in that encoding")
    })?;
    Ok(SourceText { path: path.to_owned(), text })
}

/// Why a file or directory was not opened.
enum Failure {
    Errno(Errno),
    /// It was, and is not what it should be.
    Unsafe {
        what: &'static str,
        path: PathBuf,
        help: String,
    },
}

impl Failure {
    fn diagnostic(self, path: &Path) -> Diagnostic {
        match self {
            Self::Errno(errno) => {
                let error = Diagnostic::of_path(path, format!("cannot open the configuration: {}", errno.desc()))
                    .out_of_reach(matches!(errno, Errno::ENOENT | Errno::EACCES));
                match errno {
                    Errno::ENOENT => error.help("name another file with --config FILE or $KEYHATCH_CONFIG"),
                    _ => error,
                }
            }
            Self::Unsafe { what, path, help } => Diagnostic::of_path(path, what).help(help),
        }
    }
}

fn open_directory(path: &Path, trust: Trust) -> Result<OwnedFd, Failure> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let fd = nix::fcntl::open(path, flags, Mode::empty()).map_err(Failure::Errno)?;
    check(&fd, path, trust, true)?;
    Ok(fd)
}

/// Opens a file in its checked directory, following no symlink and waiting for no other end of a pipe.
fn open_file(path: &Path, trust: Trust) -> Result<OwnedFd, Failure> {
    let directory = open_directory(parent(path), trust)?;
    let Some(name) = path.file_name() else { return Err(Failure::Errno(Errno::EISDIR)) };
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let fd = openat(&directory, name, flags, Mode::empty()).map_err(Failure::Errno)?;
    check(&fd, path, trust, false)?;
    Ok(fd)
}

fn check(fd: impl AsFd, path: &Path, trust: Trust, directory: bool) -> Result<(), Failure> {
    let stat = fstat(fd).map_err(Failure::Errno)?;
    let kind = SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits());
    if !directory && kind != SFlag::S_IFREG {
        let what = "the configuration is not a regular file";
        return Err(Failure::Unsafe { what, path: path.to_owned(), help: "name a file".to_owned() });
    }
    match distrust(&stat, trust, directory) {
        None => Ok(()),
        Some((what, fix)) => {
            let help = format!("{fix} {}", path.display());
            Err(Failure::Unsafe { what, path: path.to_owned(), help })
        }
    }
}

/// What is wrong with owner or mode, and the command that fixes it.
fn distrust(stat: &FileStat, trust: Trust, directory: bool) -> Option<(&'static str, &'static str)> {
    let owner = Uid::from_raw(stat.st_uid);
    let mode = stat.st_mode & 0o7777;
    match trust {
        Trust::Root if !owner.is_root() => {
            Some(("started as root, and the configuration is not root's", "chown root:root"))
        }
        Trust::Root if mode & 0o022 != 0 => {
            Some(("started as root, and others can write the configuration", "chmod go-w"))
        }
        Trust::Caller(caller) if !owner.is_root() && owner != caller => {
            Some(("the configuration belongs to another user", "make a copy that is yours, or run as the owner of"))
        }
        // In a sticky directory such as /tmp nobody can replace a file of another user.
        Trust::Caller(_) if mode & 0o002 != 0 && !(directory && mode & 0o1000 != 0) => {
            Some(("everybody can write the configuration", "chmod o-w"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn me() -> Trust {
        Trust::Caller(nix::unistd::geteuid())
    }

    fn directory() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        directory
    }

    fn chmod(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    fn errors(path: &Path, trust: Trust) -> String {
        super::super::LoadError::new(Vec::new(), read_all(path, trust).1).render(false)
    }

    #[test]
    fn drop_ins_come_in_name_order_without_the_leftovers_of_editors() {
        let directory = directory();
        let main = directory.path().join("keyhatch.toml");
        std::fs::write(&main, "").unwrap();
        std::fs::create_dir(directory.path().join("conf.d")).unwrap();
        for name in ["20-b.toml", "10-a.toml", "README", ".20-b.toml.swp", ".#10-a.toml", "30.toml~"] {
            std::fs::write(directory.path().join("conf.d").join(name), "").unwrap();
        }
        let (files, errors) = read_all(&main, me());
        assert!(errors.is_empty());
        let names: Vec<_> = files.iter().map(|file| file.path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["keyhatch.toml", "10-a.toml", "20-b.toml"]);
    }

    #[test]
    fn a_file_that_all_can_write_is_not_read() {
        let directory = directory();
        let main = directory.path().join("keyhatch.toml");
        std::fs::write(&main, "").unwrap();
        chmod(&main, 0o666);
        assert!(errors(&main, me()).contains("everybody can write the configuration"));
        chmod(&main, 0o644);
        assert_eq!(errors(&main, me()), "");
        chmod(directory.path(), 0o777);
        assert!(errors(&main, me()).contains("chmod o-w"));
        chmod(directory.path(), 0o1777);
        assert_eq!(errors(&main, me()), "");
    }

    #[test]
    fn a_symlink_leads_to_a_directory_that_is_checked_too() {
        let (safe, open) = (directory(), directory());
        let target = open.path().join("real.toml");
        std::fs::write(&target, "").unwrap();
        let link = safe.path().join("keyhatch.toml");
        symlink(&target, &link).unwrap();
        assert_eq!(errors(&link, me()), "");
        chmod(open.path(), 0o777);
        assert!(errors(&link, me()).contains("everybody can write"));
    }

    #[test]
    fn what_is_no_file_is_refused_without_waiting() {
        let directory = directory();
        let fifo = directory.path().join("fifo.toml");
        nix::unistd::mkfifo(&fifo, Mode::from_bits_truncate(0o600)).unwrap();
        assert!(errors(&fifo, me()).contains("not a regular file"));
        assert!(errors(directory.path(), me()).contains("not a regular file"));
        assert!(errors(&directory.path().join("absent.toml"), me()).contains("No such file"));
        let binary = directory.path().join("binary.toml");
        std::fs::write(&binary, b"a = 1\nb = \"\xff\"").unwrap();
        assert!(errors(&binary, me()).contains("line 2 is not UTF-8"));
        std::fs::write(&binary, vec![b'#'; (1 << 20) + 1]).unwrap();
        assert!(errors(&binary, me()).contains("larger than"));
    }

    #[test]
    fn root_trusts_only_root() {
        let file = tempfile::tempfile().unwrap();
        let mut stat = fstat(&file).unwrap();
        for (uid, mode, trusted) in [(0, 0o644, true), (0, 0o664, false), (0, 0o646, false), (1000, 0o600, false)] {
            (stat.st_uid, stat.st_mode) = (uid, mode);
            assert_eq!(distrust(&stat, Trust::Root, false).is_none(), trusted, "{uid} {mode:o}");
        }
        (stat.st_uid, stat.st_mode) = (0, 0o1777);
        assert!(distrust(&stat, Trust::Root, true).is_some(), "a sticky directory is no place for root's files");
    }
}
