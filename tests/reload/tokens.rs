//! Tokens that change: used once they are proven.

use std::process::{Command, Stdio};

use crate::HOUR;
use crate::scene::{Scene, all, told};
use crate::support::process::Process;
use crate::support::{Broker, TOKEN, wait_until};

fn replace(scene: &Scene, content: &str) {
    scene.broker.write("next", content, 0o400);
    std::fs::rename(scene.broker.path("next"), scene.broker.path("token")).unwrap();
}

/// The tokens that were shown, in their order.
fn shown(scene: &Scene, path: &str) -> Vec<String> {
    let requests = scene.upstream.requests_for(path);
    requests.iter().map(|one| one["headers"]["authorization"].as_str().unwrap().replace("Bearer ", "")).collect()
}

#[test]
fn an_accepted_token_takes_the_place_of_the_old_one() {
    let scene = Scene::new(&[("/a", "/good", "")]);
    assert_eq!(scene.get("/a").status, 200);
    replace(&scene, "another-token-77aa\n");
    let told = scene.reloads();
    assert!(told.contains("token `t`: accepted"), "{told}");
    assert_eq!(scene.get("/a").status, 200);
    assert_eq!(shown(&scene, "/good"), [TOKEN, "another-token-77aa", "another-token-77aa"]);
    assert_eq!(scene.token_state("t"), "proven");
    assert!(!scene.reloads().contains("token"), "nothing has changed");
    assert!(!scene.broker.log().contains("another-token"), "{}", scene.broker.log());
}

#[test]
fn a_refused_token_stays_out_and_the_rest_is_applied() {
    let scene = Scene::new(&[("/a", "/bearer", "")]);
    assert_eq!(scene.get("/a").status, 200);
    replace(&scene, "wrong-token\n");
    scene.configure(&[("/a", "/bearer", ""), ("/b", "/bearer", HOUR)], &all());
    let done = scene.reload();
    let said = told(&done);
    assert_eq!(done.status.code(), Some(1), "{said}");
    assert!(said.contains("token `t`: REFUSED"), "{said}");
    assert_eq!((scene.get("/a").status, scene.get("/b").status), (200, 200), "{}", scene.broker.log());
    assert_eq!(scene.token_state("t"), "proven");
    assert!(!scene.broker.log().contains("failing"), "it is no failure of the key: {}", scene.broker.log());
    let json = scene.command(true).output().unwrap();
    let steps: Vec<serde_json::Value> =
        String::from_utf8(json.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(steps[0]["step"], "applied");
    assert_eq!((&steps[1]["token"], &steps[1]["outcome"]), (&"t".into(), &"refused".into()), "{steps:?}");
    assert_eq!(steps[2]["step"], "done");
}

#[test]
fn a_token_brings_back_what_was_refused_at_once() {
    let scene = Scene::new(&[("/a", "/bearer", "negative-max-age = \"1h\"")]);
    replace(&scene, "wrong-token\n");
    assert_eq!(scene.reload().status.code(), Some(1), "nothing was asked for yet: 401 says enough");
    let scene = {
        let mut scene = scene;
        assert_eq!(scene.broker.end("TERM"), Some(0));
        scene.broker.start();
        scene
    };
    assert_eq!(scene.get("/a").status, 502);
    replace(&scene, TOKEN);
    scene.reloads();
    assert_eq!(scene.get("/a").status, 200, "{}", scene.broker.log());
}

#[test]
fn while_the_upstream_is_down_both_stay_and_the_new_one_is_tried_first() {
    let mut scene = Scene::new(&[("/a", "/good", "")]);
    assert_eq!(scene.get("/a").status, 200);
    let port = scene.upstream.port("plain");
    scene.upstream.stop();
    replace(&scene, "newer-token\n");
    let told = scene.reloads();
    assert!(told.contains("token `t`: unproven"), "{told}");
    assert_eq!(scene.token_state("t"), "unproven");
    assert!(scene.reloads().contains("unproven"), "and is tried again");
    scene.upstream = Process::start_at(scene.broker.directory.path(), port);
    wait_until("it is proven", || {
        scene.get("/a");
        scene.token_state("t") == "proven"
    });
    assert_eq!(scene.get("/a").status, 200);
    assert!(shown(&scene, "/good").iter().all(|token| token == "newer-token"));
}

#[test]
fn an_unproven_token_that_is_refused_later_leaves_the_old_one() {
    let mut scene = Scene::new(&[("/a", "/bearer", "")]);
    assert_eq!(scene.get("/a").status, 200);
    let port = scene.upstream.port("plain");
    scene.upstream.stop();
    replace(&scene, "wrong-token\n");
    scene.reloads();
    scene.upstream = Process::start_at(scene.broker.directory.path(), port);
    wait_until("the old one serves on", || {
        assert_eq!(scene.get("/a").status, 200);
        scene.token_state("t") == "proven"
    });
    assert_eq!(shown(&scene, "/bearer")[..2], ["wrong-token", TOKEN]);
    assert!(scene.broker.log().contains("the new token is refused: the old one stays"), "{}", scene.broker.log());
}

#[test]
fn a_withdrawn_grant_does_not_wait_for_a_token_that_is_tried() {
    let scene = Scene::new(&[("/one/a", "/good", HOUR), ("/two/b", "/gate", "fetch-timeout = \"20s\"")]);
    assert_eq!(scene.get("/one/a").status, 200);
    scene.upstream.behave("/good", "/gate");
    replace(&scene, "newer-token\n");
    scene.configure(
        &[("/one/a", "/good", HOUR), ("/two/b", "/gate", "fetch-timeout = \"20s\"")],
        &crate::client("/two/*"),
    );
    let mut reload = scene.command(false).stdout(Stdio::piped()).spawn().unwrap();
    wait_until("it is denied", || scene.get("/one/a").status == 403);
    assert!(reload.try_wait().unwrap().is_none(), "the token is still being tried");
    scene.upstream.set_gate(true);
    assert!(reload.wait().unwrap().success());
}

#[test]
fn another_reload_does_not_wait_for_a_token_that_is_tried() {
    let scene = Scene::new(&[("/a", "/good", "fetch-timeout = \"25s\"")]);
    assert_eq!(scene.get("/a").status, 200);
    scene.upstream.behave("/good", "/gate");
    replace(&scene, "newer-token\n");
    let mut first = scene.command(false).stdout(Stdio::piped()).spawn().unwrap();
    wait_until("it is tried", || shown(&scene, "/good").contains(&"newer-token".to_owned()));
    replace(&scene, TOKEN);
    scene.configure(&[], "");
    assert!(scene.reloads().contains("1 removed"), "while the upstream is silent");
    assert_eq!(scene.get("/a").status, 403);
    assert!(first.try_wait().unwrap().is_none());
    scene.upstream.set_gate(true);
    let done = first.wait_with_output().unwrap();
    assert!(told(&done).contains("another reload"), "{}", told(&done));
}

#[test]
fn what_an_old_token_is_given_after_its_end_does_not_count() {
    let scene = Scene::new(&[("/a", "/slow", HOUR), ("/b", "/good", HOUR)]);
    assert_eq!(scene.get("/b").status, 200);
    scene.upstream.behave("/slow", "/gate");
    let mut asks = Command::new("curl");
    asks.args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "http://keyhatch/a", "--unix-socket"]);
    let asked = asks.arg(scene.broker.path("keyhatch.sock")).stdout(Stdio::piped()).spawn().unwrap();
    wait_until("it is asked", || shown(&scene, "/slow") == [TOKEN]);
    replace(&scene, "newer-token\n");
    let told = scene.reloads();
    assert!(told.contains("token `t`: accepted"), "{told}");
    scene.upstream.set_gate(true);
    let answer = asked.wait_with_output().unwrap();
    assert_eq!(answer.stdout, b"200", "{}", scene.broker.log());
    wait_until("it is asked again", || shown(&scene, "/slow") == [TOKEN, "newer-token"]);
}

#[test]
fn an_old_token_never_goes_where_it_was_not_configured_for() {
    let (mut at_a, mut at_b) = (None, None);
    let mut broker = Broker::prepared(|directory| {
        let (a, b) = (Process::start(directory), Process::start(directory));
        let text = at_two(&[("/a", a.port("plain"), "/good")], b.port("plain"));
        (at_a, at_b) = (Some(a), Some(b));
        text
    });
    broker.start();
    let scene = Scene { upstream: at_a.unwrap(), broker };
    let other = at_b.unwrap();
    let (a, b) = (scene.upstream.port("plain"), other.port("plain"));
    let shown_there = || {
        let requests = other.requests_for("/status/401");
        requests.iter().map(|one| one["headers"]["authorization"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(scene.get("/a").status, 200);

    // Another provider for one key more: its token is the new one alone, whatever the first provider thinks of it.
    scene.upstream.behave("/good", "/bearer");
    replace(&scene, "token-of-b\n");
    scene.broker.configure(&at_two(&[("/a", a, "/good"), ("/b", b, "/status/401")], b));
    scene.reload();
    assert_eq!((scene.get("/b").status, scene.get("/a").status), (502, 200), "{}", scene.broker.log());
    assert_eq!(scene.reload().status.code(), Some(1), "tried again");
    assert_eq!(shown(&scene, "/good").last().unwrap(), "token-of-b");

    // And then for all.
    let before = shown_there().len();
    scene.broker.configure(&at_two(&[("/a", b, "/status/401")], b));
    scene.reload();
    wait_until("it is asked", || {
        scene.get("/a");
        shown_there().len() > before
    });
    let there = shown_there();
    assert!(there.iter().all(|shown| shown == "Bearer token-of-b"), "{there:?}");
}

/// Keys by name, port and path, and one without a token that has the second port configured from the start.
fn at_two(keys: &[(&str, u16, &str)], port: u16) -> String {
    let key = |(name, port, path): &(&str, u16, &str)| {
        format!(
            "[keys.\"{name}\"]\nsource = {{ type = \"http\", url = \"http://127.0.0.1:{port}{path}\", field = \"value\", \
             auth = {{ type = \"bearer\", token = \"t\" }}, allow-plaintext = true }}\nmax-age = \"0s\"\n"
        )
    };
    let keys: String = keys.iter().map(key).collect();
    let open = format!("[keys.\"/open\"]\nsource = {{ type = \"http\", url = \"http://127.0.0.1:{port}/good\" }}\n");
    format!("[tokens]\nt = {{ file = \"DIR/token\" }}\n{keys}{open}{}", all())
}
