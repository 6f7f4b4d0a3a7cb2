//! A worker that stands still: nothing is reported as done that it has not done.

use super::*;

/// Both commands wait for it in vain, at the same time.
#[test]
#[ignore = "needs root: stops the worker, drops to two uids and asks as others"]
fn a_worker_that_stands_still_is_not_said_to_have_forgotten() {
    let (upstream, broker) = one_key("max-age = \"1h\"");
    upstream.behave("/one", "/good");
    good(&broker, "/one");
    // All that the configuration names is there: a reload wants that.
    broker.write("absent", "x\n", 0o400);
    let worker = broker.worker();
    support::send("STOP", worker);
    let stands = || std::fs::read_to_string(format!("/proc/{worker}/stat")).unwrap().contains(") T ");
    wait_until("the worker stands still", stands);
    let config = broker.path("keyhatch.toml").display().to_string();
    let (purged, reloaded) = std::thread::scope(|scope| {
        let reload = scope.spawn(|| operate(&broker, &["reload", "--config", &config]));
        (operate(&broker, &["purge", "/one"]), reload.join().unwrap())
    });
    for (done, told) in [(purged, "the worker has not said that it forgot"), (reloaded, "the worker does not say")] {
        let said = String::from_utf8([done.stdout, done.stderr].concat()).unwrap();
        assert!(done.status.code() == Some(1) && said.contains(told), "{:?}: {said}", done.status);
    }
    assert!(support::memory_holds(worker, b"good-value"), "it has it yet");
    support::send("CONT", worker);
    wait_until("it forgets when it can", || !support::memory_holds(worker, b"good-value"));
    // What has been confirmed late counts for what comes after it.
    done(&broker, &["purge", "/one"]);
    done(&broker, &["reload", "--config", &config]);
}
