//! Which sockets commands ask at, and what they say where nobody answers.

use super::*;

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
    // What else is wrong with it, while somebody changes it, is no matter here.
    let text = format!(
        "nosuch = 1\n[server]\nsocket = {socket:?}\nadmin-socket = {admin:?}\nnosuch = 2\n[keys.\"/a\"]\nsource = {{\n"
    );
    std::fs::write(&config, text).unwrap();
    let ask = |arguments: &[&str], environment: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keyhatch"));
        command.args(arguments).envs(environment.iter().copied()).output().unwrap()
    };
    let asked = |arguments: &[&str], environment: &[(&str, &str)], at: &str| {
        let output = ask(arguments, environment);
        assert_eq!(output.status.code(), Some(69), "{output:?}");
        assert!(stderr(&output).contains(&format!("no broker answers at {at}: ")), "{at}: {output:?}");
    };
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
        asked(command, &[("KEYHATCH_CONFIG", "/etc/keyhatch/keyhatch.toml")], "/run/keyhatch/admin.sock");
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
