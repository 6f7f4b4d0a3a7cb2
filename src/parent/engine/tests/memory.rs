//! What is in memory and what is on disk alone.

use std::rc::Rc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::{Place, file_of, key, value};
use crate::ipc::wire::{Body, Reply, RequestId, ValueReply};
use crate::parent::cache::Validators;
use crate::parent::engine::flight::Fresh;
use crate::parent::engine::{Asker, Engine};

/// A configuration with room for two values of [`LONG`] bytes, and the paths of its keys.
fn little_memory(place: &Place) -> Vec<String> {
    let paths: Vec<String> = (0..6).map(|n| format!("/k{n}")).collect();
    let key = |path: &String| {
        format!(
            "[keys.\"{path}\"]\nsource = {{ type = \"http\", url = \"https://a.example{path}\" }}\nmax-age = \"1h\"\n"
        )
    };
    let keys: String = paths.iter().map(key).collect();
    *place.config.borrow_mut() = format!("[limits]\nvalue-size = \"1KiB\"\nmemory = \"1KiB\"\n{keys}");
    paths
}

const LONG: usize = 400;

fn long(path: &str) -> String {
    format!("{path}{}", "x".repeat(LONG - path.len()))
}

/// What a peer gets, as long as no upstream is needed.
async fn answered(engine: &Rc<Engine>, path: &str) -> Option<String> {
    let asker = Asker { uid: 0, pid: 0, request: RequestId(0), arguments: None };
    match engine.ask(&key(path), asker, false).await {
        Reply::Value(ValueReply { body: Body::Inline(bytes), .. }) => serde_json::from_slice(&bytes.0).ok(),
        _ => None,
    }
}

fn in_memory(engine: &Engine, paths: &[String]) -> Vec<bool> {
    let entries = engine.entries.borrow();
    paths.iter().map(|path| entries[&key(path)].has_bytes()).collect()
}

#[test]
fn beyond_the_limit_bytes_go_and_are_read_again() {
    let place = Place::new();
    let paths = little_memory(&place);
    place.run(async |engine| {
        for path in &paths {
            engine.accept(vec![value(path, &long(path))]).await;
        }
        assert_eq!(in_memory(&engine, &paths), [false, false, false, false, true, true]);
        for path in paths.iter().chain(&paths) {
            assert_eq!(answered(&engine, path).await.unwrap(), long(path));
            assert!(in_memory(&engine, &paths).iter().filter(|held| **held).count() <= 2);
        }
        answered(&engine, "/k4").await;
        answered(&engine, "/k0").await;
        assert_eq!(in_memory(&engine, &paths), [true, false, false, false, true, false], "the least used goes");
        let confirmed = Fresh { value: None, status: Some(304), validators: Validators::default() };
        engine.accept(vec![(key("/k1"), confirmed)]).await;
        assert_eq!(answered(&engine, "/k1").await.unwrap(), long("/k1"), "confirmed while it was on disk alone");
    });
}

#[test]
fn what_is_not_on_disk_is_never_dropped() {
    let place = Place::new();
    let paths = little_memory(&place);
    place.run(async |engine| {
        for path in &paths {
            let file = file_of(&place, path);
            std::fs::create_dir(file.with_file_name(format!(".{}.new", file.file_name().unwrap().display()))).unwrap();
            engine.accept(vec![value(path, &long(path))]).await;
        }
        assert!(in_memory(&engine, &paths).iter().all(|held| *held));
        for path in &paths {
            assert_eq!(answered(&engine, path).await.unwrap(), long(path));
        }
    });
}

#[test]
fn after_the_start_values_are_read_ahead_as_far_as_there_is_room() {
    let place = Place::new();
    let paths = little_memory(&place);
    place.run(async |engine| {
        for path in &paths {
            engine.accept(vec![value(path, &long(path))]).await;
        }
    });
    place.run(async |engine| {
        assert!(in_memory(&engine, &paths).iter().all(|held| !*held), "a start reads labels only");
        engine.read_ahead().await;
        assert_eq!(in_memory(&engine, &paths).iter().filter(|held| **held).count(), 2);
    });
    let roomy = place.config.borrow().replace("memory = \"1KiB\"", "memory = \"1MiB\"");
    *place.config.borrow_mut() = roomy;
    place.run(async |engine| {
        engine.read_ahead().await;
        assert!(in_memory(&engine, &paths).iter().all(|held| *held));
    });
}

#[test]
fn a_value_whose_file_turns_out_damaged_is_none() {
    let place = Place::new();
    place.run(async |engine| engine.accept(vec![value("/a", "one")]).await);
    let file = file_of(&place, "/a");
    let mut changed = std::fs::read(&file).unwrap();
    *changed.last_mut().unwrap() ^= 1;
    std::fs::write(&file, changed).unwrap();
    place.run(async |engine| {
        assert!(engine.entries.borrow()[&key("/a")].held.is_some(), "its label is whole");
        engine.recollect(&key("/a")).await;
        assert!(engine.entries.borrow()[&key("/a")].held.is_none());
    });
}

#[test]
fn a_disk_that_hangs_holds_up_a_reader_for_a_second_and_loses_nothing() {
    let place = Place::new();
    place.run(async |engine| engine.accept(vec![value("/a", "one")]).await);
    place.run(async |engine| {
        let (thaw, frozen) = mpsc::channel::<()>();
        let hang = engine.reader.run(move |_| frozen.recv().is_ok());
        let wait = async {
            let started = Instant::now();
            for _ in 0..2 {
                engine.recollect(&key("/a")).await;
            }
            assert!(started.elapsed() < Duration::from_secs(10));
            assert!(!engine.entries.borrow()[&key("/a")].has_bytes());
            thaw.send(()).unwrap();
        };
        tokio::join!(hang, wait);
        engine.recollect(&key("/a")).await;
        assert!(engine.entries.borrow()[&key("/a")].has_bytes());
    });
}
