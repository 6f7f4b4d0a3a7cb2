//! The real rules, from the text of a configuration on, against the model: random clients, peers and keys.

use keyhatch::acl::{Peer, Unit};
use keyhatch::config::{SourceText, System, parse};
use keyhatch::secret::KeyPath;
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::select;

use super::model::{Rule, Someone, judge};

/// So few that they meet often: root, ordinary, dynamic at both ends and beside them, without a mapping.
const IDS: &[u32] = &[0, 1, 2, 1000, 61183, 61184, 62000, 65519, 65520, 65534];
/// What a configuration may name: the overflow ids make their client match nobody, which has tests of its own.
const NAMED: &[u32] = &[0, 1, 2, 1000, 61183, 61184, 62000, 65519, 65520];
const UNITS: &[&str] =
    &["web@1.service", "web@.service", "web.service", "b.service", "a.scope", "web@1.serviceb.service"];
const UNIT_PATTERNS: &[&str] = &["web@*.service", "*", "*.service", "w*b*.service", "a.scope", "web*", "web.service"];

fn segment() -> impl Strategy<Value = String> {
    "[ab]{1,3}"
}

fn path() -> impl Strategy<Value = String> {
    vec(segment(), 1..5).prop_map(|segments| format!("/{}", segments.join("/")))
}

fn pattern() -> impl Strategy<Value = String> {
    let piece = prop_oneof![2 => Just("**".to_owned()), 2 => segment(), 3 => "[ab]?\\*[ab](\\*[ab]?)?", 1 => Just("*".to_owned())];
    vec(piece, 1..5).prop_map(|segments| format!("/{}", segments.join("/")))
}

fn ids() -> impl Strategy<Value = Vec<u32>> {
    vec(select(NAMED), 1..4)
}

fn rule() -> impl Strategy<Value = Rule> {
    let units = of(vec(select(UNIT_PATTERNS).prop_map(str::to_owned), 1..3));
    let who = (prop::bool::weighted(0.1), of(ids()), any::<bool>(), of(ids()), units);
    (who, vec(pattern(), 1..4)).prop_map(|((anyone, users, dynamic, groups, units), keys)| {
        let dynamic = dynamic && units.is_some();
        // A client without any condition is an error, which has tests of its own.
        let anyone = anyone || (users.is_none() && !dynamic && groups.is_none() && units.is_none());
        Rule { anyone, users, dynamic, groups, units, keys }
    })
}

fn someone() -> impl Strategy<Value = Someone> {
    let unit = of(select(UNITS).prop_map(str::to_owned));
    let certain = prop::bool::weighted(0.7);
    (select(IDS), select(IDS), vec(select(IDS), 0..4), unit, certain)
        .prop_map(|(uid, gid, groups, unit, certain)| Someone { uid, gid, groups, unit, certain })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_rules_are_those_of_a_naive_model(
        rules in vec(rule(), 1..6),
        peers in vec(someone(), 1..8),
        paths in vec(path(), 1..8),
    ) {
        // One key with parameters and one without: whatever is defined, the rules see the path.
        let head = "[keys.\"/a\"]\nsource = { type = \"file\", path = \"/x\" }\n\
                    [keys.\"/b/{p}\"]\nparams.p = { matches = \"[ab]+\" }\n\
                    source = { type = \"http\", url = \"https://h/{p}\" }\n";
        let texts: String = rules.iter().enumerate().map(|(name, rule)| rule.text(name)).collect();
        let text = SourceText { path: "keyhatch.toml".into(), text: format!("{head}{texts}") };
        let config = parse(vec![text], &System).map_err(|error| TestCaseError::fail(error.to_string()))?;
        for one in &peers {
            let unit = one.unit.as_deref().and_then(|name| Unit::new(name, one.certain));
            let peer = Peer { uid: one.uid, gid: one.gid, groups: one.groups.clone(), unit, pid: 1 };
            for path in &paths {
                let granted = config.acl.judge(&peer, &KeyPath::parse(path).unwrap());
                let by = granted.map(|grant| grant.client.name.clone());
                let expected = judge(&rules, one, path).map(|index| format!("c{index}"));
                prop_assert_eq!(by, expected, "{:?} asks for {}", one, path);
                // Who has no unit has no more than with any; what a unit adds, a certain one adds, too.
                let without = Peer { unit: None, ..peer.clone() };
                let bare = config.acl.judge(&without, &KeyPath::parse(path).unwrap());
                prop_assert!(bare.is_none() || granted.is_some());
                prop_assert!(bare.is_some() == granted.is_some() || config.acl.depends_on_unit(&without));
            }
        }
    }
}
