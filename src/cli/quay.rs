//! The options of commands that work on a Quay as a whole.

use std::path::PathBuf;

use clap::Args;
use quay_sidecar::config::ProcessEnvironment;
use quay_sidecar::serve::owner::{Installation, Paths};

#[derive(Args)]
pub struct Quay {
    /// The folder with config.yaml [default: stack/ in QUAYCONF]
    #[arg(long, value_name = "DIR")]
    config: Option<PathBuf>,
    /// The folder of the files that Quay generates [default: $QUAYCONF, or conf/ in QUAYDIR]
    #[arg(long, value_name = "DIR")]
    quay_conf: Option<PathBuf>,
    /// Our own folder: socket, flags, status [default: $QUAY_SIDECAR_RUN, or /tmp/quay-sidecar]
    #[arg(long, value_name = "DIR")]
    run: Option<PathBuf>,
    /// registryd where it is a service of its own, as on Kubernetes [default: $QUAY_SIDECAR_SERVICE]
    #[arg(long, value_name = "HOST:PORT")]
    service: Option<String>,
}

impl Quay {
    pub fn paths(&self) -> Paths {
        let Self { config, quay_conf, run, .. } = self;
        Paths::new(config.clone(), quay_conf.clone(), run.clone(), &ProcessEnvironment)
    }

    pub fn installation(&self) -> Installation {
        Installation::new(self.paths(), self.service.clone(), &ProcessEnvironment)
    }
}
