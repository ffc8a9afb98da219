//! A mirror in hand: for as long as a lease, which is renewed while the worker lives. A dead
//! worker's mirror is free again when its lease has ended, no later.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::catalog::{Catalog, CatalogError, Mirror, MirrorStanding, Release, SyncStatus};

/// How often it is looked whether the sync was cancelled.
const LOOK: Duration = Duration::from_secs(1);

/// Why a sync has to end before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Somebody cancelled it.
    Cancelled,
    /// Another worker has the mirror, or it is none any more.
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

/// A mirror that is ours.
pub struct Claim {
    /// As it was before.
    pub mirror: Mirror,
    catalog: Catalog,
    transaction: Arc<str>,
    stop: watch::Receiver<Option<Ending>>,
    heart: JoinHandle<()>,
}

impl Claim {
    /// Takes a mirror, unless somebody else has it or was quicker. `stopping` becomes true when this
    /// process stops.
    pub async fn take(
        catalog: &Catalog,
        mirror: Mirror,
        lease: Duration,
        stopping: watch::Receiver<bool>,
    ) -> Result<Option<Self>, CatalogError> {
        let now = chrono::Utc::now().naive_utc();
        let held =
            mirror.status == SyncStatus::Syncing && mirror.expiration.is_none_or(|e| e > now);
        if held || mirror.status == SyncStatus::Cancel {
            return Ok(None);
        }
        let claimed = catalog.session(ROUTE).claim_mirror(&mirror, lease).await?;
        let Some(transaction) = claimed.map(Arc::<str>::from) else { return Ok(None) };
        let (tell, stop) = watch::channel(None);
        let beating = beat(catalog.clone(), mirror.clone(), transaction.clone(), lease, stopping);
        let heart = tokio::spawn(async move {
            let _ = tell.send(Some(beating.await));
        });
        Ok(Some(Self { mirror, catalog: catalog.clone(), transaction, stop, heart }))
    }

    pub(super) fn stop(&self) -> Stop {
        Stop(self.stop.clone())
    }

    /// Whether the sync may go on, as the database has it now.
    pub(super) async fn standing(&self) -> Result<MirrorStanding, CatalogError> {
        self.catalog.session(ROUTE).mirror_standing(&self.mirror, &self.transaction).await
    }

    /// Gives the mirror back.
    pub(super) async fn release(self, release: &Release) -> Result<bool, CatalogError> {
        self.heart.abort();
        let db = self.catalog.session(ROUTE);
        db.release_mirror(self.mirror.id, &self.transaction, release).await
    }
}

/// What its statements are counted as.
pub(super) const ROUTE: &str = "repomirror";

/// Renews the lease until the sync has to end, and returns why.
async fn beat(
    catalog: Catalog,
    mirror: Mirror,
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
        match db.mirror_standing(&mirror, &transaction).await {
            Ok(MirrorStanding::Ours) => {}
            Ok(MirrorStanding::Cancelled) => return Ending::Cancelled,
            Ok(MirrorStanding::Lost) => return Ending::Lost,
            Err(error) => tracing::warn!(%error, mirror = %mirror.name, "its state is not known"),
        }
        if renewed.elapsed() >= lease / 3 {
            match db.extend_mirror(mirror.id, &transaction, lease).await {
                Ok(true) => renewed = Instant::now(),
                // The next look says why.
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, mirror = %mirror.name, "lease not renewed"),
            }
        }
        // Somebody else may have taken it by now.
        if renewed.elapsed() >= lease {
            return Ending::Lost;
        }
    }
}
