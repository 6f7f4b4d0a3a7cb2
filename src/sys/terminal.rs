//! A terminal for a program that draws the whole of it and waits for a key.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{LocalFlags, SetArg, SpecialCharacterIndices, Termios, tcgetattr, tcsetattr};

/// The alternate screen, without cursor and echo. Dropping it gives the terminal back as it was; the signals that would end
/// the process before that (Ctrl-C, SIGTERM, a closed terminal) are told by [`wait`](Screen::wait) instead.
pub struct Screen {
    before: Termios,
    signals: SignalFd,
}

/// Why the wait is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    Time,
    /// `q`, the end of input, or a signal to end.
    Quit,
}

impl Screen {
    /// Standard input and output must be the same terminal.
    ///
    /// # Errors
    /// They are none, or cannot be set.
    pub fn enter() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut ending = SigSet::empty();
        // A stop would leave the alternate screen behind, and is not worth a second way out.
        [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGTSTP]
            .into_iter()
            .for_each(|signal| ending.add(signal));
        ending.thread_block()?;
        let signals = SignalFd::with_flags(&ending, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let mut raw = before.clone();
        raw.local_flags.remove(LocalFlags::ICANON | LocalFlags::ECHO);
        raw.control_chars[SpecialCharacterIndices::VMIN as usize] = 0;
        raw.control_chars[SpecialCharacterIndices::VTIME as usize] = 0;
        tcsetattr(io::stdin(), SetArg::TCSANOW, &raw)?;
        let screen = Self { before, signals };
        say("\x1b[?1049h\x1b[?25l")?;
        Ok(screen)
    }

    /// Columns and rows; 80 by 24 where the terminal does not say.
    pub fn size(&self) -> (usize, usize) {
        let mut size = nix::libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: TIOCGWINSZ writes one winsize to the pointer, which is to one that outlives the call (ioctl_tty(2)).
        let done = unsafe { nix::libc::ioctl(1, nix::libc::TIOCGWINSZ, &raw mut size) };
        if done != 0 || size.ws_row == 0 || size.ws_col == 0 {
            return (80, 24);
        }
        (size.ws_col.into(), size.ws_row.into())
    }

    /// Until a key or a signal says to quit, for so long at most. Other keys end the wait early.
    pub fn wait(&self, longest: Duration) -> io::Result<Wake> {
        let stdin = io::stdin();
        let mut fds =
            [PollFd::new(stdin.as_fd(), PollFlags::POLLIN), PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        let longest = PollTimeout::try_from(longest).unwrap_or(PollTimeout::MAX);
        if poll(&mut fds, longest)? == 0 {
            return Ok(Wake::Time);
        }
        let [keys, signals] = fds.map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        if !signals.is_empty()
            && let Some(told) = self.signals.read_signal()?
            && u32::try_from(Signal::SIGTSTP as i32) != Ok(told.ssi_signo)
        {
            return Ok(Wake::Quit);
        }
        if keys.is_empty() {
            return Ok(Wake::Time);
        }
        let mut typed = [0; 64];
        let count = nix::unistd::read(stdin.as_fd(), &mut typed)?;
        let quits = count == 0 || typed[..count].iter().any(|key| b"qQ\x03\x04".contains(key));
        Ok(if quits { Wake::Quit } else { Wake::Time })
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that has gone needs nothing back.
        let _ = say("\x1b[?25h\x1b[?1049l");
        let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &self.before);
    }
}

fn say(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
