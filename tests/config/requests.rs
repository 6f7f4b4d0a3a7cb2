//! What sources mean: the requests and definitions that they become, and ways to authenticate.

use super::*;

/// One key with this source.
fn source(source: &str) -> keyhatch::config::Source {
    let text =
        format!("[tokens]\nt = {{ file = \"/t\" }}\nu = {{ file = \"/u\" }}\n[keys.\"/k\"]\nsource = {source}\n");
    config(&text).keys.remove(0).source
}

#[test]
fn heroku_becomes_the_request_that_it_is() {
    let config = config(FULL);
    let key = key(&config, "/billing/database-url");
    let Document::Http(document) = &key.source.document else { panic!("not http") };
    assert_eq!(document.url.origin(), "https://api.heroku.com:443");
    assert_eq!(document.url.target, "/apps/billing-prod/config-vars");
    assert_eq!((document.method, document.format), (Method::Get, Format::Json));
    assert_eq!(document.headers, [("accept".into(), "application/vnd.heroku+json; version=3".into())]);
    assert_eq!(document.auth, Auth::Bearer { token: TokenName("heroku".into()) });
    assert_eq!(key.source.projection, Projection::Fields(vec!["DATABASE_URL".into()]));
    assert_eq!(key.settings.failover_timeout, Duration::from_millis(300));
    assert_eq!(key.settings.stale_while_revalidate, Span::Finite(Duration::from_secs(300)));
    assert_eq!(key.at.to_string(), "keyhatch.toml:33");
}

#[test]
fn heroku_elsewhere_is_said_in_full() {
    let there = source(
        r#"{ type = "heroku", app = "a", config-var = ["A", "B"], token = "t", base-url = "http://127.0.0.1:8080/api/", allow-plaintext = true }"#,
    );
    let Document::Http(document) = &there.document else { panic!("not http") };
    assert_eq!(document.url.origin(), "http://127.0.0.1:8080");
    assert_eq!(document.url.target, "/api/apps/a/config-vars");
}

#[test]
fn keys_of_one_app_share_their_document() {
    let one = source(r#"{ type = "heroku", app = "a", config-var = "A", token = "t" }"#);
    let two = source(r#"{ type = "heroku", app = "a", config-var = "B", token = "t" }"#);
    assert_eq!(one.document, two.document);
    assert_ne!(one.definition, two.definition);
}

/// These texts bind sealed values: a change here loses the last known good of every installation.
#[test]
fn definitions_are_the_same_in_every_version() {
    for (text, expected) in [
        (
            r#"{ type = "http", url = "https://H/a?b=c", field = "x", auth = { type = "bearer", token = "t" } }"#,
            r#"{"field":["x"],"format":"json","method":"GET","token":"t","type":"http","url":"https://h:443/a?b=c"}"#,
        ),
        (
            r#"{ type = "http", url = "http://h/", method = "POST", body = "{}", format = "text", headers = { X-B = "2", User-Agent = "u", Accept = "a/b", Accept-Language = "de", x-a = "1" } }"#,
            r#"{"body":"{}","format":"text","headers":[["x-a","1"],["x-b","2"]],"method":"POST","type":"http","url":"http://h:80/"}"#,
        ),
        (
            r#"{ type = "http", url = "https://h/", pointer = "/a~1b/0", auth = { type = "hawk", id = "acme", key = "t" }, ca-file = "/ca.pem", proxy = "http://p:3128" }"#,
            r#"{"account":"acme","format":"json","method":"GET","pointer":["a/b","0"],"token":"t","type":"http","url":"https://h:443/"}"#,
        ),
        (
            r#"{ type = "heroku", app = "a", config-var = "A", token = "t" }"#,
            r#"{"app":"a","field":["A"],"token":"t","type":"heroku"}"#,
        ),
        (
            r#"{ type = "file", path = "/a", format = "env", field = ["A", "B"] }"#,
            r#"{"field":["A","B"],"format":"env","path":"/a","type":"file"}"#,
        ),
    ] {
        assert_eq!(source(text).definition, expected);
    }
}

#[test]
fn another_token_or_account_is_another_definition() {
    let with = |auth: &str| source(&format!(r#"{{ type = "http", url = "https://h/", auth = {auth} }}"#)).definition;
    let bearer = with(r#"{ type = "bearer", token = "t" }"#);
    assert_ne!(bearer, with(r#"{ type = "bearer", token = "u" }"#));
    assert_eq!(bearer, with(r#"{ type = "header", name = "X-Key", token = "t" }"#), "how it is shown selects no data");
    let hawk = |id: &str| with(&format!(r#"{{ type = "hawk", id = "{id}", key = "t" }}"#));
    assert_ne!(hawk("a"), hawk("b"));
}

#[test]
fn ways_to_authenticate() {
    let auth = |text: &str| match source(&format!(r#"{{ type = "http", url = "https://h/", auth = {text} }}"#)).document
    {
        Document::Http(document) => document.auth,
        _ => panic!("not http"),
    };
    let token = || TokenName("t".into());
    assert_eq!(
        auth(r#"{ type = "basic", user = "me", token = "t" }"#),
        Auth::Basic { user: "me".into(), token: token() }
    );
    assert_eq!(
        auth(r#"{ type = "header", name = "Authorization", prefix = "Token ", token = "t" }"#),
        Auth::Header { name: "authorization".into(), prefix: "Token ".into(), token: token() }
    );
    assert_eq!(
        auth(r#"{ type = "hawk", id = "a", key = "t", algorithm = "sha1" }"#),
        Auth::Hawk { id: "a".into(), key: token(), algorithm: HawkAlgorithm::Sha1 }
    );
}
