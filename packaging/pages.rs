//! Writes manual pages and completions into a directory, from the command line as the program parses it:
//! `cargo run --example pages -- DIRECTORY`.

use std::io;
use std::path::{Path, PathBuf};

use clap::{Command, ValueEnum};
use clap_complete::Shell;

fn main() -> io::Result<()> {
    let directory = std::env::args_os().nth(1).map(PathBuf::from);
    let directory = directory.ok_or_else(|| io::Error::other("name a directory to write to"))?;
    pages(&directory.join("man"))?;
    completions(&directory.join("completions"))
}

/// `keyhatch.1`, and a page for each command: `keyhatch-get.1` and so on.
fn pages(directory: &Path) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let mut command = keyhatch::cli::command();
    command.build();
    write_pages(&command, directory)
}

fn write_pages(command: &Command, directory: &Path) -> io::Result<()> {
    let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
    let page = clap_mangen::Man::new(command.clone().disable_help_subcommand(true)).title(name.to_uppercase());
    let mut text = Vec::new();
    page.render(&mut text)?;
    std::fs::write(directory.join(format!("{name}.1")), text)?;
    let shown = |command: &&Command| !command.is_hide_set() && command.get_name() != "help";
    command.get_subcommands().filter(shown).try_for_each(|command| write_pages(command, directory))
}

fn completions(directory: &Path) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut keyhatch::cli::command(), "keyhatch", &mut text);
        let name = shell.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        std::fs::write(directory.join(format!("keyhatch.{name}")), text)?;
    }
    Ok(())
}
