//! What is withheld because its token was refused stays so over a restart, and serves again once one is accepted.

use super::{Place, held, key, value};
use crate::ipc::wire::State;
use crate::outcome::{Class, Failure, Reason};
use crate::parent::engine::Engine;

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
        engine.restore_withheld(document.token().unwrap()).await;
        assert_eq!(held(&engine, "/a").unwrap().0, "one");
        engine.close().await;
    });
    place.run(async |engine| assert_eq!(held(&engine, "/a").unwrap().0, "one"));
}
