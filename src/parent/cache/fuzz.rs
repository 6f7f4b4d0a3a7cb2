//! What is on disk, changed by whoever can write there: it gives what was sealed, or nothing.

use std::collections::HashMap;

use super::bundle::{pack, unpack};
use super::format::{HEAD_LEN, open_content, open_head, seal};
use super::{Definition, KeyRing, Label, Ledger, SealKey, State, Tombstone, Unreadable, Validators, ValueLabel};
use crate::fuzz::{self, Start};
use crate::ipc::wire::Tag;
use crate::secret::KeyPath;

/// Two keys that are always the same, as the corpus is.
fn keys() -> KeyRing {
    let key = |letter: &str| format!("keyhatch-seal-1:{}A=\n", letter.repeat(42));
    KeyRing::new(["A", "B"].map(|letter| SealKey::parse(key(letter).as_bytes()).unwrap()).into()).unwrap()
}

const BOUND: &[u8] = b"/a\0definition";

fn sealed(keys: &KeyRing) -> Vec<Vec<u8>> {
    let key = KeyPath::parse("/a").unwrap();
    let definition = Definition::of("definition");
    let value = |content: &str, at, etag: Option<&str>| {
        let label = ValueLabel {
            key: key.clone(),
            definition,
            fetched_at: at,
            size: content.len() as u64,
            forget_after: 7,
            tag: Tag([1; 16]),
            tag_text: None,
            validators: Validators { etag: etag.map(str::to_owned), last_modified: None },
        };
        (Label::Value(label), content.as_bytes().to_vec())
    };
    let withheld = |content: &str, at| match value(content, at, None) {
        (Label::Value(label), content) => (Label::Withheld(label), content),
        other => other,
    };
    let tombstone = Tombstone { key: key.clone(), definition, buried_at: 9, forget_after: 7 };
    let contents = [
        value("\"one\"", 1, None),
        value("\"two\"", 2, None),
        value("{\"three\": 3}", 3, Some("\"x\"")),
        withheld("\"two\"", 2),
        (Label::Tombstone(tombstone), Vec::new()),
        (Label::State(State::Ledger), b"ledger".to_vec()),
        (Label::State(State::Clock), Vec::new()),
    ];
    let of =
        |seal_key: &SealKey| contents.each_ref().map(|(label, content)| seal(seal_key, label, BOUND, content).unwrap());
    keys.all().iter().flat_map(of).collect()
}

fn open(keys: &KeyRing, file: &[u8]) -> Result<(Label, Vec<u8>), Unreadable> {
    let head = open_head(keys, &file[..file.len().min(HEAD_LEN)], file.len() as u64)?;
    let content = open_content(keys, &head, BOUND, file)?;
    Ok((head.label, content.to_vec()))
}

#[test]
fn sealed_file() {
    let keys = keys();
    let seeds = sealed(&keys);
    let legal: HashMap<&[u8], _> = seeds.iter().map(|file| (file.as_slice(), open(&keys, file).unwrap())).collect();
    let labels: Vec<&Label> = legal.values().map(|(label, _)| label).collect();
    fuzz::run("sealed-file", Start { seeds: seeds.clone(), ..Start::default() }, |input| {
        // Also a head alone: whatever the rest is, a label is only ever one that was sealed.
        for length in [input.len() as u64, 0, u64::MAX] {
            let head = open_head(&keys, &input[..input.len().min(HEAD_LEN)], length).ok();
            assert!(head.is_none_or(|head| labels.contains(&&head.label)), "a label that nobody sealed");
        }
        let opened = open(&keys, input);
        match (&opened, legal.get(input)) {
            (Ok(opened), Some(sealed)) => assert_eq!(opened, sealed),
            (Ok((label, _)), None) => panic!("{label:?} of a file that nobody sealed"),
            (Err(why), Some(_)) => panic!("{why} though nothing was changed"),
            (Err(_), None) => {}
        }
        Some(opened.err().as_ref().map(std::mem::discriminant))
    });
}

/// What stands inside of sealed files is ours, but it costs nothing to be careful.
#[test]
fn ledger_and_bundle() {
    let key = |path: &str| KeyPath::parse(path).unwrap();
    let mut ledger = Ledger::default();
    ledger.confirm(&key("/a"), 1000, 5000);
    ledger.bury(&key("/b"), 2000);
    ledger.withhold(&key("/c"), true);
    let seeds = vec![ledger.encode(77).unwrap(), pack(&[b"one".to_vec(), Vec::new(), b"three".to_vec()]).unwrap()];
    fuzz::run("ledger-and-bundle", Start { seeds, words: &["/a", "/b/c", "\x01", "\0\0\0\0"] }, |input| {
        let files = unpack(input);
        let packed = pack(&files.iter().map(|file| file.to_vec()).collect::<Vec<_>>()).unwrap();
        assert!(input.starts_with(&packed), "a bundle gave what is not in it");
        let Some(mut ledger) = Ledger::decode(input) else { return [(files.len().min(9), None)] };
        let said = ["/a", "/b", "/b/c", "/c"].map(key).map(|key| {
            let at = ledger.fetched_at(&key, 1000);
            (ledger.is_withheld(&key), ledger.buried(&key, 1), at, ledger.forgotten_in(&key, 7, u64::MAX))
        });
        ledger.write_again();
        let mut again = Ledger::decode(&ledger.encode(ledger.written_at).unwrap()).unwrap();
        again.write_again();
        assert_eq!(again.encode(again.written_at), {
            ledger.write_again();
            ledger.encode(ledger.written_at)
        });
        [(files.len().min(9), Some(said.map(|(withheld, buried, ..)| (withheld, buried.is_some()))))]
    });
}
