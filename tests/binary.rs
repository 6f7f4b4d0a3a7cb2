//! The program file, as the loader sees it: placed at random, its tables read only, nothing written and executed, libraries from the
//! system's own directories.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::process::Command;

/// What readelf(1) tells of a file.
fn told(file: &str) -> String {
    let done = Command::new("readelf")
        .args(["--wide", "--file-header", "--program-headers", "--dynamic", file])
        .output()
        .unwrap();
    assert!(done.status.success(), "{done:?}");
    String::from_utf8(done.stdout).unwrap()
}

/// What is wrong with a program of which readelf tells this.
fn weaknesses(told: &str) -> Vec<&'static str> {
    let line = |name: &str| told.lines().find(|line| line.trim_start().starts_with(name)).unwrap_or_default();
    // Type, offset, two addresses, two sizes, flags, alignment.
    let flags = |line: &str| {
        let parts: Vec<&str> = line.split_whitespace().collect();
        parts.get(6..parts.len() - 1).map(<[_]>::concat).unwrap_or_default()
    };
    let checks = [
        ("it has one place in memory", line("Type:").contains("DYN") && line("0x000000006ffffffb").contains("PIE")),
        ("its tables can be written", !line("GNU_RELRO").is_empty() && line("0x000000006ffffffb").contains("NOW")),
        ("its stack can be executed", flags(line("GNU_STACK")) == "RW"),
        (
            "memory can be written and executed",
            !told.lines().any(|line| line.trim_start().starts_with("LOAD") && flags(line).contains("WE")),
        ),
        ("it takes libraries from elsewhere", !told.contains("(RPATH)") && !told.contains("(RUNPATH)")),
        ("its code is patched when it is loaded", !told.contains("(TEXTREL)")),
    ];
    checks.into_iter().filter(|(_, good)| !good).map(|(what, _)| what).collect()
}

#[test]
fn the_program_file_is_hardened() {
    let told = told(env!("CARGO_BIN_EXE_keyhatch"));
    assert!(weaknesses(&told).is_empty(), "{:?}\n{told}", weaknesses(&told));
}

#[test]
fn a_program_file_that_is_not_hardened_is_seen() {
    let directory = tempfile::tempdir().unwrap();
    let (source, program) = (directory.path().join("weak.c"), directory.path().join("weak"));
    std::fs::write(&source, "int main(void) { return 0; }\n").unwrap();
    let flags = ["-no-pie", "-Wl,-z,norelro", "-Wl,-z,execstack", "-Wl,-rpath,/tmp"];
    assert!(Command::new("cc").args(flags).arg("-o").arg(&program).arg(&source).status().unwrap().success());
    let found = weaknesses(&told(program.to_str().unwrap()));
    assert_eq!(found.len(), 4, "{found:?}");
}
