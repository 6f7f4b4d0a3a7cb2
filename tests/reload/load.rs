//! Reloads while others ask, and many of them.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::HOUR;
use crate::scene::{Kept, Scene, all};
use crate::support::wait_until;

#[test]
fn no_request_fails_while_the_configuration_is_replaced() {
    let keys = [("/a", "/good", HOUR), ("/b", "/etag", "max-age = \"50ms\""), ("/c", "/good?c", "")];
    let scene = Scene::with(&keys, &all(), "[limits]\nfetches-per-user = 100000\n");
    let (ended, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for path in ["/a", "/b", "/c", "/a"] {
            let (broker, ended, asked) = (&scene.broker, &ended, &asked);
            scope.spawn(move || {
                let mut kept = Kept::new(broker);
                while !ended.load(Ordering::SeqCst) {
                    let answer = kept.ask(path, "");
                    assert_eq!(answer.status, 200, "{path}: {}{}", answer.head, answer.body);
                    asked.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        for round in 0..10 {
            let before = asked.load(Ordering::SeqCst);
            let settings = format!("max-age = \"{}ms\"", 50 + round);
            let limits = "[limits]\nfetches-per-user = 100000\n";
            scene.configure(
                &[("/a", "/good", HOUR), ("/b", "/etag", &settings), ("/c", "/good?c", "")],
                &format!("{}{limits}", all()),
            );
            scene.reloads();
            wait_until("requests go on", || asked.load(Ordering::SeqCst) > before + 20);
        }
        ended.store(true, Ordering::SeqCst);
    });
}

#[test]
#[ignore = "needs root: counts what both roles have open"]
fn many_reloads_leave_nothing_behind() {
    let value = "x".repeat(200_000);
    let mut scene = Scene::new(&[("/a", "/good", HOUR)]);
    scene.upstream.set_value(&value);
    let refreshed = "refresh = \"1h\"";
    let round = |n: usize, scene: &Scene| {
        let path = format!("/good?round={n}");
        let name = format!("/b{n}");
        scene.configure(&[("/a", "/good", HOUR), (&name, &path, refreshed)], &all());
        scene.reloads();
        assert_eq!((scene.get("/a").status, scene.get(&name).status), (200, 200));
    };
    (0..10).for_each(|n| round(n, &scene));
    let roles = [scene.broker.parent(), scene.broker.worker()];
    let open = |pid: &u32| std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let resident = |pid: &u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap()
    };
    let before: Vec<usize> = roles.iter().map(resident).collect();
    let opened: Vec<usize> = roles.iter().map(open).collect();
    (10..60).for_each(|n| round(n, &scene));
    for ((pid, before), opened) in roles.iter().zip(before).zip(opened) {
        wait_until("descriptors are closed", || open(pid) <= opened + 2);
        let grown = resident(pid).saturating_sub(before);
        // The values alone of 50 rounds would be 10 MB, in each form and role.
        assert!(grown < 6_000, "{grown} kB more after 50 reloads");
    }
    scene.upstream.stop();
}
