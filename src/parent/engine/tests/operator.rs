//! Purges at awkward moments, and counts that a worker lies about.

use super::bundles::{accept, five, texts};
use std::time::Duration;

use super::{Place, file_of, held, key, reload, value};
use crate::acl::Pattern;
use crate::ipc::wire::{Counted, Detail, Forward, Reply, Served, Verdict};
use crate::outcome::{Class, Failure, Reason};
use crate::parent::engine::{Covers, Fail};
use crate::parent::upstream::SourceInputs;

#[test]
fn a_purged_value_is_out_of_its_bundle_too() {
    let place = Place::new();
    let paths = five(&place);
    place.run(async |engine| {
        accept(&engine, &paths, "one").await;
        assert_eq!(engine.purge(&[key(&paths[1])]).await.unwrap(), 1);
        let listed = engine.store.list().unwrap();
        let of_key =
            listed.sealed.iter().filter(|sealed| sealed.label.of_key().is_some_and(|(of, _)| *of == key(&paths[1])));
        assert_eq!(of_key.count(), 0);
        assert!(engine.scribe.pending.borrow().bundles.is_empty(), "no bundle holds it any more");
    });
    place.run(async |engine| {
        let one = || Some("one".to_owned());
        assert_eq!(texts(&engine, &paths), [one(), None, one(), one(), one()]);
    });
}

#[test]
fn what_is_being_sealed_when_it_is_purged_is_not_kept() {
    let place = Place::new();
    let paths = five(&place);
    for count in [1, 5] {
        place.run(async |engine| {
            let keys: Vec<_> = paths.iter().map(|path| key(path)).collect();
            let (_, purged) = tokio::join!(accept(&engine, &paths[..count], "one"), engine.purge(&keys));
            purged.unwrap();
            assert_eq!(texts(&engine, &paths), vec![None; 5]);
            engine.close().await;
        });
        place.run(async |engine| assert_eq!(texts(&engine, &paths), vec![None; 5]));
    }
}

#[test]
fn a_purge_of_all_takes_what_has_left_the_configuration() {
    let place = Place::new();
    let paths = five(&place);
    place.run(async |engine| {
        accept(&engine, &paths, "one").await;
        engine.close().await;
    });
    *place.config.borrow_mut() =
        "[keys.\"/k0\"]\nsource = { type = \"http\", url = \"https://a.example/k0\" }\n".to_owned();
    place.run(async |engine| assert_eq!(engine.purge_all().await.unwrap(), 5));
    five(&place);
    place.run(async |engine| assert_eq!(texts(&engine, &paths), vec![None; 5]));
}

#[test]
fn names_that_are_not_in_the_configuration_are_not_counted() {
    let place = Place::new();
    place.config.borrow_mut().push_str("[clients.all]\nanyone = true\nkeys = [\"/a\"]\n");
    place.run(async |engine| {
        let lines = engine.metrics(0).lines().count();
        for n in 0..1000 {
            engine.count_served(&Counted {
                connections: u32::MAX,
                requests: vec![
                    (Some(format!("client-{n}")), Served::Hit, 1),
                    (Some("all".into()), Served::Hit, u32::MAX),
                ],
                serves: vec![(key(&format!("/x{n}")), u32::MAX), (key("/a"), 1)],
            });
        }
        let told = engine.metrics(0);
        assert_eq!(told.lines().count(), lines, "{told}");
        let all = u64::from(u32::MAX) * 1000;
        assert!(told.contains(&format!("keyhatch_requests_total{{client=\"all\",verdict=\"hit\"}} {all}\n")), "{told}");
        assert!(told.contains("keyhatch_key_serves_total{key=\"/a\"} 1000\n"), "{told}");
    });
}

#[test]
fn a_value_that_comes_while_the_one_before_is_purged_keeps_its_file() {
    let place = Place::new();
    place.run(async |engine| {
        engine.accept(vec![value("/a", "old")]).await;
        let keys = [key("/a")];
        let (done, ()) = tokio::join!(engine.purge(&keys), async {
            engine.accept(vec![value("/a", "new")]).await;
        });
        done.unwrap();
        assert_eq!(held(&engine, "/a").unwrap().0, "new");
        engine.close().await;
    });
    place.run(async |engine| assert_eq!(held(&engine, "/a").unwrap().0, "new"));
}

#[test]
fn a_purged_value_goes_even_if_the_next_one_cannot_be_written() {
    let place = Place::new();
    place.run(async |engine| {
        engine.accept(vec![value("/a", "old")]).await;
        let file = file_of(&place, "/a");
        let obstacle = place.path().join(format!(".{}.new", file.file_name().unwrap().to_str().unwrap()));
        std::fs::create_dir(&obstacle).unwrap();
        let keys = [key("/a")];
        let (done, ()) = tokio::join!(engine.purge(&keys), engine.accept(vec![value("/a", "new")]));
        done.unwrap();
        assert!(!file.exists());
    });
}

/// Paths of a key with parameters.
fn paths() -> Place {
    let place = Place::new();
    *place.config.borrow_mut() = "[defaults]\nrevoked-after = 1\nrevoked-over = \"0s\"\n[keys.\"/n/{n}\"]\n\
        source = { type = \"http\", url = \"https://a.example/{n}\" }\nparams.n = { matches = \"[a-z]+\" }\n"
        .to_owned();
    place
}

#[test]
fn a_reload_brings_back_no_path_that_is_being_purged_or_evicted() {
    let place = paths();
    for purges in [true, false] {
        place.run(async |engine| {
            let in_hand = engine.enter(&key("/n/a"), 1).ok().unwrap();
            engine.accept(vec![value("/n/a", "one")]).await;
            drop(in_hand);
            let gone = async {
                if purges {
                    engine.purge(&[key("/n/a")]).await.unwrap();
                } else {
                    engine.evict(&key("/n/a"));
                }
            };
            tokio::join!(gone, reload(&place, &engine, SourceInputs::default()));
            assert!(!engine.entries.borrow().contains_key(&key("/n/a")), "purges: {purges}");
        });
    }
}

#[test]
fn a_backup_does_not_bring_back_a_path_that_was_purged_or_shredded_before_it_was_evicted() {
    for purges in [true, false] {
        let place = paths();
        let file = file_of(&place, "/n/a");
        let copy = place.run(async |engine| {
            let in_hand = engine.enter(&key("/n/a"), 1).ok().unwrap();
            engine.accept(vec![value("/n/a", "one")]).await;
            drop(in_hand);
            let copy = std::fs::read(&file).unwrap();
            if purges {
                engine.purge(&[key("/n/a")]).await.unwrap();
            } else {
                engine.refused(&key("/n/a"), Failure::new(Class::Gone, Reason::Status(404)), false).await;
                engine.evict(&key("/n/a"));
            }
            engine.close().await;
            copy
        });
        assert!(!file.exists());
        std::fs::write(&file, copy).unwrap();
        place.run(async |engine| {
            let entries = engine.entries.borrow();
            assert!(entries.get(&key("/n/a")).is_none_or(|entry| entry.held.is_none()), "purges: {purges}");
        });
    }
}

#[test]
fn a_drill_asks_no_upstream_whether_a_token_is_good_and_hurries_nobody() {
    let place = Place::new();
    let text = "[tokens]\nt = { file = \"/nonexistent\" }\n[keys.\"/a\"]\nsource = { type = \"http\", url = \"https://a.example/a\", \
                auth = { type = \"bearer\", token = \"t\" } }\n[keys.\"/b\"]\nsource = { type = \"http\", url = \"https://a.example/b\", \
                auth = { type = \"bearer\", token = \"t\" } }\n";
    *place.config.borrow_mut() = text.to_owned();
    place.run(async |engine| {
        engine.accept(vec![value("/a", "one")]).await;
        let token = crate::config::TokenName("t".into());
        assert_eq!(engine.to_try(&token).len(), 2);
        let covers = Covers::Keys(Pattern::parse("/a").unwrap());
        let drill = engine.begin_drill(covers, Fail::Unavailable, Duration::from_secs(60)).await.ok().unwrap();
        assert_eq!(engine.to_try(&token).len(), 1);
        // Its bytes cannot be read.
        engine.entries.borrow_mut().get_mut(&key("/a")).unwrap().held.as_mut().unwrap().value = None;
        let hit = Verdict {
            forward: Forward::Hit,
            fwd_status: None,
            stored: false,
            collapsed: false,
            detail: Some(Detail::Drill),
        };
        assert!(matches!(engine.value(&key("/a"), hit), Reply::Failure(_)) && engine.wanted.get().is_none());
        drop(drill);
        let hit = Verdict { detail: None, ..hit };
        assert!(matches!(engine.value(&key("/a"), hit), Reply::Failure(_)) && engine.wanted.get().is_some());
    });
}

#[test]
fn others_have_their_turn_while_the_status_is_made() {
    let place = Place::new();
    let keys = (0..1000)
        .map(|n| format!("[keys.\"/k{n:04}\"]\nsource = {{ type = \"http\", url = \"https://a.example/{n}\" }}\n"));
    *place.config.borrow_mut() = keys.collect();
    place.run(async |engine| {
        let turns = std::cell::Cell::new(0);
        let others = async {
            loop {
                turns.set(turns.get() + 1);
                tokio::task::yield_now().await;
            }
        };
        let status = tokio::select! {
            status = engine.status() => status,
            () = others => unreachable!(),
        };
        let keys = status["keys"].as_array().unwrap();
        assert!(keys.len() == 1000 && keys.is_sorted_by_key(|key| key["key"].as_str().unwrap()));
        assert!(turns.get() > 50, "{} turns", turns.get());
    });
}
