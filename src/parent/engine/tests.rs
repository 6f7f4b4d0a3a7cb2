//! The engine with a real directory and without an upstream: what it keeps, and what it does when the disk does not.

mod bundles;
mod expanded;
mod landing;
mod memory;
mod operator;
mod withheld;

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use tokio::task::LocalSet;

use super::flight::Fresh;
use super::{Engine, NewTokens};
use crate::config::{Config, SourceText, System};
use crate::outcome::{Class, Failure, Reason};
use crate::parent::cache::{KeyRing, SealKey, Store, Validators, new_seal_key_text};
use crate::parent::upstream::{SourceInputs, Sources};
use crate::parent::vault::Vault;
use crate::secret::{KeyPath, SecretValue};
use crate::sys::clock::BootId;
use crate::sys::file;

/// A directory and a seal key, over several starts.
struct Place {
    directory: tempfile::TempDir,
    /// The first seals.
    seals: RefCell<Vec<String>>,
    config: RefCell<String>,
}

impl Place {
    fn new() -> Self {
        let config = "[keys.\"/a\"]\nsource = { type = \"http\", url = \"https://a.example/a\" }\n\
                      [keys.\"/b\"]\nsource = { type = \"http\", url = \"https://a.example/b\" }\n";
        let seals = RefCell::new(vec![new_seal_key_text().unwrap().to_string()]);
        Self { directory: tempfile::tempdir().unwrap(), seals, config: RefCell::new(config.into()) }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn config(&self) -> Config {
        let text = self.config.borrow().clone();
        crate::config::parse(vec![SourceText { path: PathBuf::from("keyhatch.toml"), text }], &System).unwrap()
    }

    fn store(&self) -> Store {
        // The engine before this one lets go of the directory when its threads have ended.
        let give_up = Instant::now() + Duration::from_secs(10);
        loop {
            let keys = self.seals.borrow().iter().map(|text| SealKey::parse(text.as_bytes()).unwrap()).collect();
            let keys = KeyRing::new(keys).unwrap();
            match Store::open(file::open_directory(self.path()).unwrap(), keys, 1 << 20) {
                Ok(store) => return store,
                Err(error) => assert!(Instant::now() < give_up, "{error}"),
            }
            std::thread::yield_now();
        }
    }

    fn engine(&self) -> Rc<Engine> {
        let config = self.config();
        let sources = Sources::new(&config, SourceInputs::default()).unwrap();
        let vault = Vault::read(Vec::new(), &Default::default()).ok().unwrap();
        let (recalls, _) = tokio::sync::mpsc::unbounded_channel();
        let boot = Some(BootId([1; 16]));
        Rc::new(Engine::new(&config, self.store(), boot, sources, vault, recalls).unwrap())
    }

    /// Runs this with an engine whose sealing is under way, and waits for what is being written at the end.
    fn run<T>(&self, act: impl AsyncFnOnce(Rc<Engine>) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let local = LocalSet::new();
        let result = local.block_on(&runtime, async {
            let engine = self.engine();
            tokio::task::spawn_local(engine.clone().keep_sealed());
            act(engine).await
        });
        drop(local);
        drop(self.store());
        result
    }
}

impl Engine {
    /// As the answer of a fetch that has just begun.
    async fn accept(&self, values: Vec<(KeyPath, Fresh)>) {
        let keys: Vec<KeyPath> = values.iter().map(|(key, _)| key.clone()).collect();
        let landed = self.landed(&keys, tokio::time::Instant::now());
        self.keep(values, &landed).await;
    }

    /// The same of one that gave no value.
    async fn refused(&self, key: &KeyPath, failure: Failure, document_is_good: bool) {
        self.give_up(self.refuse(key, failure, document_is_good).into_iter().collect()).await;
    }
}

/// Has this place's configuration replace the one that the engine has.
async fn reload(place: &Place, engine: &Rc<Engine>, inputs: SourceInputs) {
    let live = place.config().into_live();
    let prepared = engine.prepare(&live).await;
    let sources = engine.renewed_sources(&live, inputs).unwrap();
    let tokens = NewTokens { given: Vault::read(Vec::new(), &Default::default()).ok().unwrap(), kept: Vec::new() };
    engine.reconfigure(live, prepared, sources, tokens);
}

fn key(path: &str) -> KeyPath {
    KeyPath::parse(path).unwrap()
}

fn value(path: &str, text: &str) -> (KeyPath, Fresh) {
    let value = SecretValue::from_text(text);
    (key(path), Fresh { value: Some(value), status: Some(200), validators: Validators::default() })
}

/// Text and age of what would be served.
fn held(engine: &Engine, path: &str) -> Option<(String, u64)> {
    let entries = engine.entries.borrow();
    let entry = &entries[&key(path)];
    let held = entry.held.as_ref()?;
    let text = match &held.value {
        Some(value) => value.get().text(),
        None => engine.store.load(&key(path), &entry.definition).ok()??.value.text(),
    };
    Some((text?.to_string(), held.fetched_at))
}

#[test]
fn values_and_their_ages_outlive_a_restart() {
    let place = Place::new();
    let (sealed, confirmed) = place.run(async |engine| {
        engine.accept(vec![value("/a", "one"), value("/b", "two")]).await;
        let sealed = held(&engine, "/b").unwrap().1;
        while engine.clock.now() == sealed {
            tokio::task::yield_now().await;
        }
        engine.accept(vec![value("/b", "two")]).await;
        engine.close().await;
        (sealed, held(&engine, "/b").unwrap().1)
    });
    assert!(confirmed > sealed);
    place.run(async |engine| {
        assert_eq!(held(&engine, "/a").unwrap(), ("one".into(), sealed));
        assert_eq!(held(&engine, "/b").unwrap(), ("two".into(), confirmed));
        assert!(engine.clock.now() >= confirmed);
    });
}

#[test]
fn a_value_is_on_disk_before_it_is_seen() {
    let place = Place::new();
    place.run(async |engine| engine.accept(vec![value("/a", "one")]).await);
    // No orderly end.
    place.run(async |engine| assert_eq!(held(&engine, "/a").unwrap().0, "one"));
}

#[test]
fn a_disk_that_hangs_holds_up_an_answer_for_a_second_and_loses_nothing() {
    let place = Place::new();
    place.run(async |engine| {
        let (thaw, frozen) = mpsc::channel::<()>();
        let hang = engine.scribe.lane.run(move |_| frozen.recv().is_ok());
        let thaw_later = async {
            let started = Instant::now();
            for text in ["one", "two", "three"] {
                engine.accept(vec![value("/a", text)]).await;
                assert_eq!(held(&engine, "/a").unwrap().0, text, "served from memory");
            }
            assert!(started.elapsed() < Duration::from_secs(10));
            thaw.send(()).unwrap();
        };
        tokio::join!(hang, thaw_later);
        engine.close().await;
    });
    place.run(async |engine| assert_eq!(held(&engine, "/a").unwrap().0, "three"));
}

#[test]
fn a_full_disk_costs_persistence_and_no_answer() {
    let place = Place::new();
    place.run(async |engine| {
        engine.accept(vec![value("/a", "one")]).await;
        // What is to be replaced cannot be: there is a directory in the place of the temporary file.
        let name = engine.store.keys().first().file_name(&key("/a"));
        let obstacle = place.path().join(format!(".{name}.new"));
        std::fs::create_dir(&obstacle).unwrap();
        engine.accept(vec![value("/a", "two")]).await;
        assert_eq!(held(&engine, "/a").unwrap().0, "two");
        std::fs::remove_dir(&obstacle).unwrap();
        engine.accept(vec![value("/a", "two")]).await;
    });
    place.run(async |engine| assert_eq!(held(&engine, "/a").unwrap().0, "two", "tried again when it was confirmed"));
}

#[test]
fn another_definition_is_another_value() {
    let place = Place::new();
    place.run(async |engine| engine.accept(vec![value("/a", "one"), value("/b", "two")]).await);
    let changed = place.config.borrow().replace("a.example/a", "other.example/a");
    *place.config.borrow_mut() = changed;
    place.run(async |engine| {
        assert_eq!(held(&engine, "/a"), None);
        assert_eq!(held(&engine, "/b").unwrap().0, "two");
    });
}

fn file_of(place: &Place, path: &str) -> PathBuf {
    place.path().join(SealKey::parse(place.seals.borrow()[0].as_bytes()).unwrap().file_name(&key(path)))
}

/// The value of `/a`, fetched, copied and then revoked.
fn revoked() -> (Place, Vec<u8>) {
    let place = Place::new();
    let text = place.config.borrow().clone() + "[defaults]\nrevoked-after = 1\nrevoked-over = \"0s\"\n";
    *place.config.borrow_mut() = text;
    let copy = place.run(async |engine| {
        engine.accept(vec![value("/a", "one")]).await;
        let copy = std::fs::read(file_of(&place, "/a")).unwrap();
        let gone = Failure::new(Class::Gone, Reason::Status(404));
        engine.refused(&key("/a"), gone, false).await;
        assert_eq!(held(&engine, "/a"), None);
        copy
    });
    (place, copy)
}

#[test]
fn a_backup_does_not_bring_back_what_was_revoked() {
    let (place, copy) = revoked();
    let tombstone = std::fs::read(file_of(&place, "/a")).unwrap();
    assert!(tombstone.len() < copy.len() + 100 && tombstone != copy);
    std::fs::write(file_of(&place, "/a"), &copy).unwrap();
    place.run(async |engine| {
        assert_eq!(held(&engine, "/a"), None, "the ledger knows");
        engine.close().await;
    });
    assert_ne!(std::fs::read(file_of(&place, "/a")).unwrap(), copy, "and the file has gone again");
}

#[test]
fn a_tombstone_alone_is_enough() {
    let (place, copy) = revoked();
    let tombstone = file_of(&place, "/a");
    let files = std::fs::read_dir(place.path()).unwrap().map(|file| file.unwrap().path());
    files.filter(|path| *path != tombstone).for_each(|path| std::fs::remove_file(path).unwrap());
    place.run(async |engine| {
        assert_eq!(held(&engine, "/a"), None);
        engine.close().await;
    });
    std::fs::write(tombstone, copy).unwrap();
    place.run(async |engine| assert_eq!(held(&engine, "/a"), None, "the ledger has learnt it again"));
}

#[test]
fn a_later_answer_ends_a_revocation() {
    let (place, _) = revoked();
    place.run(async |engine| {
        engine.accept(vec![value("/a", "two")]).await;
        engine.close().await;
    });
    place.run(async |engine| assert_eq!(held(&engine, "/a").unwrap().0, "two"));
}

#[test]
fn a_tombstone_without_room_for_it_removes_the_value() {
    let (place, _) = revoked();
    place.run(async |engine| {
        engine.accept(vec![value("/a", "two")]).await;
        let name = file_of(&place, "/a");
        let obstacle = place.path().join(format!(".{}.new", name.file_name().unwrap().to_str().unwrap()));
        std::fs::create_dir(&obstacle).unwrap();
        engine.refused(&key("/a"), Failure::new(Class::Gone, Reason::Status(404)), false).await;
        assert!(!name.exists());
    });
}

#[test]
fn a_new_seal_key_takes_over_and_the_old_one_can_go() {
    let (place, _) = revoked();
    let before = place.run(async |engine| {
        engine.accept(vec![value("/b", "two")]).await;
        let tag = engine.entries.borrow()[&key("/b")].held.as_ref().unwrap().tag;
        engine.close().await;
        tag
    });
    let new = new_seal_key_text().unwrap().to_string();
    place.seals.borrow_mut().insert(0, new.clone());
    let (fetched_at, after) = place.run(async |engine| {
        let (text, fetched_at) = held(&engine, "/b").unwrap();
        assert_eq!((text.as_str(), held(&engine, "/a")), ("two", None));
        engine.reseal_outdated().await;
        engine.close().await;
        let tag = engine.entries.borrow()[&key("/b")].held.as_ref().unwrap().tag;
        (fetched_at, tag)
    });
    assert_ne!(before, after, "tags are of the key that seals");
    *place.seals.borrow_mut() = vec![new];
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 4, "two files, the ledger and the clock");
    place.run(async |engine| {
        assert_eq!(held(&engine, "/b").unwrap(), ("two".into(), fetched_at));
        assert!(engine.ledger.borrow().buried(&key("/a"), 1).is_some(), "revoked still");
    });
}

#[test]
fn what_left_the_configuration_is_kept_unserved_and_then_forgotten() {
    let place = Place::new();
    let full = place.config.borrow().clone();
    let (a, _) = full.split_at(full.find("[keys.\"/b\"]").unwrap());
    place.run(async |engine| {
        engine.accept(vec![value("/a", "one"), value("/b", "two")]).await;
        std::fs::write(place.path().join("notes"), "mine").unwrap();
        engine.close().await;
    });
    *place.config.borrow_mut() = a.to_owned();
    place.run(async |engine| {
        engine.forget_left().await;
        assert!(file_of(&place, "/b").exists() && !engine.entries.borrow().contains_key(&key("/b")));
        engine.close().await;
    });
    *place.config.borrow_mut() = full.clone() + "forget-after = \"0s\"\n";
    place.run(async |engine| {
        engine.forget_left().await;
        assert_eq!(held(&engine, "/b").unwrap().0, "two", "it is back");
        engine.close().await;
    });
    *place.config.borrow_mut() = a.to_owned();
    place.run(async |engine| {
        engine.forget_left().await;
        assert!(!file_of(&place, "/b").exists() && file_of(&place, "/a").exists());
        assert!(place.path().join("notes").exists(), "what is not ours is not touched");
    });
}
