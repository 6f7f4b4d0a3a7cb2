//! The program, for `packaging/build image`, which links it without shared libraries.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    keyhatch::cli::run()
}
