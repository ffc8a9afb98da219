//! A row in hand, of whichever table: for as long as a lease, which is renewed while the worker lives.
//! What a dead worker had is free again when its lease has ended, no later.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::steps::step;
use crate::catalog::{Catalog, CatalogError, Claimable, MirrorStanding, Release};

/// How often it is looked whether the sync was cancelled.
const LOOK: Duration = Duration::from_secs(1);

/// Why a sync has to end before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Somebody cancelled it.
    Cancelled,
    /// Another worker has it, or it is no mirror any more.
    Lost,
    /// This process stops.
    Stopping,
}

/// Tells whether a sync has to end.
#[derive(Clone, Debug)]
pub(super) struct Stop(watch::Receiver<Option<Ending>>);

impl Stop {
    /// Returns when the sync has to end.
    pub(super) async fn ending(&self) -> Ending {
        let mut told = self.0.clone();
        let ending = told.wait_for(Option::is_some).await.ok().and_then(|ending| *ending);
        ending.unwrap_or(Ending::Stopping)
    }

    /// Whether it has to.
    pub(super) fn now(&self) -> Option<Ending> {
        *self.0.borrow()
    }
}

/// A row that is ours, until this is dropped: then its lease is renewed no longer.
pub struct Claim {
    row: Arc<Claimable>,
    catalog: Catalog,
    transaction: Arc<str>,
    stop: watch::Receiver<Option<Ending>>,
    heart: JoinHandle<()>,
}

impl Claim {
    /// Takes a row, unless somebody else has it or was quicker. `stopping` becomes true when this
    /// process stops.
    pub async fn take(
        catalog: &Catalog,
        row: Claimable,
        lease: Duration,
        stopping: watch::Receiver<bool>,
    ) -> Result<Option<Self>, CatalogError> {
        if !row.is_free(chrono::Utc::now().naive_utc()) {
            return Ok(None);
        }
        let claimed = catalog.session(ROUTE).claim(&row, lease).await?;
        let Some(transaction) = claimed.map(Arc::<str>::from) else { return Ok(None) };
        step("mirror: claimed");
        let (row, (tell, stop)) = (Arc::new(row), watch::channel(None));
        let beating = beat(catalog.clone(), row.clone(), transaction.clone(), lease, stopping);
        let heart = tokio::spawn(async move {
            let _ = tell.send(Some(beating.await));
        });
        Ok(Some(Self { row, catalog: catalog.clone(), transaction, stop, heart }))
    }

    /// What we have written into the row.
    pub(super) fn transaction(&self) -> &str {
        &self.transaction
    }

    pub(super) fn stop(&self) -> Stop {
        Stop(self.stop.clone())
    }

    /// Whether the sync may go on, as the database has it now.
    pub(super) async fn standing(&self) -> Result<MirrorStanding, CatalogError> {
        self.catalog.session(ROUTE).claim_standing(&self.row, &self.transaction).await
    }

    /// Gives the row back. Returns whether it was still ours.
    pub(super) async fn release(self, release: &Release) -> Result<bool, CatalogError> {
        let db = self.catalog.session(ROUTE);
        db.release_claim(&self.row, &self.transaction, release).await
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.heart.abort();
    }
}

/// What its statements are counted as.
pub(super) const ROUTE: &str = "repomirror";

/// Renews the lease until the sync has to end, and returns why.
async fn beat(
    catalog: Catalog,
    row: Arc<Claimable>,
    transaction: Arc<str>,
    lease: Duration,
    mut stopping: watch::Receiver<bool>,
) -> Ending {
    let mut renewed = Instant::now();
    loop {
        tokio::select! {
            _ = stopping.wait_for(|stopping| *stopping) => return Ending::Stopping,
            () = tokio::time::sleep(LOOK.min(lease / 4)) => {}
        }
        let db = catalog.session(ROUTE);
        match db.claim_standing(&row, &transaction).await {
            Ok(MirrorStanding::Ours) => {}
            Ok(MirrorStanding::Cancelled) => return Ending::Cancelled,
            Ok(MirrorStanding::Lost) => return Ending::Lost,
            Err(error) => tracing::warn!(%error, ?row, "its state is not known"),
        }
        if renewed.elapsed() >= lease / 3 {
            match db.extend_claim(&row, &transaction, lease).await {
                Ok(true) => renewed = Instant::now(),
                // The next look says why.
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, ?row, "lease not renewed"),
            }
        }
        // Somebody else may have taken it by now.
        if renewed.elapsed() >= lease {
            return Ending::Lost;
        }
    }
}
