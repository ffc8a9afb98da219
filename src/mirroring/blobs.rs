//! Blobs of a source, each fetched once: however many tags share it, and not at all where it is
//! here already.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::OnceCell;
use tokio::time::sleep;

use super::SyncError;
use super::job::Job;
use super::look::{Look, Missing};
use crate::oci::Digest;
use crate::oci::manifest::PushedManifest;
use crate::push::{Body, PushError};

/// Blobs that somebody is at, or that are done.
#[derive(Default)]
pub(super) struct InFlight(Mutex<HashMap<Digest, Arc<OnceCell<()>>>>);

impl InFlight {
    fn of(&self, digest: &Digest) -> Arc<OnceCell<()>> {
        let mut blobs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        blobs.entry(digest.clone()).or_default().clone()
    }
}

impl Job<'_> {
    /// Has every blob of a manifest in the repository.
    pub(super) async fn blobs(&self, manifest: &PushedManifest) -> Result<(), SyncError> {
        let missing = self.look.missing(manifest).await?;
        let fetched = missing.iter().map(|blob| async {
            let once = self.in_flight.of(&blob.digest);
            once.get_or_try_init(|| self.have(blob)).await.map(drop)
        });
        let coming = |digest: &Digest| {
            let is_missing = missing.iter().any(|blob| blob.digest == *digest);
            is_missing && !self.in_flight.of(digest).initialized()
        };
        tokio::select! {
            // In the manifest's order, as many at once as the source's host bears.
            fetched = all_of(fetched, BLOBS) => fetched,
            never = self.keep(manifest, coming) => never,
        }
    }

    /// Keeps what is here of a manifest, for as long as its other blobs are `coming`: the last may
    /// come hours after the first, which nothing else names before.
    async fn keep(
        &self,
        manifest: &PushedManifest,
        coming: impl Fn(&Digest) -> bool,
    ) -> Result<(), SyncError> {
        let (repository, blobs) = (self.look.into.repository_id, manifest.local_blobs()?);
        let expiration = self.look.parts.config.push.temp_tag_expiration;
        loop {
            sleep(expiration / 3).await;
            for digest in blobs.iter().filter(|digest| !coming(digest)) {
                let kept = self.look.db().mount_blob(repository, digest, expiration).await;
                if let Err(error) = kept {
                    tracing::warn!(%error, %digest, "it may be collected before its image is here");
                }
            }
        }
    }

    /// Links or fetches one blob.
    async fn have(&self, blob: &Missing) -> Result<(), SyncError> {
        let Look { parts, into, .. } = &self.look;
        let keep = parts.config.push.temp_tag_expiration;
        if blob.linkable
            && self.look.db().mount_blob(into.repository_id, &blob.digest, keep).await?
        {
            self.progress.linked(blob.size);
            return Ok(());
        }
        self.fetch(blob).await
    }

    /// Fetches a blob into an upload of our own, which is committed when its bytes are what its
    /// digest says, and given up when they are not or when the sync ends.
    async fn fetch(&self, blob: &Missing) -> Result<(), SyncError> {
        let _slot = self.slots.acquire().await;
        self.progress.expect(blob.size);
        let opened = async { Ok(self.look.source.blob(&blob.digest, Some(blob.size), 0).await?) };
        let stream = self.until_told(opened).await?;
        // Whose fault it is if it breaks off, which a push does not know.
        let broken = OnceLock::new();
        let stream = stream.inspect_ok(|bytes| self.progress.fetched(bytes.len() as u64));
        let stream = stream.map_err(|error| {
            let text = error.to_string();
            let _ = broken.set(error);
            text
        });
        let (pushes, db) = (&self.look.parts.pushes, self.look.db());
        let mut upload = pushes.begin(db, &self.look.into.name).await?;
        let body = Body::bounded(Box::pin(stream));
        let finished = tokio::select! {
            finished = pushes.finish(db, &mut upload, None, body, blob.digest.as_str()) => {
                finished.map_err(SyncError::from)
            }
            ending = self.stop.ending() => Err(SyncError::Ended(ending)),
        };
        if finished.is_err()
            && let Err(error) = pushes.cancel(db, &upload).await
        {
            tracing::warn!(%error, upload = upload.uuid(), "left to Quay's clean-up");
        }
        match (finished, broken.into_inner()) {
            (Err(SyncError::Blob(_)), Some(error)) => Err(error.into()),
            (Err(SyncError::Blob(error @ PushError::Digest { .. })), None) => {
                Err(SyncError::Refused(format!("the source sent another blob: {error}")))
            }
            (finished, _) => finished.map(drop),
        }
    }
}

/// Does all of it, so many at once; what has not begun when one fails does not begin. What has is
/// not dropped but ends: an upload that is dropped half-way would stay behind.
pub(super) async fn all_of<F>(
    work: impl IntoIterator<Item = F>,
    at_once: usize,
) -> Result<(), SyncError>
where
    F: Future<Output = Result<(), SyncError>>,
{
    let failed = OnceLock::new();
    let work = work.into_iter().take_while(|_| failed.get().is_none());
    let mut work = stream::iter(work).buffer_unordered(at_once);
    while let Some(one) = work.next().await {
        if let Err(error) = one {
            let _ = failed.set(error);
        }
    }
    drop(work);
    failed.into_inner().map_or(Ok(()), Err)
}

/// Blobs of one manifest at once.
const BLOBS: usize = 4;
