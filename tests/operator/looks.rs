//! What can be looked at: status, metrics, top.

use super::*;

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn status_tells_of_keys_origins_tokens_and_layers() {
    let (upstream, broker) = serving(&|upstream| {
        vec![
            ("long", at(upstream, "/long", BEARER), "max-age = \"1h\""),
            ("short", at(upstream, "/short", ""), ""),
            (
                "never",
                at(upstream, "/never", "auth = { type = \"bearer\", token = \"absent\" }, allow-plaintext = true"),
                "",
            ),
        ]
    });
    upstream.behave("/long", "/good");
    upstream.behave("/short", "/good");
    let before = json(&broker, &["status"]);
    assert!(before["keys"].as_array().unwrap().iter().all(|key| key["state"] == "never-fetched"), "{before}");
    (0..3).for_each(|_| good(&broker, "/long"));
    good(&broker, "/short");
    upstream.behave("/short", "/status/503?retry-after=30");
    broker.curl(GRANTED, "/short", &[]);
    wait_until("the worker has told its counts", || key(&broker, "/long")["serves"] == 3);
    let long = key(&broker, "/long");
    assert_eq!((&long["state"], &long["last-outcome"]["class"]), (&"fresh".into(), &"answered".into()), "{long}");
    assert_eq!((&long["last-outcome"]["status"], &long["token"]), (&200.into(), &"t".into()), "{long}");
    let short = key(&broker, "/short");
    assert_eq!(
        (&short["state"], &short["last-outcome"]["class"]),
        (&"failing".into(), &"unavailable".into()),
        "{short}"
    );
    assert_eq!(short["last-outcome"]["reason"], "status 503");
    assert!(short["next-attempt-in"].as_u64().unwrap() > 20, "{short}");
    let status = json(&broker, &["status"]);
    let find = |list: &str, name: &str, is: &str| {
        let all = status[list].as_array().unwrap();
        all.iter().find(|one| one[name] == is).unwrap_or_else(|| panic!("{list} {is}: {status}")).clone()
    };
    assert_eq!(find("tokens", "token", "t")["state"], "proven");
    assert_eq!(find("tokens", "token", "u")["state"], "untried");
    assert_eq!(find("tokens", "token", "absent")["state"], "missing");
    let origins = status["origins"].as_array().unwrap();
    assert!(origins.iter().any(|one| one["token"].is_null() && one["back-off"].as_u64() > Some(20)), "{status}");
    assert!(status["layers"].as_array().unwrap().len() > 10 && status["drill"].is_null(), "{status}");
    assert!(!status.to_string().contains(TOKEN) && !status.to_string().contains("good-value"));

    assert_eq!((&long["asked-each-time"], &short["asked-each-time"]), (&false.into(), &true.into()), "{short}");
    for (bad, code) in [("stale", 1), ("failing", 1), ("revoked", 0)] {
        assert_eq!(operate(&broker, &["status", "--fail-on", bad]).status.code(), Some(code), "{bad}");
    }
    // Each time: nothing is wrong with it as long as that succeeds.
    upstream.behave("/short", "/good");
    done(&broker, &["refresh", "/short"]);
    assert_eq!(key(&broker, "/short")["state"], "stale");
    assert_eq!(operate(&broker, &["status", "--fail-on", "stale"]).status.code(), Some(0));
    upstream.behave("/short", "/status/503");
    operate(&broker, &["refresh", "/short"]);
    let table = done(&broker, &["status"]);
    for line in ["unavailable (status 503)", "proven", "never-fetched", "parent  user"] {
        assert!(table.contains(line), "{line}: {table}");
    }
    upstream.behave("/long", "/status/401");
    broker.curl(GRANTED, "/long", &["-H", "cache-control: no-cache"]);
    let refused = |status: &Value| status["tokens"].as_array().unwrap().iter().any(|one| one["state"] == "refused");
    wait_until("the token is refused", || refused(&json(&broker, &["status"])));
}

/// Read by the parser of another program.
#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn metrics_are_open_metrics_and_grow_with_the_configuration_alone() {
    let (upstream, broker) = parameters::serving(
        "[keys.\"/n/{n}\"]\nsource = { type = \"http\", url = \"http://127.0.0.1:PORT/good?n={n}\", field = \"value\" }\n\
         max-age = \"1h\"\nparams.n = { matches = \"[a-z0-9]+\" }\n\
         [keys.\"/one\"]\nsource = { type = \"http\", url = \"http://127.0.0.1:PORT/one\", field = \"value\" }\n\
         [clients.all]\nuser = 61010\nkeys = [\"/**\"]\n",
    );
    upstream.behave("/one", "/good");
    let families = || parsed(&done(&broker, &["metrics"]));
    let value = |families: &Value, sample: &str, labels: &[(&str, &str)]| {
        let of = |one: &&Value| one[0] == sample && labels.iter().all(|(name, value)| one[1][name] == *value);
        families.as_array().unwrap().iter().find(of).unwrap_or_else(|| panic!("{sample} {labels:?}: {families}"))[2]
            .as_f64()
    };
    good(&broker, "/one");
    broker.curl(STRANGER, "/one", &[]);
    (0..5).for_each(|n| drop(parameters::good(&broker, GRANTED, &format!("/n/{n}"))));
    parameters::good(&broker, GRANTED, "/n/0");
    wait_until("the worker has told its counts", || {
        value(&families(), "keyhatch_key_serves_total", &[("key", "/n/{n}")]) == Some(6.0)
    });
    let first = families();
    let requests =
        |verdict, client| value(&first, "keyhatch_requests_total", &[("client", client), ("verdict", verdict)]);
    assert_eq!((requests("hit", "all"), requests("fetched", "all")), (Some(1.0), Some(6.0)));
    assert_eq!(requests("denied", ""), Some(1.0));
    let origin = format!("http://127.0.0.1:{}", upstream.port("plain"));
    assert_eq!(value(&first, "keyhatch_fetches_total", &[("origin", &origin), ("outcome", "answered")]), Some(6.0));
    assert_eq!(value(&first, "keyhatch_key_state", &[("key", "/one"), ("state", "stale")]), Some(1.0));
    assert!(value(&first, "keyhatch_key_age_seconds", &[("key", "/one")]).is_some());
    assert_eq!(value(&first, "keyhatch_origin_backoff_seconds", &[("origin", &origin)]), Some(0.0));
    assert_eq!(value(&first, "keyhatch_log_lines_dropped_total", &[]), Some(0.0));
    for n in 5..30 {
        parameters::good(&broker, GRANTED, &format!("/n/{n}"));
        broker.curl(STRANGER + n, "/nothing", &[]);
    }
    wait_until("all is counted", || {
        value(&families(), "keyhatch_key_serves_total", &[("key", "/n/{n}")]) == Some(31.0)
    });
    assert_eq!(families().as_array().unwrap().len(), first.as_array().unwrap().len(), "no peer makes a new line");
}

/// All samples as name, labels, number.
fn parsed(text: &str) -> Value {
    let program = "import sys, json\nfrom prometheus_client.openmetrics.parser import text_string_to_metric_families as p\n\
         print(json.dumps([[s.name, s.labels, s.value] for f in p(sys.stdin.read()) for s in f.samples]))";
    // The system's own is where its packages are.
    for python in ["/usr/bin/python3", "python3"] {
        let known = Command::new(python).args(["-c", "import prometheus_client.openmetrics.parser"]).output();
        if !known.is_ok_and(|known| known.status.success()) {
            continue;
        }
        let mut child =
            Command::new(python).args(["-c", program]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let done = child.wait_with_output().unwrap();
        assert!(done.status.success(), "{text}");
        return serde_json::from_slice(&done.stdout).unwrap();
    }
    panic!("python3-prometheus-client is missing: tests/run installs it");
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn top_shows_the_worst_first_and_gives_the_terminal_back() {
    let (upstream, broker) = serving(&|upstream| {
        vec![("a-good", at(upstream, "/good", ""), "max-age = \"1h\""), ("b-bad", at(upstream, "/bad", ""), "")]
    });
    upstream.behave("/bad", "/status/404");
    good(&broker, "/a-good");
    broker.curl(GRANTED, "/b-bad", &[]);
    let frame = done(&broker, &["top"]);
    let place = |what: &str| frame.find(what).unwrap_or_else(|| panic!("{what}: {frame}"));
    assert!(place("/b-bad") < place("/a-good") && frame.contains("1 fresh, 0 stale, 1 failing"), "{frame}");
    // On a terminal: until q, until a signal, and when the broker goes.
    for end in ["q", "signal", "broker"] {
        // A shell without a trap may end with its command when both are interrupted, as dash does.
        let top = format!(
            "trap : INT; {} top --admin-socket {}; echo ended $?; stty -a | tr ' ' '\\n' | grep -x -e -\\*icanon\\;\\* -e -\\*echo\\;\\*",
            env!("CARGO_BIN_EXE_keyhatch"),
            broker.path("admin.sock").display()
        );
        let mut script = Command::new("script");
        let typescript = broker.path(&format!("typescript-{end}"));
        script.args(["--quiet", "--flush", "--command", &top]).arg(&typescript);
        let mut child = script.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let shown = || String::from_utf8_lossy(&std::fs::read(&typescript).unwrap_or_default()).into_owned();
        wait_until("it is drawn", || shown().contains("\x1b[?1049h") && shown().contains("/b-bad"));
        match end {
            "q" => child.stdin.as_mut().unwrap().write_all(b"q").unwrap(),
            "signal" => child.stdin.as_mut().unwrap().write_all(b"\x03").unwrap(),
            _ => support::send("KILL", broker.parent()),
        }
        wait_until("it ends", || shown().contains("Script done"));
        child.wait().unwrap();
        let shown = shown();
        let shown = shown.split_once('\n').unwrap().1;
        assert!(
            shown.contains("\x1b[?1049l")
                && shown.contains("\necho\r")
                && !shown.contains("-echo")
                && !shown.contains("-icanon"),
            "{end}: {shown:?}"
        );
        let after = shown.split("\x1b[?1049l").nth(1).unwrap();
        let says = if end == "broker" { ["no broker answers", "ended 69"] } else { ["", "ended 0"] };
        assert!(says.iter().all(|text| after.contains(text)), "{end}: {shown:?}");
    }
}
