//! Reading the directory of sealed values. Takes no lock and writes nothing, so that it may look while a broker runs.

use std::fmt;
use std::io;
use std::os::fd::AsFd;

use super::Ledger;
use super::bundle;
use super::format::{self, Definition, HEAD_LEN, Head, Label, State, Unreadable, ValueLabel};
use super::seal::{KeyRing, NAME_LEN, SealKey};
use crate::secret::{KeyPath, SecretValue};
use crate::sys::file;
use zeroize::Zeroizing;

/// The longest file of a state: a million rows of a ledger, and some, since keys that have left are in it, too; of a clock,
/// many times what one has.
fn largest(state: State) -> u64 {
    match state {
        State::Clock => 64 << 10,
        State::Ledger => 1 << 30,
        State::Bundle(_) => bundle::LARGEST,
    }
}

/// From so many files on, several threads read their labels.
const MANY: usize = 512;
const MOST_THREADS: usize = 4;

/// A directory and the seal keys that open what is in it.
pub struct Archive<D> {
    pub(super) directory: D,
    pub(super) keys: KeyRing,
    /// The longest value, in bytes.
    cap: u64,
}

/// A file whose label was opened.
#[derive(Debug, Clone)]
pub struct Sealed {
    pub name: String,
    /// By an older seal key than the one that seals.
    pub outdated: bool,
    pub label: Label,
}

/// Why a file, or the value of a key, is as if it were not there.
#[derive(Debug)]
pub enum Problem {
    Io(io::Error),
    Unreadable(Unreadable),
    /// A sealed file under the name of another one.
    Renamed,
    /// Sealed for another definition of the key's source.
    OtherDefinition,
    /// Longer than `value-size`.
    TooLarge,
}

impl Problem {
    /// Of a file that is not this broker's to judge: it may be another one's, or a newer version's.
    pub fn is_foreign(&self) -> bool {
        matches!(
            self,
            Self::Unreadable(Unreadable::NotOurs | Unreadable::NewerFormat { .. } | Unreadable::OtherSealKey)
        )
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "cannot be read: {error}"),
            Self::Unreadable(why) => write!(f, "{why}"),
            Self::Renamed => write!(f, "renamed: it is the file of another key"),
            Self::OtherDefinition => write!(f, "sealed for another definition of the key's source"),
            Self::TooLarge => write!(f, "longer than value-size"),
        }
    }
}

impl From<Unreadable> for Problem {
    fn from(why: Unreadable) -> Self {
        Self::Unreadable(why)
    }
}

/// What is in the directory.
#[derive(Debug, Default)]
pub struct Listing {
    pub sealed: Vec<Sealed>,
    /// What gives nothing, by name.
    pub strange: Vec<(String, Problem)>,
    /// What an interrupted write left behind.
    pub temporary: Vec<String>,
}

impl Listing {
    /// The bundles by the names of their files, the oldest first.
    pub(super) fn bundles(&self) -> impl Iterator<Item = (&str, State)> {
        let mut bundles: Vec<(u64, &str)> = Vec::new();
        for sealed in &self.sealed {
            if let Label::State(State::Bundle(number)) = sealed.label {
                bundles.push((number, &sealed.name));
            }
        }
        bundles.sort_unstable();
        bundles.into_iter().map(|(number, name)| (name, State::Bundle(number)))
    }
}

/// A value as it was when it was sealed.
pub struct Loaded {
    pub value: SecretValue,
    pub label: ValueLabel,
    /// Its file says that it is not to be served.
    pub withheld: bool,
}

impl<D: AsFd + Sync> Archive<D> {
    pub fn new(directory: D, keys: KeyRing, cap: u64) -> Self {
        Self { directory, keys, cap }
    }

    pub fn keys(&self) -> &KeyRing {
        &self.keys
    }

    /// Opens every label; no value.
    pub fn list(&self) -> io::Result<Listing> {
        let names = file::names_at(self.directory.as_fd())?;
        let (temporary, names): (Vec<_>, Vec<_>) =
            names.into_iter().partition(|name| file::of_temporary(name).is_some_and(has_our_form));
        let looked = self.look_at_all(&names);
        let mut listing = Listing { sealed: Vec::with_capacity(names.len()), strange: Vec::new(), temporary };
        for (name, looked) in names.into_iter().zip(looked) {
            match looked {
                Ok(Some(head)) => {
                    let outdated = head.keyed > 0;
                    listing.sealed.push(Sealed { name, outdated, label: head.label });
                }
                // Replaced or removed since its name was read.
                Ok(None) => {}
                Err(problem) => listing.strange.push((name, problem)),
            }
        }
        Ok(listing)
    }

    /// By several threads if they are many: to open and read a small file is a few microseconds of the kernel's time.
    fn look_at_all(&self, names: &[String]) -> Vec<Result<Option<Head>, Problem>> {
        let look = |names: &[String]| {
            let mut buffer = vec![0; HEAD_LEN];
            names.iter().map(|name| self.look(name, &mut buffer)).collect::<Vec<_>>()
        };
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(MOST_THREADS));
        if threads == 1 || names.len() < MANY {
            return look(names);
        }
        std::thread::scope(|scope| {
            let parts = names.chunks(names.len().div_ceil(threads));
            let running: Vec<_> = parts.map(|part| (part, scope.spawn(move || look(part)))).collect();
            // A thread that ended without a result is done again here.
            running.into_iter().flat_map(|(part, thread)| thread.join().unwrap_or_else(|_| look(part))).collect()
        })
    }

    pub(super) fn look(&self, name: &str, buffer: &mut [u8]) -> Result<Option<Head>, Problem> {
        if !has_our_form(name) {
            return Err(Unreadable::NotOurs.into());
        }
        let read = file::read_head_at(self.directory.as_fd(), name, buffer).map_err(Problem::Io)?;
        let Some((filled, length)) = read else { return Ok(None) };
        let head = format::open_head(&self.keys, &buffer[..filled], length)?;
        if head.label.file_name(&self.keys.all()[head.keyed]) == name { Ok(Some(head)) } else { Err(Problem::Renamed) }
    }

    /// The newest value that was sealed for exactly this key and this definition of its source, unless it is withheld.
    pub fn load(&self, key: &KeyPath, definition: &Definition) -> Result<Option<Loaded>, Problem> {
        Ok(self.load_even_withheld(key, definition)?.filter(|loaded| !loaded.withheld))
    }

    /// The same, also of one that is not to be served before a token is accepted.
    pub fn load_even_withheld(&self, key: &KeyPath, definition: &Definition) -> Result<Option<Loaded>, Problem> {
        let mut found = Ok(None);
        for seal in self.keys.all() {
            match self.load_named(&seal.file_name(key), key, definition) {
                Ok(None) => {}
                Ok(Some(loaded)) => {
                    let rank = |loaded: &Loaded| (loaded.label.fetched_at, loaded.withheld);
                    if !matches!(&found, Ok(Some(newest)) if rank(newest) >= rank(&loaded)) {
                        found = Ok(Some(loaded));
                    }
                }
                Err(problem) => {
                    if matches!(found, Ok(None)) {
                        found = Err(problem);
                    }
                }
            }
        }
        found
    }

    fn load_named(&self, name: &str, key: &KeyPath, definition: &Definition) -> Result<Option<Loaded>, Problem> {
        let most = self.cap.saturating_add(HEAD_LEN as u64);
        let read = file::read_at(self.directory.as_fd(), name, most).map_err(|error| match error.kind() {
            io::ErrorKind::FileTooLarge => Problem::TooLarge,
            _ => Problem::Io(error),
        });
        let Some(bytes) = read? else { return Ok(None) };
        let head = format::open_head(&self.keys, start_of(&bytes), bytes.len() as u64)?;
        let (label, withheld) = match &head.label {
            Label::Value(label) if label.key == *key => (label, false),
            Label::Withheld(label) if label.key == *key => (label, true),
            Label::Tombstone(tombstone) if tombstone.key == *key => return Ok(None),
            _ => return Err(Problem::Renamed),
        };
        if label.definition != *definition {
            return Err(Problem::OtherDefinition);
        }
        if label.size > self.cap {
            return Err(Problem::TooLarge);
        }
        let content = format::open_content(&self.keys, &head, &format::binding(key, definition), &bytes)?;
        Ok(Some(Loaded { value: SecretValue::from_json(content), label: label.clone(), withheld }))
    }

    /// What was last written of a state, under each seal key that has written one.
    pub fn states(&self, state: State) -> Vec<Result<Zeroizing<Vec<u8>>, Problem>> {
        let read = |seal: &SealKey| self.state(&seal.name_of(&state.name()), state).transpose();
        self.keys.all().iter().filter_map(read).collect()
    }

    /// The ledger, as it was last written; empty where none can be read.
    pub fn ledger(&self) -> Ledger {
        Ledger::newest(self.states(State::Ledger).iter().flatten())
    }

    /// Opens a file as a whole. Good is also one that has been replaced since it was listed.
    pub fn verify(&self, sealed: &Sealed) -> Result<(), Problem> {
        let read = file::read_at(self.directory.as_fd(), &sealed.name, u64::MAX).map_err(Problem::Io)?;
        let Some(bytes) = read else { return Ok(()) };
        let head = format::open_head(&self.keys, start_of(&bytes), bytes.len() as u64)?;
        let binding = match &head.label {
            Label::Value(label) | Label::Withheld(label) => format::binding(&label.key, &label.definition),
            Label::Tombstone(_) | Label::State(_) => Vec::new(),
        };
        format::open_content(&self.keys, &head, &binding, &bytes)?;
        Ok(())
    }

    /// `None` if it is not there, or is another one's by now.
    pub(super) fn state(&self, name: &str, state: State) -> Result<Option<Zeroizing<Vec<u8>>>, Problem> {
        // Nothing is read by its length but what one of our keys has sealed as this.
        if self.look(name, &mut vec![0; HEAD_LEN])?.is_none_or(|head| head.label != Label::State(state)) {
            return Ok(None);
        }
        let read = file::read_at(self.directory.as_fd(), name, largest(state)).map_err(|error| match error.kind() {
            // Longer than any that we write.
            io::ErrorKind::FileTooLarge => Unreadable::Damaged.into(),
            _ => Problem::Io(error),
        });
        let Some(bytes) = read? else { return Ok(None) };
        let head = format::open_head(&self.keys, start_of(&bytes), bytes.len() as u64)?;
        if head.label != Label::State(state) {
            return Ok(None);
        }
        Ok(Some(format::open_content(&self.keys, &head, &[], &bytes)?))
    }
}

/// As much of a file as its label needs.
fn start_of(file: &[u8]) -> &[u8] {
    &file[..file.len().min(HEAD_LEN)]
}

/// The names that sealed files have.
fn has_our_form(name: &str) -> bool {
    name.len() == NAME_LEN && name.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}
