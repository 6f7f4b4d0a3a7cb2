use super::super::new_seal_key_text;
use super::*;

fn ring() -> KeyRing {
    KeyRing::new(vec![SealKey::parse(new_seal_key_text().unwrap().as_bytes()).unwrap()]).unwrap()
}

fn label(key: &str, definition: &str, size: u64) -> Label {
    Label::Value(ValueLabel {
        key: KeyPath::parse(key).unwrap(),
        definition: Definition::of(definition),
        fetched_at: 42,
        size,
        forget_after: 7,
        tag: Tag([7; 16]),
        tag_text: None,
        validators: Validators { etag: Some("\"x\"".into()), last_modified: None },
    })
}

fn withheld(key: &str, definition: &str, size: u64) -> Label {
    let Label::Value(label) = label(key, definition, size) else { unreachable!() };
    Label::Withheld(label)
}

fn open(keys: &KeyRing, file: &[u8]) -> Result<(Label, Zeroizing<Vec<u8>>), Unreadable> {
    let start = &file[..file.len().min(HEAD_LEN)];
    let head = open_head(keys, start, file.len() as u64)?;
    let content = open_content(keys, &head, b"bound", file)?;
    Ok((head.label, content))
}

#[test]
fn what_is_sealed_comes_back_and_cannot_be_read_without_the_key() {
    let keys = ring();
    let label = label("/a", "definition", 7);
    let file = seal(keys.first(), &label, b"bound", b"planted").unwrap();
    let (found, content) = open(&keys, &file).unwrap();
    assert_eq!((found, content.as_slice()), (label, &b"planted"[..]));
    assert!(!file.windows(7).any(|part| part == b"planted") && !file.windows(2).any(|part| part == b"/a"));
    assert_eq!(open(&ring(), &file).err(), Some(Unreadable::OtherSealKey));
    let head = open_head(&keys, &file, file.len() as u64).unwrap();
    assert_eq!(open_content(&keys, &head, b"other", &file).err(), Some(Unreadable::Damaged));
}

#[test]
fn a_file_cut_or_changed_anywhere_gives_nothing_and_says_why() {
    let keys = ring();
    for label in [label("/a", "definition", 7), withheld("/a", "definition", 7)] {
        let whole = seal(keys.first(), &label, b"bound", b"planted").unwrap();
        for at in 0..whole.len() {
            let cut = open(&keys, &whole[..at]).err();
            assert_eq!(cut, Some(if at < 5 { Unreadable::NotOurs } else { Unreadable::Damaged }), "cut at {at}");
            let mut changed = whole.clone();
            // Of the version: to the other one that we know.
            changed[at] ^= 1;
            let expected = match at {
                0..=3 => Unreadable::NotOurs,
                5..=12 => Unreadable::OtherSealKey,
                _ => Unreadable::Damaged,
            };
            assert_eq!(open(&keys, &changed).err(), Some(expected), "changed at {at}");
        }
        let longer = [whole.as_slice(), b"x"].concat();
        assert_eq!(open(&keys, &longer).err(), Some(Unreadable::Damaged));
        let newer = [&whole[..4], &[VERSION + 1], &whole[5..]].concat();
        assert_eq!(open(&keys, &newer).err(), Some(Unreadable::NewerFormat { version: VERSION + 1 }));
    }
}

/// What a version that knows nothing of withheld values meets: its own format, but for those.
#[test]
fn only_what_is_withheld_is_of_the_newer_format() {
    let keys = ring();
    let version = |label: &Label| seal(keys.first(), label, b"bound", b"planted").unwrap()[4];
    assert_eq!(version(&withheld("/a", "definition", 7)), 3);
    let tombstone = Tombstone {
        key: KeyPath::parse("/a").unwrap(),
        definition: Definition::of("definition"),
        buried_at: 1,
        forget_after: 7,
    };
    let others = [label("/a", "definition", 7), Label::Tombstone(tombstone), Label::State(State::Ledger)];
    assert!(others.iter().all(|label| version(label) == 2));
}

/// As a broker wrote it that knew no newer format.
#[test]
fn a_file_of_format_2_opens() {
    use base64::Engine as _;
    const FILE: &str = "S0hTVgJDRMtR96Ky4G8AXtQorjweqjvCr7iSln/l3+q7WAE1PY4cNQqH4EWR7V6VHAneIj7z/MRNLrYfCt19t94H9lPFO7tsR7j6\
        DXEjmugZoM+8Uut1Z/aeifP6uFlP2t010bbzM6AM8f2o+lm6Ydrr9xANjfM7yc7ylWs4q5wk1j/kmuz9PJXk2YX8Agth9CvR65fyEqN83ZHTg8bEMBxPGg==";
    let file = base64::engine::general_purpose::STANDARD.decode(FILE).unwrap();
    let key = format!("keyhatch-seal-1:{}A=", "A".repeat(42));
    let keys = KeyRing::new(vec![SealKey::parse(key.as_bytes()).unwrap()]).unwrap();
    let head = open_head(&keys, &file, file.len() as u64).unwrap();
    let Label::Value(label) = &head.label else { panic!("no value") };
    assert_eq!((label.key.as_str(), label.size), ("/a", 9));
    let content = open_content(&keys, &head, &binding(&label.key, &label.definition), &file).unwrap();
    assert_eq!(*content, b"\"planted\"");
}

#[test]
fn the_parts_of_two_files_are_no_file() {
    let keys = ring();
    let file = |definition| seal(keys.first(), &label("/a", definition, 7), b"bound", b"planted").unwrap();
    let of_withheld = seal(keys.first(), &withheld("/a", "one", 7), b"bound", b"planted").unwrap();
    let one = file("one");
    let content = one.len() - 7 - OVERHEAD;
    for other in [file("other"), of_withheld] {
        let mixed = [&one[..content], &other[content..]].concat();
        assert_eq!(open(&keys, &mixed).err(), Some(Unreadable::Damaged));
    }
}

#[test]
fn an_older_key_opens_and_is_told_apart() {
    let (old, new) = (new_seal_key_text().unwrap(), new_seal_key_text().unwrap());
    let key = |text: &str| SealKey::parse(text.as_bytes()).unwrap();
    let file = seal(&key(&old), &label("/a", "d", 1), b"bound", b"1").unwrap();
    let both = KeyRing::new(vec![key(&new), key(&old)]).unwrap();
    assert_eq!(open_head(&both, &file, file.len() as u64).unwrap().keyed, 1);
}

#[test]
fn an_empty_value_is_none() {
    let keys = ring();
    let file = seal(keys.first(), &label("/a", "d", 0), b"bound", b"").unwrap();
    assert_eq!(open(&keys, &file).err(), Some(Unreadable::Damaged));
}

#[test]
fn the_largest_label_fits_into_the_head() {
    let keys = ring();
    let long = |length| Some("x".repeat(length));
    let Label::Value(mut largest) = label(&format!("/{}", "a".repeat(511)), "d", u64::MAX) else { unreachable!() };
    largest.tag_text = Some(Tag([1; 16]));
    largest.validators = Validators { etag: long(1024), last_modified: long(1024) };
    (largest.fetched_at, largest.forget_after) = (u64::MAX, u64::MAX);
    assert!(seal(keys.first(), &Label::Value(largest.clone()), b"", b"").is_some());
    largest.validators.etag = long(HEAD_LEN);
    assert!(seal(keys.first(), &Label::Value(largest), b"", b"").is_none());
}
