//! The exit codes, after sysexits(3): scripts and units can tell "mend the configuration" from "try again".
#![forbid(unsafe_code)]

use std::process::ExitCode;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Ok = 0,
    Other = 1,
    /// Wrong use of the command line; 400, 405, 406.
    Usage = 64,
    /// 503, or no broker at the socket.
    Unavailable = 69,
    /// 429.
    Temporary = 75,
    /// 502.
    Upstream = 76,
    /// 403.
    Denied = 77,
    Configuration = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl Exit {
    /// Of an answer with this status.
    pub fn of_status(status: u16) -> Self {
        match status {
            200..=299 => Self::Ok,
            400 | 405 | 406 => Self::Usage,
            403 => Self::Denied,
            429 => Self::Temporary,
            502 => Self::Upstream,
            503 => Self::Unavailable,
            _ => Self::Other,
        }
    }
}
