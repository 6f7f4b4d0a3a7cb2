//! Answers that land late: what was purged or defined otherwise meanwhile is not theirs any more.

use std::rc::Rc;

use tokio::task::{JoinHandle, LocalSet, spawn_local, yield_now};

use super::{Place, held, key, reload};
use crate::parent::engine::Engine;
use crate::parent::upstream::{SourceInputs, Sources};
use crate::parent::vault::Vault;

/// `/a` and `/b` are fields of one file.
struct OneFile {
    place: Place,
    file: tempfile::NamedTempFile,
}

impl OneFile {
    fn new() -> Self {
        let one = Self { place: Place::new(), file: tempfile::NamedTempFile::new().unwrap() };
        one.write("{\"one\": \"one\", \"two\": \"two\", \"b\": \"b\"}");
        one.define("one");
        one
    }

    fn write(&self, document: &str) {
        std::fs::write(self.file.path(), document).unwrap();
    }

    /// `/a` is this field.
    fn define(&self, field: &str) {
        let path = self.file.path().display();
        let key = |name: &str, field: &str| {
            format!(
                "[keys.\"/{name}\"]\nsource = {{ type = \"file\", path = \"{path}\", format = \"json\", field = \"{field}\" }}\n"
            )
        };
        let keys = key("a", field) + &key("b", "b");
        *self.place.config.borrow_mut() = format!("[defaults]\nrevoked-after = 1\nrevoked-over = \"0s\"\n{keys}");
    }

    fn inputs(&self) -> SourceInputs {
        let mut inputs = SourceInputs::default();
        let opened = std::fs::File::open(self.file.path()).unwrap();
        inputs.files.insert(self.file.path().to_owned(), (opened, None).into());
        inputs
    }

    /// An engine that has both, and is fetching them again while nothing gets to the disk: `/a` is there, `/b` is not.
    fn run(&self, act: impl AsyncFnOnce(Rc<Engine>, JoinHandle<()>)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            let config = self.place.config();
            let sources = Sources::new(&config, self.inputs()).unwrap();
            let vault = Vault::read(Vec::new(), &Default::default()).ok().unwrap();
            let (recalls, _) = tokio::sync::mpsc::unbounded_channel();
            let engine = Rc::new(Engine::new(&config, self.place.store(), None, sources, vault, recalls).unwrap());
            let sealing = spawn_local(engine.clone().keep_sealed());
            engine.refresh(key("/a")).await;
            assert!(held(&engine, "/a").is_some() && held(&engine, "/b").is_some());
            sealing.abort();
            self.write("{\"one\": \"newer\", \"two\": \"two\"}");
            let landed = {
                let engine = engine.clone();
                spawn_local(async move { drop(engine.refresh(key("/a")).await) })
            };
            while engine.scribe.pending.borrow().files.is_empty() {
                yield_now().await;
            }
            act(engine, landed).await;
        });
    }
}

#[test]
fn a_purge_while_an_answer_waits_for_the_disk_counts() {
    let one = OneFile::new();
    one.run(async |engine, landed| {
        let purging = {
            let engine = engine.clone();
            spawn_local(async move { engine.purge(&[key("/a")]).await })
        };
        yield_now().await;
        assert_eq!(held(&engine, "/a"), None);
        let sealing = spawn_local(engine.clone().keep_sealed());
        assert!(landed.await.is_ok() && purging.await.is_ok());
        assert_eq!(held(&engine, "/a"), None);
        engine.close().await;
        sealing.await.unwrap();
    });
    one.place.run(async |engine| assert_eq!(held(&engine, "/a"), None, "nor on disk"));
}

#[test]
fn a_definition_that_changes_while_an_answer_waits_for_the_disk_counts() {
    let one = OneFile::new();
    one.run(async |engine, landed| {
        one.define("two");
        reload(&one.place, &engine, one.inputs()).await;
        let sealing = spawn_local(engine.clone().keep_sealed());
        landed.await.unwrap();
        assert_eq!(held(&engine, "/a"), None);
        engine.close().await;
        sealing.await.unwrap();
    });
    one.place.run(async |engine| assert_eq!(held(&engine, "/a"), None, "nor on disk"));
}

#[test]
fn a_value_is_as_old_as_its_answer() {
    let one = OneFile::new();
    one.run(async |engine, landed| {
        let asked = engine.clock.now();
        while engine.clock.now() < asked + 50 {
            yield_now().await;
        }
        spawn_local(engine.clone().keep_sealed());
        landed.await.unwrap();
        let (text, at) = held(&engine, "/a").unwrap();
        assert!(text == "newer" && at <= asked, "{text} of {at}, and not after {asked}");
    });
}
