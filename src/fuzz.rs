//! Fuzzing on a stable toolchain, for `cargo test` and `tests/run --fuzz`: inputs made from a corpus, and whatever fails
//! made small and kept.
//!
//! A target is a test in the `fuzz.rs` of its module: a check of bytes that panics on a find and else says what was
//! seen. The corpus is `fuzz/corpus/TARGET`. An input that shows something new is changed further, so that deep places
//! are reached without instrumented code. A plain `cargo test` replays the corpus and tries the same inputs every time;
//! with `KEYHATCH_FUZZ_SECONDS` the inputs are others each time.
#![forbid(unsafe_code)]

mod change;

use std::cell::RefCell;
use std::collections::HashSet;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::{Duration, Instant};

use change::{Rng, change};

/// Of a plain `cargo test`, whichever is reached first.
const INPUTS: u64 = 5000;
const TIME: Duration = Duration::from_millis(500);
/// Enough for any find to become readable.
const ATTEMPTS_TO_SHRINK: usize = 3000;
const LARGEST_POOL: usize = 4096;

/// What one target works with.
#[derive(Default)]
pub(crate) struct Start {
    /// Inputs beside those of the corpus: what is sealed or encoded by the code of today.
    pub(crate) seeds: Vec<Vec<u8>>,
    /// Words that bytes alone would seldom make.
    pub(crate) words: &'static [&'static str],
}

/// Runs a check over the corpus and over what is made of it. `check` panics on a find, and gives what it saw in any words
/// that tell one course from another.
pub(crate) fn run<S: IntoIterator<Item: Hash>>(target: &str, start: Start, check: impl Fn(&[u8]) -> S) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let corpus = root.join("fuzz/corpus").join(target);
    let running = Running::new(&root.join("target/fuzz"), target);
    let mut pool = [read(&corpus), start.seeds].concat();
    assert!(!pool.is_empty(), "no seeds in {}", corpus.display());

    let seconds = std::env::var("KEYHATCH_FUZZ_SECONDS").ok().map(|seconds| seconds.parse().unwrap());
    let (time, most) = seconds.map_or((TIME, INPUTS), |seconds| (Duration::from_secs(seconds), u64::MAX));
    let mut seed = 1_u64.to_ne_bytes();
    if seconds.is_some() {
        crate::sys::random::fill(&mut seed).unwrap();
    }
    let mut rng = Rng::new(u64::from_ne_bytes(seed));
    let mut seen = HashSet::new();
    let mut attempt = |input: &[u8]| -> Result<bool, String> {
        running.write(input);
        IN_A_CHECK.set(Some(String::new()));
        let saw = catch_unwind(AssertUnwindSafe(|| check(input).into_iter().map(hash).collect::<Vec<_>>()));
        let panicked = IN_A_CHECK.take().unwrap_or_default();
        let before = seen.len();
        seen.extend(saw.map_err(|_| panicked)?);
        Ok(seen.len() > before)
    };

    note_panics();
    let (began, mut inputs) = (Instant::now(), 0);
    let seeds = pool.clone();
    let mut next_seed = seeds.iter();
    loop {
        let seed = next_seed.next().cloned();
        if seed.is_none() && (inputs >= most || began.elapsed() >= time) {
            break;
        }
        let input = seed.clone().unwrap_or_else(|| change(&pool, start.words, &mut rng));
        inputs += 1;
        match attempt(&input) {
            Ok(new) if new && seed.is_none() && pool.len() < LARGEST_POOL => pool.push(input),
            Ok(_) => {}
            Err(why) => {
                // Another find than this one would hide it.
                let place = |why: &str| why.lines().next().unwrap_or_default().to_owned();
                let small = shrink(input, |less| attempt(less).is_err_and(|other| place(&other) == place(&why)));
                let why = attempt(&small).err().unwrap_or(why);
                let place = keep(&corpus, &small);
                running.done();
                panic!("{target} after {inputs} inputs: {why}\ninput: {}\nkept as {place}", small.escape_ascii());
            }
        }
    }
    running.done();
    println!(
        "{target}: {inputs} inputs in {} s, {} courses, {} seeds became {}",
        began.elapsed().as_secs(),
        seen.len(),
        seeds.len(),
        pool.len()
    );
}

fn hash(of: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

thread_local! {
    /// While a check runs: where it panicked and what it said.
    static IN_A_CHECK: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// A check that panics does so many times while its input is made small: that is noted, not printed.
fn note_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let place = panic.location().map(|place| format!("{}:{}", place.file(), place.line())).unwrap_or_default();
            let said = panic.payload_as_str().unwrap_or_default();
            IN_A_CHECK.with_borrow_mut(|noted| match noted {
                Some(noted) => *noted = format!("{place}:\n{said}"),
                None => print(panic),
            });
        }));
    });
}

/// The files of a folder in the order of their names.
pub(crate) fn read(folder: &Path) -> Vec<Vec<u8>> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// Takes away what the failure does not need, in halves, quarters and so on to single bytes.
fn shrink(mut input: Vec<u8>, mut fails: impl FnMut(&[u8]) -> bool) -> Vec<u8> {
    let (mut part, mut left) = (input.len().div_ceil(2), ATTEMPTS_TO_SHRINK);
    while part > 0 && left > 0 {
        let (mut at, before) = (0, input.len());
        while at < input.len() && left > 0 {
            left -= 1;
            let less = [&input[..at], &input[input.len().min(at + part)..]].concat();
            if fails(&less) {
                input = less;
            } else {
                at += part;
            }
        }
        part = if part == 1 && input.len() < before { 1 } else { part / 2 };
    }
    input
}

/// Into the corpus, so that every run tries it from now on; elsewhere if the sources cannot be written.
fn keep(corpus: &Path, input: &[u8]) -> String {
    let name = format!("found-{:016x}", hash(input));
    let places = [corpus.to_owned(), std::env::temp_dir()];
    let _ = std::fs::create_dir_all(corpus);
    let kept = places.iter().map(|place| place.join(&name)).find(|path| std::fs::write(path, input).is_ok());
    kept.map_or("nothing: no place for it".into(), |path| path.display().to_string())
}

/// The input that is tried now, in a file: it is still there if the process does not live to tell.
struct Running(Option<(PathBuf, std::fs::File)>);

impl Running {
    fn new(folder: &Path, target: &str) -> Self {
        let path = folder.join(format!("{target}.running"));
        let file = std::fs::create_dir_all(folder).and_then(|()| std::fs::File::create(&path));
        Self(file.ok().map(|file| (path, file)))
    }

    fn write(&self, input: &[u8]) {
        if let Some((_, file)) = &self.0 {
            let _ = file.write_at(input, 0).and_then(|_| file.set_len(input.len() as u64));
        }
    }

    fn done(&self) {
        if let Some((path, _)) = &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_find_is_made_as_small_as_it_can_be() {
        let found = shrink(b"some text with <b>bold< in it".to_vec(), |input| {
            input.iter().filter(|byte| **byte == b'<').count() == 2
        });
        assert_eq!(found, b"<<");
    }

    #[test]
    fn what_only_a_change_of_a_change_shows_is_reached() {
        let words = &["open", "sesame"];
        let deep = |input: &[u8]| {
            let text = String::from_utf8_lossy(input).into_owned();
            let steps = [text.contains("open"), text.contains("open sesame"), text.contains("open sesame 7")];
            steps.into_iter().position(|step| !step)
        };
        let mut rng = Rng::new(1);
        let (mut pool, mut seen) = (vec![b"a door 7".to_vec()], HashSet::new());
        let reached = (0..200_000).any(|_| {
            let input = change(&pool, words, &mut rng);
            let step = deep(&input);
            if seen.insert(step) {
                pool.push(input);
            }
            step.is_none()
        });
        assert!(reached, "{seen:?}");
    }
}
