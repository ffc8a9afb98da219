//! Garbage collection: what nothing refers to any more gives its room back.
//!
//! Rows go before bytes, so that no row is ever without them; bytes whose rows are gone are looked
//! for by name. What somebody was shown stays for `PUSH_TEMP_TAG_EXPIRATION_SEC` after that: a push
//! that was told that a blob is there finds it when its manifest names it. Small transactions, and a
//! rest after each, so that pushes hardly wait.

mod leftovers;
mod run;
mod steps;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

pub use steps::STEPS;

use run::Run;

use crate::catalog::{Catalog, CatalogError};
use crate::config::{self, Config};
use crate::push::Pushes;
use crate::telemetry::Metrics;

/// What statements are counted as.
const ROUTE: &str = "garbage";

/// Collects garbage. One at a time, in one process.
pub struct Collector {
    catalog: Catalog,
    pushes: Pushes,
    rules: config::Push,
    uploads_after: Duration,
    /// Where everything is the registry's own: a storage elsewhere may have other users.
    folder: PathBuf,
    metrics: Arc<Metrics>,
}

/// What a run did.
#[derive(Debug, Default)]
pub struct Report {
    /// Rows that are gone, by table.
    pub rows: BTreeMap<&'static str, u64>,
    /// Blobs whose bytes are gone, from any number of storages.
    pub blobs: u64,
    /// Uploads that were given up.
    pub uploads: u64,
    /// Files that a crash had left.
    pub leftovers: u64,
    /// Bytes that are free again, as far as their number is known.
    pub bytes: u64,
    /// Files that could not be removed. The next run tries again.
    pub failed: u64,
}

impl Collector {
    /// Of what `pushes` have left behind; files that no row names are looked for below the folder of
    /// the configuration alone.
    pub fn new(catalog: Catalog, pushes: Pushes, config: &Config, metrics: Arc<Metrics>) -> Self {
        let (rules, uploads_after) = (config.push.clone(), config.garbage.uploads_after);
        Self { catalog, pushes, rules, uploads_after, folder: config.dir.clone(), metrics }
    }

    /// Keeps what is deleted for as long as `DEFAULT_TAG_EXPIRATION` says, in every namespace.
    ///
    /// # Errors
    /// Of the database.
    pub async fn set_tag_expiration(&self, window: Duration) -> Result<(), CatalogError> {
        self.catalog.session(ROUTE).set_tag_expiration(window).await
    }

    /// Collects what there is, until there is no more or `stop` becomes true, and says in `report` what
    /// it did. It may be dropped, or end with its process, at any moment: the next run goes on.
    ///
    /// # Errors
    /// Of the database; what cannot be removed from a storage is logged.
    pub async fn run(
        &self,
        stop: &watch::Receiver<bool>,
        report: &mut Report,
    ) -> Result<(), CatalogError> {
        let db = self.catalog.session(ROUTE);
        let mut run = Run { collector: self, db, stop, report };
        run.tags().await?;
        run.blobs().await?;
        run.stale_uploads().await?;
        run.leftovers().await?;
        self.metrics.gc_runs.inc();
        Ok(())
    }
}

impl Report {
    /// Whether anything was there to do.
    pub fn is_empty(&self) -> bool {
        let Self { rows, blobs, uploads, leftovers, failed, .. } = self;
        rows.is_empty() && blobs + uploads + leftovers + failed == 0
    }
}
