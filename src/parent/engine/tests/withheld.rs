//! What is withheld because its token was refused stays so over a restart, and serves again once one is accepted.

use std::rc::Rc;

use super::{Place, file_of, held, key, reload, value};
use crate::ipc::wire::State;
use crate::outcome::{Class, Failure, Reason};
use crate::parent::engine::Engine;
use crate::parent::upstream::SourceInputs;

fn state(engine: &Engine, path: &str) -> State {
    engine.entries.borrow()[&key(path)].state(engine.clock.now())
}

#[test]
fn a_refused_token_keeps_its_values_over_a_restart() {
    let place = Place::new();
    let source = |path: &str| {
        format!(
            "[keys.\"{path}\"]\nsource = {{ type = \"http\", url = \"https://a.example{path}\", \
             auth = {{ type = \"bearer\", token = \"t\" }} }}\n"
        )
    };
    let head = "[tokens]\nt = { file = \"/nonexistent\" }\n[defaults]\nrevoked-after = 1\nrevoked-over = \"0s\"\n";
    *place.config.borrow_mut() = format!("{head}{}{}", source("/a"), source("/b"));
    place.run(async |engine| {
        engine.accept(vec![value("/a", "one")]).await;
        engine.refused(&key("/a"), Failure::new(Class::TokenRefused, Reason::Status(401)), false).await;
        assert_eq!((held(&engine, "/a"), state(&engine, "/a")), (None, State::Revoked));
        engine.close().await;
    });
    place.run(async |engine| {
        assert_eq!((held(&engine, "/a"), state(&engine, "/a")), (None, State::Revoked));
        engine.accept(vec![value("/b", "two")]).await;
        let id = engine.entries.borrow()[&key("/b")].document;
        let document = engine.documents.borrow().get(id).unwrap().document.clone();
        engine.restore_withheld(&document.token_names()).await;
        assert_eq!(held(&engine, "/a").unwrap().0, "one");
        engine.close().await;
    });
    place.run(async |engine| assert_eq!(held(&engine, "/a").unwrap().0, "one"));
}

#[test]
fn a_path_whose_token_was_refused_serves_no_value_after_a_restart_or_a_reload() {
    let place = Place::new();
    let head = "[tokens]\nt = { file = \"/nonexistent\" }\n[defaults]\nrevoked-after = 1\nrevoked-over = \"0s\"\n";
    let paths = |field: &str| {
        format!(
            "{head}[keys.\"/n/{{n}}\"]\nsource = {{ type = \"http\", url = \"https://a.example/{{n}}\", field = \"{field}\", \
             auth = {{ type = \"bearer\", token = \"t\" }} }}\nparams.n = {{ matches = \"[a-z]+\" }}\n"
        )
    };
    let define = |text: String| *place.config.borrow_mut() = text;
    define(paths("one"));
    place.run(async |engine| {
        let in_hand = engine.enter(&key("/n/a"), 1).ok().unwrap();
        engine.accept(vec![value("/n/a", "one")]).await;
        drop(in_hand);
        engine.refused(&key("/n/a"), Failure::new(Class::TokenRefused, Reason::Status(401)), false).await;
        engine.close().await;
    });
    place.run(async |engine| {
        let given_up = || (held(&engine, "/n/a"), state(&engine, "/n/a")) == (None, State::Revoked);
        assert!(given_up(), "after a restart");
        define(head.to_owned());
        reload(&place, &engine, SourceInputs::default()).await;
        assert!(!engine.entries.borrow().contains_key(&key("/n/a")));
        define(paths("one"));
        reload(&place, &engine, SourceInputs::default()).await;
        assert!(given_up(), "after it was away");
        define(paths("two"));
        reload(&place, &engine, SourceInputs::default()).await;
        assert_eq!(held(&engine, "/n/a"), None);
        define(paths("one"));
        reload(&place, &engine, SourceInputs::default()).await;
        assert!(given_up(), "after it was another one");
        engine.restore_withheld(&[crate::config::TokenName("t".into())]).await;
        assert_eq!(held(&engine, "/n/a").unwrap().0, "one");
    });
}

const TOKEN: &str = "[tokens]\nt = { file = \"/nonexistent\" }\n[defaults]\nrevoked-after = 1\nrevoked-over = \"0s\"\n";

/// Two keys of one token: `/a`, whose value is given up at the first refusal, and `/b`.
fn two_of_one_token() -> Place {
    let place = Place::new();
    let source = |path: &str| {
        format!(
            "[keys.\"{path}\"]\nsource = {{ type = \"http\", url = \"https://a.example{path}\", \
             auth = {{ type = \"bearer\", token = \"t\" }} }}\n"
        )
    };
    *place.config.borrow_mut() = format!("{TOKEN}{}{}", source("/a"), source("/b"));
    place
}

async fn refuse(engine: &Engine) {
    engine.refused(&key("/a"), Failure::new(Class::TokenRefused, Reason::Status(401)), false).await;
}

async fn restore(engine: &Rc<Engine>) {
    engine.restore_withheld(&[crate::config::TokenName("t".into())]).await;
}

/// Whether the file of `/a` says that its value is withheld: by its format.
fn is_marked(place: &Place) -> bool {
    std::fs::read(file_of(place, "/a")).unwrap()[4] == 3
}

/// All but the file of `/a`.
fn remove_states(place: &Place) {
    let files = std::fs::read_dir(place.path()).unwrap().map(|file| file.unwrap().path());
    files.filter(|path| *path != file_of(place, "/a")).for_each(|path| std::fs::remove_file(path).unwrap());
}

#[test]
fn its_file_alone_is_enough_to_withhold_a_value_and_an_accepted_token_to_serve_it_with_its_age() {
    let place = two_of_one_token();
    let at = place.run(async |engine| {
        engine.accept(vec![value("/a", "one")]).await;
        let at = held(&engine, "/a").unwrap().1;
        refuse(&engine).await;
        at
    });
    // No orderly end.
    remove_states(&place);
    place.run(async |engine| {
        assert_eq!((held(&engine, "/a"), state(&engine, "/a")), (None, State::Revoked));
        restore(&engine).await;
        assert_eq!(held(&engine, "/a").unwrap(), ("one".into(), at));
    });
    assert!(!is_marked(&place));
    place.run(async |engine| assert_eq!(held(&engine, "/a").unwrap(), ("one".into(), at), "after a crash"));
}

#[test]
fn a_value_that_is_on_disk_alone_is_withheld_there() {
    let place = two_of_one_token();
    place.run(async |engine| engine.accept(vec![value("/a", "one")]).await);
    place.run(async |engine| {
        assert!(!engine.entries.borrow()[&key("/a")].has_bytes());
        refuse(&engine).await;
        assert!(is_marked(&place));
    });
}

/// As a version left it that had no mark, or a backup of its file does.
#[test]
fn what_the_ledger_alone_withholds_is_marked_after_the_start() {
    let place = two_of_one_token();
    let unmarked = place.run(async |engine| {
        engine.accept(vec![value("/a", "one")]).await;
        let unmarked = std::fs::read(file_of(&place, "/a")).unwrap();
        refuse(&engine).await;
        engine.close().await;
        unmarked
    });
    std::fs::write(file_of(&place, "/a"), unmarked).unwrap();
    place.run(async |engine| {
        assert_eq!((held(&engine, "/a"), state(&engine, "/a")), (None, State::Revoked));
        engine.mark_all_withheld().await;
        assert!(is_marked(&place));
        restore(&engine).await;
        engine.mark_all_withheld().await;
        assert!(!is_marked(&place), "what serves again is left alone");
    });
}

#[test]
fn what_a_fetch_grants_serves_after_a_crash_whatever_was_withheld() {
    let place = two_of_one_token();
    place.run(async |engine| {
        engine.accept(vec![value("/a", "one")]).await;
        refuse(&engine).await;
        engine.accept(vec![value("/a", "two")]).await;
    });
    place.run(async |engine| assert_eq!(held(&engine, "/a").unwrap().0, "two"));
}

#[test]
fn without_room_for_the_mark_the_file_goes() {
    let place = two_of_one_token();
    place.run(async |engine| {
        engine.accept(vec![value("/a", "one")]).await;
        let file = file_of(&place, "/a");
        let obstacle = place.path().join(format!(".{}.new", file.file_name().unwrap().to_str().unwrap()));
        std::fs::create_dir(&obstacle).unwrap();
        refuse(&engine).await;
        assert!(!file.exists());
        std::fs::remove_dir(&obstacle).unwrap();
    });
    place.run(async |engine| assert_eq!(held(&engine, "/a"), None));
}

#[test]
fn a_new_seal_key_takes_over_what_is_withheld() {
    let place = two_of_one_token();
    place.run(async |engine| {
        engine.accept(vec![value("/a", "one")]).await;
        refuse(&engine).await;
        engine.close().await;
    });
    let new = crate::parent::cache::new_seal_key_text().unwrap().to_string();
    place.seals.borrow_mut().insert(0, new.clone());
    place.run(async |engine| {
        engine.reseal_outdated().await;
        engine.close().await;
    });
    *place.seals.borrow_mut() = vec![new];
    remove_states(&place);
    place.run(async |engine| {
        assert_eq!((held(&engine, "/a"), state(&engine, "/a")), (None, State::Revoked));
        restore(&engine).await;
        assert_eq!(held(&engine, "/a").unwrap().0, "one");
    });
}

#[test]
fn what_is_fetched_meanwhile_is_not_replaced_by_what_serves_again() {
    let place = two_of_one_token();
    place.run(async |engine| {
        engine.accept(vec![value("/a", "one")]).await;
        refuse(&engine).await;
        let (thaw, frozen) = std::sync::mpsc::channel::<()>();
        let hang = engine.scribe.lane.run(move |_| frozen.recv().is_ok());
        let restored = async {
            restore(&engine).await;
            thaw.send(()).unwrap();
        };
        tokio::join!(hang, engine.accept(vec![value("/a", "two")]), restored);
        assert_eq!(held(&engine, "/a").unwrap().0, "two");
        engine.close().await;
    });
    place.run(async |engine| assert_eq!(held(&engine, "/a").unwrap().0, "two"));
}
