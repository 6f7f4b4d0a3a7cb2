//! A parent that was taken over: the real runner, at whose channel a test says what it likes.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, Command, Stdio};

use keyhatch::config::{self, TokenPlace};
use keyhatch::ipc::run::FromRunner;
use keyhatch::ipc::wire::{self, MAX_FRAME};
use keyhatch::sys::{memfd, pass, spawn};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::support::wait_until;

pub(crate) struct Parent {
    pub(crate) channel: OwnedFd,
    runner: Child,
}

impl Parent {
    /// With these scripts of the shell as what may be run, as this user or as the caller; greeted.
    pub(crate) fn start(ids: Option<(u32, u32)>, scripts: &[&str]) -> Self {
        let command = |script: &&str| config::Command {
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), (*script).into()],
            environment: Vec::new(),
            directory: "/".into(),
            user: "u".into(),
            ids,
            token: TokenPlace::None,
        };
        let list = postcard::to_stdvec(&scripts.iter().map(command).collect::<Vec<_>>()).unwrap();
        let (channel, of_runner) = spawn::channel_pair().unwrap();
        let script = "exec \"$0\" runner \"$1\" strict 3<&0 4<&1 < /dev/null > /dev/null";
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script, env!("CARGO_BIN_EXE_keyhatch"), &list.len().to_string()]);
        command.stdin(memfd::sealed(&list).unwrap()).stdout(of_runner).stderr(Stdio::piped());
        let mut parent = Self { channel, runner: command.spawn().unwrap() };
        assert!(matches!(parent.hear(), FromRunner::Ready { .. }));
        parent
    }

    pub(crate) fn send(&self, frame: &[u8], fds: &[BorrowedFd<'_>]) {
        pass::send(self.channel.as_fd(), frame, fds).unwrap();
    }

    pub(crate) fn hear(&mut self) -> FromRunner {
        let mut watched = [PollFd::new(self.channel.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut watched, PollTimeout::from(20_000_u16)).unwrap(), 1, "the runner says something");
        let mut frame = vec![0; MAX_FRAME];
        let length = pass::receive(self.channel.as_fd(), &mut frame, &mut Vec::new()).unwrap();
        wire::decode(&frame[..length]).unwrap()
    }

    /// That the runner ends at once, and says this.
    pub(crate) fn expect_end(mut self, name: &str, told: &str) {
        let mut status = None;
        wait_until(name, || {
            status = self.runner.try_wait().unwrap();
            status.is_some()
        });
        let mut said = String::new();
        self.runner.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(status.unwrap().code() == Some(1) && said.contains(told), "{name}: {told} expected: {status:?} {said}");
    }

    /// By closing the channel: the exit code, and what it said.
    pub(crate) fn end(self) -> (Option<i32>, String) {
        let Self { channel, mut runner } = self;
        drop::<File>(channel.into());
        let code = runner.wait().unwrap().code();
        let mut said = String::new();
        runner.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (code, said)
    }
}
