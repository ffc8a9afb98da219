//! `quay bundle …`

use std::process::ExitCode;

use clap::{Args, Subcommand};
use quay_sidecar::bundle::{Rendered, RunFolder, When};
use quay_sidecar::telemetry::logs;

use super::kubernetes::Kubernetes;
use super::quay::Quay;

#[derive(Subcommand)]
pub enum Bundle {
    /// Print what would be written, and write nothing.
    #[command(subcommand)]
    Render(Render),
    /// Put our pieces into the files that Quay generated. On any failure they are as before.
    Apply(Apply),
    /// Take our pieces out again; every request is Python's at once.
    Revert(Quay),
    /// Look at everything that has to be right, one line each: ok, or what to do.
    Doctor(Quay),
}

#[derive(Subcommand)]
pub enum Render {
    /// Our two files for nginx.
    Nginx(Quay),
    /// Our programs.
    Supervisord(Quay),
    /// registryd as a service of its own on Kubernetes; see docker/kubernetes.md.
    Kubernetes(Kubernetes),
}

#[derive(Args)]
pub struct Apply {
    /// As Quay's boot hook: starts from Python, and exits 0 on all that Quay can start with.
    #[arg(long)]
    hook: bool,
    #[command(flatten)]
    quay: Quay,
}

impl Bundle {
    pub fn run(self) -> ExitCode {
        logs::start(false, false);
        match self {
            Self::Render(render) => render.run(),
            Self::Apply(apply) => apply.run(),
            Self::Revert(quay) => revert(&quay),
            Self::Doctor(quay) => doctor(&quay),
        }
    }
}

impl Render {
    fn run(self) -> ExitCode {
        match self {
            Self::Nginx(quay) => {
                print(&quay, |rendered| format!("{}\n{}", rendered.http, rendered.server))
            }
            Self::Supervisord(quay) => print(&quay, |rendered| rendered.supervisord.clone()),
            Self::Kubernetes(kubernetes) => kubernetes.run(),
        }
    }
}

fn print(quay: &Quay, what: impl Fn(&Rendered) -> String) -> ExitCode {
    let installation = quay.installation();
    if let Err(error) = &installation.service {
        return failed(error);
    }
    let kept = RunFolder::open(&installation.paths.run).ok();
    let prefix = kept.and_then(|run| run.kept_blob_prefix());
    let bundle = installation.bundle(installation.routing());
    match bundle.render(&prefix.unwrap_or_else(|| "0".repeat(32))) {
        Err(error) => failed(&error),
        Ok(rendered) => {
            print!("{}", what(&rendered));
            for notice in rendered.notices {
                eprintln!("notice: {notice}");
            }
            ExitCode::SUCCESS
        }
    }
}

impl Apply {
    fn run(self) -> ExitCode {
        let installation = self.quay.installation();
        let unusable = match &installation.service {
            _ if self.hook && installation.config.is_none() => {
                Some("the configuration cannot be used".to_owned())
            }
            Err(error) => Some(error.to_string()),
            Ok(_) => None,
        };
        if let Some(reason) = unusable {
            // What an earlier boot left must not outlive the configuration that it was made for.
            if self.hook
                && let Err(error) = installation.bundle(installation.routing()).revert()
            {
                println!("notice: {error}");
            }
            println!("not applied: {reason}; Quay runs as before");
            return if self.hook { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
        let when = if self.hook { When::Boot } else { When::Live };
        let applied = installation.bundle(installation.routing()).apply(when);
        print!("{applied}");
        match applied.is_done() || (self.hook && applied.can_boot()) {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        }
    }
}

fn revert(quay: &Quay) -> ExitCode {
    let installation = quay.installation();
    match installation.bundle(installation.routing()).revert() {
        Err(error) => failed(&error),
        Ok(restored) => {
            println!("every owner is python; nginx reads its files again when it is told to");
            for path in restored {
                println!("put back: {}", path.display());
            }
            ExitCode::SUCCESS
        }
    }
}

fn doctor(quay: &Quay) -> ExitCode {
    let installation = quay.installation();
    if let Err(error) = &installation.service {
        println!("PROBLEM registryd's service: {error}");
        return ExitCode::FAILURE;
    }
    let checks = installation.bundle(installation.routing()).doctor();
    for check in &checks {
        println!("{check}");
    }
    let config = installation.config.is_some();
    match config {
        true => println!("ok      configuration: {}", installation.paths.config.display()),
        false => println!("PROBLEM configuration: `quay config check` says what is wrong"),
    }
    match config && checks.iter().all(|check| check.result.is_ok()) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

pub(super) fn failed(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("{error}");
    ExitCode::FAILURE
}
