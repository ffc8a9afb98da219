//! Group commit: many rows share one INSERT and one flush to disk.
//!
//! While a batch is being committed the next one gathers, so a lone row waits for nobody and a
//! storm of them costs a handful of commits.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::catalog::{Catalog, CatalogError, LogRow};
use crate::telemetry::Metrics;
use crate::telemetry::metrics::outcome;

/// Rows in one INSERT at most.
const BATCH: usize = 1000;

/// A row that is not in the log.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// Too many rows wait already.
    #[error("the action log's queue is full")]
    Full,
    /// The commit did not return in time; the row may appear later.
    #[error("the action log did not answer within {0:?}")]
    Timeout(Duration),
    /// The database said no.
    #[error("the action log refused the row: {0}")]
    Database(Arc<CatalogError>),
    /// The process is stopping.
    #[error("the action log is closed")]
    Closed,
}

impl AuditError {
    /// Whether the same row may be written shortly.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Database(error) => error.is_transient(),
            _ => true,
        }
    }
}

struct Pending {
    row: LogRow,
    done: oneshot::Sender<Result<(), AuditError>>,
}

/// The way into the queue. Cheap to clone; when the last clone is gone the queue is flushed.
#[derive(Clone)]
pub struct Batcher {
    queue: mpsc::Sender<Pending>,
    patience: Duration,
    metrics: Arc<Metrics>,
}

impl Batcher {
    /// Starts the writer, with room for `capacity` rows that each wait for `patience` at most.
    /// The handle ends once every `Batcher` is dropped and every row is written or refused.
    pub fn start(
        catalog: Catalog,
        capacity: usize,
        patience: Duration,
        metrics: Arc<Metrics>,
    ) -> (Self, JoinHandle<()>) {
        let (queue, pending) = mpsc::channel(capacity);
        let writer = tokio::spawn(write_all(catalog, pending, metrics.clone()));
        (Self { queue, patience, metrics }, writer)
    }

    /// Returns when the row is committed.
    pub async fn write(&self, row: LogRow) -> Result<(), AuditError> {
        let (done, committed) = oneshot::channel();
        self.queue.try_send(Pending { row, done }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => AuditError::Full,
            mpsc::error::TrySendError::Closed(_) => AuditError::Closed,
        })?;
        self.metrics.audit_queue.inc();
        match tokio::time::timeout(self.patience, committed).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(AuditError::Closed),
            Err(_) => Err(AuditError::Timeout(self.patience)),
        }
    }
}

async fn write_all(catalog: Catalog, mut pending: mpsc::Receiver<Pending>, metrics: Arc<Metrics>) {
    let mut batch = Vec::new();
    while pending.recv_many(&mut batch, BATCH).await > 0 {
        metrics.audit_queue.dec_by(batch.len() as i64);
        // A row whose request has given up is not written: nobody will be answered for it.
        batch.retain(|row| !row.done.is_closed());
        if !batch.is_empty() {
            commit(&catalog, std::mem::take(&mut batch), &metrics).await;
        }
    }
}

async fn commit(catalog: &Catalog, batch: Vec<Pending>, metrics: &Metrics) {
    let (rows, waiting): (Vec<_>, Vec<_>) =
        batch.into_iter().map(|pending| (pending.row, pending.done)).unzip();
    let result = match insert(catalog, &rows, metrics).await {
        // The pooled connection may have died with the last database: ask a new one.
        Err(CatalogError::Unavailable(_)) => insert(catalog, &rows, metrics).await,
        result => result,
    };
    match result {
        Err(CatalogError::Refused { .. }) if rows.len() > 1 => {
            commit_one_by_one(catalog, rows, waiting, metrics).await;
        }
        Ok(()) => waiting.into_iter().for_each(|done| answer(done, Ok(()), metrics)),
        Err(error) => {
            tracing::error!(%error, rows = rows.len(), "action log batch failed");
            let error = Arc::new(error);
            for done in waiting {
                answer(done, Err(AuditError::Database(error.clone())), metrics);
            }
        }
    }
}

/// One bad row must not fail its neighbours.
async fn commit_one_by_one(
    catalog: &Catalog,
    rows: Vec<LogRow>,
    waiting: Vec<oneshot::Sender<Result<(), AuditError>>>,
    metrics: &Metrics,
) {
    for (row, done) in rows.into_iter().zip(waiting) {
        let result = insert(catalog, std::slice::from_ref(&row), metrics).await;
        if let Err(error) = &result {
            let (kind, repository) = (row.kind, row.repository_id);
            tracing::error!(%error, kind, repository, "action log row refused");
        }
        answer(done, result.map_err(|error| AuditError::Database(Arc::new(error))), metrics);
    }
}

async fn insert(catalog: &Catalog, rows: &[LogRow], metrics: &Metrics) -> Result<(), CatalogError> {
    let result = catalog.session("audit").insert_log_rows(rows).await;
    metrics.audit_batches.get_or_create(&outcome(result.is_ok())).inc();
    result
}

fn answer(
    done: oneshot::Sender<Result<(), AuditError>>,
    result: Result<(), AuditError>,
    metrics: &Metrics,
) {
    metrics.audit_rows.get_or_create(&outcome(result.is_ok())).inc();
    // The request may have given up meanwhile.
    let _ = done.send(result);
}
