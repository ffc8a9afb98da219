//! `quay`: serves registry traffic of an existing Quay installation.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
