//! `quay serve …`

use std::process::ExitCode;
use std::time::Instant;

use clap::{Args, Subcommand};
use quay_sidecar::config::Loaded;
use quay_sidecar::registry::Python;
use quay_sidecar::serve::{self, Listen, Options, TcpListen};
use quay_sidecar::telemetry::logs;

use super::mirror::Mirror;
use super::{ConfigDir, unusable};

/// Run a service: `registryd` beside a Quay, or a registry of its own with `--mode mirror`.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Serve {
    #[command(subcommand)]
    service: Option<Service>,
    #[command(flatten)]
    mirror: Mirror,
}

#[derive(Subcommand)]
enum Service {
    /// Serve /v2: pulls and their tokens. Stops on SIGTERM, after the requests in flight.
    Registryd(Registryd),
}

#[derive(Args)]
struct Registryd {
    #[command(flatten)]
    config: ConfigDir,
    /// IP:PORT or unix:/path; `,nginx` after it marks the one that nginx connects to, `,nginx=NETWORK`
    /// the same for an nginx on another machine, `,public` one that other machines may connect to.
    /// Repeatable.
    /// [default: 127.0.0.1:8445]
    #[arg(long, value_name = "ADDRESS")]
    listen: Vec<Listen>,
    /// Short for --listen 127.0.0.1:PORT.
    #[arg(long)]
    port: Option<u16>,
    /// Treat every listener that is not public as nginx's: send internal redirects, believe X-Forwarded-For.
    #[arg(long)]
    behind_nginx: bool,
    /// Where Python's registry listens, unix:/path or HOST:PORT: asked for uploads that we do not
    /// serve, and for everything that we do not where no nginx of ours is in front.
    #[arg(long, value_name = "ADDRESS")]
    python: Option<Python>,
    /// Where /metrics, /healthz and /readyz are. `,public` after it lets other machines connect.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:9192")]
    admin_listen: TcpListen,
}

impl Serve {
    pub fn run(self) -> ExitCode {
        let began = Instant::now();
        match self.service {
            Some(Service::Registryd(arguments)) => arguments.run(began),
            None => self.mirror.run(began),
        }
    }
}

impl Registryd {
    fn run(self, began: Instant) -> ExitCode {
        match self.config.load() {
            Ok(loaded) => serve(loaded, self.options(began)),
            Err(error) => unusable(&error),
        }
    }

    fn options(self, began: Instant) -> Options {
        let mut listen = self.listen;
        listen.extend(self.port.map(Listen::local));
        if listen.is_empty() {
            listen.push(Listen::local(Listen::DEFAULT_PORT));
        }
        for listen in &mut listen {
            listen.nginx |= self.behind_nginx && listen.address.is_local();
        }
        let (admin, python) = (self.admin_listen.0, self.python);
        Options { listen, admin, python, https: None, collects_garbage: false, began }
    }
}

/// Serves to the end.
pub(super) fn serve(loaded: Loaded, options: Options) -> ExitCode {
    start_logging(&loaded);
    let served = actix_web::rt::System::new().block_on(serve::run(loaded.config, options));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "cannot serve");
            ExitCode::FAILURE
        }
    }
}

/// Logs as the configuration says, and first what there is to say about it.
pub(super) fn start_logging(Loaded { config, report }: &Loaded) {
    logs::start(config.logging.json, config.logging.debug);
    for problem in &report.problems {
        let (key, place, remedy) = (&problem.key, &problem.place, &problem.remedy);
        tracing::warn!(key, place, remedy, "{}", problem.reason);
    }
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "starting");
}
