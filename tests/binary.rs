//! The program file, as the loader sees it: placed at random, its tables read only, nothing written and executed, libraries from the
//! system's own directories; and what the compilers have put into its code against overflows of the stack.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::process::Command;

/// What readelf(1) tells of a file.
fn told(file: &str) -> String {
    let done = Command::new("readelf")
        .args(["--wide", "--file-header", "--program-headers", "--dynamic", "--dyn-syms", file])
        .output()
        .unwrap();
    assert!(done.status.success(), "{done:?}");
    String::from_utf8(done.stdout).unwrap()
}

/// How Rust takes a page of stack, and touches it: the guard page below cannot be stepped over (rustc, `-C probe-stack`). C's is another one.
const PROBE: &[u8] = if cfg!(target_arch = "aarch64") {
    // sub sp, sp, #4096; str xzr, [sp]
    &[0xff, 0x07, 0x40, 0xd1, 0xff, 0x03, 0x00, 0xf9]
} else {
    // sub $4096, %rsp; movq $0, (%rsp)
    &[0x48, 0x81, 0xec, 0x00, 0x10, 0x00, 0x00, 0x48, 0xc7, 0x04, 0x24, 0x00, 0x00, 0x00, 0x00]
};

/// What is wrong with a program of these bytes, of which readelf tells this.
fn weaknesses(told: &str, bytes: &[u8]) -> Vec<&'static str> {
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
        ("large frames of Rust step over a guard page", bytes.windows(PROBE.len()).any(|part| part == PROBE)),
        // Of the cryptography library: .cargo/config.toml.
        ("functions of C do not look at the canary", told.contains("UND __stack_chk_fail@")),
        ("functions of C copy without a look at the size", told.contains("UND __memcpy_chk@")),
    ];
    checks.into_iter().filter(|(_, good)| !good).map(|(what, _)| what).collect()
}

fn weaknesses_of(file: &str) -> Vec<&'static str> {
    weaknesses(&told(file), &std::fs::read(file).unwrap())
}

#[test]
fn the_program_file_is_hardened() {
    let program = env!("CARGO_BIN_EXE_keyhatch");
    assert!(weaknesses_of(program).is_empty(), "{:?}\n{}", weaknesses_of(program), told(program));
}

#[test]
fn a_program_file_that_is_not_hardened_is_seen() {
    let directory = tempfile::tempdir().unwrap();
    let (source, program) = (directory.path().join("weak.c"), directory.path().join("weak"));
    let large = "#include <string.h>\nint main(int n, char **all) { char a[20000]; strcpy(a, all[0]); return a[n]; }\n";
    std::fs::write(&source, large).unwrap();
    let weak = ["-no-pie", "-fno-stack-protector", "-Wl,-z,norelro", "-Wl,-z,execstack", "-Wl,-rpath,/tmp"];
    assert!(Command::new("cc").args(weak).arg("-o").arg(&program).arg(&source).status().unwrap().success());
    let found = weaknesses_of(program.to_str().unwrap());
    assert_eq!(found.len(), 7, "{found:?}");
}
