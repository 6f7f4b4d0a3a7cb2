//! Which sockets commands ask at, and what they say where nobody answers.

use super::*;

const UNSET: [&str; 3] = ["KEYHATCH_CONFIG", "KEYHATCH_SOCKET", "KEYHATCH_ADMIN_SOCKET"];

/// A command that asks a broker, in an environment that names none but by these variables.
fn ask(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keyhatch"));
    UNSET.iter().for_each(|name| _ = command.env_remove(name));
    command.args(arguments).envs(environment.iter().copied()).output().unwrap()
}

/// That it asked at this socket, where nobody is.
fn asked_at(socket: &str, asked: &Output) {
    assert_eq!(asked.status.code(), Some(69), "{asked:?}");
    assert!(stderr(asked).contains(&format!("no broker answers at {socket}: ")), "{socket}: {asked:?}");
}

/// That it asked nobody, and said all of this.
fn asked_nobody(asked: &Output, said: &[&str]) {
    assert_eq!(asked.status.code(), Some(78), "{asked:?}");
    assert!(said.iter().all(|part| stderr(asked).contains(part)), "{said:?}: {asked:?}");
    assert!(stderr(asked).contains("where to ask stands there, unless --"), "{asked:?}");
    assert!(!stderr(asked).contains("no broker answers"), "{asked:?}");
}

#[test]
fn a_socket_that_is_not_there_is_told_from_one_that_nobody_serves() {
    let directory = tempfile::tempdir().unwrap();
    let left = directory.path().join("left.sock");
    drop(std::os::unix::net::UnixListener::bind(&left).unwrap());
    for (socket, why) in [(directory.path().join("absent.sock"), "No such file"), (left, "Connection refused")] {
        let socket = socket.to_str().unwrap();
        for asked in [
            &["status", "--admin-socket", socket][..],
            &["metrics", "--admin-socket", socket],
            &["reload", "--admin-socket", socket],
            &["get", KEY, "--socket", socket],
            &["list", "--socket", socket],
        ] {
            let asked = keyhatch(asked);
            assert_eq!(asked.status.code(), Some(69), "{asked:?}");
            assert!(stderr(&asked).contains(&format!("no broker answers at {socket}: {why}")), "{asked:?}");
        }
    }
}

#[test]
fn commands_ask_where_the_configuration_says_unless_they_are_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (config, socket, admin) = (path("keyhatch.toml"), path("own.sock"), path("own-admin.sock"));
    // What is wrong with it and says nothing of sockets is no matter here.
    let text = format!(
        "[server]\nsocket = {socket:?}\nadmin-socket = {admin:?}\nsocket-mode = 7\n[keys.\"/a\"]\nsource = {{ nosuch = 1 }}\n"
    );
    std::fs::write(&config, text).unwrap();
    let asked = |arguments: &[&str], environment: &[(&str, &str)], at: &str| asked_at(at, &ask(arguments, environment));
    let own = [("KEYHATCH_CONFIG", config.as_str())];
    let operators = [
        &["status"][..],
        &["top"],
        &["metrics"],
        &["refresh", KEY],
        &["purge", KEY],
        &["drill", "--key", KEY, "--fail", "503", "--for", "1s"],
        &["reload"],
    ];
    for command in operators {
        asked(&[command, &["--config", &config]].concat(), &[], &admin);
        asked(command, &own, &admin);
        asked(command, &[own[0], ("KEYHATCH_ADMIN_SOCKET", "/nonexistent/a")], "/nonexistent/a");
        asked(
            &[command, &["--admin-socket", "/nonexistent/b"]].concat(),
            &[("KEYHATCH_ADMIN_SOCKET", "/x")],
            "/nonexistent/b",
        );
        let option = ["--config", "/nonexistent/keyhatch.toml", "--admin-socket", "/nonexistent/c"];
        asked(&[command, &option].concat(), &[], "/nonexistent/c");
    }
    for command in [&["get", KEY][..], &["list"], &["exec", "--env", "A=/a", "--", "true"]] {
        asked(&[&["--config", config.as_str()], command].concat(), &[], &socket);
        asked(command, &[own[0], ("KEYHATCH_SOCKET", "/nonexistent/a")], "/nonexistent/a");
        asked(&[&["--socket", "/nonexistent/b"], command].concat(), &own, "/nonexistent/b");
    }

    std::fs::write(&config, "[server]\nadmin-socket = \"admin.sock\"\n").unwrap();
    let wrong = ask(&["status"], &own);
    assert!(wrong.status.code() == Some(78) && stderr(&wrong).contains(":2:"), "{wrong:?}");
    let absent = ask(&["status", "--config", "/nonexistent/keyhatch.toml"], &[]);
    assert_eq!(absent.status.code(), Some(78));
    assert!(stderr(&absent).ends_with("where to ask stands there, unless --admin-socket says it\n"), "{absent:?}");
}

/// What leaves open where the broker of a file listens, with what is said of it.
const UNCLEAR: [(&str, &[&str]); 12] = [
    ("[server\nsocket = \"/nonexistent/b\"\nadmin-socket = \"/nonexistent/b-admin\"\n", &["keyhatch.toml:1:"]),
    ("[sever]\nadmin-socket = \"/nonexistent/b-admin\"\n", &["unknown setting `sever`", "did you mean `server`?"]),
    (
        "[server]\nadmin-sockt = \"/nonexistent/b-admin\"\nsockt = \"/nonexistent/b\"\n",
        &["unknown setting `admin-sockt`", "did you mean `admin-socket`?"],
    ),
    (
        "[clients.a]\nuser = [\n[server]\nsocket = \"/nonexistent/b\"\nadmin-socket = \"/nonexistent/b-admin\"\n",
        &["keyhatch.toml:"],
    ),
    (
        "[limits]\nmemory = \"\"\"\n[server]\nsocket = \"/nonexistent/b\"\nadmin-socket = \"/nonexistent/b-admin\"\n",
        &["keyhatch.toml:"],
    ),
    (
        "[limits]\nmemory = \"\n[server]\nsocket = \"/nonexistent/b\"\nadmin-socket = \"/nonexistent/b-admin\"\n",
        &["keyhatch.toml:2:"],
    ),
    ("[server]\nsocket = /nonexistent/b\nadmin-socket = /nonexistent/b-admin\n", &["keyhatch.toml:2:"]),
    ("[server]\nsocket = \nadmin-socket = \n", &["missing value"]),
    ("[servers]\n[keys]\n", &["unknown setting `servers`"]),
    ("[[server]]\nsocket = \"/nonexistent/b\"\n", &["`server` is a table"]),
    ("server = 1\n", &["`server` is a table"]),
    ("[server]\nsocket = \"b.sock\"\nadmin-socket = \"b.sock\"\n", &["keyhatch.toml:"]),
];

const ALL: [&[&str]; 10] = [
    &["purge", "--all", "--yes"],
    &["purge", KEY],
    &["refresh", KEY],
    &["drill", "--key", KEY, "--fail", "503", "--for", "1s"],
    &["reload"],
    &["status"],
    &["metrics"],
    &["get", KEY],
    &["list"],
    &["exec", "--env", "A=/a", "--", "true"],
];

#[test]
fn no_command_for_one_broker_asks_another_because_its_file_is_broken() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("keyhatch.toml");
    let named = config.to_str().unwrap();
    for (text, said) in UNCLEAR {
        std::fs::write(&config, text).unwrap();
        for command in ALL {
            asked_nobody(&ask(&[&["--config", named], command].concat(), &[]), said);
            asked_nobody(&ask(command, &[("KEYHATCH_CONFIG", named)]), said);
        }
    }
    let status = || ask(&["status", "--config", named], &[]);
    // Also where the error is below what names the socket: what is there now may not be what was meant.
    std::fs::write(&config, "[server]\nadmin-socket = \"/nonexistent/b\"\n[keys.\"/a\"]\nsource = {\n").unwrap();
    asked_nobody(&status(), &["keyhatch.toml:"]);
    std::fs::write(&config, "[server]\nadmin-socket = \"/nonexistent/b\"\n[keyz]\n").unwrap();
    asked_nobody(&status(), &["unknown setting `keyz`"]);

    // What says nothing of it is a broker at the default path. A drop-in can say nothing, and may try.
    for text in ["", "[server]\nsandbox = \"strict\"\n", "[keys]\n"] {
        std::fs::write(&config, text).unwrap();
        asked_at("/run/keyhatch/admin.sock", &status());
        asked_at("/run/keyhatch/keyhatch.sock", &ask(&["list", "--config", named], &[]));
    }
    std::fs::create_dir(directory.path().join("conf.d")).unwrap();
    let drop_in = directory.path().join("conf.d/server.toml");
    for text in ["[server]\nadmin-socket = \"/nonexistent/b\"\n", "[server\n"] {
        std::fs::write(&drop_in, text).unwrap();
        asked_nobody(&status(), &["conf.d/server.toml:1:"]);
    }
    std::fs::write(&config, "[server]\nadmin-socket = \"/nonexistent/b\"\n").unwrap();
    asked_at("/nonexistent/b", &status());
}

/// Runs the command where this is the file at the default path, made so by a line of the shell.
fn at_default(text: &str, make: &str, command: &[&str]) -> Output {
    let mut shell = Command::new("unshare");
    UNSET.iter().for_each(|name| _ = shell.env_remove(name));
    let script = format!(
        "mount -t tmpfs none /etc && mkdir /etc/keyhatch && cd /etc/keyhatch && printf %s \"$1\" > keyhatch.toml && {make} && shift && exec \"$@\""
    );
    let user = ["setpriv", "--reuid=4242", "--regid=4242", "--clear-groups"];
    let user = if make.contains("user") { &user[..] } else { &[] };
    shell.args(["--mount", "sh", "-c", &script, "sh", text]).args(user).arg(env!("CARGO_BIN_EXE_keyhatch"));
    shell.args(command).output().unwrap()
}

#[test]
#[ignore = "needs root: mounts another /etc"]
fn a_broken_file_that_nobody_named_leads_nowhere_else_either() {
    let (status, list) = (&["status"][..], &["list"][..]);
    let default = ["/run/keyhatch/admin.sock", "/run/keyhatch/keyhatch.sock"];
    for (text, said) in UNCLEAR {
        asked_nobody(&at_default(text, "true", status), said);
    }
    // It is asked while somebody changes the file, where it can name no other socket.
    let named = "[server]\nsocket = \"/nonexistent/b\"\nadmin-socket = \"/nonexistent/b-admin\"\n";
    for more in ["[keys.\"/a\"]\nsource = {\n", "[keyz]\n", "[keys"] {
        let text = format!("{named}{more}");
        asked_at("/nonexistent/b-admin", &at_default(&text, "true", status));
        asked_at("/nonexistent/b", &at_default(&text, "true", list));
    }
    for more in ["[server]\nsocket = \"/nonexistent/c\"\n", "[sever\n", "admin_socket\n"] {
        asked_nobody(&at_default(&format!("{named}{more}"), "true", status), &["keyhatch.toml:4:"]);
    }
    // What an open string has swallowed may have been meant.
    let open = format!("{named}sandbox = \"\"\"\nadmin-socket = \"/nonexistent/c\"\n");
    asked_nobody(&at_default(&open, "true", status), &["keyhatch.toml:"]);
    let half = "# [server]\n# socket = \"/nonexistent/b\"\n[keys.\"/a\"]\nsource = { type = \"file\n[clients.a]\nuser = \"a\"\n";
    let strict = "[server]\nsandbox = \"strict\"\n";
    for text in ["", half, "[keyz]\n", "[client", &format!("{strict}parent-user = keyhatch\n{half}")] {
        for (command, at) in [status, list].into_iter().zip(default) {
            asked_at(at, &at_default(text, "true", command));
        }
    }
    for text in [format!("{half}{strict}"), format!("{strict}scket = \"/nonexistent/b\"\n{half}")] {
        asked_nobody(&at_default(&text, "true", list), &["/etc/keyhatch/keyhatch.toml:"]);
    }
    // The other socket is no matter.
    asked_at("/nonexistent/b", &at_default("[server]\nsocket = \"/nonexistent/b\"\nadmin-sockt = 1\n", "true", list));

    // Who may not read it, or finds none, asks at the default path, as whoever knows no more.
    for make in ["rm keyhatch.toml", "chmod 600 keyhatch.toml # user", "chmod 700 . # user"] {
        let make = make.replace("# user", "&& : user");
        for (command, at) in [status, list].into_iter().zip(default) {
            asked_at(at, &at_default(named, &make, command));
        }
    }
    for (make, said) in [
        ("chmod o+w keyhatch.toml", "others can write the configuration"),
        ("chmod o+w keyhatch.toml && : user", "everybody can write the configuration"),
        ("chown 4243 keyhatch.toml && : user", "belongs to another user"),
        ("ln -sf /nonexistent keyhatch.toml", "cannot follow the symlink"),
        ("rm keyhatch.toml && mkdir keyhatch.toml", "not a regular file"),
    ] {
        asked_nobody(&at_default(named, make, status), &["/etc/keyhatch/keyhatch.toml", said]);
    }
    // Named, it is like any other.
    let config = ["--config", "/etc/keyhatch/keyhatch.toml"];
    let absent = at_default("", "rm keyhatch.toml", &[status, &config].concat());
    asked_nobody(&absent, &["No such file"]);
    asked_nobody(&at_default("[client", "true", &[list, &config].concat()), &["keyhatch.toml:1:"]);
}
