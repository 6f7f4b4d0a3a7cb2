use std::io::Write;

use super::*;

static_assertions::assert_not_impl_any!(ApiToken: fmt::Debug, fmt::Display, Clone, serde::Serialize, PartialEq);

fn vault(content: &[u8]) -> Result<Vault, VaultError> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    Vault::read(vec![(name(), SecretFile::Credential("cred".into()), Ok(file.into()))])
}

fn name() -> TokenName {
    TokenName("heroku".into())
}

fn fault(content: &[u8]) -> TokenFault {
    vault(content).err().expect("a fault").fault
}

#[test]
fn one_line_end_is_trimmed_and_nothing_else() {
    for content in [&b"s3cret"[..], b"s3cret\n", b"s3cret\r\n"] {
        assert_eq!(vault(content).ok().unwrap().get(&name()).unwrap().bytes(), b"s3cret");
    }
    assert_eq!(vault(b" a b \n").ok().unwrap().get(&name()).unwrap().bytes(), b" a b ");
}

#[test]
fn what_is_no_token_is_refused() {
    assert!(matches!(fault(b""), TokenFault::Empty));
    assert!(matches!(fault(b"\n"), TokenFault::Empty));
    assert!(matches!(fault(b"\r\n"), TokenFault::Empty));
    assert!(matches!(fault(b"one\ntwo\n"), TokenFault::SeveralLines));
    assert!(matches!(fault(b"one\n\n"), TokenFault::SeveralLines));
    assert!(matches!(fault(b"a\0b"), TokenFault::Character));
    assert!(matches!(fault(b"a\rb"), TokenFault::Character));
    assert!(matches!(fault(b"caf\xc3\xa9"), TokenFault::Character));
    assert!(matches!(fault(b"\xff\xfe"), TokenFault::Character));
}

#[test]
fn the_longest_token_fits_and_a_byte_more_does_not() {
    let mut content = vec![b'x'; MAX_TOKEN_LEN];
    content.extend_from_slice(b"\r\n");
    assert!(vault(&content).is_ok());
    content.insert(0, b'x');
    assert!(matches!(fault(&content), TokenFault::TooLong));
    assert!(matches!(fault(&vec![b'x'; 10 * MAX_TOKEN_LEN]), TokenFault::TooLong));
}

#[test]
fn a_directory_is_an_error_that_names_the_token_and_its_file() {
    let directory = tempfile::tempdir().unwrap();
    let fd = File::open(directory.path()).unwrap().into();
    let entry = (name(), SecretFile::File("/etc/keyhatch/tokens/heroku".into()), Ok(fd));
    let error = Vault::read(vec![entry]).err().unwrap();
    assert_eq!(error.to_string(), "token `heroku` (/etc/keyhatch/tokens/heroku): the file cannot be read");
}

#[test]
fn an_error_never_holds_a_byte_of_the_token() {
    let error = vault(b"hunter2\nhunter3\n").err().unwrap();
    assert!(!format!("{error} {error:?}").contains("hunter"));
}

fn at(origins: &[&str]) -> Origins {
    HashMap::from([(name(), origins.iter().map(|&origin| origin.to_owned()).collect())])
}

/// `old` by a configuration with these origins, replaced by `new` with those.
fn moved(from: &[&str], to: &[&str]) -> (Vault, Vec<(TokenName, Replacement)>) {
    vault(b"old").ok().unwrap().replaced_by(vault(b"new").ok().unwrap(), &[], (&at(from), &at(to)))
}

fn only(vault: &Vault, origin: &str) -> Option<Vec<u8>> {
    vault.only_one_for(&name(), origin).map(|only| only.alone.get(&name()).unwrap().bytes().to_vec())
}

#[test]
fn a_token_that_moves_with_its_keys_leaves_nothing_behind() {
    let (vault, told) = moved(&["a"], &["b"]);
    assert_eq!(told, [(name(), Replacement::New)]);
    assert!(vault.get(&name()).unwrap().bytes() == b"new" && !vault.is_unproven(&name()));
}

#[test]
fn an_old_token_is_for_the_origins_that_it_had_whatever_becomes_of_the_new_one() {
    let (waiting, told) = moved(&["a"], &["a", "b"]);
    assert_eq!(told, [(name(), Replacement::Changed)]);
    assert_eq!((only(&waiting, "a"), only(&waiting, "b")), (None, Some(b"new".to_vec())));
    let candidate = waiting.candidate(&name()).unwrap();
    let refused = waiting.settled(&name(), &candidate, false).unwrap();
    assert_eq!((only(&refused, "a"), only(&refused, "b")), (None, Some(b"new".to_vec())));
    assert!(refused.get(&name()).unwrap().bytes() == b"old" && !refused.is_unproven(&name()));
    let everywhere = at(&["a", "b"]);
    for vault_of_then in [&waiting, &refused] {
        let newest = vault(b"newest").ok().unwrap();
        let (again, _) = vault_of_then.replaced_by(newest, &[], (&everywhere, &everywhere));
        assert_eq!((only(&again, "a"), only(&again, "b")), (None, Some(b"newest".to_vec())));
        let (kept, _) = vault_of_then.replaced_by(Vault(HashMap::new()), &[name()], (&everywhere, &at(&["b"])));
        assert_eq!(kept.get(&name()).unwrap().bytes(), b"new", "the old one has nowhere to go");
    }
    let accepted = waiting.settled(&name(), &candidate, true).unwrap();
    assert!(only(&accepted, "b").is_none() && accepted.get(&name()).unwrap().bytes() == b"new");
}

#[test]
fn a_new_token_waits_beside_the_old_one_until_it_is_settled() {
    let bytes = |vault: &Vault| vault.get(&name()).unwrap().bytes().to_vec();
    let old = vault(b"old").ok().unwrap();
    let here = at(&["a"]);
    let (waiting, told) = old.replaced_by(vault(b"new\n").ok().unwrap(), &[], (&here, &here));
    assert_eq!(told, [(name(), Replacement::Changed)]);
    assert!(bytes(&waiting) == b"old" && waiting.is_unproven(&name()));
    let candidate = waiting.candidate(&name()).unwrap();
    assert_eq!(bytes(&candidate.alone), b"new");
    let accepted = waiting.settled(&name(), &candidate, true).unwrap();
    assert!(bytes(&accepted) == b"new" && !accepted.is_unproven(&name()));
    let refused = waiting.settled(&name(), &candidate, false).unwrap();
    assert!(bytes(&refused) == b"old" && !refused.is_unproven(&name()));
    let (newer, _) = waiting.replaced_by(vault(b"newer").ok().unwrap(), &[], (&here, &here));
    assert!(newer.settled(&name(), &candidate, true).is_none(), "it was overtaken");
}

#[test]
fn what_is_neither_given_nor_kept_goes() {
    let old = vault(b"old").ok().unwrap();
    let here = at(&["a"]);
    let nothing = || Vault::read(Vec::new()).ok().unwrap();
    assert!(old.replaced_by(nothing(), &[], (&here, &here)).0.get(&name()).is_none());
    assert_eq!(old.replaced_by(nothing(), &[name()], (&here, &here)).0.get(&name()).unwrap().bytes(), b"old");
    let (same, told) = old.replaced_by(vault(b"old\n").ok().unwrap(), &[], (&here, &here));
    assert!(told == [(name(), Replacement::Unchanged)] && !same.is_unproven(&name()));
}

#[test]
fn a_token_that_could_not_be_opened_is_missing() {
    let entry = (name(), SecretFile::Credential("cred".into()), Err("no such file".into()));
    assert!(Vault::read(vec![entry]).ok().unwrap().get(&name()).is_none());
}
