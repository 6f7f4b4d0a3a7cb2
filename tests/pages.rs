//! Manual pages and completions: all there, and legal to what reads them.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;
use std::process::{Command, Output};

fn done(command: &mut Command) -> Output {
    let done = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    done
}

/// The commands that `--help` lists.
fn commands() -> Vec<String> {
    let help = done(Command::new(env!("CARGO_BIN_EXE_keyhatch")).arg("--help")).stdout;
    let help = String::from_utf8(help).unwrap();
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names = listed.filter_map(|line| line.strip_prefix("  ")?.split(' ').next().filter(|name| !name.is_empty()));
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

#[test]
fn every_command_has_its_page_and_what_reads_them_is_content() {
    let directory = tempfile::tempdir().unwrap();
    let pages = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/pages");
    done(Command::new(pages).arg(directory.path()).env("CARGO", env!("CARGO")));
    let man = directory.path().join("man");
    let commands = commands();
    assert!(commands.len() > 10, "{commands:?}");
    for name in &commands {
        assert!(man.join(format!("keyhatch-{name}.1")).exists(), "{name}");
    }
    for page in std::fs::read_dir(&man).unwrap() {
        let page = page.unwrap().path();
        let read = done(
            Command::new("groff").args(["-Kutf8", "-t", "-man", "-Tutf8", "-P-cbou", "-rLL=200n", "-ww"]).arg(&page),
        );
        let (text, said) = (String::from_utf8_lossy(&read.stdout), String::from_utf8_lossy(&read.stderr));
        assert!(said.is_empty(), "{page:?}: {said}");
        assert!(text.contains("NAME\n") && text.contains("keyhatch"), "{page:?}: {text}");
        let drill = page.ends_with("keyhatch-drill.1");
        assert!(!drill || (text.contains("--fail") && text.contains("Example: keyhatch drill")), "{text}");
    }
    let completions = directory.path().join("completions");
    for shell in ["bash", "zsh", "fish"] {
        done(Command::new(shell).arg("-n").arg(completions.join(format!("keyhatch.{shell}"))));
    }
    let complete = "source \"$0\"; COMP_WORDS=(keyhatch dr); COMP_CWORD=1; _keyhatch keyhatch dr keyhatch; echo \"${COMPREPLY[@]}\"";
    let completed = done(Command::new("bash").args(["-c", complete]).arg(completions.join("keyhatch.bash")));
    assert_eq!(String::from_utf8(completed.stdout).unwrap().trim(), "drill");
}
