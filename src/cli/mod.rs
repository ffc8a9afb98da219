//! The command line: a file for each group of commands. Parse everything, then act.

mod bundle;
mod config;
mod db;
mod delivery;
mod governance;
mod kubernetes;
mod mirror;
mod mirror_organizations;
mod mirrors;
mod quay;
mod serve;
mod switch;
mod worker;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use quay_sidecar::config::{Config, ConfigError, Loaded, ProcessEnvironment};

/// sysexits.h: the command or its configuration is wrong; trying again will not help.
const EX_USAGE: u8 = 64;

/// Serves registry traffic of an existing Quay installation, from its own configuration,
/// database and storage.
#[derive(Parser)]
#[command(name = "quay", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    #[command(arg_required_else_help = true)]
    Serve(serve::Serve),
    /// Look at the configuration.
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Look at the database.
    #[command(subcommand)]
    Db(db::Db),
    /// Repositories that follow another registry.
    #[command(subcommand)]
    Mirror(mirrors::Mirror),
    /// Run what Quay runs beside its registry.
    #[command(subcommand)]
    Worker(worker::Worker),
    /// Owner switches: who serves what.
    #[command(subcommand)]
    Switch(switch::Switch),
    /// Our pieces in an existing Quay.
    #[command(subcommand)]
    Bundle(bundle::Bundle),
    /// Print the decisions that this program is built on: what, who answers for it, why, the way back.
    Decisions,
    /// Print Quay's operational scripts: what becomes of each, and what replaces it.
    Tooling,
    Install(delivery::Install),
    Uninstall(delivery::Uninstall),
    Status(delivery::StatusOf),
    /// Print the version.
    Version,
}

#[derive(Args)]
struct ConfigDir {
    /// The folder with Quay's config.yaml.
    #[arg(long = "config", value_name = "DIR")]
    dir: PathBuf,
}

impl ConfigDir {
    fn load(&self) -> Result<Loaded, ConfigError> {
        Config::load(&self.dir, &ProcessEnvironment)
    }
}

/// Runs the command of this process.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing to be done where even the message cannot be printed.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { EX_USAGE } else { 0 });
        }
    };
    match cli.command {
        Command::Serve(command) => command.run(),
        Command::Config(command) => command.run(),
        Command::Db(command) => command.run(),
        Command::Mirror(command) => command.run(),
        Command::Worker(command) => command.run(),
        Command::Switch(command) => command.run(),
        Command::Bundle(command) => command.run(),
        Command::Decisions => governance::decisions(),
        Command::Tooling => governance::tooling(),
        Command::Install(command) => command.run(),
        Command::Uninstall(command) => command.run(),
        Command::Status(command) => command.run(),
        Command::Version => {
            println!("quay-sidecar {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
    }
}

/// Says what is wrong with the configuration.
fn unusable(error: &ConfigError) -> ExitCode {
    eprint!("{error}");
    ExitCode::from(EX_USAGE)
}
