//! What is withheld because its token was refused stays so over a restart, and serves again once one is accepted.

use super::{Place, held, key, reload, value};
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
        engine.refuse(&key("/a"), Failure::new(Class::TokenRefused, Reason::Status(401)), false).await;
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
        engine.refuse(&key("/n/a"), Failure::new(Class::TokenRefused, Reason::Status(401)), false).await;
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
