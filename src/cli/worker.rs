//! `quay worker …`

use std::process::ExitCode;

use clap::{Args, Subcommand};
use quay_sidecar::serve::{TcpListen, repomirror};

use super::serve::start_logging;
use super::{ConfigDir, unusable};

/// Run what Quay runs beside its registry.
#[derive(Subcommand)]
pub enum Worker {
    /// Fill repositories and organizations that follow another registry, in the place of Quay's
    /// repomirrorworker.
    ///
    /// Both may run at once: a mirror is filled by whoever claims it first. Stops on SIGTERM; what
    /// is not done by then goes on in the next worker.
    Repomirror(Repomirror),
}

#[derive(Args)]
pub struct Repomirror {
    #[command(flatten)]
    config: ConfigDir,
    /// Where /metrics, /mirrors, /healthz and /readyz are, and a page for people. `,public` after it
    /// lets other machines connect. [default: QUAY_SIDECAR's repo_mirror_admin, 127.0.0.1:9194]
    #[arg(long, value_name = "IP:PORT")]
    admin_listen: Option<TcpListen>,
}

impl Worker {
    pub fn run(self) -> ExitCode {
        let Self::Repomirror(Repomirror { config, admin_listen }) = self;
        let loaded = match config.load() {
            Ok(loaded) => loaded,
            Err(error) => return unusable(&error),
        };
        start_logging(&loaded);
        let admin = admin_listen.map_or(loaded.config.sidecar.mirror_admin, |listen| listen.0);
        let worked = actix_web::rt::System::new().block_on(repomirror::run(loaded.config, admin));
        match worked {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                tracing::error!(%error, "cannot work");
                ExitCode::FAILURE
            }
        }
    }
}
