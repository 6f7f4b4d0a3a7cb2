//! See the library: this only maps the end of a command to an exit code.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    keyhatch::cli::run()
}
