//! `quay db …`

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Subcommand;
use quay_sidecar::catalog::schema::{self, Drift};
use quay_sidecar::catalog::{Catalog, CatalogError};
use quay_sidecar::config::Config;
use quay_sidecar::telemetry::Metrics;

use super::{ConfigDir, unusable};

#[derive(Subcommand)]
pub enum Db {
    /// Hold the database against the tables and columns that we rely on.
    ///
    /// Prints a line for each capability, and each difference below the capabilities that it
    /// keeps with Python. Exits 0 when there is none, 1 otherwise.
    Check(ConfigDir),
}

impl Db {
    pub fn run(self) -> ExitCode {
        let Self::Check(config) = self;
        let config = match config.load() {
            Ok(loaded) => loaded.config,
            Err(error) => return unusable(&error),
        };
        match actix_web::rt::System::new().block_on(drifts(&config)) {
            Ok(drifts) => report(&drifts),
            Err(error) => {
                eprintln!("the database of DB_URI cannot be checked: {error}");
                ExitCode::FAILURE
            }
        }
    }
}

async fn drifts(config: &Config) -> Result<Vec<Drift>, CatalogError> {
    let metrics = Arc::new(Metrics::default());
    let catalog = Catalog::new(&config.database, &config.sidecar, 1, metrics)?;
    let live = catalog.session("db_check").live_columns().await?;
    Ok(schema::compare(schema::contract(), &live))
}

fn report(drifts: &[Drift]) -> ExitCode {
    let tables = &schema::contract().tables;
    let capabilities: BTreeSet<&String> =
        tables.iter().flat_map(|table| &table.needed_by).collect();
    for capability in capabilities {
        let broken: Vec<&Drift> =
            drifts.iter().filter(|drift| drift.capabilities.contains(capability)).collect();
        match broken.len() {
            0 => println!("{capability}: ok"),
            _ => println!("{capability}: stays with Python"),
        }
        for drift in broken {
            println!("  {drift}");
        }
    }
    if drifts.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
