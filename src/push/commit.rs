//! An upload becomes a blob.

use std::fmt::Display;

use bytes::Bytes;
use futures_util::Stream;

use super::PushError;
use super::body::Body;
use super::steps::step;
use super::uploads::{Carried, ContentRange, Open, Pushes, overtaken};
use crate::blobs::{BlobPath, Reread, UploadError};
use crate::catalog::{Catalog, Committed, Session};
use crate::events::{BlobLock, LockState};
use crate::oci::Digest;

/// Where the bytes of an upload are that were found to be what was hashed.
enum Settled {
    /// In the upload, written by this process alone.
    AsHashed,
    /// In a copy of it.
    Reread(Reread),
    /// In their place: an earlier end was cut off after it had put them there.
    InPlace,
}

/// How the blob has come into its place.
#[derive(PartialEq, Eq)]
enum Placed {
    /// It was there.
    Found,
    /// By this request.
    Ours,
}

impl Pushes {
    /// Adds the last bytes and makes a blob of it all, if that is what `claimed` names. It is durable
    /// when this returns: first the bytes, then the rows that name them.
    pub async fn finish<S, E>(
        &self,
        db: Session<'_>,
        open: &mut Open,
        range: Option<ContentRange>,
        mut body: Body<S>,
        claimed: &str,
    ) -> Result<Digest, PushError>
    where
        S: Stream<Item = Result<Bytes, E>> + Unpin,
        E: Display,
    {
        let moved = match self.take_in(db, open, range, &mut body).await {
            Ok(()) => None,
            // Perhaps a commit that was cut off after it had put the bytes into place.
            Err(PushError::Bytes(error @ UploadError::Invalid(_))) => {
                self.hash_again(open, body, claimed).await?;
                Some(error)
            }
            Err(error) => return Err(error),
        };
        step("put: bytes stored");
        let digest = open.hash.digest();
        let bytes = match moved {
            None if digest.as_str() != claimed => {
                let (claimed, found) = (claimed.to_owned(), digest.to_string());
                return Err(PushError::Digest { claimed, found });
            }
            None => self.settle(open, &digest).await?,
            Some(_) if digest.as_str() == claimed && self.is_stored(open, &digest).await? => {
                Settled::InPlace
            }
            Some(error) => return Err(error.into()),
        };
        step("put: bytes settled");
        let (catalog, route) = db.parts();
        let end = self.clone().end(catalog, route, open.clone(), digest.clone(), bytes);
        tokio::task::spawn_local(end).await.map_err(UploadError::from)??;
        Ok(digest)
    }

    /// Takes what the end brings once more, to hash it and no more, where its blob is in place.
    async fn hash_again<S, E>(
        &self,
        open: &mut Open,
        mut body: Body<S>,
        claimed: &str,
    ) -> Result<(), PushError>
    where
        S: Stream<Item = Result<Bytes, E>> + Unpin,
        E: Display,
    {
        let Some(claimed) = Digest::parse(claimed) else { return Ok(()) };
        let stored = open.uploads.stored(&claimed).await?;
        let Some(length) = stored.filter(|length| *length <= self.0.largest) else {
            return Ok(());
        };
        // Also the byte after the last: there may be none.
        while open.progress.byte_count <= length {
            let batch = body.batch(open.progress.byte_count).await?;
            if batch.is_empty() {
                break;
            }
            open.progress.byte_count += batch.len() as u64;
            // Not counted a second time.
            open.progress.uncompressed_byte_count = None;
            open.hash = open.hash.clone().with(batch).await?;
        }
        Ok(())
    }

    /// A task of its own: a client that goes away takes its request along, and with it would go the
    /// lock, while the database commits all the same.
    async fn end(
        self,
        catalog: Catalog,
        route: &'static str,
        open: Open,
        digest: Digest,
        bytes: Settled,
    ) -> Result<(), PushError> {
        let mut lock = self.0.locks.hold(&digest).await;
        let db = catalog.session(route);
        let committed = self.commit(db, &open, &digest, bytes, &mut lock).await;
        lock.release().await;
        committed
    }

    /// Makes sure that what is stored is what was hashed, and that it stays. Of what this process
    /// alone has written that is known; anything else is read again.
    async fn settle(&self, open: &Open, digest: &Digest) -> Result<Settled, PushError> {
        let (uuid, metadata) = (&open.row.uuid, &open.progress.storage_metadata);
        if self.is_as_hashed(open).await? {
            let flushed = open.uploads.flush(uuid).await;
            // The kernel tells of bytes that a disk did not take once: the next end reads them again.
            flushed.inspect_err(|_| self.0.alone.forget(uuid))?;
            return Ok(Settled::AsHashed);
        }
        self.0.metrics.uploads_read_again.inc();
        match open.uploads.reread(uuid, metadata, open.turn.clone()).await {
            Ok(found) if found.digest == *digest && found.length == open.progress.byte_count => {
                Ok(Settled::Reread(found))
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
    async fn commit(
        &self,
        db: Session<'_>,
        open: &Open,
        digest: &Digest,
        bytes: Settled,
        lock: &mut BlobLock,
    ) -> Result<(), PushError> {
        let trusted = match lock.state() {
            LockState::Held => true,
            LockState::NoRedis => false,
            // Perhaps the garbage collector, which is about to remove what we would put there.
            LockState::Busy => {
                let reason = format!("{digest} is locked by another process");
                return Err(UploadError::Unavailable(reason).into());
            }
        };
        let placed = lock.during(self.put_into_place(open, digest, bytes, trusted)).await?;
        step("put: in place");
        let (row, progress) = (&open.row, &open.progress);
        let (size, uncompressed) = (progress.byte_count, progress.uncompressed_byte_count);
        let commit = db.commit_upload(row, digest, size, uncompressed, self.0.keep);
        let committed = lock.during(commit).await?;
        step("put: committed");
        self.0.alone.forget(&row.uuid);
        match committed {
            Committed::Blob => {
                if !lock.is_held() && !self.is_stored(open, digest).await? {
                    db.withdraw_blob(row.repository_id, digest).await?;
                    let reason = format!("{digest} was removed while it was committed");
                    return Err(UploadError::Unavailable(reason).into());
                }
                let tidied = open.uploads.tidy(&row.uuid, &progress.storage_metadata).await;
                if let Err(error) = tidied {
                    tracing::warn!(%error, upload = row.uuid, "its chunks are left to Quay's clean-up");
                }
                Ok(())
            }
            Committed::Moved => {
                if placed == Placed::Ours && lock.is_held() {
                    self.take_back(db, open, digest).await;
                }
                Err(overtaken(db, open).await)
            }
        }
    }

    /// The blob in its place, durable. What is there already is `trusted` where nobody can be about
    /// to remove it.
    async fn put_into_place(
        &self,
        open: &Open,
        digest: &Digest,
        bytes: Settled,
        trusted: bool,
    ) -> Result<Placed, PushError> {
        let (uuid, metadata) = (&open.row.uuid, &open.progress.storage_metadata);
        let in_place = matches!(bytes, Settled::InPlace);
        if (trusted || in_place) && self.is_stored(open, digest).await? {
            // Python does not wait for a disk.
            open.uploads.flush_stored(digest).await?;
            open.uploads.give_way(uuid).await?;
            return Ok(Placed::Found);
        }
        let reread = match bytes {
            Settled::Reread(reread) => Some(reread),
            // Somebody may have written to it while we waited for the lock.
            _ if !self.is_as_hashed(open).await? => {
                let reason = format!("upload {uuid} changes while it is ended");
                return Err(UploadError::Unavailable(reason).into());
            }
            _ => None,
        };
        open.uploads.complete(uuid, metadata, digest, reread, open.turn.clone()).await?;
        Ok(Placed::Ours)
    }

    /// Removes what was put into place for an upload that was given up meanwhile, unless a row names
    /// it: Quay's clean-up would not find it there.
    async fn take_back(&self, db: Session<'_>, open: &Open, digest: &Digest) {
        let removed = match db.known_blobs(&[digest.as_str()]).await {
            Ok(known) if !known.is_empty() => return,
            Ok(_) => open.uploads.remove(&BlobPath::content_address(digest)).await,
            Err(error) => Err(UploadError::Unavailable(error.to_string())),
        };
        if let Err(error) = removed {
            tracing::warn!(%error, %digest, "the bytes of an upload that was given up stay");
        }
    }

    /// Whether the blob is in its place, whole.
    async fn is_stored(&self, open: &Open, digest: &Digest) -> Result<bool, PushError> {
        Ok(open.uploads.stored(digest).await? == Some(open.progress.byte_count))
    }
}
