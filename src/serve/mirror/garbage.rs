//! Garbage is collected at the start, and again and again until the stop.

use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::gc::{Collector, Report};
use crate::serve::health::Health;

/// Runs until `stop` becomes true; a run that is going on ends after its next small step.
pub async fn collect(
    collector: Collector,
    health: Health,
    every: Duration,
    tag_expiration: Duration,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        // The database of another registry names none of the files here.
        match health.has_instance_key().await {
            Ok(true) => run(&collector, tag_expiration, &stop).await,
            Ok(false) => tracing::error!(
                remedy = "see that DB_URI names the database of this folder",
                "no garbage is collected: the database does not have the folder's key"
            ),
            Err(error) => tracing::warn!(error, "garbage is left to the next run"),
        }
        if tokio::time::timeout(every, stop.wait_for(|stop| *stop)).await.is_ok() {
            return;
        }
    }
}

async fn run(collector: &Collector, tag_expiration: Duration, stop: &watch::Receiver<bool>) {
    let (began, mut report) = (Instant::now(), Report::default());
    // As the configuration says: nobody else could set it in a registry of its own.
    let collected = match collector.set_tag_expiration(tag_expiration).await {
        Ok(()) => collector.run(stop, &mut report).await,
        failed => failed,
    };
    if !report.is_empty() {
        let rows: u64 = report.rows.values().sum();
        let Report { blobs, uploads, leftovers, bytes, failed, .. } = report;
        let duration_ms = began.elapsed().as_millis();
        tracing::info!(
            rows,
            blobs,
            uploads,
            leftovers,
            bytes,
            failed,
            duration_ms,
            "garbage collected"
        );
    }
    if let Err(error) = collected {
        tracing::warn!(%error, "the rest of the garbage is left to the next run");
    }
}
