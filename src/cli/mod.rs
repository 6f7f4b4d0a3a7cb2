//! The command line: parses, calls the one function that does it, and maps the end to an exit code.
#![forbid(unsafe_code)]

mod client;
mod get;
mod status;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

use crate::boot::{self, StartError};
use crate::config;
use crate::exit::Exit;
use crate::sys::creds;
use crate::{demo, parent, worker};

/// A privilege-separated secret broker: applications read values over a Unix socket, tokens stay on the other side.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the broker in the foreground
    #[command(after_help = "Example: keyhatch serve --config /etc/keyhatch/keyhatch.toml")]
    Serve {
        /// The configuration file
        #[arg(long, env = "KEYHATCH_CONFIG", default_value = "/etc/keyhatch/keyhatch.toml")]
        config: PathBuf,
        /// How log lines on stderr look
        #[arg(long, value_enum, default_value_t = Log::Text)]
        log: Log,
    },
    /// Validate the configuration without starting
    #[command(after_help = "Example: keyhatch check ./keyhatch.toml")]
    Check {
        /// The configuration file
        #[arg(env = "KEYHATCH_CONFIG", default_value = "/etc/keyhatch/keyhatch.toml")]
        config: PathBuf,
    },
    /// Print a value: raw if it is one scalar, else JSON
    #[command(after_help = "Example: DATABASE_URL=$(keyhatch get /billing/database-url)")]
    Get {
        /// The key, such as /billing/database-url
        key: String,
        /// The broker's socket
        #[arg(long, env = "KEYHATCH_SOCKET", default_value = "/run/keyhatch/keyhatch.sock")]
        socket: PathBuf,
        /// Print the JSON as it is
        #[arg(long)]
        json: bool,
        /// Ask the upstream even if the value is fresh
        #[arg(long)]
        fresh: bool,
    },
    /// List the keys that I may read, with their state and age
    #[command(after_help = "Example: keyhatch list --json | jq -r '.keys[].key'")]
    List {
        /// The broker's socket
        #[arg(long, env = "KEYHATCH_SOCKET", default_value = "/run/keyhatch/keyhatch.sock")]
        socket: PathBuf,
        /// Print JSON, ages in seconds
        #[arg(long)]
        json: bool,
    },
    /// Tell the state of every key, as root or a member of admin-group
    #[command(after_help = "Example: keyhatch status --json")]
    Status {
        /// The operator's socket
        #[arg(long, default_value = "/run/keyhatch/admin.sock")]
        admin_socket: PathBuf,
        /// Print JSON, times in seconds
        #[arg(long)]
        json: bool,
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
    Worker { ids: Vec<String> },
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Log {
    Text,
    Json,
}

/// Runs the command line of this process.
pub fn run() -> Exit {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // `--help` and `--version` come this way, too.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Ok };
        }
    };
    match cli.command {
        Command::Serve { config, log } => serve(&config, log),
        Command::List { socket, json } => status::list(&socket, json),
        Command::Status { admin_socket, json } => status::status(&admin_socket, json),
        Command::Demo { once } => plain(demo::run(once)),
        Command::DemoUpstream { port } => plain(demo::serve_upstream(port)),
        Command::Check { config } => check(&config),
        Command::Get { key, socket, json, fresh } => get::run(&key, &socket, json, fresh),
        Command::Worker { ids } => work(&ids),
    }
}

/// The one place where the end of a command is told.
fn tell(message: &dyn std::fmt::Display) {
    // There is nobody to tell when stderr is closed.
    let _ = writeln!(std::io::stderr(), "keyhatch: {message}");
}

fn plain(done: std::io::Result<()>) -> Exit {
    match done {
        Ok(()) => Exit::Ok,
        Err(error) => {
            tell(&error);
            Exit::Other
        }
    }
}

fn serve(path: &std::path::Path, log: Log) -> Exit {
    let started = boot::begin().and_then(|()| {
        start_log(log == Log::Json, std::io::stderr().is_terminal());
        let config = config::load(path, trust()).map_err(|error| StartError::Configuration(error.to_string()))?;
        config.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        config.problems.iter().for_each(|problem| tracing::error!("{problem}"));
        boot::start(config)
    });
    let inputs = match started {
        Ok(inputs) => inputs,
        Err(error) => {
            tell(&error);
            return if matches!(error, StartError::Configuration(_)) { Exit::Configuration } else { Exit::Other };
        }
    };
    match parent::run(inputs) {
        Ok(()) => Exit::Ok,
        Err(error) => {
            tell(&error);
            if matches!(error, parent::ParentError::Start(_)) { Exit::Configuration } else { Exit::Other }
        }
    }
}

/// Whose the configuration must be.
fn trust() -> config::Trust {
    if creds::is_root() { config::Trust::Root } else { config::Trust::Caller(creds::own_uid().into()) }
}

fn check(path: &std::path::Path) -> Exit {
    let config = match config::load(path, trust()) {
        Ok(config) => config,
        Err(error) => {
            tell(&error);
            return Exit::Configuration;
        }
    };
    config.warnings.iter().for_each(|warning| tell(&format_args!("warning: {warning}")));
    let pending = boot::pending(&config);
    pending.iter().chain(&config.problems).for_each(|problem| tell(&format_args!("error: {problem}")));
    if !pending.is_empty() || !config.problems.is_empty() {
        return Exit::Configuration;
    }
    let (keys, clients) = (config.keys.len(), config.acl.clients.len());
    tell(&format_args!("{}: good: {keys} keys, {clients} clients", path.display()));
    Exit::Ok
}

fn work(ids: &[String]) -> Exit {
    let done = boot::enter(ids).map_err(|error| error.to_string()).and_then(|entered| {
        start_log(false, false);
        worker::run(entered.listener, entered.channel, entered.layers).map_err(|error| error.to_string())
    });
    match done {
        Ok(()) => Exit::Ok,
        Err(error) => {
            tell(&error);
            Exit::Other
        }
    }
}

/// Lines go to stderr as they come; without a helper thread, since one may be forbidden yet.
fn start_log(json: bool, colour: bool) {
    let lines = tracing_subscriber::fmt().with_writer(std::io::stderr).with_target(false).with_ansi(colour);
    if json {
        lines.json().flatten_event(true).init();
    } else {
        lines.compact().init();
    }
}
