//! The options of `keyhatch exec`, as clap reads them.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::sys::supervise::{self, Signal};

#[derive(Args)]
pub(in crate::cli) struct Exec {
    /// Set the variable NAME to the value of KEY: raw if it is one scalar, else JSON
    #[arg(long, value_name = "NAME=KEY")]
    pub(in crate::cli) env: Vec<String>,
    /// Set the variable NAME to the path of a file in memory that holds the value of KEY
    #[arg(long, value_name = "NAME=KEY")]
    pub(in crate::cli) file: Vec<String>,
    /// Read more of --env from a file with a line NAME=KEY for each; # begins a comment
    #[arg(long, value_name = "MAPPING")]
    pub(in crate::cli) env_file: Vec<PathBuf>,
    /// When a value changes, restart the command, or send it a signal such as HUP
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "restart", value_parser = on_change, value_name = "restart|SIGNAL")]
    pub(in crate::cli) watch: Option<OnChange>,
    /// How long the command may take to end before it is killed and restarted
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration, requires = "watch", value_name = "DURATION")]
    pub(in crate::cli) grace: Duration,
    /// While the broker or a value is unavailable, try again for this long, such as 30s
    #[arg(long, value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub(in crate::cli) wait: Option<Duration>,
    /// The command and its arguments, after --
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(in crate::cli) command: Vec<OsString>,
}

/// What follows a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum OnChange {
    Restart,
    Signal(Signal),
}

fn on_change(text: &str) -> Result<OnChange, String> {
    if text == "restart" {
        return Ok(OnChange::Restart);
    }
    let signal = supervise::named(text).map(OnChange::Signal);
    signal.ok_or_else(|| "expected `restart`, or a signal such as HUP".to_owned())
}
