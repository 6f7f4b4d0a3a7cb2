//! The command line: parses, calls the one function that does it, and maps the end to an exit code.
#![forbid(unsafe_code)]

mod args;
mod cache;
mod check;
mod drill;
mod exec;
mod explain;
mod get;
mod import;
mod operate;
mod presets;
mod reload;
mod status;
mod table;
mod top;

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use self::args::{Cli, Command, Global, Log, Operator};
use crate::boot::{self, Credentials, Examined, StartError};
use crate::config::{self, Asked, Config};
use crate::exit::Exit;
use crate::sys::creds;
use crate::telemetry::Stderr;
use crate::{demo, parent, runner, shown, telemetry, worker};

/// What `serve` shows to whoever has no configuration yet.
const SMALLEST: &str = r#"No such file; --config FILE names another one. The smallest configuration that serves a value:

    [keys."/billing/database-url"]
    source = { type = "file", path = "/etc/keyhatch/database-url", format = "text" }

    [clients.billing]
    user = "billing"
    keys = ["/billing/*"]

The user is an application's, and the file is root's:

    useradd --system billing
    install -m 0400 /dev/stdin /etc/keyhatch/database-url
"#;

/// The command line as it is parsed, for its manual pages and completions.
pub fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

/// Runs the command line of this process.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let error = hinted(error);
            // `--help` and `--version` come this way, too.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Ok }.into();
        }
    };
    done(cli).unwrap_or_else(ExitCode::from)
}

/// Runs the command. Where it ends before it has begun, that was told.
fn done(cli: Cli) -> Result<ExitCode, Exit> {
    let global = &cli.global;
    let file = global.file();
    let socket = || global.socket.clone().map_or_else(|| configured(global, "--socket", Asked::Socket), Ok);
    let operators = |operator: &Operator| {
        let configured = || configured(global, "--admin-socket", Asked::AdminSocket);
        operator.admin_socket.clone().map_or_else(configured, Ok)
    };
    // What changes something is for the broker of the file that was named, wherever it is asked.
    let changed = |operator: &Operator| {
        let socket = operators(operator)?;
        global.config.as_deref().map_or(Ok(()), |named| operate::is_meant(&socket, named))?;
        Ok::<_, Exit>(socket)
    };
    let exit = match cli.command {
        Command::Serve { log_requests, log_level } => serve(file, global.log, log_level.into(), log_requests),
        Command::Get(asked) => get::run(&asked, &socket()?),
        // Its end is that of another program, with codes that are none of ours.
        Command::Exec(asked) => return Ok(exec::run(&asked, &socket()?)),
        Command::List { json } => status::list(&socket()?, json),
        Command::Check { file: named, json } => check::run(named.as_deref().unwrap_or(file), json),
        Command::Cache { command } => cache::run(file, &command),
        Command::Explain(asked) => explain::run(file, &asked),
        Command::Status(asked) => status::status(&asked, &operators(&asked.operator)?),
        Command::Top { operator, json } => top::run(&operators(&operator)?, json),
        Command::Metrics { operator, json } => operate::metrics(&operators(&operator)?, json),
        Command::Refresh { keys, operator, json } => operate::refresh(&changed(&operator)?, &keys, json),
        Command::Purge(asked) => operate::purge(&asked, &changed(&asked.operator)?),
        Command::Drill(asked) => drill::run(&asked, &changed(&asked.operator)?),
        Command::Reload { operator, json } => reload::run(file, &operators(&operator)?, json),
        Command::Presets(asked) => presets::run(file, &asked),
        Command::Import { from } => import::run(file, &from),
        Command::Demo { once } => plain(demo::run(once)),
        Command::DemoUpstream { port } => plain(demo::serve_upstream(port)),
        Command::Worker { arguments } => work(&arguments),
        Command::Runner { arguments } => run_commands(&arguments),
    };
    Ok(exit.into())
}

/// The socket that the configuration names.
fn configured(global: &Global, option: &str, asked: Asked) -> Result<PathBuf, Exit> {
    config::socket(global.file(), trust(), asked, global.config.is_some()).map_err(|error| {
        tell(&format_args!("{error}\nwhere to ask stands there, unless {option} says it"));
        Exit::Configuration
    })
}

/// Tells whoever left it out of the `--` of `exec`.
fn hinted(mut error: clap::Error) -> clap::Error {
    let exec = matches!(error.get(ContextKind::Usage), Some(ContextValue::StyledStr(usage)) if usage.to_string().contains("keyhatch exec "));
    if let (ErrorKind::UnknownArgument, true, Some(ContextValue::String(word))) =
        (error.kind(), exec, error.get(ContextKind::InvalidArg))
        && !word.starts_with('-')
    {
        let tip = format!("put `--` before the command: keyhatch exec ... -- {word}");
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    }
    error
}

/// What a command found out, on stdout.
fn show(text: &str) -> Exit {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{}", shown::lines(text)).and_then(|()| out.flush()) {
        Ok(()) => Exit::Ok,
        Err(_) => Exit::Other,
    }
}

/// The JSON of a broker, on stdout.
fn show_json(text: &str) -> Exit {
    if let Some(text) = shown::json(text) {
        return show(text.trim_end());
    }
    tell(&"the broker says what is no JSON");
    Exit::Other
}

/// The one place where the end of a command is told.
fn tell(message: &dyn std::fmt::Display) {
    // There is nobody to tell when stderr is closed.
    let _ = writeln!(std::io::stderr(), "keyhatch: {}", shown::lines(&message.to_string()));
}

/// The same with the priority of an error, which the journal wants before each line.
fn tell_journal(message: &dyn std::fmt::Display) {
    let lines = message.to_string().replace('\n', &format!("\n{}", telemetry::ERROR));
    let _ = writeln!(std::io::stderr(), "{}keyhatch: {lines}", telemetry::ERROR);
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

fn serve(path: &Path, log: Log, level: tracing::Level, log_requests: bool) -> Exit {
    let begun = boot::begin();
    if matches!(path.try_exists(), Ok(false)) {
        tell(&format_args!("{}: {SMALLEST}", path.display()));
        return Exit::Configuration;
    }
    let mut stderr = if std::io::stderr().is_terminal() { Stderr::Terminal } else { Stderr::Other };
    let started = begun.and_then(|surroundings| {
        if surroundings.journal {
            stderr = Stderr::Journal;
        }
        telemetry::start(log == Log::Json, level, stderr);
        let config = config::load(path, trust()).map_err(|error| StartError::Configuration(error.to_string()))?;
        config.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        config.problems.iter().for_each(|problem| tracing::error!("{problem}"));
        boot::start(config, path, surroundings)
    });
    let tell = |error: &dyn std::fmt::Display| match stderr {
        Stderr::Journal => tell_journal(error),
        _ => tell(error),
    };
    let inputs = match started {
        Ok(inputs) => inputs,
        Err(error) => {
            tell(&error);
            return if matches!(error, StartError::Configuration(_)) { Exit::Configuration } else { Exit::Other };
        }
    };
    // The last lines are written when the guard is dropped.
    let (_guard, dropped) = telemetry::detach();
    match parent::run(inputs, parent::LogOptions { requests: log_requests, dropped }) {
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

/// What is wrong with what a configuration names, and what of that could be opened.
fn errors(config: &Config, credentials: Credentials) -> (Vec<String>, Examined) {
    let mut errors = config.problems.clone();
    let mut found = boot::examine(config, credentials);
    errors.append(&mut found.errors);
    let files = config.token_files();
    for (name, from, opened) in &found.tokens {
        // A descriptor of its own: reading it closes it.
        let opened = opened.as_ref().map_err(Clone::clone).and_then(|fd| fd.try_clone().map_err(|e| e.to_string()));
        let read = parent::Vault::read(vec![(name.clone(), from.clone(), opened)], &files);
        errors.extend(read.err().map(|error| error.to_string()));
    }
    (errors, found)
}

fn run_commands(arguments: &[String]) -> Exit {
    // Its layers may have to be told of before they are.
    telemetry::start(false, tracing::Level::INFO, Stderr::Other);
    let done = boot::enter_runner(arguments).map_err(|error| error.to_string()).and_then(|entered| {
        runner::run(&entered.channel, &entered.commands, entered.layers).map_err(|error| error.to_string())
    });
    match done {
        Ok(()) => Exit::Ok,
        Err(error) => {
            tell(&error);
            Exit::Other
        }
    }
}

fn work(arguments: &[String]) -> Exit {
    // Nothing but memory is touched by this, and what fails in the next step is told by it.
    telemetry::start(false, tracing::Level::INFO, Stderr::Other);
    let done = boot::enter(arguments).map_err(|error| error.to_string()).and_then(|entered| {
        worker::run(entered.listener, entered.channel, entered.layers, entered.aside).map_err(|error| error.to_string())
    });
    match done {
        Ok(()) => Exit::Ok,
        Err(error) => {
            tell(&error);
            Exit::Other
        }
    }
}
