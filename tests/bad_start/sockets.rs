//! Where the sockets are: in whose directories, after a crash, beside another broker, after a start that failed.

use std::fs;
use std::os::unix::net::{UnixListener, UnixStream};

use crate::scene::Scene;
use crate::support::{self, wait_until};
use crate::{GOOD, serve};

/// The parent reads it after the drop, when it has no right to remove the sockets any more.
#[test]
#[ignore = "needs root: drops to two uids"]
fn what_fails_after_the_drop_leaves_no_socket_behind() {
    let mut scene = Scene::new(GOOD);
    scene.file("token", "planted-token\nanother\n", 0o400);
    let log = scene.refused(serve(), 78);
    assert!(log.contains("token `heroku`") && log.contains("more than one line"), "{log}");
    assert!(!log.contains("planted"), "{log}");
    nothing_is_left(&scene);

    // Of a start that is killed, nobody but the kernel tells.
    let mut scene = Scene::new(GOOD);
    scene.start(serve());
    let socket = scene.path().join("keyhatch.sock");
    wait_until("it has begun", || socket.exists());
    scene.child.as_mut().unwrap().kill().unwrap();
    scene.child.take().unwrap().wait().unwrap();
    if !scene.log().contains("serving") {
        wait_until("the sockets go", || !socket.exists());
    }
}

pub(crate) fn nothing_is_left(scene: &Scene) {
    for socket in ["keyhatch.sock", "admin.sock"] {
        assert!(fs::symlink_metadata(scene.path().join(socket)).is_err(), "{socket} is left");
    }
}

#[test]
#[ignore = "needs root: drops to two uids"]
fn a_start_that_comes_to_serve_keeps_its_sockets_and_nobody_to_clean_up() {
    let mut scene = Scene::new(GOOD);
    scene.serves(serve());
    let parent = scene.child.as_ref().unwrap().id();
    let own = |pid: &str| fs::read_link(format!("/proc/{pid}/exe")).ok();
    let ours = own(&parent.to_string());
    let started_by = |pid: &str| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let config = scene.path().join("keyhatch.toml").display().to_string();
    wait_until("one process is of this start, and the worker", || {
        let all = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().into_string().ok());
        let of_start = |pid: &String| own(pid) == ours && String::from_utf8_lossy(&started_by(pid)).contains(&config);
        all.filter(of_start).count() == 1
    });
    assert!(UnixStream::connect(scene.path().join("keyhatch.sock")).is_ok());
    assert!(scene.path().join("admin.sock").exists());
}

#[test]
#[ignore = "needs root: drops to two uids"]
fn of_two_starts_at_once_one_serves() {
    for _ in 0..5 {
        let mut first = Scene::new(GOOD);
        let socket = first.path().join("keyhatch.sock");
        let mut second = Scene::new(&GOOD.replace("@/keyhatch.sock", &socket.display().to_string()));
        // What a crash has left invites both to take its place.
        drop(UnixListener::bind(&socket).unwrap());
        first.start(serve());
        second.start(serve());
        let mut ended = [None, None];
        wait_until("one ends and one serves", || {
            for (scene, end) in [&mut first, &mut second].into_iter().zip(&mut ended) {
                *end = scene.child.as_mut().unwrap().try_wait().unwrap();
            }
            let is_done = |(scene, end): (&Scene, &Option<_>)| end.is_some() || scene.log().contains("serving");
            [&first, &second].into_iter().zip(&ended).all(is_done)
        });
        let scenes = [&first, &second];
        let winner = ended.iter().position(Option::is_none).unwrap();
        let loser = 1 - winner;
        let told = scenes[loser].log();
        assert_eq!(ended[loser].and_then(|status| status.code()), Some(78), "{told}\n{}", scenes[winner].log());
        let pid = scenes[winner].child.as_ref().unwrap().id();
        assert!(told.contains(&format!("another broker (pid {pid}) is listening")), "{told}");
        assert!(UnixStream::connect(&socket).is_ok(), "the one that serves is to be reached");
    }
}

#[test]
#[ignore = "needs root: drops to two uids"]
fn a_socket_that_a_crash_left_is_replaced_and_a_live_one_is_not() {
    let mut scene = Scene::new(GOOD);
    let socket = scene.path().join("keyhatch.sock");
    drop(UnixListener::bind(&socket).unwrap());
    scene.serves(serve());

    let mut second = Scene::new(&GOOD.replace("@/keyhatch.sock", &socket.display().to_string()));
    let log = second.refused(serve(), 78);
    let first = format!("another broker (pid {}) is listening at ", scene.child.as_ref().unwrap().id());
    assert!(log.contains(&format!("{first}{}", socket.display())), "{log}");
    assert!(UnixStream::connect(&socket).is_ok(), "the first one is not disturbed");

    let mut third = Scene::new(GOOD);
    third.file("keyhatch.sock", "what somebody wrote", 0o600);
    assert!(third.refused(serve(), 78).contains("is no socket; it is left alone"));
    assert_eq!(fs::read_to_string(third.path().join("keyhatch.sock")).unwrap(), "what somebody wrote");
}

/// Whoever listens and does not accept is alive, too, and the start does not wait for it.
#[test]
#[ignore = "needs root: drops to two uids"]
fn a_listener_with_a_full_backlog_is_alive() {
    let mut scene = Scene::new(GOOD);
    let socket = scene.path().join("keyhatch.sock");
    let _full = support::full_listener(&socket);
    assert!(scene.refused(serve(), 78).contains("another broker is listening"));
}
