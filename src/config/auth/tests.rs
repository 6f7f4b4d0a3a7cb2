//! What follows from `auth` elsewhere: definitions, tokens with their origins, ports.

use std::path::PathBuf;

use crate::config::{Config, Document, Key, SourceText, System, parse};

fn config(keys: &[(&str, &str)]) -> Config {
    let mut text = String::from("[tokens]\nt = { file = \"/t\" }\nu = { file = \"/u\" }\n");
    for (url, auth) in keys {
        let number = text.len();
        text.push_str(&format!(
            "[keys.\"/k{number}\"]\nsource = {{ type = \"http\", url = \"{url}\", auth = {{ {auth} }}, allow-plaintext = true }}\n"
        ));
    }
    parse(vec![SourceText { path: PathBuf::from("keyhatch.toml"), text }], &System).unwrap()
}

fn key(auth: &str) -> Key {
    config(&[("https://a.example/x", auth)]).keys.remove(0)
}

fn login(more: &str) -> String {
    format!(
        "type = \"login\", url = \"https://v.example:8200/login\", body = '{{\"role_id\": \"r\", \"secret_id\": \"{{s}}\"}}', \
         secrets = {{ s = \"t\" }}, pointer = \"/token\"{more}"
    )
}

fn aws(credentials: &str) -> String {
    format!("type = \"aws-sigv4\", service = \"ssm\", region = \"eu-west-1\", credentials = {{ {credentials} }}")
}

const FIXED: &str = "type = \"static\", access-key-id = \"AKIDEXAMPLEEXAMPLE\", secret-access-key = \"t\"";
const OAUTH: &str = "type = \"oauth2-client-credentials\", token-url = \"https://l.example/t\", client-id = \"a\", client-secret = \"t\"";

#[test]
fn a_document_asks_where_its_session_is_from_as_well() {
    let asks = |auth: &str, origin: &str| key(auth).source.document.asks(origin);
    for (auth, session) in [(login(""), "https://v.example:8200"), (OAUTH.to_owned(), "https://l.example:443")] {
        assert!(asks(&auth, "https://a.example:443") && asks(&auth, session), "{auth}");
        assert!(!asks(&auth, "https://b.example:443"));
    }
    assert!(!asks("type = \"bearer\", token = \"t\"", "https://v.example:8200"));
}

#[test]
fn a_definition_says_which_account_asks() {
    let definition = |auth: &str| key(auth).source.definition;
    // Letter by letter: a change makes every sealed value unreadable.
    assert_eq!(
        definition(&login("")),
        "{\"account\":[\"login\",\"https://v.example:8200/login\",[],\"{\\\"role_id\\\": \\\"r\\\", \\\"secret_id\\\": \\\"{s}\\\"}\",\
         [[\"s\",\"t\"]]],\"format\":\"json\",\"method\":\"GET\",\"type\":\"http\",\"url\":\"https://a.example:443/x\"}"
    );
    assert!(definition(&aws(FIXED)).starts_with("{\"account\":[\"static\",\"AKIDEXAMPLEEXAMPLE\",\"t\",null],"));
    let changes = [
        (login(""), login("").replace("\\\"r\\\"", "\\\"q\\\"").replace("\"r\"", "\"q\"")),
        (login(""), login("").replace("s = \"t\"", "s = \"u\"")),
        (login(""), login(", headers = { X-Vault-Namespace = \"n\" }")),
        (aws(FIXED), aws(&FIXED.replace("EXAMPLEEXAMPLE", "EXAMPLEEXAMPLF"))),
        (aws(FIXED), aws("type = \"file\", token = \"t\"")),
        (aws("type = \"imds\""), aws("type = \"imds\", role = \"r\"")),
        (OAUTH.to_owned(), OAUTH.replace("\"a\"", "\"b\"")),
        (OAUTH.to_owned(), format!("{OAUTH}, scope = \"s\"")),
    ];
    for (one, other) in changes {
        assert_ne!(definition(&one), definition(&other), "{other}");
    }
    let same = [
        (login(""), login(", lifetime = \"1h\", header = \"X-Vault-Token\", renew = \"https://v.example:8200/renew\"")),
        (OAUTH.to_owned(), format!("{OAUTH}, send = \"body\"")),
    ];
    for (one, other) in same {
        assert_eq!(definition(&one), definition(&other), "{other}");
    }
}

#[test]
fn tokens_go_to_where_one_logs_in() {
    let goes = |auth: &str| {
        let tokens = key(auth).source.document.tokens();
        tokens.into_iter().map(|needed| format!("{} {}", needed.token, needed.origin)).collect::<Vec<_>>()
    };
    assert_eq!(goes(&login("")), ["t https://v.example:8200"]);
    assert_eq!(goes(OAUTH), ["t https://l.example:443"]);
    let session = format!("{FIXED}, session-token = \"u\"");
    assert_eq!(goes(&aws(&session)), ["t https://a.example:443", "u https://a.example:443"]);
    let container = "type = \"container\", url = \"http://169.254.170.23/v1/credentials\", token = \"t\"";
    assert_eq!(goes(&aws(container)), ["t http://169.254.170.23:80"]);
    assert!(goes(&aws("type = \"imds\"")).is_empty());
    assert_eq!(
        goes("type = \"google-service-account\", key = \"t\", scope = \"s\""),
        ["t https://oauth2.googleapis.com:443"]
    );
}

#[test]
fn ports_of_logins_are_ports_of_the_configuration() {
    let ports = |auth: &str| config(&[("https://a.example/x", auth)]).ports().collect::<Vec<_>>();
    assert_eq!(ports(&login("")), [443, 8200]);
    assert_eq!(ports(&aws("type = \"imds\"")), [443, 80]);
    assert_eq!(ports(&aws(FIXED)), [443]);
    let proxied = |auth: &str| {
        let mut config = config(&[("https://a.example/x", auth)]);
        let Document::Http(http) = &mut config.keys[0].source.document else { unreachable!() };
        http.proxy = Some(crate::config::Url { https: false, host: "p".into(), port: 3128, target: "/".into() });
        config.ports().collect::<Vec<_>>()
    };
    assert_eq!(proxied(&login("")), [3128, 3128]);
    assert_eq!(proxied(&aws("type = \"imds\"")), [3128, 80], "metadata are asked without one");
}

#[test]
fn metadata_by_plain_http_are_themselves_alone() {
    let text = |url: &str| {
        format!(
            "[keys.\"/k\"]\nsource = {{ type = \"http\", url = \"https://a.example/x\", auth = {{ {} }} }}\n",
            aws(&format!("type = \"container\", url = \"{url}\""))
        )
    };
    let legal =
        |url: &str| parse(vec![SourceText { path: PathBuf::from("keyhatch.toml"), text: text(url) }], &System).is_ok();
    for url in
        ["http://169.254.170.2/v2/x", "http://169.254.170.23/v1/credentials", "http://[fd00:ec2::23]/v1/credentials"]
    {
        assert!(legal(url), "{url}");
    }
    for url in ["http://169.254.170.3/", "http://127.0.0.1/", "http://[fd00:ec2::24]/", "http://169.254.170.2.example/"]
    {
        assert!(!legal(url), "{url}");
    }
}
