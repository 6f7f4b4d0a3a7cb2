//! What the operator is told of sessions while they live, fail and end.

use serde_json::Value;

use super::*;

/// What is told of the session of this token.
fn session(broker: &Broker, token: &str) -> Value {
    let told: Value = serde_json::from_str(&status(broker, &["--json"])).unwrap();
    let sessions = told["sessions"].as_array().unwrap();
    sessions.iter().find(|one| one["tokens"][0] == token).unwrap_or_else(|| panic!("{told}")).clone()
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn a_session_is_told_to_be_good_not_renewed_failing_and_none() {
    let (upstream, broker) = serving(&|upstream| {
        let login = |more: &str| login(upstream, &format!("/session/login?{more}lease=10"), "");
        vec![
            ("used", at(upstream, "/session/secret", &login("")), ""),
            ("left", at(upstream, "/session/secret?l", &login("l&").replace("\"t\"", "\"u\"")), ""),
        ]
    });
    good(&broker, "/used");
    good(&broker, "/left");
    for token in ["t", "u"] {
        let told = session(&broker, token);
        assert_eq!((&told["state"], &told["reason"]), (&"good".into(), &Value::Null), "{told}");
        assert!(told["ends-in"].as_u64().is_some_and(|ends| (1..=10).contains(&ends)), "{told}");
    }
    upstream.behave("/session/login", "/status/503");
    // It is used, and cannot be renewed at two thirds of its life; until its end it serves.
    wait_until("it is not renewed", || {
        let answer = fresh(&broker, "/used");
        let told = session(&broker, "t");
        assert!(answer.contains("fwd-status=200") || told["state"] != "good", "{told}: {answer}");
        told["state"] == "not-renewed"
    });
    let told = session(&broker, "t");
    assert!(told["reason"] == "login-failed" && told["ends-in"].is_u64(), "{told}");
    let lines = status(&broker, &[]);
    assert!(lines.lines().any(|line| line.contains("not-renewed")), "{lines}");
    wait_until("both are over", || {
        session(&broker, "t")["ends-in"].is_null() && session(&broker, "u")["ends-in"].is_null()
    });
    stale(&broker, "/used", "login-failed");
    let told = session(&broker, "t");
    assert!(told["state"] == "failing" && told["reason"] == "login-failed", "{told}");
    // Nobody has wanted the other one again.
    let told = session(&broker, "u");
    assert_eq!(
        (&told["state"], &told["reason"], &told["next-attempt-in"]),
        (&"none".into(), &Value::Null, &Value::Null)
    );
}
