//! Files of a configuration, all of them or none.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::Imported;
use crate::sys::file::create_secret;

/// Why nothing was written.
#[derive(Debug)]
pub enum WriteError {
    /// These are there already.
    Exist(Vec<PathBuf>),
    At(PathBuf, io::Error),
}

impl std::fmt::Display for WriteError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exist(paths) => {
                let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
                write!(
                    f,
                    "there already: {}; nothing was written. --force replaces, --out DIR writes elsewhere",
                    paths.join(", ")
                )
            }
            Self::At(path, error) => write!(f, "{}: {error}; nothing was written", path.display()),
        }
    }
}

impl std::error::Error for WriteError {}

/// The files that it becomes, the configuration last.
pub fn paths(imported: &Imported, directory: &Path) -> Vec<PathBuf> {
    let tokens = imported.tokens.iter().map(|(name, _)| directory.join("tokens").join(name));
    tokens.chain([directory.join("keyhatch.toml")]).collect()
}

/// Writes token files and configuration, 0400, into the directory, which is made if it is not there.
///
/// # Errors
/// Nothing is left then of what was begun. With `replace` files that are there are replaced, each as a whole.
pub fn write(imported: &Imported, directory: &Path, replace: bool) -> Result<(), WriteError> {
    let targets = paths(imported, directory);
    let there: Vec<PathBuf> = targets.iter().filter(|path| path.symlink_metadata().is_ok()).cloned().collect();
    if !replace && !there.is_empty() {
        return Err(WriteError::Exist(there));
    }
    let mut undo = Undo::default();
    let at = |path: &Path| {
        let path = path.to_owned();
        move |error| WriteError::At(path, error)
    };
    for (folder, mode) in [(directory.to_owned(), 0o755), (directory.join("tokens"), 0o700)] {
        if !folder.is_dir() && (folder == directory || !imported.tokens.is_empty()) {
            DirBuilder::new().mode(mode).create(&folder).map_err(at(&folder))?;
            undo.directories.push(folder);
        }
    }
    let contents = imported.tokens.iter().map(|(_, content)| content.as_str()).chain([imported.config.as_str()]);
    let mut written = Vec::new();
    for (target, content) in targets.iter().zip(contents) {
        let temporary = temporary(target);
        create_secret(&temporary, format!("{}\n", content.trim_end_matches('\n')).as_bytes())
            .map_err(at(&temporary))?;
        undo.files.push(temporary.clone());
        written.push((temporary, target));
    }
    for (temporary, target) in written {
        if replace {
            fs::rename(&temporary, target).map_err(at(target))?;
        } else {
            // Unlike a rename, this does not replace what came meanwhile.
            fs::hard_link(&temporary, target).map_err(at(target))?;
            undo.files.push(target.clone());
        }
    }
    for folder in [directory.join("tokens"), directory.to_owned()].iter().filter(|folder| folder.is_dir()) {
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(at(folder))?;
    }
    undo.keep(&targets);
    Ok(())
}

fn temporary(target: &Path) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    target.with_file_name(format!(".{name}.new"))
}

/// What is removed again, unless all went well.
#[derive(Default)]
struct Undo {
    files: Vec<PathBuf>,
    directories: Vec<PathBuf>,
}

impl Undo {
    /// What is for the time being goes in any case.
    fn keep(mut self, targets: &[PathBuf]) {
        self.directories.clear();
        self.files.retain(|file| !targets.contains(file));
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        // The first error is the one to tell, and a rename has taken some away.
        self.files.iter().for_each(|file| drop(fs::remove_file(file)));
        self.directories.iter().rev().for_each(|directory| drop(fs::remove_dir(directory)));
    }
}
