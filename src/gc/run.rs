//! One run: tags with their manifests, blobs, uploads that nobody goes on with.

use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::steps::step;
use super::{Collector, Report};
use crate::blobs::{BlobPath, UploadError};
use crate::catalog::{CatalogError, FreedBlob, Removed, Session, StoredAt};
use crate::events::LockState;
use crate::oci::Digest;
use crate::telemetry::metrics::Table;

/// After a batch, pushes have the database for as long as it took, but no longer than this.
const LONGEST_REST: Duration = Duration::from_secs(1);

/// Stale uploads that are read at a time.
const STALE_UPLOADS: u32 = 100;

pub(super) struct Run<'a> {
    pub(super) collector: &'a Collector,
    pub(super) db: Session<'a>,
    pub(super) stop: &'a watch::Receiver<bool>,
    pub(super) report: &'a mut Report,
}

impl Run<'_> {
    pub(super) async fn tags(&mut self) -> Result<(), CatalogError> {
        while !self.is_stopped() {
            let began = Instant::now();
            let removed = self.db.collect_tags(&self.collector.rules).await?;
            if removed.rows() == 0 {
                break;
            }
            step("gc: tags gone");
            self.count(&removed);
            rest(began).await;
        }
        Ok(())
    }

    pub(super) async fn blobs(&mut self) -> Result<(), CatalogError> {
        while !self.is_stopped() {
            let began = Instant::now();
            let keep = self.collector.rules.temp_tag_expiration;
            let (removed, freed) = self.db.collect_blobs(keep).await?;
            if removed.rows() == 0 {
                break;
            }
            step("gc: blobs' rows gone");
            self.count(&removed);
            rest(began).await;
            for blob in &freed {
                self.remove_bytes(blob).await?;
            }
        }
        Ok(())
    }

    /// Of a blob whose row is gone, unless another has come since.
    async fn remove_bytes(&mut self, blob: &FreedBlob) -> Result<(), CatalogError> {
        let digest = blob.digest.as_deref().and_then(Digest::parse);
        let path = match (&digest, &blob.stored_at) {
            (Some(digest), stored_at) => stored_at.path(digest),
            (None, StoredAt::SharedImages(uuid)) => BlobPath::shared_images(uuid),
            (None, StoredAt::ContentAddress) => None,
        };
        let Some(path) = path else { return Ok(()) };
        match digest.filter(|_| blob.stored_at == StoredAt::ContentAddress) {
            Some(digest) => {
                let bytes = (path, blob.size);
                if self.remove_unnamed(&digest, &bytes, &blob.locations).await? {
                    self.report.blobs += 1;
                    self.collector.metrics.gc_blobs.inc();
                }
            }
            // Nobody else has that path.
            None if self.remove(&path, blob.size, &blob.locations).await => self.report.blobs += 1,
            None => {}
        }
        step("gc: a blob's bytes gone");
        Ok(())
    }

    /// Removes the bytes of a digest if no row names it, and nobody is about to write one: a push
    /// has the lock from before it looks for the bytes until its rows are committed.
    pub(super) async fn remove_unnamed(
        &mut self,
        digest: &Digest,
        (path, size): &(BlobPath, u64),
        locations: &[String],
    ) -> Result<bool, CatalogError> {
        let db = self.db;
        let mut lock = self.collector.pushes.locks().hold(digest).await;
        let removed = match lock.state() {
            LockState::Held => {
                let removing = async {
                    let known = db.known_blobs(&[digest.as_str()]).await?;
                    Ok(known.is_empty() && self.remove(path, *size, locations).await)
                };
                lock.during(removing).await
            }
            // Left to the next run.
            LockState::Busy | LockState::NoRedis => Ok(false),
        };
        lock.release().await;
        removed
    }

    async fn remove(&mut self, path: &BlobPath, size: u64, locations: &[String]) -> bool {
        let mut all = true;
        for location in locations {
            let removed = match self.collector.pushes.locations().get(location) {
                Some(storage) => storage.remove(path).await,
                None => Err(UploadError::Refused(format!("no storage {location}"))),
            };
            all &= self.succeeded(removed, path.as_str());
        }
        if all {
            self.free(size);
        }
        all
    }

    /// Uploads that nobody has gone on with for so long that nobody will: bytes first, then the row
    /// by which they are found.
    pub(super) async fn stale_uploads(&mut self) -> Result<(), CatalogError> {
        let mut last = 0;
        while !self.is_stopped() {
            let age = self.collector.uploads_after;
            let stale = self.db.stale_uploads(age, last, STALE_UPLOADS).await?;
            let Some(newest) = stale.last() else { break };
            last = newest.id;
            for upload in &stale {
                let (uuid, metadata) = (&upload.uuid, &upload.progress.storage_metadata);
                let cancelled = match self.collector.pushes.locations().get(&upload.location) {
                    Some(storage) => storage.cancel(uuid, metadata).await,
                    None => Err(UploadError::Refused(format!("no storage {}", upload.location))),
                };
                if !self.succeeded(cancelled, uuid) {
                    continue;
                }
                step("gc: an upload's bytes gone");
                let began = Instant::now();
                self.db.forget_upload(upload).await?;
                step("gc: an upload's row gone");
                self.free(upload.progress.byte_count);
                self.report.uploads += 1;
                rest(began).await;
            }
        }
        Ok(())
    }

    pub(super) fn is_stopped(&self) -> bool {
        *self.stop.borrow()
    }

    /// Bytes that are gone.
    pub(super) fn free(&mut self, bytes: u64) {
        self.report.bytes += bytes;
        self.collector.metrics.gc_bytes.inc_by(bytes);
    }

    /// What a storage does not give up stays for the next run.
    pub(super) fn succeeded(&mut self, removed: Result<(), UploadError>, what: &str) -> bool {
        if let Err(error) = &removed {
            tracing::warn!(%error, what, "cannot be removed");
            self.report.failed += 1;
        }
        removed.is_ok()
    }

    fn count(&mut self, removed: &Removed) {
        for (table, rows) in &removed.0 {
            *self.report.rows.entry(table).or_default() += rows;
            self.collector.metrics.gc_rows.get_or_create(&Table { table }).inc_by(*rows);
        }
    }
}

pub(super) async fn rest(began: Instant) {
    tokio::time::sleep(began.elapsed().min(LONGEST_REST)).await;
}
