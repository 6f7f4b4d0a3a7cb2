//! The command line as clap reads it. Every command's help ends with an example.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::exec::Exec;
use super::import::Import;

/// Where the configuration is unless somebody says otherwise.
pub(super) const DEFAULT_CONFIG: &str = "/etc/keyhatch/keyhatch.toml";

/// A privilege-separated secret broker: applications read values over a Unix socket, tokens stay on the other side.
#[derive(Parser)]
#[command(
    version,
    after_help = "Example: keyhatch demo\nExit codes: 0 ok, 64 usage, 69 unavailable, 75 try later, \
    76 the upstream refused, 77 denied, 78 configuration, 1 anything else"
)]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// Apart from a command's own.
const GLOBAL: &str = "Global options";

#[derive(Args)]
pub(super) struct Global {
    /// The configuration, else /etc/keyhatch/keyhatch.toml; drop-ins stand in conf.d beside it
    #[arg(long, global = true, env = "KEYHATCH_CONFIG", value_name = "FILE", help_heading = GLOBAL)]
    pub(super) config: Option<PathBuf>,
    /// The broker's socket, unless it is the one that the configuration names
    #[arg(long, global = true, env = "KEYHATCH_SOCKET", value_name = "PATH", help_heading = GLOBAL)]
    pub(super) socket: Option<PathBuf>,
    /// How log lines on stderr look
    #[arg(long, global = true, value_enum, default_value_t = Log::Text, help_heading = GLOBAL)]
    pub(super) log: Log,
}

impl Global {
    /// The configuration, whether somebody named it or not.
    pub(super) fn file(&self) -> &Path {
        self.config.as_deref().unwrap_or(Path::new(DEFAULT_CONFIG))
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Log {
    Text,
    Json,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl From<LogLevel> for tracing::Level {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
            LogLevel::Trace => Self::TRACE,
        }
    }
}

#[derive(Subcommand)]
pub(super) enum Command {
    /// Run the broker in the foreground
    #[command(after_help = "Example: keyhatch serve --config /etc/keyhatch/keyhatch.toml")]
    Serve {
        /// Write a log line for each request, not only for first answers and refusals
        #[arg(long)]
        log_requests: bool,
        /// Lines below this level are left out; no level shows a secret
        #[arg(long, value_enum, env = "KEYHATCH_LOG_LEVEL", default_value_t = LogLevel::Info, value_name = "LEVEL")]
        log_level: LogLevel,
    },
    /// Print a value: raw if it is one scalar, else JSON
    #[command(after_help = "Example: DATABASE_URL=$(keyhatch get /billing/database-url)")]
    Get(Get),
    /// Run a command with values in its environment, or in files in memory
    #[command(
        after_help = "Without --watch the command takes the place of this process. With it this process stays, passes signals on and ends as the command does: \
        with its exit code, or 128 and the number of the signal that killed it. 127: there is no such command; 126: it cannot be executed. Nothing is started unless all values \
        are there: 69 unavailable, 75 try later, 76 the upstream refused, 77 denied, 64 wrong use.\n\n\
        Example: keyhatch exec --env DATABASE_URL=/billing/database-url -- ./billing --port 8080"
    )]
    Exec(Exec),
    /// List the keys that I may read, with their state and age
    #[command(after_help = "Example: keyhatch list --json | jq -r '.keys[].key'")]
    List {
        /// Print JSON, ages in seconds
        #[arg(long)]
        json: bool,
    },
    /// Validate configuration, users, files and modes, without starting
    #[command(after_help = "Example: keyhatch check ./keyhatch.toml")]
    Check {
        /// The configuration, instead of --config
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
        /// Print JSON, with errors, warnings and notes as lists of texts
        #[arg(long)]
        json: bool,
    },
    /// Tell which client grants a key to a user or process, at which file and line, or why none does
    #[command(after_help = "Example: keyhatch explain --user billing /billing/database-url")]
    Explain(Explain),
    /// Tell the state of every key, origin, token and sandbox layer, as root or a member of admin-group
    #[command(after_help = "Example: keyhatch status --fail-on failing")]
    Status(Status),
    /// Watch the keys in this terminal, the worst first; q or Ctrl-C ends it
    #[command(after_help = "Not on a terminal it prints one frame; with --json it goes on, \
        an object a second.\n\nExample: keyhatch top")]
    Top {
        #[command(flatten)]
        operator: Operator,
        /// Print one JSON object a second, as `status --json` does
        #[arg(long)]
        json: bool,
    },
    /// Print OpenMetrics text, as root or a member of admin-group
    #[command(after_help = "Example: keyhatch metrics > /var/lib/node_exporter/keyhatch.prom")]
    Metrics {
        #[command(flatten)]
        operator: Operator,
        /// Print one JSON object that has the text as `metrics`
        #[arg(long)]
        json: bool,
    },
    /// Fetch keys now, whatever back-off says, and tell how that ended; as root
    #[command(after_help = "Exit codes: 0 all answered, \
        69 one is unavailable, 76 one is refused, gone or misconfigured, 1 none was asked because of a drill\n\n\
        Example: keyhatch refresh /billing/database-url '/geo/*'")]
    Refresh {
        /// Keys, or patterns of keys that have a value or are in the configuration
        #[arg(required = true, value_name = "KEY")]
        keys: Vec<String>,
        #[command(flatten)]
        operator: Operator,
        /// Print JSON, times in seconds
        #[arg(long)]
        json: bool,
    },
    /// Forget the values of keys: out of memory and off the disk; as root
    #[command(after_help = "The next request fetches. While the upstream is down there is then nothing to serve.\n\n\
        Example: keyhatch purge /billing/database-url")]
    Purge(Purge),
    /// Let fetches fail for a while without asking the upstream, and tell who was served what; as root
    #[command(
        after_help = "The command stays in the foreground. Ctrl-C ends the drill and prints the report; if the command is killed, its \
        connection goes away and that ends the drill, too. Nothing that happens in a drill counts for revocation or back-off, or changes the disk.\n\n\
        Example: keyhatch drill --key '/billing/*' --fail timeout --for 60s"
    )]
    Drill(Drill),
    /// Have the running broker take over its changed configuration, tokens and files, as root
    ///
    /// Reads and checks the file that the broker was started with, which must be the one of --config, and conf.d beside
    /// it, as `check` does, and hands them over with the tokens and files that they name: all of it, or nothing. Connections stay. Who was granted less is
    /// denied from then on, what left the configuration is out of memory, and what did not change keeps its value and age.
    /// A changed token is tried first: while its upstream refuses it, the old one stays, and the exit code is 1. What only
    /// a start can change (sockets, users, directories, the sandbox, the seal key, new TCP ports) needs a restart; then
    /// nothing is changed, and the exit code is 78.
    #[command(after_help = "Example: keyhatch reload")]
    Reload {
        #[command(flatten)]
        operator: Operator,
        /// Print each step as a line of JSON
        #[arg(long)]
        json: bool,
    },
    /// Tell what is sealed on disk, as root: names, ages and sizes, never values
    #[command(after_help = "Example: keyhatch cache ls")]
    Cache {
        #[command(subcommand)]
        command: Cache,
    },
    /// List the presets: upstreams that a source can name, the shipped and the configuration's own
    #[command(after_help = "Example: keyhatch presets show heroku")]
    Presets(Presets),
    /// Write the equivalent of another program's configuration, and token files
    #[command(after_help = "Example: keyhatch import cachish /etc/cachish.yml --clients billing=billing --dry-run")]
    Import {
        #[command(subcommand)]
        from: Import,
    },
    /// Show the whole of it in this terminal: no root, no network, nothing left behind
    #[command(after_help = "Example: keyhatch demo --once")]
    Demo {
        /// End after the last step
        #[arg(long)]
        once: bool,
    },
    /// The demonstration's stand-in for an upstream
    #[command(hide = true)]
    DemoUpstream { port: u16 },
    /// The other role of `serve`, which alone starts it
    #[command(hide = true)]
    Worker { arguments: Vec<String> },
    /// The role of `serve` that runs programs; it alone starts it
    #[command(hide = true)]
    Runner { arguments: Vec<String> },
}

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Presets {
    #[command(subcommand)]
    pub(super) command: Option<PresetsCommand>,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Subcommand)]
pub(super) enum PresetsCommand {
    /// Tell the parameters of a preset, with an example that is ready to be changed
    #[command(after_help = "Example: keyhatch presets show heroku --example > keyhatch.toml")]
    Show {
        /// Its name, such as heroku
        name: String,
        /// Print the example alone: a whole configuration
        #[arg(long, conflicts_with = "json")]
        example: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Subcommand)]
pub(super) enum Cache {
    /// List the sealed files
    #[command(after_help = "Example: keyhatch cache ls --json")]
    Ls {
        /// Print JSON, times in seconds, sizes in bytes
        #[arg(long)]
        json: bool,
    },
    /// List the sealed files after opening each; exit 1 if one is damaged
    #[command(after_help = "Example: keyhatch cache verify")]
    Verify {
        /// Print JSON, times in seconds, sizes in bytes
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args)]
pub(super) struct Get {
    /// The key, such as /billing/database-url
    pub(super) key: String,
    /// Print the JSON as it is
    #[arg(long)]
    pub(super) json: bool,
    /// Ask the upstream even if the value is fresh
    #[arg(long)]
    pub(super) fresh: bool,
    /// While the broker or the value is unavailable, try again for this long, such as 30s
    #[arg(long, value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub(super) wait: Option<Duration>,
    /// Print the value again, on a line, whenever it changes
    #[arg(long)]
    pub(super) watch: bool,
}

#[derive(Args)]
pub(super) struct Explain {
    /// A user, by name or uid, with the groups that the system gives it
    #[arg(long, required_unless_present = "pid", conflicts_with = "pid")]
    pub(super) user: Option<String>,
    /// A running process, with its own ids and unit
    #[arg(long)]
    pub(super) pid: Option<u32>,
    /// The systemd unit that the user is in, such as web@1.service
    #[arg(long, conflicts_with = "pid")]
    pub(super) unit: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
    /// The key, such as /billing/database-url
    pub(super) key: String,
}

/// Where the operator's commands ask.
#[derive(Args)]
pub(super) struct Operator {
    /// The operator's socket, unless it is the one that the configuration names
    #[arg(long, env = "KEYHATCH_ADMIN_SOCKET", value_name = "PATH")]
    pub(super) admin_socket: Option<PathBuf>,
}

#[derive(Args)]
pub(super) struct Status {
    #[command(flatten)]
    pub(super) operator: Operator,
    /// Print JSON, times in seconds
    #[arg(long)]
    pub(super) json: bool,
    /// Exit with 1 if a key is in this state, or in a worse one
    #[arg(long, value_enum, value_name = "STATE")]
    pub(super) fail_on: Option<Bad>,
}

/// From less to more.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(super) enum Bad {
    Stale,
    Failing,
    Revoked,
}

#[derive(Args)]
pub(super) struct Purge {
    /// Keys, or patterns of keys that have a value or are in the configuration
    #[arg(required_unless_present = "all", conflicts_with = "all", value_name = "KEY")]
    pub(super) keys: Vec<String>,
    /// All keys, and what is sealed of keys that are not in the configuration
    #[arg(long)]
    pub(super) all: bool,
    /// Do not ask before --all
    #[arg(long)]
    pub(super) yes: bool,
    #[command(flatten)]
    pub(super) operator: Operator,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Args)]
#[command(group = clap::ArgGroup::new("covers").required(true))]
pub(super) struct Drill {
    /// What the keys match that are to fail
    #[arg(long, group = "covers", value_name = "PATTERN")]
    pub(super) key: Option<String>,
    /// The token, by its name in the configuration, that the keys need which are to fail
    #[arg(long, group = "covers", value_name = "NAME")]
    pub(super) token: Option<String>,
    /// The origin, such as https://api.example.com:443, of the keys that are to fail
    #[arg(long, group = "covers", value_name = "URL")]
    pub(super) origin: Option<String>,
    /// How: a refused connection, no answer in time, or this status
    #[arg(long, value_enum)]
    pub(super) fail: Fail,
    /// For how long, such as 60s; at most an hour
    #[arg(long = "for", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub(super) length: Duration,
    #[command(flatten)]
    pub(super) operator: Operator,
    /// Print the report as JSON, times in seconds
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum Fail {
    Connect,
    Timeout,
    #[value(name = "503")]
    Unavailable,
    #[value(name = "401")]
    TokenRefused,
    #[value(name = "403")]
    Refused,
}

impl Fail {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Timeout => "timeout",
            Self::Unavailable => "503",
            Self::TokenRefused => "401",
            Self::Refused => "403",
        }
    }
}
