//! Paths of keys with parameters: what lasts, what is found again, and what there is room for.

use std::rc::Rc;
use std::time::Instant;

use tokio::sync::watch;

use super::{Place, file_of, held, key, value};
use crate::ipc::wire::{Forward, Reply, Verdict};
use crate::outcome::{Class, Failure, Reason};
use crate::parent::engine::Engine;
use crate::parent::engine::expanded::MOST_PASSING;
use crate::parent::engine::flight::Flight;
use crate::sys::clock::boot_nanos;

fn template(place: &Place, settings: &str) {
    *place.config.borrow_mut() = format!(
        "[keys.\"/a\"]\nsource = {{ type = \"http\", url = \"https://a.example/a\" }}\n\
         [keys.\"/n/{{n}}\"]\nsource = {{ type = \"http\", url = \"https://a.example/{{n}}\" }}\n\
         params.n = {{ matches = \"[a-z0-9]+\" }}\n{settings}\n"
    );
}

/// As if these had been asked for, and answered.
async fn fetch(engine: &Rc<Engine>, uid: u32, paths: &[&str]) {
    for path in paths {
        let in_hand = engine.enter(&key(path), uid).ok().unwrap();
        engine.accept(vec![value(path, path)]).await;
        drop(in_hand);
    }
}

fn lasting(engine: &Engine) -> Vec<String> {
    let entries = engine.entries.borrow();
    let listed = entries.keys().filter(|key| key.as_str().starts_with("/n/") && engine.state_of(key).is_some());
    let mut paths: Vec<String> = listed.map(ToString::to_string).collect();
    paths.sort_unstable();
    paths
}

#[test]
fn entries_last_with_a_value_and_the_oldest_goes_with_its_file() {
    let place = Place::new();
    template(&place, "max-entries = 2");
    place.run(async |engine| {
        let in_hand = engine.enter(&key("/n/failing"), 1).ok().unwrap();
        engine.refused(&key("/n/failing"), Failure::new(Class::Gone, Reason::Status(404)), false).await;
        drop(in_hand);
        assert_eq!(lasting(&engine), Vec::<String>::new());
        fetch(&engine, 1, &["/n/a", "/n/b"]).await;
        let in_hand = engine.enter(&key("/n/a"), 1).ok().unwrap();
        drop(in_hand);
        fetch(&engine, 1, &["/n/c"]).await;
        assert_eq!(lasting(&engine), ["/n/a", "/n/c"]);
        engine.close().await;
    });
    assert!(!file_of(&place, "/n/b").exists());
    place.run(async |engine| {
        assert_eq!(lasting(&engine), ["/n/a", "/n/c"]);
        assert_eq!(held(&engine, "/n/a").unwrap().0, "/n/a");
        assert!(engine.enter(&key("/n/UPPER"), 1).is_err() && engine.enter(&key("/other"), 1).is_err());
    });
}

#[test]
fn what_has_another_definition_counts_and_serves_again_when_that_is_taken_back() {
    let place = Place::new();
    template(&place, "max-entries = 3");
    place.run(async |engine| {
        fetch(&engine, 1, &["/n/a", "/n/b"]).await;
        engine.close().await;
    });
    let before = place.config.borrow().clone();
    *place.config.borrow_mut() = before.replace("a.example/{n}", "other.example/{n}");
    place.run(async |engine| {
        assert_eq!((lasting(&engine).len(), held(&engine, "/n/a")), (2, None));
        fetch(&engine, 1, &["/n/c", "/n/d"]).await;
        assert_eq!(lasting(&engine), ["/n/b", "/n/c", "/n/d"]);
        engine.close().await;
    });
    *place.config.borrow_mut() = before;
    place.run(async |engine| {
        assert_eq!(held(&engine, "/n/b").unwrap().0, "/n/b");
        assert_eq!(held(&engine, "/n/c"), None);
    });
}

#[test]
fn a_revoked_value_keeps_its_entry_until_that_is_evicted() {
    let place = Place::new();
    template(&place, "max-entries = 2\nrevoked-after = 1\nrevoked-over = \"0s\"");
    place.run(async |engine| {
        fetch(&engine, 1, &["/n/a"]).await;
        let copy = std::fs::read(file_of(&place, "/n/a")).unwrap();
        engine.refused(&key("/n/a"), Failure::new(Class::Gone, Reason::Status(404)), false).await;
        engine.close().await;
        std::fs::write(file_of(&place, "/n/a"), copy).unwrap();
    });
    place.run(async |engine| {
        assert_eq!((lasting(&engine).len(), held(&engine, "/n/a")), (1, None), "a backup does not bring it back");
        fetch(&engine, 1, &["/n/b", "/n/c"]).await;
        assert_eq!(lasting(&engine), ["/n/b", "/n/c"]);
        engine.close().await;
    });
    assert!(!file_of(&place, "/n/a").exists());
}

#[test]
fn a_key_of_the_configuration_is_none_of_their_paths() {
    let place = Place::new();
    template(&place, "max-entries = 1");
    place.run(async |engine| {
        fetch(&engine, 1, &["/n/a", "/n/b"]).await;
        engine.close().await;
    });
    let text = place.config.borrow().clone()
        + "[keys.\"/n/b\"]\nsource = { type = \"http\", url = \"https://a.example/b\" }\n";
    *place.config.borrow_mut() = text;
    place.run(async |engine| {
        assert_eq!(held(&engine, "/n/b").unwrap().0, "/n/b", "the same source: the same value");
        fetch(&engine, 1, &["/n/c"]).await;
        assert_eq!(lasting(&engine), ["/n/b", "/n/c"]);
    });
}

/// As if its fetch were under way.
fn begin_fetch(engine: &Engine, path: &str) -> watch::Sender<bool> {
    let document = engine.entries.borrow()[&key(path)].document;
    let (land, landed) = watch::channel(false);
    let flight = Flight { started: tokio::time::Instant::now(), landed, raised: Rc::default() };
    engine.documents.borrow_mut().get_mut(document).unwrap().flight = Some(flight);
    land
}

#[test]
fn paths_without_a_value_are_bounded_and_one_user_leaves_room_for_others() {
    let place = Place::new();
    template(&place, "");
    place.run(async |engine| {
        let started = Instant::now();
        for n in 0..10_000 {
            let key = key(&format!("/n/{n}"));
            let in_hand = engine.enter(&key, 1).ok().unwrap();
            engine.refused(&key, Failure::new(Class::Gone, Reason::Status(404)), false).await;
            drop(in_hand);
        }
        let in_hand = engine.enter(&key("/n/blank"), 1).ok().unwrap();
        drop(in_hand);
        assert!(!engine.entries.borrow().contains_key(&key("/n/blank")), "what says nothing leaves nothing");
        let in_hand = engine.enter(&key("/n/last"), 1).ok().unwrap();
        engine.refused(&key("/n/last"), Failure::new(Class::Gone, Reason::Status(404)), false).await;
        drop(in_hand);
        assert_eq!(engine.entries.borrow().len(), 1 + MOST_PASSING);
        assert_eq!(engine.documents.borrow().iter().count(), 1 + MOST_PASSING);
        assert!(started.elapsed().as_secs() < 60);

        let mut flying = Vec::new();
        let mut ask = |uid: u32, n: usize| {
            let path = format!("/n/u{uid}n{n}");
            let entered = engine.enter(&key(&path), uid);
            if entered.is_ok() {
                flying.push(begin_fetch(&engine, &path));
            }
            entered
        };
        assert_eq!((0..1000).filter(|n| ask(1, *n).is_ok()).count(), MOST_PASSING / 2);
        assert_eq!((0..1000).filter(|n| ask(2, *n).is_ok()).count(), MOST_PASSING / 2);
        assert!(matches!(ask(3, 0), Err(Reply::OverBudget { .. })), "all places are taken");
        assert_eq!(engine.entries.borrow().len(), 1 + MOST_PASSING);
    });
}

#[test]
fn who_is_being_answered_gets_an_evicted_value_and_the_worker_does_not_keep_it() {
    let place = Place::new();
    template(&place, "max-entries = 1\nmax-age = \"1h\"");
    place.run(async |engine| {
        let in_hand = engine.enter(&key("/n/a"), 1).ok().unwrap();
        engine.accept(vec![value("/n/a", "one")]).await;
        fetch(&engine, 1, &["/n/b"]).await;
        assert_eq!(lasting(&engine), ["/n/b"]);
        let verdict =
            Verdict { forward: Forward::Hit, fwd_status: None, stored: false, collapsed: false, detail: None };
        let Reply::Value(reply) = engine.value(&key("/n/a"), verdict) else { panic!("no value") };
        assert!(reply.lease.usable_until.0 <= boot_nanos() && reply.lease.fresh_until.0 > boot_nanos());
        drop(in_hand);
        assert!(!engine.entries.borrow().contains_key(&key("/n/a")));
        engine.close().await;
    });
    assert!(!file_of(&place, "/n/a").exists() && file_of(&place, "/n/b").exists());
}

#[test]
fn a_value_that_comes_after_its_eviction_takes_an_entry_again() {
    let place = Place::new();
    template(&place, "max-entries = 1");
    place.run(async |engine| {
        fetch(&engine, 1, &["/n/a"]).await;
        let _in_hand = engine.enter(&key("/n/a"), 1).ok().unwrap();
        fetch(&engine, 1, &["/n/b"]).await;
        engine.close().await;
    });
    assert!(!file_of(&place, "/n/a").exists());
    place.run(async |engine| {
        fetch(&engine, 1, &["/n/a"]).await;
        let in_hand = engine.enter(&key("/n/a"), 1).ok().unwrap();
        fetch(&engine, 1, &["/n/b"]).await;
        engine.accept(vec![value("/n/a", "/n/a")]).await;
        drop(in_hand);
        assert_eq!(lasting(&engine), ["/n/a"]);
        engine.close().await;
    });
    assert!(file_of(&place, "/n/a").exists() && !file_of(&place, "/n/b").exists(), "the same value, sealed anew");
}
