//! An upload becomes a blob.

use std::fmt::Display;

use bytes::Bytes;
use futures_util::Stream;

use super::PushError;
use super::body::Body;
use super::steps::step;
use super::uploads::{Carried, ContentRange, Open, Pushes, overtaken};
use crate::blobs::{Reread, UploadError};
use crate::catalog::{Committed, Session};
use crate::events::LockState;
use crate::oci::Digest;

impl Pushes {
    /// Adds the last bytes and makes a blob of it all, if that is what `claimed` names. It is durable
    /// when this returns: first the bytes, then the rows that name them.
    pub async fn finish<S, E>(
        &self,
        db: Session<'_>,
        open: &mut Open,
        range: Option<ContentRange>,
        body: Body<S>,
        claimed: &str,
    ) -> Result<Digest, PushError>
    where
        S: Stream<Item = Result<Bytes, E>> + Unpin,
        E: Display,
    {
        let moved = match self.take_in(db, open, range, body).await {
            Ok(()) => None,
            // Perhaps a commit that was cut off after it had put the bytes into place.
            Err(PushError::Bytes(error @ UploadError::Invalid(_))) => Some(error),
            Err(error) => return Err(error),
        };
        step("put: bytes stored");
        let digest = open.hash.digest();
        let reread = match moved {
            None if digest.as_str() != claimed => {
                let (claimed, found) = (claimed.to_owned(), digest.to_string());
                return Err(PushError::Digest { claimed, found });
            }
            None => self.settle(open, &digest).await?,
            Some(_) if digest.as_str() == claimed && self.is_stored(open, &digest).await? => None,
            Some(error) => return Err(error.into()),
        };
        step("put: bytes settled");
        let mut lock = self.0.locks.hold(&digest).await;
        let committed = match lock.state() {
            // Perhaps the garbage collector, which is about to remove what we would put there.
            LockState::Busy => {
                Err(UploadError::Unavailable(format!("{digest} is locked by another process"))
                    .into())
            }
            LockState::Held | LockState::NoRedis => {
                lock.during(self.put_into_place(db, open, &digest, reread)).await
            }
        };
        lock.release().await;
        committed.map(|()| digest)
    }

    /// Makes sure that what is stored is what was hashed, and that it stays. Of what this process
    /// alone has written that is known; anything else is read again.
    async fn settle(&self, open: &Open, digest: &Digest) -> Result<Option<Reread>, PushError> {
        let (uuid, metadata) = (&open.row.uuid, &open.progress.storage_metadata);
        if self.is_as_hashed(open).await? {
            open.uploads.flush(uuid).await?;
            return Ok(None);
        }
        self.0.metrics.uploads_read_again.inc();
        match open.uploads.reread(uuid, metadata, open.turn.clone()).await {
            Ok(found) if found.digest == *digest && found.length == open.progress.byte_count => {
                Ok(Some(found))
            }
            Ok(found) => Err(PushError::Digest {
                claimed: digest.to_string(),
                found: found.digest.to_string(),
            }),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether this process alone has written what is stored, up to now.
    async fn is_as_hashed(&self, open: &Open) -> Result<bool, PushError> {
        match open.carried {
            Carried::Alone(stamp) => Ok(open.uploads.stamp(&open.row.uuid).await? == stamp),
            Carried::WithOthers => Ok(false),
        }
    }

    /// Under the lock that Quay's garbage collector takes: what is found in its place, or put there,
    /// is not taken away before the rows say that it is wanted.
    async fn put_into_place(
        &self,
        db: Session<'_>,
        open: &Open,
        digest: &Digest,
        reread: Option<Reread>,
    ) -> Result<(), PushError> {
        let (row, progress) = (&open.row, &open.progress);
        let metadata = &progress.storage_metadata;
        if self.is_stored(open, digest).await? {
            open.uploads.cancel(&row.uuid, metadata).await?;
        } else {
            // Somebody may have written to it while we waited for the lock.
            if reread.is_none() && !self.is_as_hashed(open).await? {
                let reason = format!("upload {} changes while it is ended", row.uuid);
                return Err(UploadError::Unavailable(reason).into());
            }
            let turn = open.turn.clone();
            open.uploads.complete(&row.uuid, metadata, digest, reread, turn).await?;
        }
        step("put: in place");
        let (size, uncompressed) = (progress.byte_count, progress.uncompressed_byte_count);
        let committed = db.commit_upload(row, digest, size, uncompressed, self.0.keep).await?;
        step("put: committed");
        self.0.alone.forget(&row.uuid);
        match committed {
            Committed::Blob => {
                if let Err(error) = open.uploads.tidy(&row.uuid, metadata).await {
                    tracing::warn!(%error, upload = row.uuid, "its chunks are left to Quay's clean-up");
                }
                Ok(())
            }
            Committed::Moved => Err(overtaken(db, open).await),
        }
    }

    /// Whether the blob is in its place, whole.
    async fn is_stored(&self, open: &Open, digest: &Digest) -> Result<bool, PushError> {
        Ok(open.uploads.stored(digest).await? == Some(open.progress.byte_count))
    }
}
