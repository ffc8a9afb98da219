//! The command line: parse everything, then bind, then run, then drain.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use quay_sidecar::config::{Config, ConfigError, Loaded, ProcessEnvironment, Report};
use quay_sidecar::serve::{self, Listen, Options};
use quay_sidecar::telemetry::logs;

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
    /// Run a service.
    #[command(subcommand)]
    Serve(Serve),
    /// Look at the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print the version.
    Version,
}

#[derive(Subcommand)]
enum Serve {
    /// Serve /v2: pulls and their tokens. Stops on SIGTERM, after the requests in flight.
    Registryd(Registryd),
}

#[derive(Args)]
struct Registryd {
    #[command(flatten)]
    config: ConfigDir,
    /// IP:PORT or unix:/path; `,nginx` after it marks the one that nginx connects to. Repeatable.
    /// [default: 127.0.0.1:8445]
    #[arg(long, value_name = "ADDRESS")]
    listen: Vec<Listen>,
    /// Short for --listen 127.0.0.1:PORT.
    #[arg(long)]
    port: Option<u16>,
    /// Treat every listener as nginx's: send internal redirects, believe X-Forwarded-For.
    #[arg(long)]
    behind_nginx: bool,
    /// Where /metrics, /healthz and /readyz are.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:9192")]
    admin_listen: SocketAddr,
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Print every setting that is used, where it came from, and every problem; errors go to
    /// standard error. Exits 0, or 64 when there is an error.
    Check(ConfigDir),
}

#[derive(Args)]
struct ConfigDir {
    /// The folder with Quay's config.yaml.
    #[arg(long = "config", value_name = "DIR")]
    dir: PathBuf,
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing to be done where even the message cannot be printed.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { EX_USAGE } else { 0 });
        }
    };
    match cli.command {
        Command::Serve(Serve::Registryd(arguments)) => registryd(arguments),
        Command::Config(ConfigCommand::Check(ConfigDir { dir })) => check(&dir),
        Command::Version => {
            println!("quay-sidecar {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
    }
}

fn check(dir: &Path) -> ExitCode {
    match load(dir) {
        Ok(Loaded { report, .. }) => {
            print!("{report}");
            ExitCode::SUCCESS
        }
        Err(mut error) => {
            let settings = std::mem::take(&mut error.settings);
            print!("{}", Report { settings, problems: Vec::new() });
            eprint!("{error}");
            ExitCode::from(EX_USAGE)
        }
    }
}

fn registryd(arguments: Registryd) -> ExitCode {
    let Loaded { config, report } = match load(&arguments.config.dir) {
        Ok(loaded) => loaded,
        Err(error) => {
            eprint!("{error}");
            return ExitCode::from(EX_USAGE);
        }
    };
    logs::start(config.logging.json, config.logging.debug);
    for problem in &report.problems {
        let (key, place, remedy) = (&problem.key, &problem.place, &problem.remedy);
        tracing::warn!(key, place, remedy, "{}", problem.reason);
    }
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "starting");
    let options = options(arguments);
    let served = actix_web::rt::System::new().block_on(serve::run(config, options));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "cannot serve");
            ExitCode::FAILURE
        }
    }
}

fn options(arguments: Registryd) -> Options {
    let local = |port| Listen::local(port);
    let mut listen = arguments.listen;
    listen.extend(arguments.port.map(local));
    if listen.is_empty() {
        listen.push(local(Listen::DEFAULT_PORT));
    }
    for listen in &mut listen {
        listen.nginx |= arguments.behind_nginx;
    }
    Options { listen, admin: arguments.admin_listen }
}

fn load(dir: &Path) -> Result<Loaded, ConfigError> {
    Config::load(dir, &ProcessEnvironment)
}
