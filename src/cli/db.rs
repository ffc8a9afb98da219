//! `quay db …`

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use chrono::{NaiveDate, Utc};
use clap::Subcommand;
use quay_sidecar::catalog::schema::{self, Drift};
use quay_sidecar::catalog::{Catalog, CatalogError};
use quay_sidecar::config::Config;
use quay_sidecar::governance::{Accepted, Exception, FOLDER, exceptions};
use quay_sidecar::telemetry::Metrics;

use super::{ConfigDir, unusable};

#[derive(Subcommand)]
pub enum Db {
    /// Hold the database against the tables and columns that we rely on.
    ///
    /// Prints a line for each capability, and each difference below the capabilities that it
    /// keeps with Python, with the exception that it is on record by. Exits 0 when there is none
    /// but those, 1 otherwise.
    Check(ConfigDir),
    /// Print the exceptions from decision D-003 on record, and why one is refused.
    ///
    /// A record is a file schema-exceptions/NAME.toml beside config.yaml. Exits 0 when each holds,
    /// 1 otherwise.
    Exceptions(ConfigDir),
}

impl Db {
    pub fn run(self) -> ExitCode {
        match self {
            Self::Check(config) => check(&config),
            Self::Exceptions(config) => list(&config.dir),
        }
    }
}

fn check(folder: &ConfigDir) -> ExitCode {
    let config = match folder.load() {
        Ok(loaded) => loaded.config,
        Err(error) => return unusable(&error),
    };
    let recorded = match recorded(&folder.dir) {
        Ok(recorded) => recorded,
        Err(failed) => return failed,
    };
    let mut accepted = Vec::new();
    for exception in recorded {
        match exception.record {
            Ok(record) => accepted.push(record),
            Err(error) => eprintln!("{}: refused: {error}", exception.file.display()),
        }
    }
    match actix_web::rt::System::new().block_on(drifts(&config)) {
        Ok(drifts) => report(&drifts, &accepted),
        Err(error) => {
            eprintln!("the database of DB_URI cannot be checked: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn drifts(config: &Config) -> Result<Vec<Drift>, CatalogError> {
    let metrics = Arc::new(Metrics::default());
    let catalog = Catalog::new(&config.database, &config.sidecar, 1, metrics)?;
    let live = catalog.session("db_check").live_columns().await?;
    Ok(schema::compare(schema::contract(), &live))
}

/// The capabilities that depend on tables at all.
fn capabilities() -> BTreeSet<&'static str> {
    let tables = &schema::contract().tables;
    tables.iter().flat_map(|table| &table.needed_by).map(String::as_str).collect()
}

fn report(drifts: &[Drift], accepted: &[Accepted]) -> ExitCode {
    let mut unexpected = 0;
    for capability in capabilities() {
        let broken: Vec<&Drift> = drifts
            .iter()
            .filter(|drift| drift.capabilities.iter().any(|name| name == capability))
            .collect();
        match broken.len() {
            0 => println!("{capability}: ok"),
            _ => println!("{capability}: stays with Python"),
        }
        for drift in broken {
            match accepted.iter().find(|exception| is_about(exception, capability, drift)) {
                Some(Accepted { record, expires }) => {
                    println!("  {drift}; excepted until {expires} by {}", record.id);
                }
                None => {
                    unexpected += 1;
                    println!("  {drift}");
                }
            }
        }
    }
    if unexpected == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn is_about(exception: &Accepted, capability: &str, drift: &Drift) -> bool {
    exception.record.capabilities.iter().any(|name| name == capability)
        && exception.record.covers(&drift.table, drift.column.as_deref())
}

fn recorded(config: &Path) -> Result<Vec<Exception>, ExitCode> {
    exceptions(config, &capabilities(), today()).map_err(|error| {
        eprintln!("{}: {error}", config.join(FOLDER).display());
        ExitCode::FAILURE
    })
}

fn today() -> NaiveDate {
    Utc::now().date_naive()
}

fn list(config: &Path) -> ExitCode {
    let recorded = match recorded(config) {
        Ok(recorded) => recorded,
        Err(failed) => return failed,
    };
    if recorded.is_empty() {
        println!("no exception is on record in {}", config.join(FOLDER).display());
    }
    let mut refused = 0;
    for Exception { file, record } in recorded {
        let file = file.display();
        match record {
            Ok(Accepted { record, expires }) => {
                println!("{}: holds until {expires} ({file})", record.id);
                println!("  of {}", record.changes.join(", "));
                println!("  for {}", record.capabilities.join(", "));
                println!("  because {}", record.reason);
                let approvers = &record.approvers;
                println!(
                    "  approved by {} (registry), {} (database), {} (operations)",
                    approvers.registry, approvers.database, approvers.operations
                );
            }
            Err(error) => {
                refused += 1;
                println!("REFUSED {file}: {}", error.to_string().trim_end());
            }
        }
    }
    if refused == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
