//! The access rules, as an operator reads them.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "acl/differential.rs"]
mod differential;
#[path = "acl/model.rs"]
mod model;

use keyhatch::acl::{Acl, Client, OVERFLOW_ID, Pattern, Peer, Users, Who};
use keyhatch::config::Location;
use keyhatch::secret::{KeyPath, KeyPathError};

fn key(path: &str) -> KeyPath {
    KeyPath::parse(path).unwrap()
}

fn matches(pattern: &str, path: &str) -> bool {
    Pattern::parse(pattern).unwrap().matches(&key(path))
}

fn peer(uid: u32, gid: u32, groups: &[u32]) -> Peer {
    Peer { uid, gid, groups: groups.to_vec(), unit: None, pid: 1 }
}

fn client(name: &str, who: Who, pattern: &str) -> Client {
    let keys = vec![Pattern::parse(pattern).unwrap()];
    Client {
        name: name.into(),
        who,
        keys,
        credentials: Default::default(),
        at: Location { file: "keyhatch.toml".into(), line: 1 },
    }
}

#[test]
fn one_star_stays_within_its_segment() {
    assert!(matches("/billing/*", "/billing/database-url"));
    assert!(!matches("/billing/*", "/billing/a/b"));
    assert!(!matches("/billing/*", "/billing"));
    assert!(matches("/db-*/x", "/db-main/x"));
    assert!(matches("/*-url", "/database-url"));
    assert!(matches("/a*b*c", "/a1b2b3c"));
    assert!(!matches("/ab*ba", "/aba"));
}

#[test]
fn two_stars_are_any_number_of_segments_also_none() {
    assert!(matches("/**", "/a"));
    assert!(matches("/**", "/a/b/c"));
    assert!(matches("/a/**", "/a"));
    assert!(matches("/a/**/z", "/a/z"));
    assert!(matches("/a/**/z", "/a/b/z/c/z"));
    assert!(!matches("/a/**/z", "/a/b/c"));
}

#[test]
fn two_patterns_overlap_where_one_path_matches_both() {
    let both = |a: &str, b: &str| {
        let (a, b) = (Pattern::parse(a).unwrap(), Pattern::parse(b).unwrap());
        assert_eq!(a.overlaps(&b), b.overlaps(&a), "{a} {b}");
        a.overlaps(&b)
    };
    assert!(both("/heroku/*/*", "/heroku/billing/**"));
    assert!(both("/heroku/*/*", "/**"));
    assert!(both("/a*b/c", "/ax*/*"));
    assert!(both("/a/**/z", "/*/b/*"));
    assert!(both("/**/a/**", "/**/b/**"));
    assert!(!both("/heroku/*/*", "/heroku/*"));
    assert!(!both("/heroku/*/*", "/billing/**"));
    assert!(!both("/a*b", "/a*c"));
    assert!(!both("/ab", "/ab*c"));
}

#[test]
fn a_pattern_covers_another_one_with_all_its_paths() {
    let covers = |a: &str, b: &str| Pattern::parse(a).unwrap().covers(&Pattern::parse(b).unwrap());
    assert!(
        covers("/heroku/*/*", "/heroku/*/*") && covers("/**", "/heroku/*/*") && covers("/h*/*-*/*", "/heroku/a-*/*")
    );
    assert!(!covers("/heroku/billing/*", "/heroku/*/*") && !covers("/heroku/*", "/heroku/*/*"));
    assert!(!covers("/a*b", "/a*") && !covers("/**", "/a/**"));
}

#[test]
fn case_matters() {
    assert!(!matches("/Billing/*", "/billing/x"));
}

#[test]
fn malformed_keys_are_told_apart() {
    assert_eq!(KeyPath::parse("a/b"), Err(KeyPathError::NoLeadingSlash));
    assert_eq!(KeyPath::parse("/a/"), Err(KeyPathError::TrailingSlash));
    assert_eq!(KeyPath::parse("/"), Err(KeyPathError::TrailingSlash));
    assert_eq!(KeyPath::parse("/a//b"), Err(KeyPathError::EmptySegment));
    assert_eq!(KeyPath::parse("/a/../b"), Err(KeyPathError::DotSegment));
    assert_eq!(KeyPath::parse("/a b"), Err(KeyPathError::Character { found: ' ' }));
    assert_eq!(KeyPath::parse("/-/health"), Err(KeyPathError::Reserved));
    assert_eq!(KeyPath::parse(&format!("/{}", "a".repeat(512))), Err(KeyPathError::TooLong { len: 513 }));
    assert!(KeyPath::parse(&format!("/{}", "a".repeat(511))).is_ok());
}

#[test]
fn every_condition_of_a_client_must_hold() {
    let both = client(
        "both",
        Who::Ids { users: Some(Users { uids: vec![1000], dynamic: false }), groups: Some(vec![50]), units: None },
        "/**",
    );
    let acl = Acl { clients: vec![both] };
    assert!(acl.judge(&peer(1000, 50, &[]), &key("/a")).is_some());
    assert!(acl.judge(&peer(1000, 7, &[50]), &key("/a")).is_some(), "a supplementary group counts");
    assert!(acl.judge(&peer(1000, 7, &[]), &key("/a")).is_none());
    assert!(acl.judge(&peer(1001, 50, &[]), &key("/a")).is_none());
}

#[test]
fn rights_are_the_union_of_all_matching_clients_and_root_has_none_by_itself() {
    let acl = Acl {
        clients: vec![
            client(
                "one",
                Who::Ids { users: Some(Users { uids: vec![1000], dynamic: false }), groups: None, units: None },
                "/a/*",
            ),
            client("two", Who::Ids { users: None, groups: Some(vec![50]), units: None }, "/b/*"),
            client("gone", Who::Nobody, "/**"),
        ],
    };
    let both = peer(1000, 50, &[]);
    assert_eq!(acl.judge(&both, &key("/a/x")).unwrap().client.name, "one");
    assert_eq!(acl.judge(&both, &key("/b/x")).unwrap().client.name, "two");
    assert!(acl.judge(&both, &key("/c/x")).is_none());
    assert!(acl.judge(&peer(0, 0, &[]), &key("/a/x")).is_none());
}

#[test]
fn ids_without_a_mapping_match_nobody() {
    let ids = Who::Ids { users: Some(Users { uids: vec![OVERFLOW_ID], dynamic: false }), groups: None, units: None };
    let acl = Acl { clients: vec![client("nobody", ids, "/**")] };
    assert!(acl.judge(&peer(OVERFLOW_ID, OVERFLOW_ID, &[]), &key("/a")).is_none());
    let ids = Who::Ids { users: None, groups: Some(vec![OVERFLOW_ID]), units: None };
    let acl = Acl { clients: vec![client("nogroup", ids, "/**")] };
    assert!(acl.judge(&peer(1000, OVERFLOW_ID, &[OVERFLOW_ID]), &key("/a")).is_none());
}
