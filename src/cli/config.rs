//! `quay config …`

use std::process::ExitCode;

use clap::Subcommand;
use quay_sidecar::config::Report;

use super::{ConfigDir, unusable};

#[derive(Subcommand)]
pub enum ConfigCommand {
    /// Print every setting that is used, where it came from, and every problem; errors go to
    /// standard error. Exits 0, or 64 when there is an error.
    Check(ConfigDir),
}

impl ConfigCommand {
    pub fn run(self) -> ExitCode {
        let Self::Check(config) = self;
        match config.load() {
            Ok(loaded) => {
                print!("{}", loaded.report);
                ExitCode::SUCCESS
            }
            Err(mut error) => {
                let settings = std::mem::take(&mut error.settings);
                print!("{}", Report { settings, problems: Vec::new() });
                unusable(&error)
            }
        }
    }
}
