//! Many values at once: durable as one file, then in their own.

use super::{Place, file_of, held, key, value};
use crate::outcome::{Class, Failure, Reason};
use crate::parent::engine::Engine;

/// A configuration of five keys that are given up at the first refusal, and their paths.
pub(super) fn five(place: &Place) -> Vec<String> {
    let paths: Vec<String> = (0..5).map(|n| format!("/k{n}")).collect();
    let key = |path: &String| {
        format!("[keys.\"{path}\"]\nsource = {{ type = \"http\", url = \"https://a.example{path}\" }}\n")
    };
    let keys: String = paths.iter().map(key).collect();
    *place.config.borrow_mut() = format!("[defaults]\nrevoked-after = 1\nrevoked-over = \"0s\"\n{keys}");
    paths
}

pub(super) async fn accept(engine: &Engine, paths: &[String], text: &str) {
    engine.accept(paths.iter().map(|path| value(path, text)).collect()).await;
}

pub(super) fn texts(engine: &Engine, paths: &[String]) -> Vec<Option<String>> {
    paths.iter().map(|path| held(engine, path).map(|(text, _)| text)).collect()
}

fn files(place: &Place) -> usize {
    std::fs::read_dir(place.path()).unwrap().count()
}

#[test]
fn many_values_are_one_file_and_then_their_own() {
    let place = Place::new();
    let paths = five(&place);
    place.run(async |engine| {
        accept(&engine, &paths, "one").await;
        assert_eq!(engine.scribe.pending.borrow().bundles.len(), 1, "all are in it before any is in its own file");
        while !paths.iter().all(|path| file_of(&place, path).exists()) || files(&place) > 6 {
            tokio::task::yield_now().await;
        }
    });
    place.run(async |engine| assert_eq!(texts(&engine, &paths), vec![Some("one".into()); 5]));
}

#[test]
fn what_comes_after_a_bundle_counts_whatever_is_in_its_own_file_at_a_crash() {
    let place = Place::new();
    let paths = five(&place);
    for round in 0..6 {
        place.run(async |engine| {
            let (first, second) = (format!("{round} first"), format!("{round} second"));
            accept(&engine, &paths, &first).await;
            accept(&engine, &paths[1..], &second).await;
            accept(&engine, &paths[2..3], "alone").await;
            engine.refused(&key(&paths[3]), Failure::new(Class::Gone, Reason::Status(404)), false).await;
            for _ in 0..round {
                tokio::task::yield_now().await;
            }
        });
        place.run(async |engine| {
            let (first, second) = (format!("{round} first"), format!("{round} second"));
            let expected = [Some(first), Some(second.clone()), Some("alone".into()), None, Some(second)];
            assert_eq!(texts(&engine, &paths), expected);
        });
    }
}
