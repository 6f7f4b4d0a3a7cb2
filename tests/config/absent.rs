//! Who and what cannot be found, or not be named as systemd names it: told, and never taken for somebody else.

use super::*;

#[test]
fn who_cannot_be_found_is_a_problem_and_matches_nobody() {
    let config = config(
        r#"
        [server]
        admin-group = "operators"
        [tokens]
        heroku = { file = "/t" }
        [keys."/a"]
        source = { type = "http", url = "https://h/", auth = { type = "bearer", token = "herku" } }
        [keys."/b"]
        source = { type = "http", url = "https://h/", auth = { type = "bearer", token = "partner" } }
        [clients.typo]
        user = ["billing", "biling"]
        keys = "/a"
        [clients.overflow]
        group = 65534
        keys = "/a"
        [clients.nobody]
        user = "nobody"
        keys = "/a"
        [clients.number]
        user = "47111"
        group = 0
        keys = "/a"
        [clients.lookup]
        user = "broken"
        keys = "/a"
        "#,
    );
    assert!(config.acl.clients.iter().all(|client| client.who == Who::Nobody));
    assert_eq!(
        config.problems,
        [
            "keyhatch.toml:3: `admin-group`: there is no group `operators`; the admin socket is for root alone",
            "keyhatch.toml:7: there is no token `herku`; did you mean `heroku`?",
            "keyhatch.toml:9: there is no token `partner`; add it: [tokens] partner = { file = \"/etc/keyhatch/tokens/partner\" }",
            "keyhatch.toml:11: client `typo` matches nobody: there is no user `biling`",
            "keyhatch.toml:14: client `overflow` matches nobody: group 65534 is the overflow id 65534, which never matches",
            "keyhatch.toml:17: client `nobody` matches nobody: user `nobody` is the overflow id 65534, which never matches",
            "keyhatch.toml:20: client `number` matches nobody: there is no user `47111`; a uid is written without quotes: user = 47111",
            "keyhatch.toml:24: client `lookup` matches nobody: looking up user `broken`: the name service does not answer",
        ]
    );
    assert_eq!(config.keys.len(), 2, "keys of unknown tokens stay: they serve their last known good");
}

#[test]
fn a_user_that_is_not_found_does_not_become_a_client_without_conditions() {
    let config = config(
        "[keys.\"/a\"]\nsource = { type = \"file\", path = \"/a\" }\n[clients.x]\nuser = \"biling\"\ngroup = \"deploy\"\nkeys = \"/a\"\n",
    );
    assert_eq!(config.acl.clients[0].who, Who::Nobody);
}

#[test]
fn names_too_long_for_systemd_are_a_warning() {
    let key = |path: &str| format!("[keys.\"{path}\"]\nsource = {{ type = \"file\", path = \"/a\" }}\n");
    let warnings = |unit: &str, more: &str, path: &str| {
        let client = format!("[clients.c]\nunit = \"{unit}\"\nkeys = \"/**\"\n{more}\n");
        config(&(key(path) + &client)).warnings
    };
    // 9 bytes and 74 are as many as there may be.
    let (fits, long) = (format!("/{}", "k".repeat(74)), format!("/{}", "k".repeat(75)));
    assert_eq!(warnings("a.service", "", &fits), Vec::<String>::new());
    assert_eq!(warnings("a*.service", "", &fits), Vec::<String>::new());
    let told = warnings("a.service", "", &long);
    assert!(told.len() == 1 && told[0].contains("84 bytes together, and an address has room for 83"), "{told:?}");
    let by_name = format!("credentials = {{ \"{}\" = \"/k\" }}", "i".repeat(75));
    assert!(warnings("*.service", &by_name, "/k").is_empty());
    assert_eq!(warnings("a.service", &by_name, "/k").len(), 1);
    // For HTTP there is no such limit, and what dots cannot name is never asked for.
    assert!(warnings("a.service", "user = 1", &long).is_empty());
    assert!(warnings("a.service", "", &format!("/a:{}", "k".repeat(75))).is_empty());
}
